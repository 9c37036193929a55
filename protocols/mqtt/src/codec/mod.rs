//! The wire: bytes to packets and packets to bytes.
//!
//! ```text
//! bytes ──▶ Decoder ──▶ Packet ──▶ session      session ──▶ Packet::encode, Prepared::write ──▶ bytes
//!              └──────▶ DecodeError { answer }
//! ```
//!
//! No I/O, no clock, no session. Both directions are here, for servers and for clients. What is legal is said by
//! tables: reason codes by packet ([`ReasonCode::is_legal`]), properties by packet (`property`), answers to what is
//! wrong (`rules`). Packets borrow from the bytes they were decoded from.

mod decode;
mod encode;
mod fault;
mod fuzz;
mod packet;
mod prepared;
mod primitive;
mod properties;
mod property;
mod property_sets;
mod reason;
mod rules;
pub mod topic;
mod user;
mod version;

#[cfg(test)]
mod tests;

pub use decode::{Decoded, Decoder, PacketLimits};
pub use fault::{Answer, DecodeError, EncodeError, Fault};
pub use fuzz::fuzz;
pub use packet::{
    Ack, Auth, Connack, Connect, Disconnect, Packet, Publish, RetainHandling, Suback, Subscribe,
    Subscription, SubscriptionOptions, Unsuback, Unsubscribe, Will,
};
pub use prepared::{Alias, Format, Layout, Message, Prepared};
pub use properties::{
    AckProperties, AuthProperties, ConnackProperties, ConnectProperties, DisconnectProperties,
    MessageProperties, PublishProperties, SubscribeProperties, SubscriptionIds, UserProperties,
    UserPropertiesBuf, WillProperties,
};
pub use reason::{ReasonCode, ReturnCode};
pub use topic::{TopicError, TopicFilter};
pub use version::{PacketId, PacketType, Qos, Sender, Version};
