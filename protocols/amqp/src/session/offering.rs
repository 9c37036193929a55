//! `basic.publish` with `immediate`, where the server is not strict: a message that is stored only if a consumer has it
//! at once.
//!
//! Only a shard can tell whether a consumer has room, in the step that gives it the message; so each shard with queues
//! of the message is offered it. When the last has answered, and somebody was given the message, the shards where nobody
//! was get it as any other; when nobody was anywhere, it goes back to the publisher. Between the two a queue of another
//! shard may get messages that were published later.

use std::sync::Arc;

use bytes::Bytes;
use longtail_edge::Out;
use longtail_engine::{Refusal, Reply};

use super::Shared;
use super::channel::{Channel, Pending, internal};
use super::consuming::is_stored;
use super::routing::Publication;
use crate::codec::ReplyCode;
use crate::config::Config;
use crate::exception::Exception;
use crate::graph::Noted;
use crate::store::{Store, forget};

/// A message that shards are offered.
#[derive(Debug)]
pub(super) struct Offer {
    publication: Publication,
    /// Its properties without what only the server is to see, where they had some of that.
    stripped: Option<Bytes>,
    /// In confirm mode; 0: none.
    number: u64,
    noted: Option<Arc<[Noted]>>,
    /// Shards that have not answered.
    asked: usize,
    /// Somebody was given it.
    is_taken: bool,
    /// What is not stored because nobody waits there.
    untaken: Vec<Store>,
}

impl Channel {
    /// Offers a message to its queues, of which there are some.
    pub(super) fn offer(
        &mut self,
        (publication, stripped): (&Publication, Option<Bytes>),
        (number, noted): (u64, Option<Arc<[Noted]>>),
        stores: Vec<Store>,
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        self.last_offer += 1;
        let offer = self.last_offer;
        let asked = Offer {
            publication: publication.clone(),
            stripped,
            number,
            noted,
            asked: stores.len(),
            is_taken: false,
            untaken: Vec::new(),
        };
        self.offers.insert(offer, asked);
        let bytes = publication.body.len() as u64;
        for store in stores {
            let way = self.ways.get_mut(usize::from(store.shard.0));
            let way = way.ok_or_else(|| internal("no way to a shard"))?;
            let command = store.clone().into_offer();
            let store = Box::new(store);
            way.ask(command, Pending::Offered { offer, store });
            self.is_outstanding(bytes, shared);
        }
        Ok(())
    }

    /// A shard has taken what it was offered, or not.
    pub(super) fn offered(
        &mut self,
        (number, store): (u64, Box<Store>),
        reply: &Reply,
        (shared, config): (&mut Shared, &Config),
        out: &mut Out,
    ) -> Result<(), Exception> {
        let Some(offer) = self.offers.get_mut(&number) else {
            return Err(internal("a shard was offered what nobody has published"));
        };
        offer.asked = offer.asked.saturating_sub(1);
        let is_last = offer.asked == 0;
        let confirm = (offer.number, offer.publication.body.len() as u64);
        match reply {
            Reply::NotFound => offer.untaken.push(*store),
            // Its queues were deleted on the way.
            Reply::Refused(Refusal::UnknownLink | Refusal::Gone) => {
                self.published(confirm, false, shared, config);
            }
            reply => {
                let refused = !is_stored(reply);
                offer.is_taken = true;
                if let Some(noted) = offer.noted.as_ref().filter(|_| refused) {
                    forget(noted, &shared.topology()?.graph());
                }
                if let Some(laying) = store.laying() {
                    Box::new(laying).lay(reply, shared);
                }
                self.published(confirm, refused, shared, config);
            }
        }
        if !is_last {
            return Ok(());
        }
        let Some(offer) = self.offers.remove(&number) else {
            return Ok(());
        };
        self.end_offer(offer, (shared, config), out)
    }

    /// All shards have answered.
    fn end_offer(
        &mut self,
        offer: Offer,
        (shared, config): (&mut Shared, &Config),
        out: &mut Out,
    ) -> Result<(), Exception> {
        let bytes = offer.publication.body.len() as u64;
        if offer.is_taken {
            for store in offer.untaken {
                self.done_with(1, bytes, shared, config);
                let told = (offer.noted.clone(), store.laying().map(Box::new));
                let shard = store.shard;
                let command = store.into_command();
                self.store(shard, command, (offer.number, bytes), told, shared)?;
            }
            return Ok(());
        }
        if let Some(noted) = &offer.noted {
            forget(noted, &shared.topology()?.graph());
        }
        self.counts.return_unroutable += 1;
        let stripped = offer.stripped.as_deref();
        self.give_back(
            ReplyCode::NoConsumers,
            &offer.publication,
            stripped,
            shared,
            out,
        );
        for _ in offer.untaken {
            self.published((offer.number, bytes), false, shared, config);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use longtail_engine::Command;
    use longtail_model::{Lsn, Seq, SessionId, ShardId, StreamId, Timestamp};

    use super::*;
    use crate::codec::{Decoder, Method, Table};
    use crate::queue::{Queue, QueueArguments, QueueConfig, QueueSettings};
    use crate::session::confirms::Confirms;
    use crate::session::tests::Nobody;
    use crate::store::{Parcel, in_queues};

    fn queue(shard: u16) -> Arc<Queue> {
        let config = QueueConfig {
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: Arc::default(),
            parsed: QueueArguments::default(),
        };
        let at = (ShardId(shard), StreamId(shard.into()));
        let settings = QueueSettings::default();
        Arc::new(Queue::new("q".into(), at, config, settings))
    }

    /// A channel that has offered a message to a queue at each of two shards.
    fn offering(shared: &mut Shared) -> Channel {
        let ways = [(ShardId(0), SessionId(1)), (ShardId(1), SessionId(2))];
        let mut channel = Channel::new(1, 1, &ways);
        let number = channel.confirms.insert(Confirms::default()).begin(2);
        let body = Bytes::from_static(b"x");
        let publication = Publication {
            exchange: "e".into(),
            key: "k".into(),
            mandatory: false,
            immediate: true,
            encoded: Bytes::from_static(&[0, 0]),
            properties: 0,
            body: body.clone(),
        };
        let parcel = Parcel {
            exchange: "e",
            key: "k",
            properties: &[0, 0],
            shown: &[0, 0],
            encoded: None,
            headers: Table::default(),
            body: &body,
            priority: None,
            expiration_ms: None,
            now: Timestamp(0),
        };
        let stores = in_queues(&[queue(0), queue(1)], &parcel, &mut Vec::new());
        channel
            .offer((&publication, None), (number, None), stores, shared)
            .unwrap();
        for way in &mut channel.ways {
            let told = way.waiting();
            assert!(matches!(told[..], [Command::Offer { .. }]), "{told:?}");
        }
        channel
    }

    fn answer(channel: &mut Channel, shard: usize, reply: &Reply, shared: &mut Shared) -> Vec<u8> {
        let mut out = Out::new(1 << 20);
        let Some(Pending::Offered { offer, store }) = channel.ways[shard].answered() else {
            panic!("nothing is offered")
        };
        let config = Config::default();
        channel
            .offered((offer, store), reply, (shared, &config), &mut out)
            .unwrap();
        channel.confirm(&mut out);
        std::mem::take(out.tail())
    }

    fn methods(frames: &[u8]) -> Vec<&'static str> {
        let (mut rest, mut names) = (frames, Vec::new());
        while let Some((octets, frame)) = Decoder::new(u32::MAX).decode(rest).unwrap() {
            match Method::decode(frame.payload) {
                Ok(Method::BasicReturn {
                    reply_code: 313, ..
                }) => names.push("return"),
                Ok(Method::BasicAck { .. }) => names.push("ack"),
                _ => {}
            }
            rest = &rest[octets..];
        }
        names
    }

    #[test]
    fn what_nobody_takes_anywhere_comes_back_before_it_is_confirmed() {
        let mut shared = Shared::new(1, Arc::new(Nobody));
        let mut channel = offering(&mut shared);
        let said = answer(&mut channel, 1, &Reply::NotFound, &mut shared);
        assert!(said.is_empty());
        let said = answer(&mut channel, 0, &Reply::NotFound, &mut shared);
        assert_eq!(methods(&said), ["return", "ack"]);
        assert_eq!((shared.outstanding, channel.offers.len()), (0, 0));
    }

    #[test]
    fn what_somebody_takes_is_stored_by_the_others_too() {
        let mut shared = Shared::new(1, Arc::new(Nobody));
        let mut channel = offering(&mut shared);
        answer(&mut channel, 0, &Reply::NotFound, &mut shared);
        let taken = Reply::Published {
            seq: Seq(1),
            position: Lsn::ZERO,
            refused: None,
        };
        let said = answer(&mut channel, 1, &taken, &mut shared);
        assert!(said.is_empty(), "not confirmed yet");
        let told = channel.ways[0].waiting();
        assert!(matches!(told[..], [Command::Publish { .. }]), "{told:?}");
        assert_eq!((shared.outstanding, channel.offers.len()), (1, 0));
    }
}
