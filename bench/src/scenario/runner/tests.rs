//! Scenarios with more than one step, against a broker of a few lines.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;
use crate::protocol::mqtt::Mqtt;

/// What the broker was told, in order of arrival.
#[derive(Debug, Default)]
struct Told {
    /// Client and whether it asked for a clean session.
    connects: Vec<(String, bool)>,
    disconnects: usize,
    publishes: Vec<Vec<u8>>,
    acknowledgements: usize,
}

fn packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut packet = vec![0; 2];
    stream.read_exact(&mut packet).ok()?;
    let length = usize::from(packet[1]);
    assert!(length < 128, "packets here are short");
    packet.resize(2 + length, 0);
    stream.read_exact(packet.get_mut(2..)?).ok()?;
    Some(packet)
}

/// One connection: a session that comes back gets everything published so far, whatever its subscription.
fn serve(mut stream: TcpStream, told: &Mutex<Told>) {
    while let Some(packet) = packet(&mut stream) {
        let mut told = told.lock().expect("no panic");
        let answer = match packet[0] >> 4 {
            1 => {
                let client = String::from_utf8_lossy(&packet[14..]).into_owned();
                let clean = packet[9] & 2 != 0;
                let known = told.connects.contains(&(client.clone(), false));
                told.connects.push((client, clean));
                let mut answer = vec![0x20, 2, u8::from(known && !clean), 0];
                if known && !clean {
                    answer.extend(told.publishes.iter().flatten());
                }
                answer
            }
            3 => {
                let topic = usize::from(packet[3]);
                let id = [packet[4 + topic], packet[5 + topic]];
                told.publishes.push(packet);
                vec![0x40, 2, id[0], id[1]]
            }
            4 => {
                told.acknowledgements += 1;
                continue;
            }
            8 => vec![0x90, 3, packet[2], packet[3], 1],
            14 => {
                told.disconnects += 1;
                return;
            }
            other => panic!("packet type {other}"),
        };
        drop(told);
        stream.write_all(&answer).expect("the client listens");
    }
}

fn broker() -> (Target, Arc<Mutex<Told>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let told = Arc::new(Mutex::new(Told::default()));
    let shared = Arc::clone(&told);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let told = Arc::clone(&shared);
            thread::spawn(move || serve(stream, &told));
        }
    });
    let target = Target {
        address: Some(address),
        probe: None,
    };
    (target, told)
}

fn run(target: &Target, scenario: Scenario, count: Option<u64>) -> Outcome {
    let settings = Settings {
        connections: 1,
        producers: 2,
        workers: 3,
        body_bytes: 16,
        count,
        ..crate::scenario::tests::settings(scenario)
    };
    let mut runner = Runner {
        protocol: &Mqtt::default(),
        generator_cpus: None,
        progress: Progress::new(),
    };
    runner.run(target, &settings).expect("a round")
}

#[test]
fn sessions_leave_get_their_backlog_and_are_forgotten() {
    let (target, told) = broker();
    let outcome = run(&target, Scenario::Offline, None);
    let counted: Vec<(&str, u64)> = outcome
        .loads
        .iter()
        .map(|(label, measured)| {
            let step = label.rsplit(": ").next().expect("a step");
            (step, measured.commands)
        })
        .collect();
    assert_eq!(counted, [("fill", 7), ("resume", 3 * 7)]);
    let resumed = &outcome.loads[1].1;
    assert!(
        resumed.latency.is_none(),
        "sent by the clock of another load"
    );
    assert_eq!(resumed.operations[0].latency.samples, 3);

    let told = told.lock().expect("no panic");
    assert_eq!(told.publishes.len(), 7);
    assert_eq!(told.disconnects, 3 + 3);
    let connects: Vec<(&str, bool)> = told
        .connects
        .iter()
        .map(|(client, clean)| (client.rsplit('-').next().expect("a name"), *clean))
        .collect();
    assert_eq!(connects[..3], [("s0", false), ("s1", false), ("s2", false)]);
    assert_eq!(connects[3..5], [("p0", true), ("p1", true)]);
    let mut back = connects[5..8].to_vec();
    back.sort_unstable();
    assert_eq!(back, [("s0", false), ("s1", false), ("s2", false)]);
    assert_eq!(connects[8..], [("s0", true), ("s1", true), ("s2", true)]);
}
