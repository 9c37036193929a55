//! Reply codes (specification, 1.3): what went wrong, and what it ends.

/// What an exception ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nothing: the code is that of a return or of a civil end.
    None,
    /// The channel.
    Channel,
    /// The connection.
    Connection,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $code:literal $name:ident $text:literal $level:ident;)*) => {
        /// A reply code. Its level is RabbitMQ's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ReplyCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl ReplyCode {
            /// All of them, ascending.
            pub const ALL: &[ReplyCode] = &[$(ReplyCode::$name),*];

            /// The word before the dash of a reply text.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(ReplyCode::$name => $text,)*
                }
            }

            /// What it ends.
            #[must_use]
            pub const fn level(self) -> Level {
                match self {
                    $(ReplyCode::$name => Level::$level,)*
                }
            }
        }
    };
}

codes! {
    /// A civil end.
    200 Success "REPLY_SUCCESS" None;
    /// The content is too large; RabbitMQ says [`ReplyCode::PreconditionFailed`] instead.
    311 ContentTooLarge "CONTENT_TOO_LARGE" Channel;
    /// `basic.return`: no queue.
    312 NoRoute "NO_ROUTE" None;
    /// `basic.return`: no consumer that could take it at once.
    313 NoConsumers "NO_CONSUMERS" None;
    /// An operator ended the connection, or the server goes down.
    320 ConnectionForced "CONNECTION_FORCED" Connection;
    /// A vhost that does not exist, before 0-9-1; now [`ReplyCode::NotAllowed`].
    402 InvalidPath "INVALID_PATH" Connection;
    /// No permission; at the login it ends the connection.
    403 AccessRefused "ACCESS_REFUSED" Channel;
    /// No such queue or exchange.
    404 NotFound "NOT_FOUND" Channel;
    /// An exclusive queue of another connection.
    405 ResourceLocked "RESOURCE_LOCKED" Channel;
    /// The state forbids it: another definition, an unknown delivery tag, a queue that is not empty.
    406 PreconditionFailed "PRECONDITION_FAILED" Channel;
    /// A frame that is none.
    501 FrameError "FRAME_ERROR" Connection;
    /// Fields that do not decode.
    502 SyntaxError "SYNTAX_ERROR" Connection;
    /// A method that makes no sense here.
    503 CommandInvalid "COMMAND_INVALID" Connection;
    /// A channel that is not open, or is already.
    504 ChannelError "CHANNEL_ERROR" Connection;
    /// Content where a method is expected, or the other way round.
    505 UnexpectedFrame "UNEXPECTED_FRAME" Connection;
    /// No resources left.
    506 ResourceError "RESOURCE_ERROR" Connection;
    /// Not agreed upon: limits, the vhost, consumer tags.
    530 NotAllowed "NOT_ALLOWED" Connection;
    /// Not available here.
    540 NotImplemented "NOT_IMPLEMENTED" Connection;
    /// A defect, or a log that has failed.
    541 InternalError "INTERNAL_ERROR" Connection;
}

impl ReplyCode {
    /// The number on the wire.
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self as u16
    }
}
