//! What the HTTP APIs of the protocols have in common: the thread that answers, the parts of a request, and who asks.
//!
//! ```text
//! sockets ─(TLS)─▶ server (a thread of its own) ──▶ the protocol's router
//!                                                  │
//!                        query, credentials ◀──────┘
//! ```
//!
//! An API is read by tools and people, not by those who move messages: it answers on one thread, so that a long list
//! holds up no message. Paths, bodies and errors are those of the system whose API it is, and stay with its protocol.

pub mod credentials;
pub mod query;
mod secure;
pub mod server;

pub use credentials::{Credentials, Remembered, is_loopback, is_of_another_site};
pub use query::{NoNumber, Query, decode, encode};
pub use secure::Certificates;
pub use server::{Beside, Server, Socket};
