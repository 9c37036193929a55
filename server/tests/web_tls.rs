//! The HTTP APIs over TLS, as a real server answers them.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::Server;

/// Signs the server's certificate, and is what its clients trust.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Gives the server that has its files in `dir` a new certificate.
    fn certify(&self, dir: &Path) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    }

    /// The answer to a request, for somebody who trusts this authority only.
    fn get(&self, address: &str, path: &str) -> std::io::Result<String> {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(self.0.pem().as_bytes());
        roots.add(own.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // The end of TLS is not always said.
            Err(error) if answer.is_empty() => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap();
        assert!(["200", "503"].contains(&status), "{head}");
        Ok(body.to_owned())
    }
}

const TLS: &str = "tls = { certificate = \"cert.pem\", key = \"key.pem\" }\n";

#[test]
fn the_http_apis_are_answered_over_tls_and_their_certificates_change_while_they_run() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    old.certify(dir.path());
    let mut settings =
        "[listeners]\nbeanstalk = []\nmqtt-ws = []\n[admin]\nlisten = \"127.0.0.1:0\"\n".to_owned();
    for (protocol, tls) in [
        ("amqp", ""),
        ("mqtt", ""),
        ("amqp-management", TLS),
        ("amqp-metrics", TLS),
        ("mqtt-http", TLS),
    ] {
        settings += &format!("[[listeners.{protocol}]]\naddress = \"127.0.0.1:0\"\n{tls}");
    }
    let mut server = Server::configured(dir.path(), &settings);
    let address = |server: &Server, protocol: &str| {
        let address = server.addresses(protocol).remove(0);
        address.strip_prefix("https://").unwrap().to_owned()
    };
    let api = address(&server, "amqp-management");

    // Whoever does not go on with a handshake holds up nobody.
    let idle: Vec<_> = (0..8).map(|_| TcpStream::connect(&api).unwrap()).collect();
    let overview = old.get(&api, "/api/overview").unwrap();
    let overview: serde_json::Value = serde_json::from_str(&overview).unwrap();
    let listeners = overview["listeners"].as_array().unwrap();
    let own = listeners.iter().find(|known| known["protocol"] == "https");
    assert_eq!(own.unwrap()["tls"], true, "{listeners:?}");
    drop(idle);
    let health = |unit: &str| {
        old.get(
            &api,
            &format!("/api/health/checks/certificate-expiration/{unit}"),
        )
    };
    assert!(health("1/days").unwrap().contains("ok"));
    assert!(health("5000/years").unwrap().contains(&api));
    let metrics = address(&server, "amqp-metrics");
    let text = old.get(&metrics, "/metrics").unwrap();
    assert!(text.contains("rabbitmq_connections 0"), "{text}");
    let mqtt = address(&server, "mqtt-http");
    assert!(old.get(&mqtt, "/").unwrap().contains("/api/v5"));
    assert!(new.get(&api, "/api/overview").is_err(), "not its authority");
    // Without TLS there is no answer of HTTP.
    let mut plain = TcpStream::connect(&api).unwrap();
    plain
        .write_all(b"GET /api/overview HTTP/1.1\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    // It may be cut off.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    new.certify(dir.path());
    server.signal("-HUP");
    let mut line = String::new();
    while !line.contains("certificates read again") {
        line.clear();
        assert!(server.stderr.read_line(&mut line).unwrap() > 0);
    }
    for (address, path) in [
        (&api, "/api/overview"),
        (&metrics, "/metrics"),
        (&mqtt, "/"),
    ] {
        assert!(new.get(address, path).is_ok(), "{path}");
        assert!(old.get(address, path).is_err(), "{path}");
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    authority.certify(dir.path());
    std::fs::write(dir.path().join("cert.pem"), "none").unwrap();
    let settings = format!("[[listeners.amqp-management]]\naddress = \"127.0.0.1:0\"\n{TLS}");
    std::fs::write(dir.path().join("longtail.toml"), settings).unwrap();
    let out = support::longtail(dir.path(), &["serve", "--listen", "admin=127.0.0.1:0"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success());
    assert!(
        said.contains("amqp-management") && said.contains("cert.pem"),
        "{said}"
    );
}
