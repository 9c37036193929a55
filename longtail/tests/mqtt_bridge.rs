//! Bridges to a real Mosquitto. Without `mosquitto`, `mosquitto_pub` and `mosquitto_sub` the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: what fails here fails the test"
)]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use longtail::Longtail;
use longtail_broker::LiveSubscription;
use longtail_broker::message::{Headers, Message, Quality};
use longtail_model::{Filter, Subject};
use longtail_mqtt::bridge::{BridgeConfig, Direction, HOPS, Protocol, TopicLine};

const PATIENCE: Duration = Duration::from_secs(20);

fn program(name: &str) -> Option<PathBuf> {
    [
        "/usr/sbin",
        "/usr/bin",
        "/usr/local/sbin",
        "/usr/local/bin",
        "/opt/homebrew/sbin",
        "/opt/homebrew/bin",
    ]
    .iter()
    .map(|dir| Path::new(dir).join(name))
    .find(|path| path.exists())
}

/// Skips a test where the programs are missing.
macro_rules! needs_mosquitto {
    () => {
        if ["mosquitto", "mosquitto_pub", "mosquitto_sub"]
            .iter()
            .any(|name| program(name).is_none())
        {
            eprintln!("SKIPPED: mosquitto and its clients are not installed");
            return;
        }
    };
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Mosquitto {
    dir: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Mosquitto {
    fn new(more: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let dir = tempfile::tempdir().unwrap();
        // As the superuser it would become another user, who cannot write here.
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nuser root\n{more}\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("conf"), config).unwrap();
        let mut mosquitto = Mosquitto {
            dir,
            port,
            process: None,
        };
        mosquitto.start();
        mosquitto
    }

    fn start(&mut self) {
        let mut command = Command::new(program("mosquitto").unwrap());
        command.arg("-c").arg(self.dir.path().join("conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        let port = self.port;
        until("mosquitto listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    /// Ends it as an operator does: it writes its sessions then.
    fn end(&mut self) {
        let mut process = self.process.take().unwrap();
        let killed = Command::new("kill")
            .arg("-TERM")
            .arg(process.id().to_string())
            .status();
        assert!(killed.unwrap().success());
        process.wait().unwrap();
    }

    fn client(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program(name).unwrap());
        command
            .args(["-h", "127.0.0.1", "-V", "5", "-p", &self.port.to_string()])
            .args(args);
        command
    }

    fn publish(&self, args: &[&str]) {
        assert!(
            self.client("mosquitto_pub", args)
                .status()
                .unwrap()
                .success()
        );
    }

    /// Makes a session for what comes while nobody listens.
    fn keep(&self, client: &str, topic: &str) {
        assert!(
            self.returning(client, topic)
                .arg("-E")
                .status()
                .unwrap()
                .success()
        );
    }

    /// A subscriber with a session that is kept for ever. At QoS 1: at QoS 2 the tool of 2.0.11 now and then takes a
    /// full window for a broken protocol.
    fn returning(&self, client: &str, topic: &str) -> Command {
        let session = ["-c", "-i", client, "-x", "4294967295"];
        let mut command = self.client("mosquitto_sub", &session);
        command.args(["-q", "1", "-t", topic]);
        command
    }

    /// The payloads of so many messages of such a session.
    fn kept(&self, client: &str, topic: &str, count: usize) -> Vec<String> {
        let (count, patience) = (count.to_string(), PATIENCE.as_secs().to_string());
        let output = self
            .returning(client, topic)
            .args(["-C", &count, "-W", &patience])
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn listen(&self, topic: &str) -> Listener {
        let patience = PATIENCE.as_secs().to_string();
        let args = [
            "-q",
            "2",
            "-t",
            topic,
            "-d",
            "-W",
            &patience,
            "-F",
            "=%t %q %r %p %C %R %D %P",
        ];
        let mut command = Command::new("stdbuf");
        let inner = self.client("mosquitto_sub", &args);
        command
            .arg("-oL")
            .arg(inner.get_program())
            .args(inner.get_args());
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut listener = Listener { process, lines };
        while !listener.line().starts_with("Subscribed") {}
        listener
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// `mosquitto_sub`.
struct Listener {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listener {
    fn line(&mut self) -> String {
        self.lines.next().expect("mosquitto_sub has ended").unwrap()
    }

    /// Topic, QoS, retain, payload, content type, response topic, correlation data, user properties.
    fn message(&mut self) -> String {
        loop {
            if let Some(message) = self.line().strip_prefix('=') {
                return message.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn bridge(port: u16, topics: Vec<TopicLine>) -> BridgeConfig {
    let mut config = BridgeConfig::new("test", format!("127.0.0.1:{port}"), topics);
    (config.restart_ms, config.restart_max_ms) = (100, 200);
    config
}

fn start(dir: Option<&Path>, config: BridgeConfig) -> Longtail {
    let builder = Longtail::builder().mqtt_bridge(config);
    let builder = match dir {
        Some(dir) => builder.at(dir),
        None => builder,
    };
    builder.start().unwrap()
}

fn ready(longtail: &Longtail) {
    until("the bridge is up", || longtail.bridges()[0].is_ready());
}

fn block<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, future)
            .await
            .expect("nothing came")
    })
}

fn publish(longtail: &Longtail, message: Message) {
    block(longtail.broker().publish("default", Arc::new(message))).unwrap();
}

fn text(topic: &str, payload: &str, quality: Quality) -> Message {
    Message {
        quality,
        ..Message::new(
            Subject::new(topic).unwrap(),
            Bytes::copy_from_slice(payload.as_bytes()),
        )
    }
}

fn follow(longtail: &Longtail, filter: &str) -> LiveSubscription {
    let filter = Filter::parse_mqtt(filter).unwrap();
    longtail.broker().subscribe("default", filter, 100).unwrap()
}

#[test]
fn messages_go_out_and_come_in_under_their_mapped_topics() {
    needs_mosquitto!();
    let mosquitto = Mosquitto::new("");
    let longtail = start(
        None,
        bridge(
            mosquitto.port,
            vec![
                TopicLine::new("#", Direction::Out, 1).prefixes("up/", "site/"),
                TopicLine::new("#", Direction::In, 2).prefixes("down/", "orders/"),
            ],
        ),
    );
    ready(&longtail);
    let mut there = mosquitto.listen("site/#");
    let mut here = follow(&longtail, "down/#");
    for (quality, qos) in [
        (Quality::AtMostOnce, 0),
        (Quality::AtLeastOnce, 1),
        (Quality::ExactlyOnce, 1),
    ] {
        publish(&longtail, text("up/a/b", "x", quality));
        assert_eq!(there.message(), format!("site/a/b {qos} 0 x    {HOPS}:1"));
    }
    for (qos, quality) in [
        ("0", Quality::AtMostOnce),
        ("1", Quality::AtLeastOnce),
        ("2", Quality::ExactlyOnce),
    ] {
        mosquitto.publish(&["-t", "orders/7", "-m", "go", "-q", qos]);
        let message = block(here.recv());
        assert_eq!(message.subject.as_str(), "down/7");
        assert_eq!(
            (&message.payload[..], message.quality),
            (&b"go"[..], quality)
        );
    }
}

#[test]
fn what_goes_both_ways_does_not_come_back() {
    needs_mosquitto!();
    for protocol in [Protocol::Auto, Protocol::V311] {
        let mosquitto = Mosquitto::new("");
        let mut config = bridge(
            mosquitto.port,
            vec![TopicLine::new("t/#", Direction::Both, 2)],
        );
        config.protocol = protocol;
        let longtail = start(None, config);
        ready(&longtail);
        let mut there = mosquitto.listen("t/#");
        let mut here = follow(&longtail, "t/#");
        publish(&longtail, text("t/1", "from here", Quality::ExactlyOnce));
        assert!(there.message().starts_with("t/1 2 0 from here"));
        mosquitto.publish(&["-t", "t/2", "-m", "from there", "-q", "2"]);
        assert!(there.message().starts_with("t/2 2 0 from there"));
        let seen = [block(here.recv()), block(here.recv())];
        let seen: Vec<&[u8]> = seen.iter().map(|message| &message.payload[..]).collect();
        assert_eq!(seen, [&b"from here"[..], b"from there"]);
        // What came back would be before these.
        publish(&longtail, text("t/3", "last", Quality::ExactlyOnce));
        assert!(there.message().starts_with("t/3 2 0 last"));
        mosquitto.publish(&["-t", "t/4", "-m", "end", "-q", "2"]);
        let rest = [block(here.recv()), block(here.recv())];
        assert_eq!(&rest[0].payload[..], b"last");
        assert_eq!(&rest[1].payload[..], b"end");
    }
}

#[test]
fn messages_wait_for_the_other_broker_in_their_order() {
    needs_mosquitto!();
    let data = tempfile::tempdir().unwrap();
    let mut mosquitto = Mosquitto::new("max_queued_messages 0");
    let port = mosquitto.port;
    let config = || bridge(port, vec![TopicLine::new("q/#", Direction::Out, 2)]);
    let longtail = start(Some(data.path()), config());
    ready(&longtail);
    mosquitto.keep("tester", "q/#");
    publish(&longtail, text("q/0", "0", Quality::ExactlyOnce));
    until("the first is there", || longtail.bridges()[0].sent() >= 1);
    mosquitto.end();
    // The order is that of one QoS: Mosquitto shows QoS 2 messages at their PUBREL.
    let send = |longtail: &Longtail, numbers: std::ops::Range<usize>, quality| {
        for number in numbers {
            let topic = format!("q/{number}");
            publish(longtail, text(&topic, &number.to_string(), quality));
        }
    };
    // More than the window.
    send(&longtail, 1..150, Quality::ExactlyOnce);
    mosquitto.start();
    let expected = |numbers: std::ops::Range<usize>| {
        numbers.map(|number| number.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(mosquitto.kept("tester", "q/#", 150), expected(0..150));
    // And over a restart of this one.
    mosquitto.end();
    send(&longtail, 150..300, Quality::AtLeastOnce);
    longtail.shut_down();
    mosquitto.start();
    let longtail = start(Some(data.path()), config());
    assert_eq!(mosquitto.kept("tester", "q/#", 150), expected(150..300));
    until("nothing waits", || {
        let streams = block(longtail.broker().streams(None)).unwrap();
        let stream = streams
            .iter()
            .find(|(name, _)| &*name.name == "$bridge/test")
            .unwrap();
        stream.1.messages == 0
    });
}

#[test]
fn properties_of_5_0_pass() {
    needs_mosquitto!();
    let mosquitto = Mosquitto::new("");
    let mut config = bridge(
        mosquitto.port,
        vec![TopicLine::new("p/#", Direction::Both, 1)],
    );
    config.hops_max = 0;
    let longtail = start(None, config);
    ready(&longtail);
    let mut here = follow(&longtail, "p/#");
    let properties = [
        "-D",
        "publish",
        "content-type",
        "text/x",
        "-D",
        "publish",
        "response-topic",
        "re/ply",
        "-D",
        "publish",
        "correlation-data",
        "c1",
        "-D",
        "publish",
        "user-property",
        "k",
        "v",
        "-D",
        "publish",
        "user-property",
        "k",
        "w",
    ];
    let mut args = vec!["-t", "p/in", "-m", "x", "-q", "1"];
    args.extend(properties);
    mosquitto.publish(&args);
    let message = block(here.recv());
    let mut there = mosquitto.listen("p/out");
    // As it came, under another topic and from somebody else.
    let mut headers = Headers::default();
    for header in message.headers.iter() {
        headers.push(header.name.clone(), header.value.clone());
    }
    publish(
        &longtail,
        Message {
            headers,
            reply_to: message.reply_to.clone(),
            ..text("p/out", "x", Quality::AtLeastOnce)
        },
    );
    assert_eq!(there.message(), "p/out 1 0 x text/x re/ply c1 k:v k:w");
}

#[test]
fn retained_messages_are_sent_at_each_connect_and_the_state_is_told() {
    needs_mosquitto!();
    let mut mosquitto = Mosquitto::new("");
    let data = tempfile::tempdir().unwrap();
    let mut config = bridge(
        mosquitto.port,
        vec![TopicLine::new("r/#", Direction::Out, 1)],
    );
    config.client_id = "tester".to_owned();
    mosquitto.end();
    let longtail = start(Some(data.path()), config);
    publish(
        &longtail,
        Message {
            retain: true,
            ..text("r/1", "kept", Quality::AtMostOnce)
        },
    );
    mosquitto.start();
    ready(&longtail);
    until("it is sent", || longtail.bridges()[0].sent() >= 1);
    let mut there = mosquitto.listen("r/#");
    assert!(there.message().starts_with("r/1 0 1 kept"));
    let mut state = mosquitto.listen("$SYS/broker/connection/tester/state");
    assert!(
        state
            .message()
            .starts_with("$SYS/broker/connection/tester/state 1 1 1")
    );
    longtail.shut_down();
    assert!(
        state
            .message()
            .starts_with("$SYS/broker/connection/tester/state 1 0 0")
    );
}

#[test]
fn a_broker_without_5_0_is_spoken_to_in_3_1_1() {
    // As old brokers do: return code 1 for a level that is too high, no word for one they never heard of.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let old = std::thread::spawn(move || {
        let mut levels = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let connect = packet(&mut stream);
            // Behind the name: two bytes of length, four of text.
            levels.push(connect[6]);
            match connect[6] {
                5 => stream.write_all(&[0x20, 2, 0, 1]).unwrap(),
                4 => {
                    stream.write_all(&[0x20, 2, 0, 0]).unwrap();
                    let subscribe = packet(&mut stream);
                    stream
                        .write_all(&[0x90, 3, subscribe[0], subscribe[1], 1])
                        .unwrap();
                    // Until the bridge has gone.
                    let _ = stream.read_to_end(&mut Vec::new());
                    return levels;
                }
                _ => {}
            }
        }
    });
    let longtail = start(
        None,
        bridge(port, vec![TopicLine::new("v/#", Direction::In, 1)]),
    );
    ready(&longtail);
    longtail.shut_down();
    assert_eq!(old.join().unwrap(), [5, 0x84, 4]);
}

/// The body of the next packet, which is a short one.
fn packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; usize::from(head[1])];
    stream.read_exact(&mut body).unwrap();
    body
}
