//! Exceptions: what a client did wrong, in the words that client libraries and programs look for.

use crate::codec::{Fault, Level, Method, ReplyCode};

/// An exception, with the method that it answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reply_text())]
pub struct Exception {
    /// Its code.
    pub code: ReplyCode,
    /// What it ends: mostly what the code says.
    pub level: Level,
    /// Without the name of the code.
    pub text: String,
    /// Class and method that went wrong; 0 and 0 when it was none.
    pub id: (u16, u16),
}

impl Exception {
    /// Longest reply text, in bytes.
    const TEXT_MAX: usize = 255;

    /// An exception at the level of its code.
    #[must_use]
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Exception {
            code,
            level: code.level(),
            text: text.into(),
            id: (0, 0),
        }
    }

    /// It ends the connection, whatever its code says.
    #[must_use]
    pub fn of_connection(mut self) -> Self {
        self.level = Level::Connection;
        self
    }

    /// It answers this method.
    #[must_use]
    pub fn about(mut self, id: (u16, u16)) -> Self {
        if self.id == (0, 0) {
            self.id = id;
        }
        self
    }

    /// The reply text, at most 255 bytes.
    #[must_use]
    pub fn reply_text(&self) -> String {
        let mut text = format!("{} - {}", self.code.name(), self.text);
        if text.len() > Self::TEXT_MAX {
            let mut end = Self::TEXT_MAX - 3;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push_str("...");
        }
        text
    }

    /// Appends the `connection.close` or `channel.close`.
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let text = self.reply_text();
        let (class_id, method_id) = self.id;
        let (reply_code, reply_text) = (self.code.as_u16(), text.as_str());
        let (close, channel) = if self.level == Level::Channel {
            let close = Method::ChannelClose {
                reply_code,
                reply_text,
                class_id,
                method_id,
            };
            (close, channel)
        } else {
            let close = Method::ConnectionClose {
                reply_code,
                reply_text,
                class_id,
                method_id,
            };
            (close, 0)
        };
        if let Err(error) = close.encode(channel, out) {
            tracing::error!(%error, "an exception cannot be written");
        }
    }
}

impl From<Fault> for Exception {
    fn from(fault: Fault) -> Self {
        let exception = Exception::new(fault.code(), fault.to_string());
        match fault {
            Fault::UnknownMethod { class, method } => exception.about((class, method)),
            _ => exception,
        }
    }
}

/// `NOT_FOUND - no queue 'q' in vhost '/'`.
pub(crate) fn no_queue(queue: &str, vhost: &str) -> Exception {
    Exception::new(
        ReplyCode::NotFound,
        format!("no queue '{queue}' in vhost '{vhost}'"),
    )
}

/// `NOT_FOUND - no exchange 'x' in vhost '/'`.
pub(crate) fn no_exchange(exchange: &str, vhost: &str) -> Exception {
    Exception::new(
        ReplyCode::NotFound,
        format!("no exchange '{exchange}' in vhost '{vhost}'"),
    )
}

/// An exclusive queue of another connection.
pub(crate) fn locked(queue: &str, vhost: &str) -> Exception {
    Exception::new(
        ReplyCode::ResourceLocked,
        format!(
            "cannot obtain exclusive access to locked queue '{queue}' in vhost '{vhost}'. It could be originally \
             declared on another connection or the exclusive property value does not match that of the original \
             declaration."
        ),
    )
}

/// `PRECONDITION_FAILED - ...`.
pub(crate) fn precondition(text: impl Into<String>) -> Exception {
    Exception::new(ReplyCode::PreconditionFailed, text)
}

/// `ACCESS_REFUSED - ...`.
pub(crate) fn refused(text: impl Into<String>) -> Exception {
    Exception::new(ReplyCode::AccessRefused, text)
}

/// `NOT_IMPLEMENTED - ...`.
pub(crate) fn not_implemented(text: impl Into<String>) -> Exception {
    Exception::new(ReplyCode::NotImplemented, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_text_is_cut_between_characters() {
        let exception = no_queue(&"ä".repeat(127), "/");
        let text = exception.reply_text();
        assert!(text.len() <= 255 && text.ends_with("..."), "{text}");
        assert!(text.starts_with("NOT_FOUND - no queue 'ä"));
        let mut out = Vec::new();
        exception.about((50, 20)).about((1, 1)).write(7, &mut out);
        let method = Method::decode(&out[7..out.len() - 1]).unwrap();
        let expected = Method::ChannelClose {
            reply_code: 404,
            reply_text: &text,
            class_id: 50,
            method_id: 20,
        };
        assert_eq!((method, out[2]), (expected, 7));
    }
}
