//! Holds the conversations of `conversations.txt` with a real server over real sockets: ours, or the original.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use longtail_beanstalk::{AdmitAll, Beanstalk, Config, CpuTime, Host, Identity, LogFacts, Tenant};
use longtail_edge::{Edge, EdgeConfig, ListenerConfig, Tick};
use longtail_engine::runtime::{Clock, Runtime, RuntimeConfig, Shards, SystemClock};
use longtail_engine::{MemoryLimits, Shard, ShardConfig};
use longtail_model::{Durability, Lsn, Timestamp};

/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

struct World(Arc<dyn Clock>);

impl Host for World {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
    fn cpu_time(&self) -> CpuTime {
        CpuTime::of_process()
    }
    fn log(&self) -> LogFacts {
        LogFacts::default()
    }
    fn segment_of(&self, _position: Lsn) -> u64 {
        0
    }
}

struct RunShards(Arc<Runtime>);

impl Tick for RunShards {
    fn run(&self, _worker: usize) {
        self.0.run();
    }
}

enum Server {
    /// Fields are dropped in order: first the sockets, then the shard.
    Ours {
        edge: Edge,
        service: Arc<Beanstalk>,
        _runtime: Arc<Runtime>,
    },
    Original(Child),
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Server::Original(child) = self {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Server {
    /// Starts what `BEANSTALKD` names, or ours.
    fn start() -> (Server, SocketAddr) {
        match std::env::var_os("BEANSTALKD") {
            None => Server::start_ours(Config::default()),
            Some(program) => {
                let address = TcpListener::bind("127.0.0.1:0")
                    .unwrap()
                    .local_addr()
                    .unwrap();
                let child = Command::new(program)
                    .args(["-l", "127.0.0.1", "-p", &address.port().to_string()])
                    .spawn()
                    .unwrap();
                (Server::Original(child), address)
            }
        }
    }

    fn start_ours(config: Config) -> (Server, SocketAddr) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let shard = ShardConfig {
            durability: Durability::Memory,
            ..ShardConfig::default()
        };
        let shard = Shard::in_memory(MemoryLimits::default(), shard, clock.now());
        let runtime =
            Arc::new(Runtime::start(vec![shard], &clock, &RuntimeConfig::default()).unwrap());
        let tenant = Tenant::new(config, Identity::of_process(1), Arc::new(World(clock))).unwrap();
        let service = Beanstalk::new(Arc::new(tenant), runtime.clone(), Arc::new(AdmitAll));
        let edge = Edge::start(
            EdgeConfig {
                workers: 2,
                ..EdgeConfig::default()
            },
            RunShards(runtime.clone()),
        )
        .unwrap();
        let listener = edge
            .listen(
                ListenerConfig::new("127.0.0.1:0".parse().unwrap()),
                service.clone(),
            )
            .unwrap();
        let longtail_edge::Endpoint::Tcp(address) = *listener.local() else {
            panic!("not a TCP listener")
        };
        (
            Server::Ours {
                edge,
                service,
                _runtime: runtime,
            },
            address,
        )
    }
}

struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        // The original needs a moment to listen.
        let deadline = std::time::Instant::now() + PATIENCE;
        let stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(error) if std::time::Instant::now() > deadline => panic!("{error}"),
                Err(_) => std::thread::yield_now(),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            reader: BufReader::new(stream),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    #[track_caller]
    fn hear(&mut self, expected: &[u8], place: &str) {
        let mut heard = vec![0; expected.len()];
        let mut have = 0;
        while have < heard.len() {
            match self.reader.read(&mut heard[have..]) {
                Ok(count) if count > 0 => have += count,
                end => {
                    panic!(
                        "{place}: heard {:?} and then {end:?}",
                        String::from_utf8_lossy(&heard[..have])
                    );
                }
            }
            assert_eq!(
                String::from_utf8_lossy(&heard[..have]),
                String::from_utf8_lossy(&expected[..have]),
                "{place}"
            );
        }
    }

    #[track_caller]
    fn hear_document(&mut self, place: &str) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let length = line
            .strip_prefix("OK ")
            .and_then(|rest| rest.trim_end().parse::<usize>().ok());
        let length = length.unwrap_or_else(|| panic!("{place}: heard {line:?}"));
        let mut document = vec![0; length + 2];
        self.reader.read_exact(&mut document).unwrap();
        assert!(
            document.starts_with(b"---\n") && document.ends_with(b"\n\r\n"),
            "{place}"
        );
        String::from_utf8(document).unwrap()
    }

    #[track_caller]
    fn ask_until(&mut self, text: &str, place: &str) {
        let (question, part) = text.split_once(" ; ").unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            self.send(&bytes(question));
            let document = self.hear_document(place);
            if document.contains(&format!("\n{part}\n")) {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{place}: still {document}"
            );
        }
    }

    #[track_caller]
    fn hear_end(&mut self, place: &str) {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "", "{place}");
    }
}

/// The bytes that a text of the script stands for.
fn bytes(text: &str) -> Vec<u8> {
    let mut text = format!("{text}|").replace('|', "\r\n").replace('~', "\n");
    while let Some(start) = text.find('<') {
        let end = text[start..].find('>').unwrap() + start;
        let count: usize = text[start + 1..end].parse().unwrap();
        text.replace_range(start..=end, &"z".repeat(count));
    }
    text.into_bytes()
}

fn hold(title: &str, script: &str) {
    let (_server, address) = Server::start();
    let mut clients: HashMap<char, Client> = HashMap::new();
    for line in script
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let place = format!("{title}: {line}");
        let mut parts = line.chars();
        let (name, kind) = (parts.next().unwrap(), parts.next().unwrap());
        let text = parts.as_str().strip_prefix(' ').unwrap_or_default();
        let client = clients
            .entry(name)
            .or_insert_with(|| Client::connect(address));
        match (kind, text) {
            ('>', text) => client.send(&bytes(text)),
            ('<', text) => client.hear(&bytes(text), &place),
            ('~', text) => {
                let document = client.hear_document(&place);
                for part in text.split(" ; ") {
                    assert!(
                        document.contains(&format!("\n{part}\n")),
                        "{place}: no {part:?} in {document}"
                    );
                }
            }
            ('?', text) => client.ask_until(text, &place),
            ('!', "close") => drop(clients.remove(&name)),
            ('!', "half-close") => client.reader.get_ref().shutdown(Shutdown::Write).unwrap(),
            ('!', "ended") => client.hear_end(&place),
            _ => panic!("{place}: what is this?"),
        }
    }
}

#[test]
fn conversations_go_as_written() {
    let script = include_str!("conversations.txt");
    let mut threads = Vec::new();
    for conversation in script.split("\n== ").skip(1) {
        let (title, lines) = conversation.split_once('\n').unwrap();
        threads.push((title, std::thread::spawn(move || hold(title, lines))));
    }
    assert!(threads.len() > 30);
    let failed: Vec<&str> = threads
        .into_iter()
        .filter_map(|(title, thread)| thread.join().err().map(|_| title))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_draining_server_takes_no_new_jobs() {
    let (server, address) = Server::start_ours(Config::default());
    let Server::Ours { service, .. } = &server else {
        panic!("not ours")
    };
    let mut client = Client::connect(address);
    client.send(b"put 0 0 60 1\r\na\r\n");
    client.hear(b"INSERTED 1\r\n", "before");
    service.drain();
    client.send(b"put 0 0 60 7\r\nreserve\r\nreserve\r\nstats\r\n");
    client.hear(b"DRAINING\r\nRESERVED 1 1\r\na\r\n", "after");
    assert!(client.hear_document("stats").contains("\ndraining: true\n"));
}

#[test]
fn a_huge_job_blocks_nobody() {
    let config = Config {
        job_size_max: 8 << 20,
        ..Config::default()
    };
    let (_server, address) = Server::start_ours(config);
    let body = vec![b'j'; 8 << 20];
    let (mut slow, mut quick) = (Client::connect(address), Client::connect(address));
    slow.send(format!("put 0 0 60 {}\r\n", body.len()).as_bytes());
    for (piece, id) in body.chunks(1 << 20).zip(1..) {
        slow.send(piece);
        quick.send(b"put 1 0 60 1\r\nq\r\n");
        quick.hear(format!("INSERTED {id}\r\n").as_bytes(), "meanwhile");
    }
    slow.send(b"\r\nreserve\r\n");
    slow.hear(
        format!("INSERTED 9\r\nRESERVED 9 {}\r\n", body.len()).as_bytes(),
        "its own",
    );
    slow.hear(&[&body[..], b"\r\n"].concat(), "its body");
}

#[test]
fn a_client_that_sends_faster_than_it_reads_gets_every_answer() {
    const JOBS: usize = 20_000;
    let config = Config {
        outstanding_max: 64,
        ..Config::default()
    };
    let (_server, address) = Server::start_ours(config);
    let mut client = Client::connect(address);
    let mut writer = client.reader.get_ref().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let cycle = |n: usize| {
            format!(
                "watch t{}\r\nput 0 0 60 3\r\nabc\r\nreserve\r\ndelete {n}\r\n",
                n % 7
            )
        };
        let all: String = (1..=JOBS).map(cycle).collect();
        writer.write_all(all.as_bytes()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    for n in 1..=JOBS {
        let watching = 1 + n.min(7);
        let expected =
            format!("WATCHING {watching}\r\nINSERTED {n}\r\nRESERVED {n} 3\r\nabc\r\nDELETED\r\n");
        client.hear(expected.as_bytes(), "a cycle");
    }
    client.hear_end("the end");
    sender.join().unwrap();
}

#[test]
fn a_server_that_goes_down_answers_what_it_has_taken_up() {
    let (server, address) = Server::start_ours(Config::default());
    let Server::Ours { edge, .. } = &server else {
        panic!("not ours")
    };
    let (mut waiting, mut idle) = (Client::connect(address), Client::connect(address));
    waiting.send(b"reserve\r\nlist-tube-used\r\n");
    idle.ask_until("stats ; current-waiting: 1", "the other waits");
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| edge.drain(PATIENCE));
        waiting.hear(b"TIMED_OUT\r\nUSING default\r\n", "its answers");
        waiting.hear_end("the end");
        idle.hear_end("the end");
        drop((waiting, idle));
        let report = drain.join().unwrap();
        assert_eq!((report.finished, report.cut), (2, 0));
    });
}
