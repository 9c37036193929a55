use clap::Parser;

use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    bench: BenchArgs,
}

fn bench(line: &str) -> (String, anyhow::Result<()>) {
    let words = std::iter::once("bench").chain(line.split_whitespace());
    let program = Program::try_parse_from(words).expect("legal flags");
    let mut out = Vec::new();
    let result = run_to(&mut out, program.bench);
    (String::from_utf8(out).expect("text"), result)
}

#[test]
fn the_null_sink_gives_a_table_and_the_same_as_json() {
    let directory = tempfile::tempdir().expect("a directory");
    let json = directory.path().join("report.json");
    let flags = format!(
        "null --scenario cycle --count 60 -c 2 --depth 3 --rounds 2 --json {}",
        json.display()
    );
    let (text, result) = bench(&flags);
    result.expect("a run");
    assert!(
        text.contains("| memory | cycle, 2 connections, 3 deep, 64 B |"),
        "{text}"
    );
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(&json).expect("a file")).expect("JSON");
    let subject = &report["rows"][0]["subjects"][0];
    assert_eq!(subject["name"], "null sink");
    assert_eq!(subject["rounds"].as_array().map(Vec::len), Some(2));
    assert_eq!(subject["median"]["commands"], 180);
    assert_eq!(subject["median"]["operations"][2]["name"], "delete");
    assert_eq!(subject["median"]["operations"][2]["samples"], 120);
}

#[test]
fn two_targets_stand_side_by_side() {
    let protocol = Beanstalk::default();
    let sink = || crate::null::NullSink::start(&protocol, 64, None).expect("a sink");
    let (a, b) = (sink(), sink());
    let (text, result) = bench(&format!(
        "beanstalk --target {} --peer {} --count 20 --rounds 1 --durability sync",
        a.address, b.address
    ));
    result.expect("a run");
    assert!(
        text.contains(&format!("A is {}, B is {}.", a.address, b.address)),
        "{text}"
    );
    let row = text
        .lines()
        .find(|line| line.starts_with("| sync | cycle, 16 connections, 64 B |"))
        .expect("a row");
    assert_eq!(row.matches('|').count(), 15, "{row}");
}

#[test]
fn a_backlog_is_filled_and_drained() {
    let protocol = Beanstalk::default();
    let sink = crate::null::NullSink::start(&protocol, 64, None).expect("a sink");
    let (text, result) = bench(&format!(
        "beanstalk --target {} --scenario backlog --jobs 100 --rounds 1",
        sink.address
    ));
    result.expect("a run");
    assert!(
        text.contains("| not told | backlog, 100 jobs, 64 B: fill |"),
        "{text}"
    );
    assert!(
        text.contains("| not told | backlog, 100 jobs, 64 B: drain |"),
        "{text}"
    );
    assert!(
        text.contains("100 jobs |"),
        "the sink runs in this process, whose memory is known: {text}"
    );
}

#[test]
fn contradictions_are_usage_errors() {
    let (_, result) = bench("beanstalk --target 127.0.0.1:1 --durability sync,memory");
    let error = result.expect_err("two durabilities of one target");
    assert!(
        matches!(error.downcast_ref(), Some(BenchError::Usage(_))),
        "{error}"
    );
}

#[test]
fn an_unreachable_target_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let (text, result) = bench(&format!("beanstalk --target {address}"));
    let error = result.expect_err("nobody listens");
    assert!(text.is_empty());
    assert!(
        format!("{error:#}").contains(&format!("cannot connect to {address}")),
        "{error:#}"
    );
}

#[test]
fn the_null_sink_of_mqtt_passes_messages_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let json = directory.path().join("report.json");
    let (text, result) = bench(&format!(
        "mqtt --compare null,null,null --peer-only --durability memory --scenario fan-out --subscribers 10 --qos 0,1 \
         --count 40 --depth 4 --rounds 1 --json {}",
        json.display()
    ));
    result.expect("a run");
    assert!(
        text.contains("A is null sink, B is null sink, C is null sink. Ratios above 1 favour A."),
        "{text}"
    );
    let row = text
        .lines()
        .find(|line| line.starts_with("| memory | fan-out QoS 1, 10 subscribers, 4 deep, 256 B |"))
        .expect("a row");
    // Two names, four figures of three subjects, three ratios to two, how busy.
    assert_eq!(row.matches('|').count(), 2 + 4 * 3 + 3 * 2 + 1 + 1, "{row}");
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(&json).expect("a file")).expect("JSON");
    assert_eq!(report["rows"].as_array().map(Vec::len), Some(2));
    let subject = &report["rows"][1]["subjects"][2];
    assert_eq!(subject["median"]["commands"], 400);
    assert_eq!(subject["median"]["latency"]["samples"], 400);
    assert_eq!(subject["median"]["operations"][0]["name"], "publish");
    assert_eq!(subject["median"]["operations"][0]["samples"], 40);
}

#[test]
fn half_load_is_an_open_loop_at_half_of_what_was_reached() {
    let (text, result) = bench(
        "mqtt --compare null --peer-only --durability memory --scenario one-to-one --publishers 2 --qos 0 --count 200 \
         --rounds 1 --half-load",
    );
    result.expect("a run");
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| memory | one-to-one QoS 0, 2 pairs, 256 B"))
        .collect();
    assert!(rows.iter().any(|row| row.contains("256 B |")), "{text}");
    assert!(rows.iter().any(|row| row.contains("/s |")), "{text}");
}

#[test]
fn at_half_load_each_peer_is_beside_the_first_and_the_sink() {
    let peer = |name: &str| {
        let address = "127.0.0.1:1".parse().expect("an address");
        let target = Target {
            address: Some(address),
            probe: None,
        };
        Subject::running(name, target)
    };
    let all = [peer("own"), peer("a"), Subject::null(), peer("b")];
    assert_eq!(at_half_load(&all), [(1, vec![0, 1, 2]), (3, vec![0, 3, 2])]);
    assert_eq!(at_half_load(&all[..2]), [(1, vec![0, 1])]);
    assert_eq!(at_half_load(&all[..1]), [(0, vec![0])]);
    assert_eq!(at_half_load(&all[2..3]), [(0, vec![0])], "its own peer");
}

#[test]
fn idle_connections_of_mqtt_are_weighed() {
    let protocol = crate::protocol::mqtt::Mqtt::default();
    let sink = crate::null::NullSink::start(&protocol, 64, None).expect("a sink");
    let (text, result) = bench(&format!(
        "mqtt --target {} --scenario idle -c 20 --rounds 1 --mqtt 5",
        sink.address
    ));
    result.expect("a run");
    assert!(text.contains("| not told | 20 connections |"), "{text}");
}

#[test]
fn sessions_are_too_much_for_the_null_sink() {
    let (_, result) = bench("mqtt --compare null --peer-only --scenario offline");
    let error = result.expect_err("no sessions");
    assert!(
        matches!(error.downcast_ref(), Some(BenchError::Usage(_))),
        "{error}"
    );
}

#[test]
fn the_generator_alone_takes_every_load_of_a_table_but_what_is_kept() {
    for (flags, loads) in [
        ("null --alone --count 64", 4),
        (
            "mqtt --compare alone,null --peer-only --durability memory --body-bytes 16 --count 64",
            15,
        ),
        (
            "amqp --compare alone --peer-only --durability memory --body-bytes 16 --count 64",
            9,
        ),
    ] {
        let (text, result) = bench(&format!("{flags} --rounds 1"));
        result.expect("a run");
        let rows = text.lines().filter(|line| line.starts_with("| memory | "));
        assert_eq!(rows.count(), loads, "{text}");
    }
}

#[test]
fn the_generator_alone_says_what_it_cannot_do() {
    for flags in [
        "null --alone --threads 2",
        "null --alone --scenario idle",
        "amqp --compare alone --peer-only --scenario backlog",
        "mqtt --compare alone --peer-only --durability memory --scenario one-to-one --persistent --count 10",
    ] {
        let (_, result) = bench(&format!("{flags} --rounds 1"));
        let error = result.expect_err(flags);
        assert!(
            matches!(error.downcast_ref(), Some(BenchError::Usage(_))),
            "{flags}: {error:#}"
        );
    }
}

#[test]
fn a_peer_that_is_not_installed_is_said_to_be() {
    let (_, result) = bench(
        "mqtt --compare mosquitto --peer-only --mosquitto /nowhere/mosquitto --scenario idle",
    );
    let error = format!("{:#}", result.expect_err("no program"));
    assert!(
        error.contains("install the Debian package mosquitto"),
        "{error}"
    );
}
