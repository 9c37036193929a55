//! MQTT through a real server: what its operator sees and does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Server;
use support::mqtt::{Mqtt, publish, subscribe};

/// Asks `look` until it says yes.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::yield_now();
    }
}

fn longtail(server: &Server, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longtail"))
        .args(args)
        .env("LONGTAIL_URL", format!("http://{}", server.admin))
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn sessions_are_listed_shown_disconnected_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--listen", "mqtt=127.0.0.1:0"]);
    let mut pump = Mqtt::connect(&server.mqtt(), "site/pump 1", 3600);
    pump.send(&subscribe(1, "valves/+", 1));
    assert_eq!(pump.packet().0, 0x90, "SUBACK");
    let mut gauge = Mqtt::connect(&server.mqtt(), "gauge", 0);
    gauge.send(&subscribe(1, "$share/readers/valves/#", 0));
    assert_eq!(gauge.packet().0, 0x90, "SUBACK");

    let sessions = server.get("/api/v1/sessions");
    let ids: Vec<_> = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["gauge", "site/pump 1"]);
    let first = server.get("/api/v1/sessions?limit=1");
    assert_eq!(first["next"], "gauge");
    let second = server.get("/api/v1/sessions?limit=1&after=gauge");
    assert_eq!(second["items"][0]["id"], "site/pump 1");
    let shown = server.get("/api/v1/sessions/site%2Fpump%201");
    assert_eq!(shown["version"], "5.0");
    assert_eq!(shown["connected"], true);
    assert_eq!(shown["expiry_s"], 3600);
    assert_eq!(shown["subscriptions"], 1);

    let subscriptions = server.get("/api/v1/subscriptions?limit=1");
    assert_eq!(subscriptions["items"][0]["share"], "readers");
    let next = subscriptions["next"].as_str().unwrap();
    let rest = server.get(&format!(
        "/api/v1/subscriptions?after={}",
        next.replace('$', "%24").replace('#', "%23")
    ));
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(rest["items"][0]["filter"], "valves/+");
    assert_eq!(rest["items"][0]["qos"], 1);
    let table = stdout(&longtail(&server, &["subscriptions", "--session", "gauge"]));
    assert!(table.contains("$share/readers/valves/#"), "{table}");

    let kicked = longtail(&server, &["kick", "--session", "site/pump 1"]);
    assert_eq!(stdout(&kicked), "client site/pump 1 disconnected\n");
    let (kind, body) = pump.packet();
    assert_eq!((kind, body[0]), (0xE0, 0x98), "administrative action");
    pump.ends();

    let away = eventually("the session is away", || {
        let shown = server.get("/api/v1/sessions/site%2Fpump%201");
        (shown["connected"] == false).then_some(shown)
    });
    assert!(away["expires_ms"].as_u64().unwrap() > 0);
    gauge.send(&publish("valves/7", b"open", 0x32, Some(9)));
    assert_eq!(gauge.packet_of(0x40).0, 0x40, "PUBACK");
    let shown = stdout(&longtail(&server, &["sessions", "site/pump 1"]));
    assert!(shown.contains("queued         1 ("), "{shown}");
    let table = stdout(&longtail(&server, &["sessions", "--away"]));
    assert!(
        table.contains("(away)") && !table.contains("gauge"),
        "{table}"
    );

    let (status, _) = server.http("DELETE", "/api/v1/sessions/site%2Fpump%201", "");
    assert_eq!(status, 409, "it is away");
    stdout(&longtail(
        &server,
        &["kick", "--session", "site/pump 1", "--forget"],
    ));
    let (status, _) = server.http("GET", "/api/v1/sessions/site%2Fpump%201", "");
    assert_eq!(status, 404);
    let (status, _) = server.http("DELETE", "/api/v1/sessions/nobody", "");
    assert_eq!(status, 404);
}

#[test]
fn retained_messages_are_listed_shown_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--listen", "mqtt=127.0.0.1:0"]);
    let mut client = Mqtt::connect(&server.mqtt(), "c", 0);
    for (id, topic) in [(1, "a/1"), (2, "a/2"), (3, "b")] {
        client.send(&publish(topic, b"21", 0x33, Some(id)));
        assert_eq!(client.packet().0, 0x40, "PUBACK");
    }
    let listed = server.get("/api/v1/spaces/default/retained?filter=a.*");
    assert_eq!(listed["items"][0]["subject"], "a.1");
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    let mut after = String::new();
    let mut found = Vec::new();
    loop {
        let page = server.get(&format!(
            "/api/v1/spaces/default/retained?notation=slashes&limit=1{after}"
        ));
        for item in page["items"].as_array().unwrap() {
            found.push(item["subject"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, ["a/1", "a/2", "b"]);
    let got = longtail(&server, &["retained", "get", "a/2", "--slashes"]);
    assert_eq!(stdout(&got), "21\n");
    stdout(&longtail(&server, &["retained", "delete", "a.2"]));
    let list = longtail(&server, &["retained", "list", "a/#", "--slashes", "--json"]);
    let list = stdout(&list);
    let lines: Vec<Value> = list
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["subject"], "a/1");
    let (status, _) = server.http("DELETE", "/api/v1/spaces/default/retained/a.2", "");
    assert_eq!(status, 404);
    // What a client finds is the same.
    client.send(&subscribe(9, "a/#", 0));
    assert_eq!(client.packet().0, 0x90, "SUBACK");
    let (kind, body) = client.packet();
    assert_eq!((kind, &body[2..5]), (0x31, &b"a/1"[..]));
}

#[test]
fn the_server_speaks_of_itself_under_sys() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "--listen",
        "mqtt=127.0.0.1:0",
        "--set",
        "mqtt.sys_interval_s=1",
    ];
    let server = Server::start(dir.path(), &args);
    let mut client = Mqtt::connect(&server.mqtt(), "watcher", 0);
    client.send(&publish("x", b"hello", 0x30, None));
    client.send(&subscribe(1, "$SYS/#", 0));
    assert_eq!(client.packet().0, 0x90, "SUBACK");
    let mut values = std::collections::HashMap::new();
    let start = Instant::now();
    // Retained ones first, then what changes.
    while values.get("publish/messages/received").map(String::as_str) != Some("1")
        || !values.contains_key("load/messages/received/1min")
        || values.get("clients/connected").map(String::as_str) != Some("1")
    {
        assert!(start.elapsed() < Duration::from_secs(20), "{values:?}");
        let (topic, payload) = client.message();
        let topic = topic.strip_prefix("$SYS/broker/").unwrap().to_owned();
        values.insert(topic, payload);
    }
    assert!(values["version"].starts_with("Longtail "));
    assert!(values["uptime"].ends_with(" seconds"));
    assert_eq!(values["publish/bytes/received"], "5");
    assert!(values["heap/current"].parse::<u64>().unwrap() > 1 << 20);
    assert_eq!(values["connections/socket/count"], "1");
    assert!(values.contains_key("retained messages/count"));

    // Nobody else speaks there, and nothing of it is kept with the retained messages.
    client.send(&publish("$SYS/broker/version", b"mine", 0x33, Some(5)));
    let (_, body) = client.packet_of(0x40);
    assert_eq!(body[2], 0x87, "not authorized");
    let kept = server.get("/api/v1/spaces/default/retained");
    assert_eq!(kept["items"].as_array().unwrap().len(), 0);
}

#[test]
fn metrics_count_sessions_messages_and_logins() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--listen", "mqtt=127.0.0.1:0"]);
    let mut client = Mqtt::connect(&server.mqtt(), "c", 0);
    client.send(&subscribe(1, "a", 1));
    assert_eq!(client.packet().0, 0x90, "SUBACK");
    client.send(&publish("a", b"hello", 0x32, Some(1)));
    client.packet_of(0x30);
    let (status, text) = server.http("GET", "/metrics", "");
    assert_eq!(status, 200);
    for line in [
        "longtail_sessions{protocol=\"mqtt\",state=\"connected\"} 1\n",
        "longtail_sessions_connected{protocol=\"mqtt\",version=\"5.0\"} 1\n",
        "longtail_subscriptions{protocol=\"mqtt\",kind=\"plain\"} 1\n",
        "longtail_session_messages_received_total{protocol=\"mqtt\",qos=\"1\"} 1\n",
        "longtail_session_messages_sent_total{protocol=\"mqtt\",qos=\"1\"} 1\n",
        "longtail_session_sent_payload_bytes_total{protocol=\"mqtt\"} 5\n",
        "longtail_session_messages_dropped_total{protocol=\"mqtt\",cause=\"outbox_full\"} 0\n",
        "longtail_logins_total{protocol=\"mqtt\",outcome=\"accepted\"} 1\n",
        "longtail_retained_messages{space=\"default\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn an_operator_is_told_why_messages_did_not_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--listen", "mqtt=127.0.0.1:0"]);
    let why = |args: &[&str]| stdout(&longtail(&server, &[&["why"], args].concat()));
    assert!(why(&["--topic", "a/b"]).starts_with("no MQTT client is subscribed to a/b\n"));
    let mut small = Mqtt::connect_with(&server.mqtt(), "small", 3600, Some(40));
    small.send(&subscribe(1, "a/+", 1));
    assert_eq!(small.packet().0, 0x90, "SUBACK");
    let mut publisher = Mqtt::connect(&server.mqtt(), "p", 0);
    publisher.send(&publish("a/b", &[b'x'; 100], 0x32, Some(9)));
    assert_eq!(publisher.packet_of(0x40).0, 0x40, "PUBACK");
    publisher.send(&publish("$SYS/x", b"mine", 0x30, None));
    let text = eventually("it is listed", || {
        let text = why(&["small"]);
        text.contains("did not get").then_some(text)
    });
    assert!(
        text.contains("too_large") && text.contains("maximum packet size"),
        "{text}"
    );
    assert!(text.contains("a/b"), "{text}");
    let text = why(&["--topic", "a/b"]);
    assert!(
        text.contains("small") && text.contains("1 too_large"),
        "{text}"
    );
    let text = eventually("it is listed", || {
        let text = why(&["p"]);
        text.contains("may not publish").then_some(text)
    });
    assert!(
        text.contains("$SYS/x") && text.contains("not_authorized"),
        "{text}"
    );
    let drops = server.get("/api/v1/drops?topic=a%2F%23");
    assert_eq!(drops["items"][0]["session"], "small");
    assert_eq!(drops["items"][0]["reason"], "too_large");
    let matching = server.get("/api/v1/subscriptions?matches=a%2Fb");
    assert_eq!(matching["items"].as_array().unwrap().len(), 1);
    let none = server.get("/api/v1/subscriptions?matches=b%2Fb");
    assert_eq!(none["items"].as_array().unwrap().len(), 0);
    let output = longtail(&server, &["why", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_str(&why(&["small", "--json"])).unwrap();
    assert_eq!(json["session"]["dropped"]["too_large"], 1);
}

#[test]
fn the_sessions_of_a_topic_are_one_list_with_what_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--listen", "mqtt=127.0.0.1:0"]);
    for client in ["gone-1", "gone-2"] {
        let mut client = Mqtt::connect(&server.mqtt(), client, 3600);
        client.send(&subscribe(1, "w/+", 1));
        assert_eq!(client.packet().0, 0x90, "SUBACK");
    }
    eventually("both are away", || {
        let away = server.get("/api/v1/sessions?connected=false");
        (away["items"].as_array()?.len() == 2).then_some(())
    });
    let mut publisher = Mqtt::connect(&server.mqtt(), "p", 0);
    publisher.send(&publish("w/1", b"waits", 0x32, Some(1)));
    assert_eq!(publisher.packet_of(0x40).0, 0x40, "PUBACK");
    let found = server.get("/api/v1/sessions?matches=w%2F1");
    let found = found["items"].as_array().unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    for session in found {
        assert_eq!(session["queued"], 1);
        let id = session["id"].as_str().unwrap();
        assert_eq!(*session, server.get(&format!("/api/v1/sessions/{id}")));
    }
    let none = server.get("/api/v1/sessions?matches=x%2F1");
    assert_eq!(none["items"].as_array().unwrap().len(), 0);
    let (status, _) = server.http("GET", "/api/v1/sessions?matches=w%2F%23", "");
    assert_eq!(status, 400, "a topic has no wildcards");
    let text = stdout(&longtail(&server, &["why", "--topic", "w/1"]));
    let away = text.lines().filter(|line| line.contains(" away "));
    let waiting = |line: &str| line.split_whitespace().any(|word| word == "1");
    assert_eq!(away.filter(|line| waiting(line)).count(), 2, "{text}");
}

#[test]
fn traces_slow_subscriptions_and_topic_metrics_have_commands() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--listen", "mqtt=127.0.0.1:0"]);
    let run = |args: &[&str]| stdout(&longtail(&server, args));
    let begun = run(&[
        "trace",
        "start",
        "why",
        "--client",
        "pump",
        "--payload",
        "text",
    ]);
    assert!(begun.contains("longtail trace follow why"), "{begun}");
    run(&["topic-metrics", "add", "t/1"]);
    let slow = run(&["slow", "--on", "--threshold", "50ms", "--span", "response"]);
    assert!(
        slow.starts_with("the 10 slowest above 50 ms (response)"),
        "{slow}"
    );
    let mut pump = Mqtt::connect(&server.mqtt(), "pump", 0);
    pump.send(&subscribe(1, "t/+", 1));
    assert_eq!(pump.packet().0, 0x90, "SUBACK");
    pump.send(&publish("t/1", b"hello there", 0x32, Some(7)));
    let (_, body) = pump.packet_of(0x30);
    std::thread::sleep(Duration::from_millis(60));
    pump.send(&[0x40, 2, body[5], body[6]]);
    let slow = eventually("it is slow", || {
        let slow = run(&["slow"]);
        slow.contains("t/1").then_some(slow)
    });
    assert!(slow.contains("pump"), "{slow}");
    let metrics = run(&["topic-metrics", "list", "--json"]);
    let metrics: Value = serde_json::from_str(&metrics).unwrap();
    assert_eq!(metrics["received"][1], 1);
    assert_eq!(metrics["sent"][1], 1);
    run(&["topic-metrics", "reset", "t/1"]);
    assert!(run(&["topic-metrics", "list"]).contains("t/1"));
    run(&["topic-metrics", "remove", "t/1"]);
    assert_eq!(
        longtail(&server, &["topic-metrics", "reset", "t/1"])
            .status
            .code(),
        Some(1)
    );
    let listed = run(&["trace", "list"]);
    assert!(
        listed.contains("client pump") && listed.contains("running"),
        "{listed}"
    );
    let file = dir.path().join("trace.txt");
    let lines = eventually("lines are there", || {
        let lines = run(&["trace", "download", "why"]);
        lines.contains("hello there").then_some(lines)
    });
    run(&["trace", "download", "why", "-o", file.to_str().unwrap()]);
    assert!(std::fs::read_to_string(&file).unwrap().starts_with(&lines));
    let nothing = dir.path().join("nothing.txt");
    let nobody = [
        "trace",
        "download",
        "nobody",
        "-o",
        nothing.to_str().unwrap(),
    ];
    assert_eq!(longtail(&server, &nobody).status.code(), Some(1));
    assert!(
        !nothing.exists(),
        "a trace that is not there leaves no file"
    );
    run(&["trace", "stop", "why"]);
    // What has ended is printed, and then it is over.
    assert!(run(&["trace", "follow", "why"]).contains("hello there"));
    let twice = longtail(&server, &["trace", "start", "why", "--topic", "t/#"]);
    assert_eq!(twice.status.code(), Some(1));
    run(&["trace", "delete", "why"]);
    let (status, _) = server.http("GET", "/api/v1/traces/why", "");
    assert_eq!(status, 404);
    let two = longtail(
        &server,
        &["trace", "start", "x", "--topic", "t", "--client", "c"],
    );
    assert_eq!(two.status.code(), Some(2), "one subject");
    run(&["slow", "--off"]);
    assert!(run(&["slow"]).starts_with("nothing is looked for"));
}
