//! Classes and methods (specification, 1.8, with RabbitMQ's extensions), generated from one table: number, name, fields
//! in the order of the wire.

use super::fault::{EncodeError, Fault};
use super::frame::{FrameKind, frame};
use super::table::Table;
use super::wire::{Field, Reader, Writer};

macro_rules! methods {
    ($lt:lifetime; $(($class:literal, $id:literal) $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        /// A method with its fields, named as in the specification. Borrows from the frame that it was decoded from.
        #[expect(missing_docs, reason = "the specification says what each is for")]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Method<$lt> {
            $($name { $($field: $type),* },)*
        }

        impl<$lt> Method<$lt> {
            /// Class and method number of every method there is.
            pub const ALL: &'static [(u16, u16)] = &[$(($class, $id)),*];

            /// Class and method number.
            #[must_use]
            pub const fn id(&self) -> (u16, u16) {
                match self {
                    $(Method::$name { .. } => ($class, $id),)*
                }
            }

            fn read_fields(class: u16, method: u16, reader: &mut Reader<$lt>) -> Result<Self, Fault> {
                match (class, method) {
                    $(($class, $id) => Ok(Method::$name { $($field: Field::read(reader)?),* }),)*
                    _ => Err(Fault::UnknownMethod { class, method }),
                }
            }

            fn write_fields(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
                match self {
                    $(Method::$name { $($field),* } => {
                        $(Field::write($field, writer)?;)*
                    })*
                }
                Ok(())
            }
        }

        #[cfg(test)]
        impl<$lt> Method<$lt> {
            /// A method whose fields come from elsewhere.
            pub(super) fn from_source(
                class: u16,
                method: u16,
                source: &mut impl super::tests::Source<$lt>,
            ) -> Option<Self> {
                match (class, method) {
                    $(($class, $id) => Some(Method::$name { $($field: super::tests::Given::given(source)),* }),)*
                    _ => None,
                }
            }
        }
    };
}

methods! { 'a;
    (10, 10) ConnectionStart {
        version_major: u8, version_minor: u8, server_properties: Table<'a>, mechanisms: &'a [u8], locales: &'a [u8],
    }
    (10, 11) ConnectionStartOk {
        client_properties: Table<'a>, mechanism: &'a str, response: &'a [u8], locale: &'a str,
    }
    (10, 20) ConnectionSecure { challenge: &'a [u8] }
    (10, 21) ConnectionSecureOk { response: &'a [u8] }
    (10, 30) ConnectionTune { channel_max: u16, frame_max: u32, heartbeat: u16 }
    (10, 31) ConnectionTuneOk { channel_max: u16, frame_max: u32, heartbeat: u16 }
    (10, 40) ConnectionOpen { virtual_host: &'a str, reserved_1: &'a str, reserved_2: bool }
    (10, 41) ConnectionOpenOk { reserved_1: &'a str }
    (10, 50) ConnectionClose { reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16 }
    (10, 51) ConnectionCloseOk {}
    (10, 60) ConnectionBlocked { reason: &'a str }
    (10, 61) ConnectionUnblocked {}
    (10, 70) ConnectionUpdateSecret { new_secret: &'a [u8], reason: &'a str }
    (10, 71) ConnectionUpdateSecretOk {}
    (20, 10) ChannelOpen { reserved_1: &'a str }
    (20, 11) ChannelOpenOk { reserved_1: &'a [u8] }
    (20, 20) ChannelFlow { active: bool }
    (20, 21) ChannelFlowOk { active: bool }
    (20, 40) ChannelClose { reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16 }
    (20, 41) ChannelCloseOk {}
    (30, 10) AccessRequest {
        realm: &'a str, exclusive: bool, passive: bool, active: bool, write: bool, read: bool,
    }
    (30, 11) AccessRequestOk { ticket: u16 }
    (40, 10) ExchangeDeclare {
        ticket: u16, exchange: &'a str, kind: &'a str, passive: bool, durable: bool, auto_delete: bool, internal: bool,
        no_wait: bool, arguments: Table<'a>,
    }
    (40, 11) ExchangeDeclareOk {}
    (40, 20) ExchangeDelete { ticket: u16, exchange: &'a str, if_unused: bool, no_wait: bool }
    (40, 21) ExchangeDeleteOk {}
    (40, 30) ExchangeBind {
        ticket: u16, destination: &'a str, source: &'a str, routing_key: &'a str, no_wait: bool, arguments: Table<'a>,
    }
    (40, 31) ExchangeBindOk {}
    (40, 40) ExchangeUnbind {
        ticket: u16, destination: &'a str, source: &'a str, routing_key: &'a str, no_wait: bool, arguments: Table<'a>,
    }
    (40, 51) ExchangeUnbindOk {}
    (50, 10) QueueDeclare {
        ticket: u16, queue: &'a str, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, no_wait: bool,
        arguments: Table<'a>,
    }
    (50, 11) QueueDeclareOk { queue: &'a str, message_count: u32, consumer_count: u32 }
    (50, 20) QueueBind {
        ticket: u16, queue: &'a str, exchange: &'a str, routing_key: &'a str, no_wait: bool, arguments: Table<'a>,
    }
    (50, 21) QueueBindOk {}
    (50, 30) QueuePurge { ticket: u16, queue: &'a str, no_wait: bool }
    (50, 31) QueuePurgeOk { message_count: u32 }
    (50, 40) QueueDelete { ticket: u16, queue: &'a str, if_unused: bool, if_empty: bool, no_wait: bool }
    (50, 41) QueueDeleteOk { message_count: u32 }
    (50, 50) QueueUnbind {
        ticket: u16, queue: &'a str, exchange: &'a str, routing_key: &'a str, arguments: Table<'a>,
    }
    (50, 51) QueueUnbindOk {}
    (60, 10) BasicQos { prefetch_size: u32, prefetch_count: u16, global: bool }
    (60, 11) BasicQosOk {}
    (60, 20) BasicConsume {
        ticket: u16, queue: &'a str, consumer_tag: &'a str, no_local: bool, no_ack: bool, exclusive: bool,
        no_wait: bool, arguments: Table<'a>,
    }
    (60, 21) BasicConsumeOk { consumer_tag: &'a str }
    (60, 30) BasicCancel { consumer_tag: &'a str, no_wait: bool }
    (60, 31) BasicCancelOk { consumer_tag: &'a str }
    (60, 40) BasicPublish { ticket: u16, exchange: &'a str, routing_key: &'a str, mandatory: bool, immediate: bool }
    (60, 50) BasicReturn { reply_code: u16, reply_text: &'a str, exchange: &'a str, routing_key: &'a str }
    (60, 60) BasicDeliver {
        consumer_tag: &'a str, delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str,
    }
    (60, 70) BasicGet { ticket: u16, queue: &'a str, no_ack: bool }
    (60, 71) BasicGetOk {
        delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str, message_count: u32,
    }
    (60, 72) BasicGetEmpty { reserved_1: &'a str }
    (60, 80) BasicAck { delivery_tag: u64, multiple: bool }
    (60, 90) BasicReject { delivery_tag: u64, requeue: bool }
    (60, 100) BasicRecoverAsync { requeue: bool }
    (60, 110) BasicRecover { requeue: bool }
    (60, 111) BasicRecoverOk {}
    (60, 120) BasicNack { delivery_tag: u64, multiple: bool, requeue: bool }
    (85, 10) ConfirmSelect { no_wait: bool }
    (85, 11) ConfirmSelectOk {}
    (90, 10) TxSelect {}
    (90, 11) TxSelectOk {}
    (90, 20) TxCommit {}
    (90, 21) TxCommitOk {}
    (90, 30) TxRollback {}
    (90, 31) TxRollbackOk {}
}

impl<'a> Method<'a> {
    /// The class of messages, the only one with content.
    pub const BASIC: u16 = 60;

    /// Reads the payload of a method frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(payload);
        let (class, method) = (reader.short()?, reader.short()?);
        let decoded = Method::read_fields(class, method, &mut reader)?;
        if reader.is_at_end() {
            Ok(decoded)
        } else {
            Err(Fault::Trailing)
        }
    }

    /// Class and method number of a payload whose fields may be anything, for the answer to it.
    #[must_use]
    pub fn id_of(payload: &[u8]) -> (u16, u16) {
        let mut reader = Reader::new(payload);
        let mut next = || reader.short().unwrap_or_default();
        (next(), next())
    }

    /// Whether content follows.
    #[must_use]
    pub const fn has_content(&self) -> bool {
        matches!(
            self,
            Method::BasicPublish { .. }
                | Method::BasicReturn { .. }
                | Method::BasicDeliver { .. }
                | Method::BasicGetOk { .. }
        )
    }

    /// Appends the method as a frame.
    ///
    /// # Errors
    /// When a field has no form on the wire; nothing is appended then.
    pub fn encode(&self, channel: u16, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        frame(FrameKind::Method, channel, out, |out| {
            let (class, method) = self.id();
            let mut writer = Writer::new(out);
            writer.bytes(&class.to_be_bytes());
            writer.bytes(&method.to_be_bytes());
            self.write_fields(&mut writer)
        })
    }
}
