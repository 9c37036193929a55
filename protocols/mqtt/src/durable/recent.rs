//! Messages that were read from streams of late, so that sessions which come back to the same backlog share them, and what
//! they are encoded to, instead of each making its own.

use longtail_broker::message::SharedMessage;
use longtail_model::{Seq, StreamId};
use parking_lot::Mutex;

/// Messages that are remembered, and the longest payload of one: together little more than a megabyte.
const SLOTS: usize = 1024;
const PAYLOAD_MAX: usize = 1024;

type Slot = Option<(StreamId, Seq, SharedMessage)>;

/// The messages, each in the place that its number says.
#[derive(Default)]
pub(crate) struct Recent(Mutex<Vec<Slot>>);

impl Recent {
    /// The message with this number of a stream: as it is remembered, or as `read` makes it.
    ///
    /// # Errors
    /// As `read`.
    pub(crate) fn get_or_read<E>(
        &self,
        stream: StreamId,
        seq: Seq,
        read: impl FnOnce() -> Result<SharedMessage, E>,
    ) -> Result<SharedMessage, E> {
        let mut slots = self.0.lock();
        let at = seq.0 as usize % SLOTS;
        if let Some(Some((of, number, message))) = slots.get(at)
            && (*of, *number) == (stream, seq)
        {
            return Ok(SharedMessage::clone(message));
        }
        let message = read()?;
        if message.payload.len() <= PAYLOAD_MAX {
            if slots.is_empty() {
                slots.resize_with(SLOTS, || None);
            }
            if let Some(slot) = slots.get_mut(at) {
                *slot = Some((stream, seq, SharedMessage::clone(&message)));
            }
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use longtail_broker::message::Message;
    use longtail_model::Subject;

    use super::*;

    fn message(bytes: usize) -> Result<SharedMessage, ()> {
        let subject = Subject::new("t").unwrap();
        Ok(Arc::new(Message::new(subject, Bytes::from(vec![0; bytes]))))
    }

    #[test]
    fn a_message_is_read_once_unless_it_is_large_or_another_took_its_place() {
        let recent = Recent::default();
        let get = |stream, seq, bytes| {
            let mut was_read = false;
            let got = recent.get_or_read(StreamId(stream), Seq(seq), || {
                was_read = true;
                message(bytes)
            });
            assert_eq!(got.unwrap().payload.len(), bytes);
            was_read
        };
        assert!(get(1, 7, 3));
        assert!(!get(1, 7, 3));
        assert!(get(2, 7, 4), "of another stream");
        assert!(get(1, 7, 3), "the other took its place");
        assert!(get(1, 8, PAYLOAD_MAX + 1));
        assert!(get(1, 8, PAYLOAD_MAX + 1));
        let failed = recent.get_or_read(StreamId(3), Seq(9), || Err(()));
        assert!(failed.is_err());
        assert!(get(3, 9, 1));
    }
}
