//! What single listeners say about MQTT, and what the settings do to topics, through a real server.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::process::{Command, Output};

use support::mqtt::{Mqtt, connect, packet, publish, subscribe};
use support::{Server, longtail};

/// One plain listener, and nothing else but the admin service.
const BARE: &str = "[listeners]\namqp = []\namqp-management = []\namqp-metrics = []\nbeanstalk = []\nmqtt-http = []\nmqtt-ws = []\n[[listeners.mqtt]]\naddress = \"127.0.0.1:0\"\n";

/// CONNECT of 3.1.1.
fn connect_v3(client_id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x02\0\0".to_vec();
    body.extend(u16::try_from(client_id.len()).unwrap().to_be_bytes());
    body.extend(client_id.as_bytes());
    packet(0x10, &body)
}

/// The reason codes of the next SUBACK.
fn suback(client: &mut Mqtt) -> Vec<u8> {
    client.packet_of(0x90).1[3..].to_vec()
}

/// The reason code of the next PUBACK.
fn puback(client: &mut Mqtt) -> u8 {
    let (_, body) = client.packet_of(0x40);
    body.get(2).copied().unwrap_or_default()
}

fn cli(server: &Server, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longtail"))
        .args(args)
        .env("LONGTAIL_URL", format!("http://{}", server.admin))
        .output()
        .unwrap()
}

#[test]
fn clients_below_a_mount_point_see_their_own_topics_only() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(
        dir.path(),
        &format!(
            "{BARE}[[listeners.mqtt]]\naddress = \"127.0.0.1:0\"\nmqtt = {{ mount_point = \"site/%c/\" }}\n"
        ),
    );
    let [plain, mounted] = &server.addresses("mqtt")[..] else {
        unreachable!("two listeners");
    };
    let mut all = Mqtt::connect(plain, "all", 0);
    all.send(&subscribe(1, "site/#", 0));
    assert_eq!(suback(&mut all), [0]);
    let mut pump = Mqtt::connect(mounted, "pump", 3600);
    pump.send(&subscribe(1, "#", 1));
    assert_eq!(suback(&mut pump), [1]);
    pump.send(&publish("temp", b"21", 0x30, None));
    assert_eq!(pump.message(), ("temp".into(), "21".into()));
    assert_eq!(all.message(), ("site/pump/temp".into(), "21".into()));
    all.send(&publish("site/other/temp", b"no", 0x30, None));
    all.send(&publish("site/pump/set", b"on", 0x32, Some(7)));
    let (kind, body) = pump.packet();
    assert_eq!(
        (kind, &body[..5]),
        (0x32, &b"\0\x03set"[..]),
        "below it, at QoS 1"
    );
    let mut slash = Mqtt::open(mounted);
    slash.send(&connect("a/b", &[], None));
    assert_eq!(
        slash.packet().1[1],
        0x85,
        "it would reach into another's topics"
    );

    // Back through the other listener, the session has what lies where its topics are now.
    drop(pump);
    let mut pump = Mqtt::open(mounted);
    let mut again = connect("pump", &[0x11, 0, 0, 14, 16], None);
    again[9] = 0; // not clean
    pump.send(&again);
    let (_, body) = pump.packet();
    assert_eq!((body[0], body[1]), (1, 0), "session present");
    all.send(&publish("site/pump/set", b"off", 0x30, None));
    loop {
        let (topic, payload) = pump.message();
        if payload.ends_with("off") {
            assert_eq!(topic, "set");
            break;
        }
    }
}

#[test]
fn a_listener_has_versions_limits_and_a_lifetime_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(
        dir.path(),
        &format!(
            "{BARE}[[listeners.mqtt]]\naddress = \"127.0.0.1:0\"\n\
             mqtt = {{ versions = [\"5.0\"], qos_max = 1, keep_alive_max_s = 30, packet_bytes_max = 2000, \
             retain_available = false, shared_available = false, connection_max_ms = 4000 }}\n"
        ),
    );
    let [plain, strict] = &server.addresses("mqtt")[..] else {
        unreachable!("two listeners");
    };
    let mut old = Mqtt::open(plain);
    old.send(&connect_v3("old"));
    assert_eq!(old.packet(), (0x20, vec![0, 0]));
    let mut old = Mqtt::open(strict);
    old.send(&connect_v3("old"));
    assert_eq!(
        old.packet(),
        (0x20, vec![0, 1]),
        "unacceptable protocol version"
    );

    let mut new = Mqtt::open(strict);
    new.send(&connect("new", &[], None));
    let (_, connack) = new.packet();
    let says = |part: &[u8]| connack.windows(part.len()).any(|found| found == part);
    assert_eq!(connack[1], 0);
    assert!(says(&[0x13, 0, 30]), "server keep alive");
    assert!(says(&[0x27, 0, 0, 0x07, 0xD0]), "maximum packet size");
    assert!(says(&[0x24, 1]) && says(&[0x25, 0]) && says(&[0x2A, 0]));
    new.send(&subscribe(1, "$share/g/a", 1));
    assert_eq!(suback(&mut new), [0x9E]);
    let (kind, body) = new.packet();
    assert_eq!((kind, body[0]), (0xE0, 0xA0), "maximum connect time");
    new.ends();
}

#[test]
fn who_may_come_without_a_name_is_up_to_the_listener() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "permissions = [{ space = \"default\", rules = [{ actions = [\"publish\"], subject = \"#\" }] }]\n";
    let server = Server::configured(
        dir.path(),
        &format!(
            "anonymous = \"guest\"\n{BARE}\
             [[listeners.mqtt]]\naddress = \"127.0.0.1:0\"\nmqtt = {{ anonymous = \"\" }}\n\
             [[listeners.mqtt]]\naddress = \"127.0.0.1:0\"\nmqtt = {{ anonymous = \"other\" }}\n\
             [[accounts]]\nname = \"guest\"\n{rules}[[accounts]]\nname = \"other\"\n{rules}"
        ),
    );
    let account = |address: &str| {
        let mut client = Mqtt::open(address);
        client.send(&connect("c", &[], None));
        let reason = client.packet().1[1];
        let shown = (reason == 0).then(|| server.get("/api/v1/sessions/c")["account"].clone());
        (reason, shown)
    };
    let addresses = server.addresses("mqtt");
    assert_eq!(account(&addresses[0]), (0, Some("guest".into())));
    assert_eq!(account(&addresses[1]), (0x86, None));
    assert_eq!(account(&addresses[2]), (0, Some("other".into())));
}

#[test]
fn settings_that_cannot_be_are_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let check = |settings: &str| {
        std::fs::write(dir.path().join("longtail.toml"), settings).unwrap();
        let output = longtail(dir.path(), &["config", "check"]);
        assert_eq!(output.status.code(), Some(2), "{settings}");
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).unwrap()
    };
    let listener = |mqtt: &str| {
        format!("[[listeners.mqtt]]\naddress = \"127.0.0.1:0\"\nmqtt = {{ {mqtt} }}\n")
    };
    let said = check(&listener("mount_piont = \"a/\""));
    assert!(said.contains("mount_point"), "{said}");
    let said = check(&listener("mount_point = \"a/#\""));
    assert!(said.contains("wildcards"), "{said}");
    let said = check(&listener("versions = [\"5\"]"));
    assert!(said.contains("5.0"), "{said}");
    let said = check(&listener("anonymous = \"x\""));
    assert!(said.contains("account"), "{said}");
    let said = check("[[listeners.beanstalk]]\naddress = \"127.0.0.1:0\"\nmqtt = {}\n");
    assert!(said.contains("listeners of MQTT"), "{said}");
    let said = check("[[mqtt.rewrites]]\ntopic = \"#\"\nregex = \"(\"\ntarget = \"a\"\n");
    assert!(said.contains("mqtt.rewrites: number 1"), "{said}");
    let said = check("[[mqtt.auto_subscriptions]]\nfilter = \"a/%x\"\n");
    assert!(said.contains("mqtt.auto_subscriptions: number 1"), "{said}");
}

#[test]
fn topics_are_rewritten_and_clients_subscribed_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(
        dir.path(),
        &format!(
            "{BARE}\
             [[mqtt.rewrites]]\non = \"publish\"\ntopic = \"up/#\"\nregex = \"^up/(.+)$\"\ntarget = \"devices/%c/$1\"\n\
             [[mqtt.rewrites]]\non = \"subscribe\"\ntopic = \"all\"\nregex = \"^all$\"\ntarget = \"devices/#\"\n\
             [[mqtt.auto_subscriptions]]\nfilter = \"inbox/%c\"\nqos = 1\n"
        ),
    );
    let mut reader = Mqtt::connect(&server.mqtt(), "reader", 0);
    reader.send(&subscribe(1, "all", 0));
    assert_eq!(suback(&mut reader), [0]);
    let mut pump = Mqtt::connect(&server.mqtt(), "pump", 3600);
    pump.send(&publish("up/temp/1", b"21", 0x30, None));
    assert_eq!(
        reader.message(),
        ("devices/pump/temp/1".into(), "21".into())
    );
    reader.send(&publish("inbox/pump", b"hello", 0x32, Some(3)));
    let (kind, body) = pump.packet();
    assert_eq!(kind, 0x32, "at QoS 1, without a SUBSCRIBE");
    assert!(body.ends_with(b"hello"));
    // It is as any other, and kept with the session.
    let shown = server.get("/api/v1/subscriptions?session=pump");
    assert_eq!(shown["items"][0]["filter"], "inbox/pump");
    reader.send(&{
        let mut body = vec![0, 9, 0, 0, 3];
        body.extend(b"all");
        packet(0xA2, &body)
    });
    assert_eq!(
        reader.packet_of(0xB0).1[3..],
        [0],
        "known as the client named it"
    );
}

#[test]
fn a_payload_that_is_not_what_it_says_is_refused_where_that_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(
        dir.path(),
        &format!("mqtt.payload_format_checked = true\n{BARE}"),
    );
    let mut client = Mqtt::connect(&server.mqtt(), "c", 0);
    let mut told = |format: u8, payload: &[u8]| {
        let mut body = b"\0\x01t\0\x07\x02\x01".to_vec();
        body.push(format);
        body.extend(payload);
        client.send(&packet(0x32, &body));
        puback(&mut client)
    };
    assert_eq!(told(1, "grün".as_bytes()), 0x10);
    assert_eq!(told(0, b"\xFF"), 0x10);
    assert_eq!(told(1, b"\xFF"), 0x99);
}

#[test]
fn a_delayed_message_is_published_when_its_time_has_come_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(dir.path(), BARE);
    let mut client = Mqtt::connect(&server.mqtt(), "c", 0);
    client.send(&subscribe(1, "later", 0));
    assert_eq!(suback(&mut client), [0]);
    client.send(&publish("$delayed/1/later", b"first", 0x32, Some(1)));
    assert_eq!(puback(&mut client), 0);
    client.send(&publish("later", b"now", 0x30, None));
    assert_eq!(client.message(), ("later".into(), "now".into()));
    assert_eq!(client.message(), ("later".into(), "first".into()));
    for wrong in [
        "$delayed/x/later",
        "$delayed/1",
        "$delayed/99999999999/later",
    ] {
        client.send(&publish(wrong, b"", 0x32, Some(2)));
        assert_eq!(puback(&mut client), 0x90, "{wrong}");
    }
    // At QoS 2, retained; the server dies before it is due.
    client.send(&publish("$delayed/2/kept", b"second", 0x35, Some(3)));
    assert_eq!(client.packet().0, 0x50, "PUBREC");
    client.send(&packet(0x62, &[0, 3]));
    assert_eq!(client.packet().0, 0x70, "PUBCOMP");
    drop(server);
    let server = Server::configured(dir.path(), BARE);
    let mut client = Mqtt::connect(&server.mqtt(), "c", 0);
    client.send(&subscribe(1, "kept", 0));
    assert_eq!(suback(&mut client), [0]);
    assert_eq!(client.message(), ("kept".into(), "second".into()));
}

#[test]
fn an_exclusive_subscription_is_the_only_one_of_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(dir.path(), BARE);
    let mut first = Mqtt::connect(&server.mqtt(), "first", 3600);
    first.send(&subscribe(1, "$exclusive/a/+", 1));
    assert_eq!(suback(&mut first), [1]);
    let mut second = Mqtt::connect(&server.mqtt(), "second", 0);
    second.send(&subscribe(1, "$exclusive/a/+", 1));
    assert_eq!(suback(&mut second), [0x97]);
    second.send(&subscribe(2, "a/+", 0));
    assert_eq!(suback(&mut second), [0], "an ordinary one is not kept out");
    second.send(&publish("a/1", b"x", 0x30, None));
    assert_eq!(first.message(), ("a/1".into(), "x".into()));
    // The session has it while its client is away, and after a crash.
    drop(first);
    drop(server);
    let server = Server::configured(dir.path(), BARE);
    let mut second = Mqtt::connect(&server.mqtt(), "second", 0);
    second.send(&subscribe(1, "$exclusive/a/+", 1));
    assert_eq!(suback(&mut second), [0x97]);
    let mut first = Mqtt::connect(&server.mqtt(), "first", 0);
    second.send(&subscribe(2, "$exclusive/a/+", 1));
    assert_eq!(suback(&mut second), [1], "its session was discarded");
    first.send(&subscribe(1, "$exclusive/a/+", 1));
    assert_eq!(suback(&mut first), [0x97]);
}

#[test]
fn members_of_a_queue_share_its_messages() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(dir.path(), BARE);
    let mut members = ["one", "two"].map(|id| Mqtt::connect(&server.mqtt(), id, 0));
    for member in &mut members {
        member.send(&subscribe(1, "$queue/jobs/#", 0));
        assert_eq!(suback(member), [0]);
    }
    let mut publisher = Mqtt::connect(&server.mqtt(), "publisher", 0);
    for number in 0..10 {
        publisher.send(&publish(&format!("jobs/{number}"), b"x", 0x30, None));
    }
    let shown = server.get("/api/v1/subscriptions?session=one");
    assert_eq!(shown["items"][0]["share"], "$queue");
    publisher.send(&publish("end", b"", 0x32, Some(1)));
    puback(&mut publisher);
    let mut seen = 0;
    for member in &mut members {
        member.send(&packet(0xC0, &[]));
        loop {
            match member.packet().0 {
                0xD0 => break,
                kind => {
                    assert_eq!(kind, 0x30);
                    seen += 1;
                }
            }
        }
    }
    assert_eq!(seen, 10, "each message went to one of them");
}

#[test]
fn a_ban_keeps_out_who_is_in_and_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(dir.path(), BARE);
    let mut eve = Mqtt::connect(&server.mqtt(), "eve/1", 0);
    let ban = ["ban", "--client", "eve/1", "--reason", "noise"];
    assert!(cli(&server, &ban).status.success());
    let (kind, body) = eve.packet();
    assert_eq!((kind, body[0]), (0xE0, 0x98), "administrative action");
    let refused = |server: &Server, id: &str| {
        let mut client = Mqtt::open(&server.mqtt());
        client.send(&connect(id, &[], None));
        client.packet().1[1]
    };
    assert_eq!(refused(&server, "eve/1"), 0x8A);
    assert_eq!(refused(&server, "bob"), 0);
    let shown = String::from_utf8(cli(&server, &["bans"]).stdout).unwrap();
    assert!(
        shown.contains("eve/1") && shown.contains("noise"),
        "{shown}"
    );
    drop(server);
    let server = Server::configured(dir.path(), BARE);
    assert_eq!(refused(&server, "eve/1"), 0x8A, "after a crash");
    assert!(
        cli(&server, &["unban", "--client", "eve/1"])
            .status
            .success()
    );
    assert_eq!(refused(&server, "eve/1"), 0);
    assert!(
        !cli(&server, &["unban", "--client", "eve/1"])
            .status
            .success()
    );
    let range = ["ban", "--address", "127.0.0.0/8", "--for", "1h"];
    assert!(cli(&server, &range).status.success());
    assert_eq!(refused(&server, "bob"), 0x8A);
    assert_eq!(server.get("/api/v1/bans")["items"][0]["kind"], "address");
}

#[test]
fn a_client_that_comes_again_and_again_is_kept_out_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(
        dir.path(),
        &format!("mqtt.flapping_connects_max = 3\n{BARE}"),
    );
    let reasons: Vec<u8> = (0..5)
        .map(|_| {
            let mut client = Mqtt::open(&server.mqtt());
            client.send(&connect("flap", &[], None));
            client.packet().1[1]
        })
        .collect();
    assert_eq!(reasons, [0, 0, 0, 0x8A, 0x8A]);
    assert!(server.get("/api/v1/bans")["items"][0]["until_ms"].is_u64());
}

#[test]
fn subscriptions_that_are_not_allowed_any_more_end_at_a_reload_and_at_a_resume() {
    let dir = tempfile::tempdir().unwrap();
    let settings = |denied: &str| {
        format!(
            "anonymous = \"guest\"\n{BARE}[[accounts]]\nname = \"guest\"\npermissions = [{{ space = \"default\", rules = [\
             {{ actions = [\"publish\", \"consume\"], subject = \"#\" }}, \
             {{ actions = [\"consume\"], effect = \"deny\", subject = \"{denied}\" }}] }}]\n"
        )
    };
    let server = Server::configured(dir.path(), &settings("nothing"));
    let mut here = Mqtt::connect(&server.mqtt(), "here", 3600);
    let mut away = Mqtt::connect(&server.mqtt(), "away", 3600);
    for client in [&mut here, &mut away] {
        for (id, filter) in [(1, "public/+"), (2, "secret/+"), (3, "+/x")] {
            client.send(&subscribe(id, filter, 1));
            assert_eq!(suback(client), [1]);
        }
    }
    drop(away);
    let mut publisher = Mqtt::connect(&server.mqtt(), "publisher", 0);
    loop {
        // Until the server has noticed.
        if server.get("/api/v1/sessions/away")["connected"] == false {
            break;
        }
        std::thread::yield_now();
    }
    publisher.send(&publish("secret/y", b"1", 0x32, Some(1)));
    assert_eq!(puback(&mut publisher), 0);
    assert!(here.packet().1.ends_with(b"1"));

    std::fs::write(dir.path().join("longtail.toml"), settings("secret/#")).unwrap();
    server.signal("-HUP");
    let filters = |id: &str| {
        let listed = server.get(&format!("/api/v1/subscriptions?session={id}"));
        let items = listed["items"].as_array().unwrap().clone();
        let mut filters: Vec<_> = items
            .iter()
            .map(|item| item["filter"].as_str().unwrap().to_owned())
            .collect();
        filters.sort();
        filters
    };
    while filters("here").len() > 2 {
        std::thread::yield_now();
    }
    assert_eq!(filters("here"), ["+/x", "public/+"]);
    publisher.send(&publish("secret/x", b"2", 0x32, Some(2)));
    publisher.send(&publish("public/z", b"3", 0x32, Some(3)));
    assert!(
        here.packet().1.ends_with(b"3"),
        "of +/x, secret/x is not allowed"
    );

    let mut again = connect("away", &[0x11, 0, 0, 14, 16], None);
    again[9] = 0; // not clean
    let mut away = Mqtt::open(&server.mqtt());
    away.send(&again);
    assert_eq!(away.packet().1[..2], [1, 0], "session present");
    assert!(
        away.packet().1.ends_with(b"3"),
        "1 and 2 are not for it any more"
    );
    assert_eq!(filters("away"), ["+/x", "public/+"]);
}

#[test]
fn the_log_is_told_to_whoever_subscribes_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::configured(dir.path(), &format!("logging.topics = true\n{BARE}"));
    let mut reader = Mqtt::connect(&server.mqtt(), "reader", 0);
    reader.send(&subscribe(1, "$SYS/broker/log/#", 0));
    assert_eq!(suback(&mut reader), [0]);
    let mut pump = Mqtt::connect(&server.mqtt(), "pump", 0);
    pump.send(&subscribe(1, "a/+", 1));
    assert_eq!(suback(&mut pump), [1]);
    let mut line_of = |topic: &str, part: &str| {
        loop {
            let (found, line) = reader.message();
            if found == topic && line.contains(part) {
                return line;
            }
        }
    };
    let line = line_of("$SYS/broker/log/M/subscribe", "pump");
    assert!(line.ends_with(": pump 1 a/+"), "{line}");
    assert!(
        cli(&server, &["kick", "--session", "pump"])
            .status
            .success()
    );
    line_of("$SYS/broker/log/I", "disconnected through the admin API");
}

/// SUBSCRIBE for several filters.
fn subscribe_all(id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    for (filter, qos) in filters {
        body.extend(u16::try_from(filter.len()).unwrap().to_be_bytes());
        body.extend(filter.as_bytes());
        body.push(*qos);
    }
    packet(0x82, &body)
}

#[test]
fn a_filter_whose_stream_cannot_be_opened_is_refused_as_often_as_the_packet_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = format!("{BARE}[[spaces]]\nname = \"default\"\nquotas = {{ streams_max = 12 }}\n");
    let server = Server::configured(dir.path(), &config);
    let mut client = Mqtt::connect(&server.mqtt(), "c", 3600);
    client.send(&subscribe(1, "plain", 0));
    assert_eq!(suback(&mut client), [0]);
    let mut opened = 0;
    loop {
        client.send(&subscribe(2, &format!("stream/{opened}"), 1));
        match suback(&mut client)[..] {
            [1] => opened += 1,
            [0x97] => break,
            ref other => panic!("{other:?}"),
        }
        assert!(opened < 12, "the quota is not kept");
    }
    assert!(opened > 0);
    for wanted in [
        [("twice", 1), ("twice", 2)],
        [("twice", 1), ("twice", 0)],
        [("plain", 0), ("plain", 1)],
    ] {
        client.send(&subscribe_all(3, &wanted));
        assert_eq!(suback(&mut client), [0x97, 0x97], "{wanted:?}");
    }
    // Neither is there, live or on record.
    let unsubscribe = |filter: &str| {
        let mut body = b"\0\x04\0".to_vec();
        body.extend(u16::try_from(filter.len()).unwrap().to_be_bytes());
        body.extend(filter.as_bytes());
        packet(0xA2, &body)
    };
    client.send(&publish("plain", b"x", 0x30, None));
    client.send(&publish("twice", b"x", 0x30, None));
    for filter in ["plain", "twice"] {
        client.send(&unsubscribe(filter));
        let (kind, body) = client.packet();
        assert_eq!((kind, body[3..].to_vec()), (0xB0, vec![0x11]), "{filter}");
    }
    client.send(&subscribe(5, "plain", 0));
    assert_eq!(suback(&mut client), [0]);
    // What has gone makes room.
    client.send(&unsubscribe("stream/0"));
    assert_eq!(client.packet_of(0xB0).1[3..], [0]);
    client.send(&subscribe_all(6, &[("twice", 1), ("twice", 2)]));
    assert_eq!(suback(&mut client), [1, 2]);
}

#[test]
fn a_client_that_publishes_too_fast_is_held_up_or_has_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let listener = |policy: &str| {
        format!(
            "[[listeners.mqtt]]\naddress = \"127.0.0.1:0\"\nmqtt = {{ publish_rate_max = 20, fast_publisher = \"{policy}\" }}\n"
        )
    };
    let settings = format!("{BARE}{}{}", listener("wait"), listener("disconnect"));
    let server = Server::configured(dir.path(), &settings);
    let [free, held, cut] = &server.addresses("mqtt")[..] else {
        unreachable!("three listeners");
    };
    let burst = |client: &mut Mqtt, count: u16| {
        let all: Vec<u8> = (1..=count)
            .flat_map(|id| publish("t", b"x", 0x32, Some(id)))
            .collect();
        client.send(&all);
    };
    let mut client = Mqtt::connect(free, "free", 0);
    burst(&mut client, 100);
    for _ in 0..100 {
        puback(&mut client);
    }
    // A second's worth at once, and a second for the rest; all of it is acknowledged.
    let mut client = Mqtt::connect(held, "held", 0);
    let began = std::time::Instant::now();
    burst(&mut client, 40);
    for _ in 0..40 {
        assert_eq!(puback(&mut client), 0x10, "nobody is there");
    }
    let took = began.elapsed().as_millis();
    assert!(took >= 900, "{took} ms");
    let mut client = Mqtt::connect(cut, "cut", 0);
    burst(&mut client, 40);
    let (_, body) = client.packet_of(0xE0);
    assert_eq!(body, [0x96]);
    let (_, metrics) = server.http("GET", "/metrics", "");
    let held_up = metrics
        .lines()
        .find_map(|line| line.strip_prefix("longtail_session_publishers_held_up_total{"))
        .unwrap();
    assert!(!held_up.ends_with(" 0"), "{held_up}");
}

#[test]
fn clients_of_a_server_that_stops_are_told_where_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let settings = format!("{BARE}[mqtt]\nserver_reference = \"other:1883\"\n");
    let server = Server::configured(dir.path(), &settings);
    let mut client = Mqtt::connect(&server.mqtt(), "c", 0);
    server.signal("-TERM");
    let (_, body) = client.packet_of(0xE0);
    let mut expected = vec![0x9C, 13, 0x1C, 0, 10];
    expected.extend(b"other:1883");
    assert_eq!(body, expected);
}
