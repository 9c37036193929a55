//! How MQTT clients prove who they are, through a real server.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64ct::{Base64, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{EncodingKey, Header};
use sha2::{Digest, Sha256};
use support::Server;
use support::mqtt::{Mqtt, auth, connect, method, publish};

const SCRAM: &str = "SCRAM-SHA-256";
const SECRET: &str = "a secret of no less than 32 bytes";

/// What the server prints for a password.
fn hashed(password: &str, scram: bool) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtail"));
    command.args(["config", "hash-password"]);
    if scram {
        command.arg("--scram");
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{password}").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A server with accounts of every kind.
fn start(dir: &Path) -> Server {
    let rules = "permissions = [{ space = \"default\", rules = [\n\
        { actions = [\"publish\", \"consume\"], subject = \"%u/#\" }] }]\n";
    let text = format!(
        "anonymous = \"guest\"\n\
         [[accounts]]\nname = \"guest\"\n{rules}\
         [[accounts]]\nname = \"pump\"\npassword = \"{}\"\n{rules}\
         [[accounts]]\nname = \"web\"\npassword = \"{}\"\n{rules}\
         [[accounts]]\nname = \"phone\"\n{rules}\
         [[tokens]]\nname = \"idp\"\nalgorithm = \"HS256\"\nkey = \"{SECRET}\"\n",
        hashed("pencil", true),
        hashed("swordfish", false),
    );
    serve(dir, &text)
}

/// A server of MQTT with these settings.
fn serve(dir: &Path, text: &str) -> Server {
    std::fs::write(dir.join("longtail.toml"), text).unwrap();
    let listen = ["mqtt=127.0.0.1:0", "admin=127.0.0.1:0"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtail"));
    command
        .args([
            "serve", "--only", "--listen", listen[0], "--listen", listen[1],
        ])
        .current_dir(dir)
        .env_remove("LONGTAIL_CONFIG")
        .stderr(Stdio::piped());
    Server::adopt(command.spawn().unwrap())
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// The client's last message, and what the server has to answer (RFC 5802, section 3).
fn client_final(bare: &str, server_first: &str, password: &str) -> (String, String) {
    let field = |name: &str| {
        let mut fields = server_first.split(',');
        fields.find_map(|field| field.strip_prefix(name)).unwrap()
    };
    let salt = Base64::decode_vec(field("s=")).unwrap();
    let mut salted = [0; 32];
    let rounds = field("i=").parse().unwrap();
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, rounds, &mut salted);
    let client_key = hmac(&salted, b"Client Key");
    let stored: [u8; 32] = Sha256::digest(client_key).into();
    let without_proof = format!("c=biws,r={}", field("r="));
    let signed = format!("{bare},{server_first},{without_proof}");
    let signature = hmac(&stored, signed.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(signature)
        .map(|(key, mask)| key ^ mask)
        .collect();
    let last = format!("{without_proof},p={}", Base64::encode_string(&proof));
    let verifier = hmac(&hmac(&salted, b"Server Key"), signed.as_bytes());
    (last, format!("v={}", Base64::encode_string(&verifier)))
}

/// The authentication data among the properties at the end of a packet.
fn data(body: &[u8]) -> String {
    let method = method(SCRAM, b"");
    let at = body
        .windows(method.len())
        .position(|part| part == method)
        .unwrap();
    let rest = &body[at + method.len()..];
    if rest.first() != Some(&0x16) {
        return String::new();
    }
    let length = usize::from(u16::from_be_bytes([rest[1], rest[2]]));
    String::from_utf8(rest[3..3 + length].to_vec()).unwrap()
}

const BARE: &str = "n=pump,r=rOprNGfwEbeRWgbNEkqO";

/// CONNECT, AUTH, AUTH, and what comes then.
fn log_in(server: &Server, password: &str) -> (Mqtt, (u8, Vec<u8>), String) {
    let mut client = Mqtt::open(&server.mqtt());
    let first = format!("n,,{BARE}");
    client.send(&connect("c", &method(SCRAM, first.as_bytes()), None));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[0]), (0xF0, 0x18), "AUTH, continue");
    let (last, expected) = client_final(BARE, &data(&body), password);
    client.send(&auth(0x18, &method(SCRAM, last.as_bytes())));
    let answer = client.packet();
    (client, answer, expected)
}

/// Whether the client may publish to this topic.
fn may_publish(client: &mut Mqtt, topic: &str) -> bool {
    client.send(&publish(topic, b"x", 0x32, Some(7)));
    let (_, body) = client.packet_of(0x40);
    body.get(2).is_none_or(|reason| *reason < 0x80)
}

#[test]
fn scram_proves_both_sides_and_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (mut client, (kind, body), expected) = log_in(&server, "pencil");
    assert_eq!((kind, body[1]), (0x20, 0), "CONNACK");
    assert_eq!(data(&body), expected, "the server knows the password too");
    assert!(may_publish(&mut client, "pump/1"), "its own");
    assert!(!may_publish(&mut client, "web/1"), "another's");
    let session = server.get("/api/v1/sessions/c");
    assert_eq!(session["account"], "pump");

    let first = format!("n,,{BARE}");
    client.send(&auth(0x19, &method(SCRAM, first.as_bytes())));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[0]), (0xF0, 0x18));
    assert!(may_publish(&mut client, "pump/1"), "in the middle of it");
    let (last, expected) = client_final(BARE, &data(&body), "pencil");
    client.send(&auth(0x18, &method(SCRAM, last.as_bytes())));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[0]), (0xF0, 0x00), "AUTH, success");
    assert_eq!(data(&body), expected);

    client.send(&auth(0x19, &method(SCRAM, first.as_bytes())));
    let (_, body) = client.packet();
    let (last, _) = client_final(BARE, &data(&body), "pen");
    client.send(&auth(0x18, &method(SCRAM, last.as_bytes())));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[0]), (0xE0, 0x87), "DISCONNECT, not authorized");
    client.ends();
}

#[test]
fn what_does_not_prove_anything_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (mut client, (kind, body), _) = log_in(&server, "pen");
    assert_eq!((kind, body[1]), (0x20, 0x86), "a wrong password");
    client.ends();
    for (name, data, reason) in [
        ("PLAIN", &b"x"[..], 0x8C),
        (SCRAM, b"rubbish", 0x87),
        (SCRAM, b"", 0x87),
    ] {
        let mut client = Mqtt::open(&server.mqtt());
        client.send(&connect("c", &method(name, data), None));
        let (kind, body) = client.packet();
        assert_eq!((kind, body[1]), (0x20, reason), "{name}");
        client.ends();
    }
    let (status, text) = server.http("GET", "/metrics", "");
    assert_eq!(status, 200);
    let line = "longtail_logins_total{protocol=\"mqtt\",outcome=\"bad_credentials\"} 4\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn names_and_passwords_and_nothing_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let log_in = |login| {
        let mut client = Mqtt::open(&server.mqtt());
        client.send(&connect("c", &[], login));
        let (kind, body) = client.packet();
        assert_eq!(kind, 0x20);
        (client, body[1])
    };
    let (mut web, reason) = log_in(Some(("web", "swordfish")));
    assert_eq!(reason, 0);
    assert!(may_publish(&mut web, "web/1"));
    let (_, reason) = log_in(Some(("web", "wrong")));
    assert_eq!(reason, 0x86);
    let (mut guest, reason) = log_in(None);
    assert_eq!(reason, 0, "the anonymous account");
    assert!(may_publish(&mut guest, "guest/1"));
    assert!(!may_publish(&mut guest, "web/1"));
}

#[test]
fn a_token_lets_in_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let token = |expires: u64| {
        let claims = serde_json::json!({ "sub": "phone", "exp": expires });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
    };
    let mut client = Mqtt::open(&server.mqtt());
    let short = token(now.as_secs() + 2);
    client.send(&connect("c", &[], Some(("phone", &short))));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[1]), (0x20, 0));
    assert!(may_publish(&mut client, "phone/1"));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[0]), (0xE0, 0x87), "DISCONNECT, not authorized");
    client.ends();
    let mut client = Mqtt::open(&server.mqtt());
    client.send(&connect("c", &[], Some(("phone", &short))));
    assert_eq!(client.packet().1[1], 0x86, "it has ended");
}

/// A server of HTTP that has no opinion about anybody.
fn indifferent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            let body = "{\"result\": \"ignore\"}";
            let size = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    address
}

#[test]
fn whom_a_server_of_http_ignores_a_ledger_may_still_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = "auth:\n  - username: pump\n    password: pencil\n    allow: true\n";
    std::fs::write(dir.path().join("ledger.yaml"), ledger).unwrap();
    let address = indifferent();
    let text = format!(
        "[mqtt]\nledger_file = \"ledger.yaml\"\n\
         [[mqtt.http_auth]]\nstyle = \"emqx\"\nurl = \"http://{address}/auth\"\n"
    );
    let server = serve(dir.path(), &text);
    for (password, reason) in [("pencil", 0), ("eraser", 0x86)] {
        let mut client = Mqtt::open(&server.mqtt());
        client.send(&connect("c", &[], Some(("pump", password))));
        let (kind, body) = client.packet();
        assert_eq!((kind, body[1]), (0x20, reason), "{password}");
    }
}

#[test]
fn clients_with_tokens_that_share_an_account_keep_their_names_when_accounts_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = serve(
        dir.path(),
        &format!(
            "[[accounts]]\nname = \"device\"\npermissions = [{{ space = \"default\", rules = [\n\
             {{ actions = [\"publish\", \"consume\"], subject = \"%u/#\" }}] }}]\n\
             [[tokens]]\nname = \"idp\"\nalgorithm = \"HS256\"\nkey = \"{SECRET}\"\naccount = \"device\"\n"
        ),
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = serde_json::json!({ "sub": "pump", "exp": now.as_secs() + 600 });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
    let mut client = Mqtt::open(&server.mqtt());
    client.send(&connect("c", &[], Some(("pump", &token))));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[1]), (0x20, 0));
    let may = |client: &mut Mqtt| ["pump/1", "device/1"].map(|topic| may_publish(client, topic));
    assert_eq!(may(&mut client), [true, false]);
    server.signal("-HUP");
    let mut line = String::new();
    while !line.contains("accounts and spaces read again") {
        line.clear();
        assert!(server.stderr.read_line(&mut line).unwrap() > 0);
    }
    assert_eq!(may(&mut client), [true, false], "as before");
}
