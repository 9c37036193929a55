//! The wire: bytes to frames, methods and properties, and back.
//!
//! ```text
//! bytes ──▶ Greeting ──▶ Decoder ──▶ Frame ──┬──▶ Method::decode
//!                           └──▶ Fault       ├──▶ ContentHeader::decode ──▶ Properties::decode
//!                                            └──▶ a piece of the body
//! bytes ◀── Method::encode, put_content, HEARTBEAT
//! ```
//!
//! No I/O, no clock, no session. Everything that is decoded borrows from the input: a body is never copied here.
//! Numbers, names and fields of all methods are in one table ([`Method`]), reply codes with their level in another
//! ([`ReplyCode`]).

mod fault;
mod frame;
mod fuzz;
mod method;
mod properties;
mod reply;
#[cfg(test)]
pub(crate) mod samples;
mod table;
#[cfg(test)]
mod tests;
mod wire;

pub use fault::{EncodeError, Fault};
pub use frame::{
    Decoder, FRAME_END, FRAME_OVERHEAD, Frame, FrameKind, Greeting, HEARTBEAT, PROTOCOL_HEADER,
    body_head, body_pieces, put_body, put_content, put_content_header,
};
pub use fuzz::fuzz;
pub use method::Method;
pub use properties::{ContentHeader, Properties};
pub use reply::{Level, ReplyCode};
pub use table::{Array, ArrayBuf, Table, TableBuf, Value};
