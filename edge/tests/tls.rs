//! TLS listeners: handshake, client certificates, reload.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use longtail_edge::testing::LineEcho;
use longtail_edge::{
    ClientCertificates, CloseReason, Connection, Edge, EdgeConfig, Input, ListenError,
    ListenerConfig, NoTick, Out, Protocol, Refusal, RefusalCause, TlsConfig, TlsError,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::*;

/// Says whom the client certificate names.
struct WhoAmI;

impl Protocol for WhoAmI {
    type Session = String;

    fn name(&self) -> &'static str {
        "whoami"
    }

    fn open(
        self: &Arc<Self>,
        conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<String, Refusal> {
        let name = conn
            .identity()
            .and_then(|identity| identity.common_name.clone());
        Ok(name.unwrap_or_else(|| "nobody".to_owned()))
    }

    fn input(&self, session: &mut String, input: &[u8], out: &mut Out) -> Input {
        writeln!(out, "{session}").unwrap();
        Input::read(input.len())
    }
}

/// Hands its connections to the test.
struct Capture(Mutex<mpsc::Sender<Arc<Connection<Capture>>>>);

impl Protocol for Capture {
    type Session = ();

    fn name(&self) -> &'static str {
        "capture"
    }

    fn open(self: &Arc<Self>, conn: &Arc<Connection<Self>>, _out: &mut Out) -> Result<(), Refusal> {
        self.0.lock().unwrap().send(conn.clone()).unwrap();
        Ok(())
    }

    fn input(&self, _session: &mut (), input: &[u8], _out: &mut Out) -> Input {
        Input::read(input.len())
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key, as PEM.
    fn issue(&self, common_name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        (
            params.signed_by(&key, &self.0).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

/// Writes a new server certificate into `dir`, in the place of the last.
fn install(dir: &Path, authority: &Authority) -> TlsConfig {
    let (certificate, key) = authority.issue("server");
    std::fs::write(dir.join("key.pem"), key).unwrap();
    std::fs::write(dir.join("cert.pem"), certificate).unwrap();
    TlsConfig {
        certificate: dir.join("cert.pem"),
        key: dir.join("key.pem"),
        client_certificates: ClientCertificates::Off,
        client_authorities: None,
        client_revocations: None,
        alpn: Vec::new(),
        ocsp_response: None,
    }
}

fn with_clients(
    mut config: TlsConfig,
    asked: ClientCertificates,
    dir: &Path,
    authority: &Authority,
) -> TlsConfig {
    let path: PathBuf = dir.join("clients.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    config.client_certificates = asked;
    config.client_authorities = Some(path);
    config
}

type Client = StreamOwned<ClientConnection, TcpStream>;

fn tls_connect(address: SocketAddr, server: &Authority, own: Option<(String, String)>) -> Client {
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(server.pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![certificate], key)
                .unwrap()
        }
    };
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(
        ClientConnection::new(Arc::new(config), name).unwrap(),
        connect(address),
    )
}

fn fails(mut client: Client) -> bool {
    let mut reply = [0; 1];
    client
        .write_all(b"x\n")
        .and_then(|()| client.read_exact(&mut reply))
        .is_err()
}

#[test]
fn an_encrypted_conversation_is_byte_exact_and_ends_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let edge = start();
    let tls = install(dir.path(), &authority);
    let address = listen_with(&edge, LineEcho, |config| config.tls = Some(tls));
    let mut client = tls_connect(address, &authority, None);
    exchange(&mut client, b"secret\n", b"secret\n");
    // More than any buffer between the two holds.
    let line = [vec![b'x'; 2_000_000], vec![b'\n']].concat();
    client.write_all(&line).unwrap();
    expect(&mut client, &line);
    exchange(&mut client, b"last\nquit\n", b"last\n");
    // A missing close_notify would be an error here.
    expect_end(&mut client);
    drop(client);
    eventually("the connection is gone", || edge.connections().is_empty());
    assert_eq!(edge.held_bytes(), 0);
}

#[test]
fn any_thread_may_answer_an_encrypted_peer() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let edge = start();
    let tls = install(dir.path(), &authority);
    let (sender, connections) = mpsc::channel();
    let address = listen_with(&edge, Capture(Mutex::new(sender)), |config| {
        config.tls = Some(tls);
    });
    let mut client = tls_connect(address, &authority, None);
    client.flush().unwrap();
    let conn = connections.recv_timeout(PATIENCE).unwrap();
    let encryption = conn.encryption().unwrap();
    let suite = client.conn.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(Some(encryption.cipher_suite), suite.as_str());
    assert_eq!(encryption.protocol, "TLSv1.3");
    let pieces: Vec<Vec<u8>> = (0..500_u32)
        .map(|n| vec![n.to_le_bytes()[0]; 10_000])
        .collect();
    for piece in &pieces {
        assert!(conn.with(|(), out| out.put(piece)).is_some());
        conn.flush();
    }
    conn.close(CloseReason::Finished);
    expect(&mut client, &pieces.concat());
    expect_end(&mut client);
}

#[test]
fn plain_bytes_on_a_tls_listener_are_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let edge = start();
    let tls = install(dir.path(), &Authority::new("authority"));
    let address = listen_with(&edge, LineEcho, |config| config.tls = Some(tls));
    let mut client = connect(address);
    client.write_all(b"put 0 0 0 0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // An alert, or a reset if the server closed over unread bytes; no echo in any case.
    let _ = client.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"put"));
    eventually("it is counted", || {
        edge.metrics()[0].refused.by(RefusalCause::Tls) == 1
    });
}

#[test]
fn a_required_client_certificate_names_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let (server, clients) = (
        Authority::new("server authority"),
        Authority::new("client authority"),
    );
    let tls = with_clients(
        install(dir.path(), &server),
        ClientCertificates::Required,
        dir.path(),
        &clients,
    );
    let edge = start();
    let address = listen_with(&edge, WhoAmI, |config| config.tls = Some(tls));
    let mut client = tls_connect(address, &server, Some(clients.issue("worker 7")));
    exchange(&mut client, b"?\n", b"worker 7\n");
    assert!(fails(tls_connect(address, &server, None)));
    assert!(fails(tls_connect(
        address,
        &server,
        Some(server.issue("impostor"))
    )));
    eventually("both are counted", || {
        edge.metrics()[0].refused.by(RefusalCause::Tls) == 2
    });
}

#[test]
fn an_optional_client_certificate_may_be_left_out_but_not_be_bad() {
    let dir = tempfile::tempdir().unwrap();
    let (server, clients) = (
        Authority::new("server authority"),
        Authority::new("client authority"),
    );
    let tls = with_clients(
        install(dir.path(), &server),
        ClientCertificates::Optional,
        dir.path(),
        &clients,
    );
    let edge = start();
    let address = listen_with(&edge, WhoAmI, |config| config.tls = Some(tls));
    exchange(
        &mut tls_connect(address, &server, None),
        b"?\n",
        b"nobody\n",
    );
    exchange(
        &mut tls_connect(address, &server, Some(clients.issue("worker"))),
        b"?\n",
        b"worker\n",
    );
    assert!(fails(tls_connect(
        address,
        &server,
        Some(server.issue("impostor"))
    )));
}

/// A client certificate with this serial number.
fn issue_numbered(authority: &Authority, serial: u64) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.serial_number = Some(serial.into());
    let name = format!("worker {serial}");
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, &authority.0).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// The authority's revocation list, of certificates with these serial numbers.
fn revocations(authority: &Authority, serials: &[u64], until: i32) -> String {
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: (*serial).into(),
        revocation_time: date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(until, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&authority.0).unwrap().pem().unwrap()
}

#[test]
fn a_revoked_client_certificate_is_refused_as_soon_as_the_list_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Authority::new("server authority");
    let clients = Authority::new("client authority");
    let list = dir.path().join("revoked.pem");
    std::fs::write(&list, revocations(&clients, &[], 4000)).unwrap();
    let installed = install(dir.path(), &server);
    let mut tls = with_clients(
        installed,
        ClientCertificates::Required,
        dir.path(),
        &clients,
    );
    tls.client_revocations = Some(list.clone());
    let edge = start();
    let address = listen_with(&edge, WhoAmI, |config| config.tls = Some(tls));
    let come = |serial| tls_connect(address, &server, Some(issue_numbered(&clients, serial)));
    exchange(&mut come(7), b"?\n", b"worker 7\n");
    std::fs::write(&list, revocations(&clients, &[7], 4000)).unwrap();
    edge.reload_tls().unwrap();
    assert!(fails(come(7)));
    exchange(&mut come(8), b"?\n", b"worker 8\n");
    // A list that is out of date, or another authority's, says nothing of this one's certificates.
    for old in [
        revocations(&clients, &[], 2021),
        revocations(&server, &[], 4000),
    ] {
        std::fs::write(&list, old).unwrap();
        edge.reload_tls().unwrap();
        assert!(fails(come(8)));
    }
}

#[test]
fn reloaded_certificates_serve_new_connections_and_leave_old_ones_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    // No polling here: only what is asked for happens.
    let config = EdgeConfig {
        tls_poll_ms: u64::MAX,
        ..config()
    };
    let edge = Edge::start(config, NoTick).unwrap();
    let tls = install(dir.path(), &old);
    let address = listen_with(&edge, LineEcho, |config| config.tls = Some(tls));
    let mut before = tls_connect(address, &old, None);
    exchange(&mut before, b"a\n", b"a\n");

    install(dir.path(), &new);
    edge.reload_tls().unwrap();
    exchange(&mut tls_connect(address, &new, None), b"b\n", b"b\n");
    assert!(fails(tls_connect(address, &old, None)));
    exchange(&mut before, b"c\n", b"c\n");

    std::fs::write(dir.path().join("cert.pem"), "no certificate").unwrap();
    let failed = edge.reload_tls().unwrap_err();
    assert!(
        matches!(failed[..], [(_, TlsError::NoCertificate { .. })]),
        "{failed:?}"
    );
    exchange(&mut tls_connect(address, &new, None), b"d\n", b"d\n");
}

#[test]
fn changed_files_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let edge = Edge::start(
        EdgeConfig {
            tls_poll_ms: 5,
            ..config()
        },
        NoTick,
    )
    .unwrap();
    let tls = install(dir.path(), &old);
    let address = listen_with(&edge, LineEcho, |config| config.tls = Some(tls));
    exchange(&mut tls_connect(address, &old, None), b"a\n", b"a\n");
    install(dir.path(), &new);
    eventually("the new certificate is shown", || {
        !fails(tls_connect(address, &new, None))
    });
}

#[test]
fn settings_that_cannot_work_are_errors_that_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let edge = start();
    let authority = Authority::new("authority");
    let good = install(dir.path(), &authority);
    let error = |tls: TlsConfig| {
        let config = ListenerConfig {
            tls: Some(tls),
            ..ListenerConfig::new(loopback())
        };
        match edge.listen(config, Arc::new(LineEcho)).unwrap_err() {
            ListenError::Tls { source, .. } => source,
            other => panic!("{other}"),
        }
    };
    let missing = TlsConfig {
        certificate: "/nowhere/cert.pem".into(),
        ..good.clone()
    };
    assert!(error(missing).to_string().contains("/nowhere/cert.pem"));
    let nobody = TlsConfig {
        client_certificates: ClientCertificates::Required,
        ..good.clone()
    };
    assert!(matches!(error(nobody), TlsError::NoClientAuthorities(_)));
    let unasked = TlsConfig {
        client_revocations: Some("crl.pem".into()),
        ..good.clone()
    };
    assert!(matches!(error(unasked), TlsError::NoRevocations));
    let mut empty = with_clients(
        good.clone(),
        ClientCertificates::Optional,
        dir.path(),
        &authority,
    );
    empty.client_revocations = empty.client_authorities.clone();
    assert!(matches!(error(empty), TlsError::NoRevocationList { .. }));
    std::fs::write(dir.path().join("other.pem"), authority.issue("other").1).unwrap();
    let unfit = TlsConfig {
        key: dir.path().join("other.pem"),
        ..good
    };
    assert!(matches!(error(unfit), TlsError::Unusable(_)));
}

/// Remembers what is stapled, and believes everybody.
#[derive(Debug, Default)]
struct Stapled(std::sync::Mutex<Vec<u8>>);

impl rustls::client::danger::ServerCertVerifier for Stapled {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = ocsp_response.to_vec();
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What a client that asks is stapled.
fn stapled(address: SocketAddr) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Stapled::default());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut client = StreamOwned::new(connection, connect(address));
    exchange(&mut client, b"x\n", b"x\n");
    verifier.0.lock().unwrap().clone()
}

#[test]
fn the_ocsp_response_is_stapled_and_read_again_with_the_certificates() {
    // A response that says "try later": all that has no signature.
    let later = [0x30, 0x03, 0x0a, 0x01, 0x03];
    let dir = tempfile::tempdir().unwrap();
    let edge = start();
    let path = dir.path().join("ocsp.der");
    std::fs::write(&path, later).unwrap();
    let tls = TlsConfig {
        ocsp_response: Some(path.clone()),
        ..install(dir.path(), &Authority::new("authority"))
    };
    let address = listen_with(&edge, LineEcho, |config| config.tls = Some(tls));
    assert_eq!(stapled(address), later);
    let busy = [0x30, 0x03, 0x0a, 0x01, 0x02];
    std::fs::write(&path, busy).unwrap();
    edge.reload_tls().unwrap();
    assert_eq!(stapled(address), busy);
    std::fs::write(&path, "-----BEGIN SOMETHING-----").unwrap();
    let failed = edge.reload_tls().unwrap_err();
    assert!(
        matches!(failed[..], [(_, TlsError::NoOcspResponse { .. })]),
        "{failed:?}"
    );
    assert_eq!(stapled(address), busy, "the last that could be used");
}
