//! Newtypes for every number that names something, so that no two of them can be mixed up.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A shard of this process: one state machine with one log. Dense from 0.
    ShardId(u16)
}
id! {
    /// A stream within its shard. Never reused while the data directory lives.
    StreamId(u64)
}
id! {
    /// A group within its shard. Never reused while the data directory lives.
    GroupId(u64)
}
id! {
    /// A sequence space within its shard: streams that share one draw their sequence numbers from one counter.
    IndexId(u64)
}
id! {
    /// One client's attachment to one shard, for as long as it is connected.
    SessionId(u64)
}
id! {
    /// A session's own number for a stream it uses; chosen by the session, so that commands can be pipelined
    /// behind the one that opens it.
    Link(u32)
}
id! {
    /// A session's own number for one of its consumers.
    ConsumerTag(u32)
}
id! {
    /// A message's number in its sequence space, from 1. 0 is no message.
    Seq(u64)
}
id! {
    /// A logical position in a shard's log: the byte offset at which a record was first written, counted over the
    /// whole life of the log. Stable for ever, whatever happens to the files.
    Lsn(u64)
}
id! {
    /// Urgency of a message: 0 is the most urgent.
    Priority(u32)
}

impl Seq {
    /// The first number a sequence space hands out.
    pub const FIRST: Seq = Seq(1);

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl Lsn {
    /// The start of the log.
    pub const ZERO: Lsn = Lsn(0);
}
