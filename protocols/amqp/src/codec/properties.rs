//! Content headers and the properties of class basic (specification, 4.2.6.1 and 1.8.3).
//!
//! Properties are kept as they came, flags and values: what is delivered is, octet for octet, what was published.

use super::fault::{EncodeError, Fault};
use super::frame::{FrameKind, frame};
use super::table::Table;
use super::wire::{Reader, Writer};

/// A content header. Borrows from the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// The class of the method before.
    pub class: u16,
    /// Octets of content in all.
    pub body_size: u64,
    /// Flags and values, not looked at yet: see [`Properties::decode`].
    pub properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    /// Reads the payload of a header frame.
    ///
    /// # Errors
    /// When it ends too early.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(payload);
        let class = reader.short()?;
        // The weight is not used, and not looked at by anybody.
        reader.short()?;
        Ok(ContentHeader {
            class,
            body_size: reader.longlong()?,
            properties: reader.rest(),
        })
    }

    pub(super) fn encode(&self, channel: u16, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame(FrameKind::Header, channel, out, |out| {
            out.extend_from_slice(&self.class.to_be_bytes());
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&self.body_size.to_be_bytes());
            out.extend_from_slice(self.properties);
            Ok(())
        })
    }
}

/// Flags of properties, in the order of their values on the wire.
mod flag {
    pub(super) const CONTENT_TYPE: u16 = 1 << 15;
    pub(super) const CONTENT_ENCODING: u16 = 1 << 14;
    pub(super) const HEADERS: u16 = 1 << 13;
    pub(super) const DELIVERY_MODE: u16 = 1 << 12;
    pub(super) const PRIORITY: u16 = 1 << 11;
    pub(super) const CORRELATION_ID: u16 = 1 << 10;
    pub(super) const REPLY_TO: u16 = 1 << 9;
    pub(super) const EXPIRATION: u16 = 1 << 8;
    pub(super) const MESSAGE_ID: u16 = 1 << 7;
    pub(super) const TIMESTAMP: u16 = 1 << 6;
    pub(super) const TYPE: u16 = 1 << 5;
    pub(super) const USER_ID: u16 = 1 << 4;
    pub(super) const APP_ID: u16 = 1 << 3;
    pub(super) const CLUSTER_ID: u16 = 1 << 2;
    /// All that mean something. The lowest says that more flags follow, which nothing has ever needed.
    pub(super) const KNOWN: u16 = !0b11;
}

/// The properties of a message. An empty one and an absent one are not the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Properties<'a> {
    /// MIME type of the body.
    pub content_type: Option<&'a str>,
    /// MIME encoding of the body.
    pub content_encoding: Option<&'a str>,
    /// The publisher's own headers.
    pub headers: Option<Table<'a>>,
    /// 2: persistent.
    pub delivery_mode: Option<u8>,
    /// Higher is more urgent.
    pub priority: Option<u8>,
    /// Names what it belongs to.
    pub correlation_id: Option<&'a str>,
    /// Where an answer is expected.
    pub reply_to: Option<&'a str>,
    /// Milliseconds it lives, in decimal digits.
    pub expiration: Option<&'a str>,
    /// Names the message.
    pub message_id: Option<&'a str>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The publisher's own.
    pub kind: Option<&'a str>,
    /// Who published it.
    pub user_id: Option<&'a str>,
    /// What published it.
    pub app_id: Option<&'a str>,
    /// Not used.
    pub cluster_id: Option<&'a str>,
}

impl<'a> Properties<'a> {
    /// Flags and values of no properties at all.
    pub const NONE: &'static [u8] = &[0, 0];

    /// Reads flags and values.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(bytes);
        let flags = reader.short()?;
        if flags & !flag::KNOWN != 0 {
            return Err(Fault::PropertyFlags(flags));
        }
        let has = |flag| flags & flag != 0;
        let mut text = |flag| has(flag).then(|| reader.shortstr()).transpose();
        let content_type = text(flag::CONTENT_TYPE)?;
        let content_encoding = text(flag::CONTENT_ENCODING)?;
        let headers = has(flag::HEADERS)
            .then(|| Table::decode(reader.longstr()?))
            .transpose()?;
        let mut octet = |flag| has(flag).then(|| reader.octet()).transpose();
        let delivery_mode = octet(flag::DELIVERY_MODE)?;
        let priority = octet(flag::PRIORITY)?;
        let mut text = |flag| has(flag).then(|| reader.shortstr()).transpose();
        let correlation_id = text(flag::CORRELATION_ID)?;
        let reply_to = text(flag::REPLY_TO)?;
        let expiration = text(flag::EXPIRATION)?;
        let message_id = text(flag::MESSAGE_ID)?;
        let timestamp = has(flag::TIMESTAMP)
            .then(|| reader.longlong())
            .transpose()?;
        let mut text = |flag| has(flag).then(|| reader.shortstr()).transpose();
        let properties = Properties {
            content_type,
            content_encoding,
            headers,
            delivery_mode,
            priority,
            correlation_id,
            reply_to,
            expiration,
            message_id,
            timestamp,
            kind: text(flag::TYPE)?,
            user_id: text(flag::USER_ID)?,
            app_id: text(flag::APP_ID)?,
            cluster_id: text(flag::CLUSTER_ID)?,
        };
        if reader.is_at_end() {
            Ok(properties)
        } else {
            Err(Fault::Trailing)
        }
    }

    /// Appends flags and values.
    ///
    /// # Errors
    /// When a value has no form on the wire; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let written = self.write(out);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let mut flags = 0_u16;
        let mut writer = Writer::new(out);
        writer.bytes(Self::NONE);
        let mut text = |writer: &mut Writer<'_>, flag, value: Option<&str>| match value {
            Some(value) => {
                flags |= flag;
                writer.shortstr(value)
            }
            None => Ok(()),
        };
        text(&mut writer, flag::CONTENT_TYPE, self.content_type)?;
        text(&mut writer, flag::CONTENT_ENCODING, self.content_encoding)?;
        if let Some(headers) = &self.headers {
            flags |= flag::HEADERS;
            writer.longstr(headers.as_bytes())?;
        }
        for (flag, value) in [
            (flag::DELIVERY_MODE, self.delivery_mode),
            (flag::PRIORITY, self.priority),
        ] {
            if let Some(value) = value {
                flags |= flag;
                writer.bytes(&[value]);
            }
        }
        let mut text = |writer: &mut Writer<'_>, flag, value: Option<&str>| match value {
            Some(value) => {
                flags |= flag;
                writer.shortstr(value)
            }
            None => Ok(()),
        };
        text(&mut writer, flag::CORRELATION_ID, self.correlation_id)?;
        text(&mut writer, flag::REPLY_TO, self.reply_to)?;
        text(&mut writer, flag::EXPIRATION, self.expiration)?;
        text(&mut writer, flag::MESSAGE_ID, self.message_id)?;
        if let Some(seconds) = self.timestamp {
            flags |= flag::TIMESTAMP;
            writer.bytes(&seconds.to_be_bytes());
        }
        let mut text = |writer: &mut Writer<'_>, flag, value: Option<&str>| match value {
            Some(value) => {
                flags |= flag;
                writer.shortstr(value)
            }
            None => Ok(()),
        };
        text(&mut writer, flag::TYPE, self.kind)?;
        text(&mut writer, flag::USER_ID, self.user_id)?;
        text(&mut writer, flag::APP_ID, self.app_id)?;
        text(&mut writer, flag::CLUSTER_ID, self.cluster_id)?;
        if let Some(place) = out.get_mut(start..start + 2) {
            place.copy_from_slice(&flags.to_be_bytes());
        }
        Ok(())
    }
}
