//! DISCONNECT and AUTH.

use super::super::fault::Fault;
use super::super::packet::{Auth, Disconnect};
use super::super::primitive::Reader;
use super::super::properties::{AuthProperties, DisconnectProperties};
use super::super::property::{self, Place};
use super::super::reason::ReasonCode;
use super::super::version::{PacketType, Sender, Version};

/// Reads the body of a DISCONNECT.
pub(super) fn disconnect<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    sender: Sender,
) -> Result<Disconnect<'a>, Fault> {
    let mut properties = DisconnectProperties::default();
    let mut reason = ReasonCode::Success;
    if version.is_v5() && !reader.is_empty() {
        let code = reader.u8()?;
        if !reader.is_empty() {
            property::read(reader, Place::disconnect(sender), &mut properties)?;
        }
        reason = ReasonCode::from_u8(code)
            .filter(|reason| reason.is_legal(PacketType::Disconnect, sender))
            .ok_or(Fault::Reason)?;
    }
    Ok(Disconnect { reason, properties })
}

/// Reads the body of an AUTH.
pub(super) fn auth<'a>(reader: &mut Reader<'a>, sender: Sender) -> Result<Auth<'a>, Fault> {
    let mut properties = AuthProperties::default();
    let code = if reader.is_empty() { 0 } else { reader.u8()? };
    let reason = ReasonCode::from_u8(code)
        .filter(|reason| reason.is_legal(PacketType::Auth, sender))
        .ok_or(Fault::Reason)?;
    if !reader.is_empty() {
        property::read(reader, Place::AUTH, &mut properties)?;
    }
    // Only success goes without a method (MQTT 5.0 section 3.15.2.2.2).
    if properties.method.is_none() && reason != ReasonCode::Success {
        return Err(Fault::AuthMethodMissing);
    }
    Ok(Auth { reason, properties })
}
