//! Exchanges that record their last messages.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use super::*;

/// Publishes a message of which the body tells.
fn publish(graph: &Graph, exchange: &str, keys: &[&str], body: u32) -> Vec<String> {
    let properties = Properties::default();
    let body = Bytes::copy_from_slice(&body.to_be_bytes());
    let routing = Routing {
        keys,
        properties: &properties,
        content: Content {
            exchange,
            properties: Properties::NONE,
            body: &body,
        },
        due: false,
        now: Timestamp(0),
    };
    names(&graph.route(exchange, &routing).unwrap())
}

/// What a binding that is made now is shown: messages with the queues that they go to.
fn replayed(graph: &Graph, source: &str, to: &Destination) -> Vec<(u32, Vec<String>)> {
    let replayed = graph.replay(source, to, Timestamp(0)).into_iter();
    let shown = replayed.map(|(recorded, routed)| (number(&recorded), names(&routed)));
    shown.collect()
}

fn number(recorded: &Recorded) -> u32 {
    u32::from_be_bytes((&*recorded.body).try_into().unwrap())
}

fn exchange_to(name: &str) -> Destination {
    Destination::Exchange(name.into())
}

#[test]
fn who_is_bound_later_has_the_last_messages_too() {
    let mut graph = graph(
        &[("r", Kind::RecentHistory), ("f", Kind::Fanout)],
        &["a", "b"],
    );
    let length = [("x-recent-history-length", Value::I32(3))];
    exchange(&mut graph, "s", Kind::RecentHistory, &length);
    bind(&mut graph, "r", "whatever", queue("a"));
    for number in 0..30 {
        assert_eq!(publish(&graph, "r", &["k"], number), ["a"]);
        assert!(publish(&graph, "s", &["k"], number).is_empty());
    }
    let all = |range: std::ops::Range<u32>| -> Vec<_> {
        range.map(|number| (number, vec!["b".to_owned()])).collect()
    };
    assert_eq!(replayed(&graph, "r", &queue("b")), all(10..30));
    assert_eq!(replayed(&graph, "s", &queue("b")), all(27..30));
    assert!(replayed(&graph, "f", &queue("b")).is_empty());
    // Every message has to be seen, so none may be routed as the one before.
    bind(&mut graph, "f", "", exchange_to("s"));
    let found = found(&graph, "f", &["k"], &Properties::default()).unwrap();
    assert!(found.by_message);
    for wrong in [Value::I32(0), Value::F32(1.0)] {
        let length = [("x-recent-history-length", wrong)];
        assert!(declare(&mut graph, "w", "x-recent-history", &length).is_err());
    }
}

#[test]
fn a_message_is_recorded_once_wherever_it_comes_from() {
    let mut graph = graph(&[("d", Kind::Direct), ("r", Kind::RecentHistory)], &["q"]);
    bind(&mut graph, "d", "a", exchange_to("r"));
    bind(&mut graph, "d", "b", exchange_to("r"));
    // With two keys that both lead there; one that leads elsewhere; and as what nobody else wanted.
    publish(&graph, "d", &["a", "b"], 1);
    publish(&graph, "d", &["c"], 2);
    graph.set_alternate("d", Some("r".into()));
    publish(&graph, "d", &["c"], 3);
    let shown: Vec<_> = replayed(&graph, "r", &queue("q"))
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    assert_eq!(shown, [1, 3]);
    // It goes with its exchange.
    graph.remove_exchange("r");
    exchange(&mut graph, "r", Kind::RecentHistory, &[]);
    assert!(replayed(&graph, "r", &queue("q")).is_empty());
}

#[test]
fn what_is_replayed_to_an_exchange_goes_as_that_routes_it() {
    let mut graph = graph(
        &[
            ("r", Kind::RecentHistory),
            ("d", Kind::Direct),
            ("s", Kind::RecentHistory),
        ],
        &["a", "b", "c"],
    );
    bind(&mut graph, "d", "a", queue("a"));
    bind(&mut graph, "d", "a", exchange_to("s"));
    bind(&mut graph, "s", "", queue("c"));
    // A circle: what was recorded does not come back to be recorded again.
    bind(&mut graph, "d", "a", exchange_to("r"));
    bind(&mut graph, "r", "", queue("b"));
    publish(&graph, "r", &["a", "x"], 1);
    publish(&graph, "r", &["b"], 2);
    bind(&mut graph, "r", "", exchange_to("d"));
    let to_d = vec![(1, vec!["a".to_owned(), "c".to_owned()]), (2, vec![])];
    assert_eq!(replayed(&graph, "r", &exchange_to("d")), to_d);
    let only = |name: &str| vec![(1, vec![name.to_owned()]), (2, vec![name.to_owned()])];
    assert_eq!(replayed(&graph, "r", &queue("b")), only("b"));
    // Another on the way records what it is shown.
    assert_eq!(
        replayed(&graph, "s", &queue("c")),
        [(1, vec!["c".to_owned()])]
    );
}

#[test]
fn a_queue_that_is_bound_while_others_publish_gets_each_message_once() {
    const MESSAGES: u32 = 2_000;
    let mut graph = graph(&[], &["q"]);
    let length = [("x-recent-history-length", Value::I32(1_000_000))];
    exchange(&mut graph, "r", Kind::RecentHistory, &length);
    let graph = parking_lot::RwLock::new(graph);
    let publishing = AtomicU32::new(0);
    let publisher = |_| {
        let mut routed = Vec::new();
        for number in 0..MESSAGES {
            if !publish(&graph.read(), "r", &["k"], number).is_empty() {
                routed.push(number);
            }
            publishing.fetch_max(number, Ordering::Relaxed);
        }
        routed
    };
    let (shown, routed) = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..2)
            .map(|number| scope.spawn(move || publisher(number)))
            .collect();
        while publishing.load(Ordering::Relaxed) < MESSAGES / 4 {
            std::thread::yield_now();
        }
        let shown = {
            let mut graph = graph.write();
            assert!(bind(&mut graph, "r", "", queue("q")));
            replayed(&graph, "r", &queue("q"))
        };
        let routed = publishers.into_iter().map(|thread| thread.join().unwrap());
        (shown, routed.collect::<Vec<_>>())
    });
    // What each publisher was not routed itself was replayed, and in its order.
    let mut expected: Vec<u32> = routed
        .iter()
        .flat_map(|routed| 0..MESSAGES - u32::try_from(routed.len()).unwrap())
        .collect();
    let mut shown: Vec<u32> = shown.into_iter().map(|(number, _)| number).collect();
    assert!(routed.iter().all(|routed| routed.is_sorted()));
    expected.sort_unstable();
    shown.sort_unstable();
    assert_eq!(shown, expected);
}
