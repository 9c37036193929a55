//! Counters of one listener.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was turned away before its protocol saw it, or by the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCause {
    /// [`crate::EdgeConfig::connections_max`].
    ServerFull,
    /// [`crate::ListenerConfig::connections_max`].
    ListenerFull,
    /// [`crate::ListenerConfig::connections_per_ip_max`].
    AddressFull,
    /// A PROXY header was due, and the peer is not a trusted proxy.
    UntrustedProxy,
    /// The PROXY header was missing, malformed or too long.
    Proxy,
    /// The TLS handshake failed.
    Tls,
    /// The WebSocket handshake failed.
    WebSocket,
    /// [`crate::ListenerConfig::handshake_timeout_ms`].
    HandshakeTimeout,
    /// [`crate::Protocol::open`] said no.
    Protocol,
    /// The socket failed before anything was said.
    Lost,
}

impl RefusalCause {
    /// Every cause, in the order of [`Refusals`].
    pub const ALL: [RefusalCause; 10] = [
        RefusalCause::ServerFull,
        RefusalCause::ListenerFull,
        RefusalCause::AddressFull,
        RefusalCause::UntrustedProxy,
        RefusalCause::Proxy,
        RefusalCause::Tls,
        RefusalCause::WebSocket,
        RefusalCause::HandshakeTimeout,
        RefusalCause::Protocol,
        RefusalCause::Lost,
    ];

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            RefusalCause::ServerFull => "server_full",
            RefusalCause::ListenerFull => "listener_full",
            RefusalCause::AddressFull => "address_full",
            RefusalCause::UntrustedProxy => "untrusted_proxy",
            RefusalCause::Proxy => "proxy",
            RefusalCause::Tls => "tls",
            RefusalCause::WebSocket => "websocket",
            RefusalCause::HandshakeTimeout => "handshake_timeout",
            RefusalCause::Protocol => "protocol",
            RefusalCause::Lost => "lost",
        }
    }
}

/// Refused connections by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals([u64; RefusalCause::ALL.len()]);

impl Refusals {
    /// How many were refused for `cause`.
    #[must_use]
    pub const fn by(&self, cause: RefusalCause) -> u64 {
        self.0[cause as usize]
    }

    /// How many were refused.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// The live counters.
#[derive(Debug, Default)]
pub(crate) struct ListenerMetrics {
    pub(crate) accepted: AtomicU64,
    refused: [AtomicU64; RefusalCause::ALL.len()],
    pub(crate) accept_errors: AtomicU64,
    pub(crate) slow_consumers: AtomicU64,
    pub(crate) stalled: AtomicU64,
    /// Of connections that are gone; open ones count for themselves.
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

impl ListenerMetrics {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refuse(&self, cause: RefusalCause) {
        Self::count(&self.refused[cause as usize]);
    }

    pub(crate) fn refusals(&self) -> Refusals {
        Refusals(std::array::from_fn(|n| {
            self.refused[n].load(Ordering::Relaxed)
        }))
    }
}

/// The counters of a listener at one moment; all but `open` count since it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSnapshot {
    /// Number of the listener, from 0, in the order of opening.
    pub listener: usize,
    /// [`crate::Protocol::name`].
    pub protocol: &'static str,
    /// Where it is bound.
    pub address: String,
    /// Connections accepted, refused ones included.
    pub accepted: u64,
    /// Connections turned away.
    pub refused: Refusals,
    /// Failures of accepting as such, for example no file descriptor left.
    pub accept_errors: u64,
    /// Connections open now, those in a handshake included.
    pub open: usize,
    /// Bytes the protocol was given.
    pub bytes_in: u64,
    /// Bytes handed to the sockets.
    pub bytes_out: u64,
    /// Connections closed because their outbox passed the hard limit.
    pub slow_consumers: u64,
    /// Connections closed because the memory for all was used up and they held most of it.
    pub stalled: u64,
}
