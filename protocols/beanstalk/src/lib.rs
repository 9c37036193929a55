//! beanstalkd's protocol as a tenant of the engine.
//!
//! [`codec`] turns bytes into requests and replies into bytes; it does no I/O.

pub mod codec;
