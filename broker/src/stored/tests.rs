use longtail_model::Filter;
use proptest::prelude::{any, prop_assert_eq, proptest};

use super::*;
use crate::ephemeral::{SpaceRouteCache, SpaceRouter, StreamOptions};
use crate::router::Subscription;

const NOW: Timestamp = Timestamp(1_000);

fn message() -> Message {
    Message::new(Subject::new("x").unwrap(), Bytes::from_static(b"body"))
}

fn router(streams: &[(u16, u64, StreamOptions)]) -> SpaceRouter {
    let router = SpaceRouter::default();
    for (at, (shard, stream, options)) in streams.iter().enumerate() {
        // Different filters, so that a look-up merges them.
        let filter = Filter::new(["x", "+", "#"][at % 3]).unwrap();
        let target = Target::Stream(ShardId(*shard), StreamId(*stream));
        let subscription = Subscription::new(TargetOptions::Stream(*options));
        router.subscribe(&filter, target, subscription).unwrap();
    }
    router
}

fn routes(router: &SpaceRouter) -> SpaceRoutes {
    let mut routes = SpaceRoutes::default();
    router.routes(message().subject.as_ref(), &mut routes);
    routes
}

/// Shard and streams of each command.
fn divided(publishes: StreamPublishes<'_>) -> Vec<(u16, Vec<u64>)> {
    let mut all = Vec::new();
    for publish in publishes {
        let Command::Publish { to, also, .. } = publish.command else {
            panic!("not a publish")
        };
        assert_eq!(to, Into::Stream(publish.first));
        let mut streams = vec![publish.first.0];
        streams.extend(also.iter().map(|stream| stream.0));
        all.push((publish.shard.0, streams));
    }
    all
}

#[test]
fn streams_are_divided_among_their_shards() {
    let all = StreamOptions::default();
    let assured_only = StreamOptions {
        assured_only: true,
        ..all
    };
    let router = router(&[
        (2, 9, all),
        (0, 3, all),
        (2, 1, assured_only),
        (1, 4, assured_only),
        (0, 5, all),
    ]);
    let routes = routes(&router);
    let lossy = message();
    let none = Picked::new();
    assert_eq!(
        divided(publishes(&routes, &none, &lossy, NOW)),
        [(0, vec![3, 5]), (2, vec![9])]
    );
    let sure = Message {
        quality: Quality::AtLeastOnce,
        ..message()
    };
    let picked: Picked = [(ShardId(3), StreamId(8)), (ShardId(1), StreamId(7))]
        .into_iter()
        .collect();
    let expected = [
        (0, vec![3, 5]),
        (1, vec![4, 7]),
        (2, vec![1, 9]),
        (3, vec![8]),
    ];
    assert_eq!(divided(publishes(&routes, &picked, &sure, NOW)), expected);
    let mut cache = SpaceRouteCache::default();
    for _ in 0..3 {
        let cached = cache.lookup(&router, sure.subject.as_ref());
        assert_eq!(divided(publishes(cached, &picked, &sure, NOW)), expected);
    }
}

#[test]
fn nothing_is_stored_of_what_nobody_takes_or_has_expired() {
    let assured_only = StreamOptions {
        assured_only: true,
        ..StreamOptions::default()
    };
    let router = router(&[(0, 1, assured_only), (1, 1, assured_only)]);
    let routes = routes(&router);
    let lossy = message();
    let none = Picked::new();
    let unasked = || panic!("nobody takes it");
    assert_eq!(
        StreamPublishes::new(&routes, &none, &lossy, NOW, unasked).count(),
        0
    );
    let late = Message {
        expires: NOW,
        quality: Quality::AtLeastOnce,
        ..message()
    };
    assert_eq!(publishes(&routes, &none, &late, NOW).count(), 0);
}

#[test]
fn a_stored_message_says_when_it_expires() {
    let lasting = |ms| Message {
        expires: NOW.plus_millis(ms),
        ..message()
    };
    assert_eq!(new_message(&message(), NOW).expires_ms, None);
    assert_eq!(new_message(&lasting(5), NOW).expires_ms, Some(5));
}

proptest! {
    #[test]
    fn everything_comes_back(
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        tricky in "(lt-){0,3}(subject|origin|published|reply-to|x)?",
        reply in any::<bool>(),
        retain in any::<bool>(),
        origin: u64,
        quality in 0_usize..3,
    ) {
        let mut sent = message();
        sent.headers.push(tricky.into_bytes(), &b"value"[..]);
        for (name, value) in headers {
            sent.headers.push(name, value);
        }
        sent.reply_to = reply.then(|| Subject::new("back/1").unwrap());
        sent.retain = retain;
        sent.origin = Origin(origin);
        sent.quality = [Quality::AtMostOnce, Quality::AtLeastOnce, Quality::ExactlyOnce][quality];
        let kept = new_message(&sent, NOW);
        let stored = Stored::read(&kept.subject, &kept.headers);
        let back = stored.to_message(kept.payload.clone(), NOW, Timestamp::NEVER).unwrap();
        prop_assert_eq!(&back.subject, &sent.subject);
        prop_assert_eq!(&back.reply_to, &sent.reply_to);
        prop_assert_eq!(&back.headers, &sent.headers);
        prop_assert_eq!(
            (back.retain, back.origin, back.quality, &back.payload),
            (sent.retain, sent.origin, sent.quality, &sent.payload)
        );
    }
}

struct Elsewhere(u16, u64);

impl crate::relay::Relay for Elsewhere {
    fn relay(&self, message: &Message, now: Timestamp, to: &mut Vec<ShardPublish>) {
        to.push(ShardPublish {
            shard: ShardId(self.0),
            first: StreamId(self.1),
            command: Command::Publish {
                to: Into::Stream(StreamId(self.1)),
                also: Vec::new(),
                message: new_message(message, now),
            },
        });
    }
}

#[test]
fn a_relay_is_asked_once_and_after_the_streams() {
    let router = router(&[(1, 4, StreamOptions::default())]);
    let relays = [Elsewhere(0, 7), Elsewhere(1, 8)].map(|relay| {
        let relay = RelayHandle::new(std::sync::Arc::new(relay));
        for filter in ["x", "#"] {
            let filter = Filter::new(filter).unwrap();
            let subscription = Subscription::new(relay.options());
            router
                .subscribe(&filter, relay.target(), subscription)
                .unwrap();
        }
        relay
    });
    let (routes, none, message) = (routes(&router), Picked::default(), message());
    let all = divided(publishes(&routes, &none, &message, NOW));
    assert_eq!(all, [(1, vec![4]), (0, vec![7]), (1, vec![8])]);
    let own = publishes(&routes, &none, &message, NOW).beside(relays[0].id());
    assert_eq!(divided(own), [(1, vec![4]), (1, vec![8])]);
    let expired = Message {
        expires: NOW,
        ..message
    };
    assert_eq!(divided(publishes(&routes, &none, &expired, NOW)), []);
}
