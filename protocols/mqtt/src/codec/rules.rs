//! The answers to what is wrong, as a table.

use super::fault::{Answer, Fault};
use super::version::{PacketType, Version};

/// The answer to `fault` in `packet` on a connection of `version`.
pub(super) fn answer(fault: Fault, packet: Option<PacketType>, version: Option<Version>) -> Answer {
    let _ = (fault, packet, version);
    Answer::Close
}
