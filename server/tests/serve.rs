//! The real server over real sockets: what it says when it starts, how messages go from one door to another, how it goes
//! down, and why it does not start.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use support::{Server, fails};

#[test]
fn messages_go_from_one_door_to_the_other_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    assert!(
        server.banner.contains("acknowledged means on the disk"),
        "{}",
        server.banner
    );
    assert_eq!(server.http("GET", "/healthz", ""), (200, "ok\n".to_owned()));
    assert_eq!(server.get("/readyz")["ready"], true);

    let mut client = server.client();
    assert_eq!(client.ask("put 7 0 60 5\r\nhello\r\n"), "INSERTED 1");
    assert_eq!(client.ask("reserve\r\n"), "RESERVED 1 5");
    assert_eq!(client.line(), "hello");

    let path = "/api/v1/spaces/default/streams/mail/messages";
    let (status, body) = server.http("POST", path, "from the admin API");
    assert_eq!((status, body.as_str()), (201, "{\"seq\":2}"));
    let batch = server.get(path);
    assert_eq!(batch["messages"][0]["body"], "from the admin API");
    assert_eq!(batch["messages"][0]["state"], "ready");
    assert_eq!(client.ask("watch mail\r\n"), "WATCHING 2");
    assert_eq!(client.ask("reserve\r\n"), "RESERVED 2 18");
    assert_eq!(client.line(), "from the admin API");
    assert_eq!(server.get(path)["messages"][0]["state"], "held");
    assert_eq!(client.ask("delete 2\r\n"), "DELETED");
    assert_eq!(client.ask("release 1 7 0\r\n"), "RELEASED");

    let streams = server.get("/api/v1/streams");
    assert_eq!(streams["items"][0]["name"], "default");
    assert_eq!(streams["items"][0]["ready"], 1);
    let connections = server.get("/api/v1/connections");
    let id = connections["items"][0]["id"].as_u64().unwrap();
    let status = server.get("/api/v1/status");
    assert_eq!(status["listeners"][1]["protocol"], "admin");
    assert_eq!(status["totals"]["ready"], 1);
    assert!(status["latencies"][0]["count"].as_u64().unwrap() > 0);
    let (status, _) = server.http("DELETE", &format!("/api/v1/connections/{id}"), "");
    assert_eq!(
        (status, client.line().as_str()),
        (204, ""),
        "the connection is closed"
    );
    let (status, body) = server.http("POST", "/api/v1/spaces/nowhere/streams/x/messages", "x");
    assert_eq!(status, 404, "{body}");

    server.signal("-TERM");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");

    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    assert_eq!(client.ask("reserve\r\n"), "RESERVED 1 5");
}

#[test]
fn a_scrape_has_one_value_for_every_series() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    assert_eq!(client.ask("put 7 0 60 5\r\nhello\r\n"), "INSERTED 1");
    let (status, text) = server.http("GET", "/metrics", "");
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut seen = std::collections::HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(value >= 0.0, "{line}");
        assert!(
            seen.insert(series.to_owned(), value).is_none(),
            "twice: {series}"
        );
    }
    let sum = |prefix: &str| -> f64 {
        let matching: Vec<f64> = seen
            .iter()
            .filter(|(series, _)| series.starts_with(prefix))
            .map(|(_, value)| *value)
            .collect();
        assert!(!matching.is_empty(), "{prefix} is not in\n{text}");
        matching.iter().sum()
    };
    assert!((sum("longtail_shard_appended_total") - 1.0).abs() < f64::EPSILON);
    assert!(
        (sum("longtail_commands_total{protocol=\"beanstalk\",command=\"put\"}") - 1.0).abs()
            < f64::EPSILON
    );
    assert!((sum("longtail_connections{protocol=\"beanstalk\"") - 1.0).abs() < f64::EPSILON);
    assert!(sum("longtail_log_commit_duration_seconds_count") >= 1.0);
    assert!(sum("longtail_log_disk_bytes") > 0.0);
    assert!(sum("process_resident_memory_bytes") > 0.0);
    assert!(sum("longtail_build_info") > 0.0);
}

#[test]
fn a_draining_server_says_so_while_it_waits_for_its_clients() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--set", "limits.drain_ms=60s"]);
    let mut client = server.client();
    assert_eq!(client.ask("put 7 0 60 5\r\nhello\r\n"), "INSERTED 1");
    // A client in the middle of a request keeps the drain waiting.
    client
        .0
        .get_mut()
        .write_all(b"put 7 0 60 10\r\nhalf")
        .unwrap();
    server.signal("-TERM");
    let reasons = loop {
        let (status, body) = server.http("GET", "/readyz", "");
        if status == 503 {
            break body;
        }
    };
    assert!(reasons.contains("draining"), "{reasons}");
    drop(client);
    let (code, said) = server.end();
    assert!(matches!(code, Some(0 | 5)), "{code:?} {said}");
}

#[test]
fn a_directory_serves_one_server_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (code, said) = fails(dir.path(), &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains(&format!("process {}", server.child.id())),
        "{said}"
    );
    assert_eq!(
        server.get("/readyz")["ready"],
        true,
        "the first does not mind"
    );
}

#[test]
fn what_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = fails(dir.path(), &["--set", "limits.drain=5"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("unknown key `limits.drain`"), "{said}");

    let newer = dir.path().join("newer");
    std::fs::create_dir(&newer).unwrap();
    std::fs::write(newer.join("layout.json"), "{\"format\":99,\"shards\":1}").unwrap();
    let (code, said) = fails(dir.path(), &["--data", "newer"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("later release"), "{said}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("admin={}", taken.local_addr().unwrap());
    let (code, said) = fails(dir.path(), &["--listen", &listen]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("admin.listen"), "{said}");
}

/// Runs `longtail log` on the data directory of a server in `dir`.
fn log(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, .. } = Command::new(env!("CARGO_BIN_EXE_longtail"))
        .arg("log")
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

#[test]
fn logs_can_be_looked_at_beside_a_server_and_tell_of_damage() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--set", "shards=1"]);
    let mut client = server.client();
    assert_eq!(client.ask("put 7 0 60 5\r\nhello\r\n"), "INSERTED 1");
    assert_eq!(client.ask("put 7 0 60 5\r\nworld\r\n"), "INSERTED 2");
    assert_eq!(client.ask("delete 1\r\n"), "DELETED");
    let (code, text) = log(dir.path(), &["check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("is sound"), "{text}");
    let (code, text) = log(dir.path(), &["dump"]);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "stream_defined",
        "name=\"default\"",
        "body=\"hello\"",
        "settled",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let (code, text) = log(dir.path(), &["dump", "--json", "--count", "1"]);
    assert_eq!((code, text.lines().count()), (Some(0), 1), "{text}");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["event"], "stream_defined");
    let (code, text) = log(dir.path(), &["stats", "--json", "longtail-data/shard-0"]);
    assert_eq!(code, Some(0), "{text}");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["shard"], 0);

    drop(client);
    server.signal("-TERM");
    assert_eq!(server.end().0, Some(0));
    let shard = dir.path().join("longtail-data/shard-0");
    let segment = std::fs::read_dir(&shard)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "seg"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes
        .windows(5)
        .position(|window| window == b"hello")
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    for args in [&["check"][..], &["check", "--json"], &["dump"]] {
        let (code, text) = log(dir.path(), args);
        assert_eq!(code, Some(3), "{args:?}: {text}");
    }
    let (code, _) = log(dir.path(), &["check", "."]);
    assert_eq!(code, Some(3), "no log there");
}
