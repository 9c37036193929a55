//! MQTT 3.1, 3.1.1 and 5.0.
//!
//! [`codec`] knows the bytes: packets, properties, reason codes, topics. It does no I/O and knows no session.

pub mod codec;
