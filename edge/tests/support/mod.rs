//! What the tests share: an edge on a free loopback port, and waiting on conditions.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longtail_edge::{
    Address, CloseReason, Edge, EdgeConfig, Endpoint, Listener, ListenerConfig, NoTick, Protocol,
};

/// Longer than anything takes; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn loopback() -> Address {
    "127.0.0.1:0".parse().unwrap()
}

/// An edge of two workers with short sweeps.
pub(crate) fn start() -> Edge {
    Edge::start(config(), NoTick).unwrap()
}

pub(crate) fn config() -> EdgeConfig {
    EdgeConfig {
        workers: 2,
        sweep_ms: 5,
        ..EdgeConfig::default()
    }
}

pub(crate) fn listen<P: Protocol>(edge: &Edge, protocol: P) -> SocketAddr {
    listen_with(edge, protocol, |_| {})
}

pub(crate) fn listen_with<P: Protocol>(
    edge: &Edge,
    protocol: P,
    change: impl FnOnce(&mut ListenerConfig),
) -> SocketAddr {
    listen_arc_with(edge, Arc::new(protocol), change)
}

pub(crate) fn listen_arc<P: Protocol>(edge: &Edge, protocol: Arc<P>) -> SocketAddr {
    listen_arc_with(edge, protocol, |_| {})
}

pub(crate) fn listen_arc_with<P: Protocol>(
    edge: &Edge,
    protocol: Arc<P>,
    change: impl FnOnce(&mut ListenerConfig),
) -> SocketAddr {
    let mut config = ListenerConfig::new(loopback());
    change(&mut config);
    tcp(&edge.listen(config, protocol).unwrap())
}

pub(crate) fn tcp(listener: &Listener) -> SocketAddr {
    match listener.local() {
        Endpoint::Tcp(address) => *address,
        Endpoint::Unix(path) => panic!("not TCP: {}", path.display()),
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) fn exchange(stream: &mut (impl Read + Write), request: &[u8], reply: &[u8]) {
    stream.write_all(request).unwrap();
    expect(stream, reply);
}

pub(crate) fn expect(stream: &mut impl Read, reply: &[u8]) {
    let mut got = vec![0; reply.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&got),
        String::from_utf8_lossy(reply)
    );
}

/// The peer closed in good order and sent nothing more.
pub(crate) fn expect_end(stream: &mut impl Read) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

/// The connection is over, in whatever way.
pub(crate) fn expect_cut(stream: &mut impl Read) {
    let mut rest = [0; 1];
    match stream.read(&mut rest) {
        Ok(0) => {}
        Ok(_) => panic!("the server sent something instead of closing"),
        Err(error) => assert!(
            matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
            ),
            "{error}"
        ),
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// Why sessions ended, in order.
#[derive(Clone, Default)]
pub(crate) struct Endings(Arc<Mutex<Vec<CloseReason>>>);

impl Endings {
    pub(crate) fn push(&self, why: &CloseReason) {
        self.0.lock().unwrap().push(why.clone());
    }

    pub(crate) fn all(&self) -> Vec<CloseReason> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for the first and returns it.
    pub(crate) fn first(&self) -> CloseReason {
        eventually("a session ends", || !self.all().is_empty());
        self.all().remove(0)
    }
}
