//! Who a client is, as a real server sees it: by its listener, or by its certificate.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::mqtt::{Mqtt, connect, publish};
use support::{Beanstalk, Server};

#[test]
fn accounts_decide_what_a_listener_lets_do_and_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = |actions: &str| {
        let text = format!(
            "[[accounts]]\nname = \"web\"\npermissions = [{{ space = \"default\", rules = [\n\
             {{ actions = [{actions}], subject = \"#\" }}] }}]\n\
             [[listeners.beanstalk]]\naddress = \"127.0.0.1:0\"\naccount = \"web\"\n"
        );
        std::fs::write(dir.path().join("longtail.toml"), text).unwrap();
    };
    config("\"publish\"");
    let mut server = configured(dir.path());
    let mut client = server.client();
    assert_eq!(client.ask("put 7 0 60 5\r\nhello\r\n"), "INSERTED 1");
    assert_eq!(client.ask("reserve\r\n"), "UNKNOWN_COMMAND");

    config("\"publish\", \"consume\"");
    server.signal("-HUP");
    let mut line = String::new();
    while !line.contains("accounts and spaces read again") {
        line.clear();
        assert!(server.stderr.read_line(&mut line).unwrap() > 0);
    }
    assert_eq!(server.client().ask("reserve\r\n"), "RESERVED 1 5");
    assert_eq!(
        client.ask("reserve\r\n"),
        "UNKNOWN_COMMAND",
        "as it was let in"
    );
}

#[test]
fn a_space_takes_no_more_than_its_quotas_until_they_are_raised_or_something_goes() {
    let dir = tempfile::tempdir().unwrap();
    let config = |messages: u32| {
        let text = format!(
            "[[spaces]]\nname = \"default\"\nquotas = {{ messages_max = {messages}, bytes_max = 1000 }}\n\
             [[listeners.beanstalk]]\naddress = \"127.0.0.1:0\"\n"
        );
        std::fs::write(dir.path().join("longtail.toml"), text).unwrap();
    };
    config(2);
    let mut server = configured(dir.path());
    let mut client = server.client();
    assert_eq!(client.ask("put 7 0 60 5\r\nhello\r\n"), "INSERTED 1");
    assert_eq!(client.ask("put 7 0 60 5\r\nhello\r\n"), "INSERTED 2");
    assert_eq!(client.ask("put 7 0 60 5\r\nhello\r\n"), "OUT_OF_MEMORY");
    assert_eq!(client.ask("delete 1\r\n"), "DELETED");
    let third = client.ask("put 7 0 60 5\r\nhello\r\n");
    assert!(third.starts_with("INSERTED"), "{third}");
    assert_eq!(client.ask("put 7 0 60 5\r\nhello\r\n"), "OUT_OF_MEMORY");

    config(3);
    server.signal("-HUP");
    let mut line = String::new();
    while !line.contains("accounts and spaces read again") {
        line.clear();
        assert!(server.stderr.read_line(&mut line).unwrap() > 0);
    }
    let fourth = client.ask("put 7 0 60 5\r\nhello\r\n");
    assert!(fourth.starts_with("INSERTED"), "{fourth}");
    let large = format!("put 7 0 60 1001\r\n{}\r\n", "x".repeat(1_001));
    assert_eq!(client.ask("delete 2\r\n"), "DELETED");
    assert_eq!(client.ask(&large), "OUT_OF_MEMORY");
}

/// Signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key, as PEM.
    fn issue(&self, common_name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A client that shows a certificate with this name.
    fn client(
        &self,
        server: &Server,
        name: &str,
    ) -> Beanstalk<StreamOwned<ClientConnection, TcpStream>> {
        Beanstalk(BufReader::new(self.connect(&server.beanstalk, name)))
    }

    fn connect(&self, address: &str, name: &str) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.0.pem().as_bytes()).unwrap())
            .unwrap();
        let (certificate, key) = self.issue(name);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(address).unwrap();
        StreamOwned::new(connection, socket)
    }
}

/// Starts a server with the settings that are in `dir`.
fn configured(dir: &Path) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtail"));
    command
        .args(["serve", "--listen", "admin=127.0.0.1:0"])
        .args(["--listen", "mqtt=127.0.0.1:0"])
        .args(["--listen", "mqtt-ws=127.0.0.1:0"])
        .args(["--listen", "amqp=127.0.0.1:0"])
        .args(["--listen", "amqp-management=127.0.0.1:0"])
        .args(["--listen", "amqp-metrics=127.0.0.1:0"])
        .args(["--listen", "mqtt-http=127.0.0.1:0"])
        .current_dir(dir)
        .env_remove("LONGTAIL_CONFIG")
        .stderr(Stdio::piped());
    Server::adopt(command.spawn().unwrap())
}

/// A directory with the certificate of a server, and the authority of its clients.
fn certified() -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue("server");
    std::fs::write(dir.path().join("cert.pem"), certificate).unwrap();
    std::fs::write(dir.path().join("key.pem"), key).unwrap();
    std::fs::write(dir.path().join("clients.pem"), authority.0.pem()).unwrap();
    (dir, authority)
}

/// Settings in which the account of a certificate may do one thing, at a listener with TLS of one protocol.
fn configure_pump(dir: &Path, protocol: &str, action: &str, subject: &str) {
    let text = format!(
        r#"
        [[accounts]]
        name = "pump"
        certificates = ["pump.example"]
        permissions = [{{ space = "default", rules = [{{ actions = ["{action}"], subject = "{subject}" }}] }}]
        [[listeners.beanstalk]]
        address = "127.0.0.1:0"
        account = "pump"
        [[listeners.{protocol}]]
        address = "127.0.0.1:0"
        [listeners.{protocol}.tls]
        certificate = "cert.pem"
        key = "key.pem"
        client_certificates = "required"
        client_authorities = "clients.pem"
        "#
    );
    std::fs::write(dir.join("longtail.toml"), text).unwrap();
}

#[test]
fn a_certificate_is_an_account() {
    let (dir, authority) = certified();
    let text = r##"
        [[accounts]]
        name = "web"
        certificates = ["web.example"]
        permissions = [{ space = "default", rules = [{ actions = ["publish"], subject = "#" }] }]
        [[accounts]]
        name = "worker"
        certificates = ["worker.example"]
        permissions = [{ space = "default", rules = [{ actions = ["consume"], subject = "#" }] }]
        [[listeners.beanstalk]]
        address = "127.0.0.1:0"
        [listeners.beanstalk.tls]
        certificate = "cert.pem"
        key = "key.pem"
        client_certificates = "required"
        client_authorities = "clients.pem"
    "##;
    std::fs::write(dir.path().join("longtail.toml"), text).unwrap();
    let server = configured(dir.path());
    assert!(server.banner.contains("(TLS)"), "{}", server.banner);
    let mut web = authority.client(&server, "web.example");
    assert_eq!(web.ask("put 7 0 60 5\r\nhello\r\n"), "INSERTED 1");
    assert_eq!(web.ask("reserve\r\n"), "UNKNOWN_COMMAND");
    let mut worker = authority.client(&server, "worker.example");
    assert_eq!(worker.ask("reserve\r\n"), "RESERVED 1 5");
    assert_eq!(worker.line(), "hello");
    assert_eq!(worker.ask("put 7 0 60 5\r\nhello\r\n"), "UNKNOWN_COMMAND");
    let refused = server.http("GET", "/metrics", "").1;
    assert!(refused.contains("cause=\"protocol\"} 0"), "{refused}");
    // Its certificate is in order, but no account goes by that name: the connection ends without a word.
    let mut stranger = authority.client(&server, "stranger.example");
    let mut answer = String::new();
    let end = std::io::Write::write_all(stranger.0.get_mut(), b"stats\r\n")
        .and_then(|()| stranger.0.read_line(&mut answer).map(|_| ()));
    assert!(end.is_err() || answer.is_empty(), "{answer}");
}

#[test]
fn a_certificate_is_the_account_of_an_mqtt_client_that_gives_no_name() {
    let (dir, authority) = certified();
    configure_pump(dir.path(), "mqtts", "publish", "%u/#");
    let server = configured(dir.path());
    let address = server.address_with_tls("mqtts");
    let log_in = |name: &str| {
        let mut client = Mqtt(authority.connect(&address, name));
        client.send(&connect("c", &[], None));
        let (kind, body) = client.packet();
        assert_eq!(kind, 0x20, "CONNACK");
        (client, body[1])
    };
    let (mut pump, reason) = log_in("pump.example");
    assert_eq!(reason, 0);
    for (topic, allowed) in [("pump/1", true), ("web/1", false)] {
        pump.send(&publish(topic, b"x", 0x32, Some(7)));
        let (_, body) = pump.packet_of(0x40);
        assert_eq!(
            body.get(2).is_none_or(|reason| *reason < 0x80),
            allowed,
            "{topic}"
        );
    }
    assert_eq!(server.get("/api/v1/sessions/c")["account"], "pump");
    let connections = server.get("/api/v1/connections");
    assert_eq!(connections["items"][0]["account"], "pump");
    let (_, reason) = log_in("stranger.example");
    assert_eq!(reason, 0x86, "no account goes by that name");
}

/// A client of AMQP 0-9-1 that has only frames of methods.
struct Amqp(StreamOwned<ClientConnection, TcpStream>);

impl Amqp {
    fn send(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) {
        let mut frame = vec![1];
        frame.extend(channel.to_be_bytes());
        frame.extend(u32::try_from(arguments.len() + 4).unwrap().to_be_bytes());
        frame.extend(class.to_be_bytes());
        frame.extend(method.to_be_bytes());
        frame.extend(arguments);
        frame.push(0xCE);
        self.0.write_all(&frame).unwrap();
    }

    /// The next method with its arguments; `None`: the connection is over.
    fn next(&mut self) -> Option<((u16, u16), Vec<u8>)> {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).ok()?;
        let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; len as usize + 1];
        self.0.read_exact(&mut payload).ok()?;
        let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        let id = (number(0), number(2));
        Some((id, payload[4..len as usize].to_vec()))
    }

    /// Logs in by certificate: what comes for that, after `connection.start`, whose arguments these are.
    fn log_in(&mut self) -> (Vec<u8>, Option<(u16, u16)>) {
        self.0.write_all(b"AMQP\0\0\x09\x01").unwrap();
        let (id, start) = self.next().unwrap();
        assert_eq!(id, (10, 10));
        self.send(0, (10, 11), b"\0\0\0\0\x08EXTERNAL\0\0\0\0\x05en_US");
        (start, self.next().map(|(id, _)| id))
    }
}

#[test]
fn a_certificate_is_the_account_of_an_amqp_client() {
    let (dir, authority) = certified();
    configure_pump(dir.path(), "amqps", "configure", "own");
    let server = configured(dir.path());
    let address = server.address_with_tls("amqps");
    let mut pump = Amqp(authority.connect(&address, "pump.example"));
    let (start, tune) = pump.log_in();
    assert!(start.windows(8).any(|part| part == b"EXTERNAL"));
    assert_eq!(tune, Some((10, 30)));
    pump.send(0, (10, 31), &[0, 10, 0, 0, 0x10, 0, 0, 0]);
    pump.send(0, (10, 40), b"\x01/\0\0");
    assert_eq!(pump.next().unwrap().0, (10, 41));
    let connections = server.get("/api/v1/connections");
    assert_eq!(connections["items"][0]["account"], "pump");
    pump.send(1, (20, 10), b"\0");
    assert_eq!(pump.next().unwrap().0, (20, 11));
    pump.send(1, (50, 10), b"\0\0\x03own\0\0\0\0\0");
    assert_eq!(pump.next().unwrap().0, (50, 11));
    pump.send(1, (50, 10), b"\0\0\x05other\0\0\0\0\0");
    let (id, close) = pump.next().unwrap();
    assert_eq!(id, (20, 40));
    let text = String::from_utf8_lossy(&close);
    assert!(text.contains("refused for user 'pump"), "{text}");
    let mut stranger = Amqp(authority.connect(&address, "stranger.example"));
    assert_eq!(stranger.log_in().1, None, "no account goes by that name");
}
