//! What is wrong with bytes, and the reply code that says so.

use super::reply::ReplyCode;

/// Why bytes are not AMQP 0-9-1. All of them end the connection: where the next frame begins is not known any more, or
/// the peer speaks something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A frame type other than 1, 2, 3 and 8.
    #[error("unknown frame type {0}")]
    FrameType(u8),
    /// A frame larger than was agreed.
    #[error(
        "type {kind}, all octets = <<>>: frame of {size} bytes is larger than the negotiated maximum of {max}"
    )]
    FrameTooLarge {
        /// The frame's type.
        kind: u8,
        /// The size of its payload that it announces, with the 8 bytes around it.
        size: u64,
        /// What was agreed.
        max: u32,
    },
    /// A frame that does not end with 0xCE.
    #[error("frame does not end with 0xCE but with {0:#04x}")]
    FrameEnd(u8),
    /// A heartbeat with a payload.
    #[error("heartbeat frame with a payload")]
    Heartbeat,
    /// The payload ends within a value, or goes on behind the last.
    #[error("truncated value")]
    Truncated,
    /// The payload goes on behind the last value.
    #[error("octets behind the last field")]
    Trailing,
    /// A short string or a key that is not UTF-8.
    #[error("short string is not valid UTF-8")]
    NotUtf8,
    /// A letter that names no type of field.
    #[error("unknown field type {:?}", char::from(*.0))]
    FieldType(u8),
    /// Tables and arrays within each other, deeper than [`Table::DEPTH_MAX`](super::Table::DEPTH_MAX).
    #[error("field table nested too deeply")]
    TooDeep,
    /// A class and method that nobody defines.
    #[error("unknown method {class}.{method}")]
    UnknownMethod {
        /// The class.
        class: u16,
        /// The method.
        method: u16,
    },
    /// A property flag that is not defined, or a second word of flags.
    #[error("unknown property flags {0:#06x}")]
    PropertyFlags(u16),
}

impl Fault {
    /// The reply code of the `connection.close` that answers it.
    #[must_use]
    pub const fn code(self) -> ReplyCode {
        match self {
            Fault::FrameType(_)
            | Fault::FrameTooLarge { .. }
            | Fault::FrameEnd(_)
            | Fault::Heartbeat
            | Fault::NotUtf8
            | Fault::PropertyFlags(_) => ReplyCode::FrameError,
            Fault::Truncated | Fault::Trailing | Fault::FieldType(_) | Fault::TooDeep => {
                ReplyCode::SyntaxError
            }
            Fault::UnknownMethod { .. } => ReplyCode::NotImplemented,
        }
    }
}

/// A value has no form on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Short strings have at most 255 bytes.
    #[error("a short string of {0} bytes")]
    ShortString(usize),
    /// Nothing is longer than 4 GiB.
    #[error("{0} bytes in one value")]
    TooLong(usize),
}
