//! Floor 3: listeners and the connection driver that every protocol shares.
//!
//! A protocol implements [`Protocol`]: bytes in, bytes out, no sockets. The edge does the rest: it accepts (TCP or Unix
//! socket, then optionally the PROXY protocol, TLS and WebSocket), spreads connections over its workers, reads, calls
//! [`Protocol::input`] where the bytes were read, and once per poll of the operating system hands the work of all
//! readable connections over together (see [`Tick`]). Replies may be written by whoever holds them, on any thread, under
//! the connection's lock ([`Connection::with`], [`Connection::flush`]); only what the socket does not take is queued.
//!
//! Every resource has a limit: connections, bytes queued in and out, time without progress. What happens at each limit is
//! said where its setting is declared, in [`EdgeConfig`] and [`ListenerConfig`].
//!
//! This crate knows nothing of brokers, shards and messages.

mod accept;
mod address;
mod backoff;
mod bind;
mod cidr;
mod close;
mod config;
mod connection;
mod distinguished;
mod driver;
mod edge;
mod encryption;
mod error;
mod exposure;
mod handshake;
mod identity;
mod inside;
mod limits;
mod metrics;
mod out;
mod protocol;
mod proxy;
mod shared;
mod stream;
mod sweep;
mod table;
pub mod testing;
mod tick;
mod tls;
mod validity;
mod websocket;
mod worker;
mod write;

pub use address::{Address, BadAddress, Endpoint};
pub use backoff::Backoff;
pub use cidr::{BadCidr, Cidr};
pub use close::CloseReason;
pub use config::{EdgeConfig, ListenerConfig, ProxyConfig};
pub use connection::{Connection, ConnectionId};
pub use edge::{DrainReport, Edge, Listener};
pub use encryption::Encryption;
pub use error::{ListenError, StartError};
pub use exposure::{Accounts, Exposed, Exposure};
pub use identity::TlsIdentity;
pub use inside::Inside;
pub use metrics::{ListenerSnapshot, RefusalCause, Refusals};
pub use out::{Out, SHARED_BYTES_MIN};
pub use protocol::{Draining, Ended, Idle, Input, Protocol, Refusal, Then};
pub use table::ConnectionInfo;
pub use tick::{NoTick, Tick};
pub use tls::{Certificates, ClientCertificates, TlsConfig, TlsError};
pub use websocket::WebSocketConfig;
pub use write::write_some;
