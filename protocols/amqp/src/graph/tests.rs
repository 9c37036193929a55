mod picking;
mod recent;

use std::collections::{BTreeMap, HashSet};

use longtail_model::{ShardId, StreamId, Timestamp};

use super::*;
use crate::codec::samples::{table, text};
use crate::codec::{Properties, Table, Value};
use crate::exception::Exception;
use crate::queue::{QueueArguments, QueueConfig, QueueSettings};

fn arguments(pairs: &[(&str, Value<'_>)]) -> Arc<[u8]> {
    table(pairs).as_table().as_bytes().into()
}

fn graph(exchanges: &[(&str, Kind)], queues: &[&str]) -> Graph {
    let mut graph = Graph::default();
    for (name, kind) in exchanges {
        exchange(&mut graph, name, *kind, &[]);
    }
    for (number, name) in queues.iter().enumerate() {
        let config = QueueConfig {
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: Arc::default(),
            parsed: QueueArguments::default(),
        };
        let stream = StreamId(number as u64);
        graph.add_queue(Arc::new(Queue::new(
            (*name).into(),
            (ShardId(0), stream),
            config,
            QueueSettings::default(),
        )));
    }
    graph
}

fn exchange(graph: &mut Graph, name: &str, kind: Kind, pairs: &[(&str, Value<'_>)]) {
    declare(graph, name, kind.name(), pairs).unwrap();
}

fn declare(
    graph: &mut Graph,
    name: &str,
    kind: &str,
    pairs: &[(&str, Value<'_>)],
) -> Result<(), Exception> {
    let flags = ExchangeFlags {
        auto_delete: true,
        ..ExchangeFlags::default()
    };
    let config = ExchangeConfig::new(kind, flags, arguments(pairs))?;
    graph.add_exchange(name.into(), config);
    Ok(())
}

fn queue(name: &str) -> Destination {
    Destination::Queue(name.into())
}

fn bind(graph: &mut Graph, source: &str, key: &str, destination: Destination) -> bool {
    let arguments = Arc::default();
    graph.bind(
        source,
        &key.into(),
        Binding {
            destination,
            arguments,
        },
    )
}

fn routed(graph: &Graph, exchange: &str, key: &str) -> Vec<String> {
    routed_by(graph, exchange, key, Table::default())
}

fn routed_by(graph: &Graph, exchange: &str, key: &str, headers: Table<'_>) -> Vec<String> {
    let properties = Properties {
        headers: Some(headers),
        ..Properties::default()
    };
    names(&found(graph, exchange, &[key], &properties).unwrap())
}

fn found(
    graph: &Graph,
    exchange: &str,
    keys: &[&str],
    properties: &Properties<'_>,
) -> Option<Routed> {
    let routing = Routing {
        keys,
        properties,
        content: content(),
        due: false,
        now: Timestamp(0),
    };
    graph.route(exchange, &routing)
}

/// A message of which nothing matters.
fn content() -> Content<'static> {
    static BODY: bytes::Bytes = bytes::Bytes::new();
    Content {
        exchange: "",
        properties: Properties::NONE,
        body: &BODY,
    }
}

fn names(routed: &Routed) -> Vec<String> {
    let queues = routed.queues.iter();
    let mut names: Vec<_> = queues.map(|queue| queue.name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn the_default_exchange_leads_to_the_queue_of_the_name() {
    let graph = graph(&[], &["q"]);
    assert_eq!(routed(&graph, "", "q"), ["q"]);
    assert!(routed(&graph, "", "other").is_empty());
    assert!(found(&graph, "x", &["q"], &Properties::default()).is_none());
}

#[test]
fn direct_and_fanout_choose_by_key_and_not() {
    let mut graph = graph(&[("d", Kind::Direct), ("f", Kind::Fanout)], &["a", "b"]);
    assert!(bind(&mut graph, "d", "k", queue("a")));
    assert!(!bind(&mut graph, "d", "k", queue("a")), "it is there");
    bind(&mut graph, "d", "k", queue("b"));
    bind(&mut graph, "d", "l", queue("b"));
    assert_eq!(routed(&graph, "d", "k"), ["a", "b"]);
    assert_eq!(routed(&graph, "d", "l"), ["b"]);
    assert!(routed(&graph, "d", "").is_empty());
    bind(&mut graph, "f", "x", queue("a"));
    bind(&mut graph, "f", "y", queue("a"));
    assert_eq!(routed(&graph, "f", "z"), ["a"], "one copy");
}

#[test]
fn topics_match_words() {
    let mut graph = graph(&[("t", Kind::Topic)], &["q"]);
    for (pattern, matching, others) in [
        (
            "a.#.b",
            &["a.b", "a.x.b", "a.x.y.b"][..],
            &["a", "a.b.c", "b"][..],
        ),
        ("#", &["", "a", "a.b", "a..b"], &[]),
        ("*", &["a", "a/b"], &["", "a.b"]),
        ("*.*", &["a.b", ".", "a."], &["a", "a.b.c"]),
        ("a.*.c", &["a.b.c", "a..c"], &["a.c", "a.b.b.c"]),
        ("x+y", &["x+y"], &["xxy"]),
    ] {
        bind(&mut graph, "t", pattern, queue("q"));
        for key in matching {
            assert_eq!(routed(&graph, "t", key), ["q"], "{pattern} {key}");
        }
        for key in others {
            assert!(routed(&graph, "t", key).is_empty(), "{pattern} {key}");
        }
        let binding = Binding {
            destination: queue("q"),
            arguments: Arc::default(),
        };
        assert!(graph.unbind("t", pattern, &binding));
        assert!(!graph.unbind("t", pattern, &binding));
    }
}

#[test]
fn headers_match_all_or_any_by_type_and_value() {
    let mut graph = graph(
        &[("h", Kind::Headers)],
        &["all", "any", "x", "there", "nothing"],
    );
    for (name, pairs) in [
        (
            "all",
            &[
                ("x-match", text("all")),
                ("n", Value::I32(1)),
                ("s", text("v")),
            ][..],
        ),
        (
            "any",
            &[
                ("x-match", text("any")),
                ("n", Value::I32(1)),
                ("s", text("v")),
            ],
        ),
        (
            "x",
            &[("x-match", text("all-with-x")), ("x-n", Value::I32(1))],
        ),
        ("there", &[("p", Value::Void)]),
        (
            "nothing",
            &[("x-match", text("any")), ("x-n", Value::I32(1))],
        ),
    ] {
        let binding = Binding {
            destination: queue(name),
            arguments: arguments(pairs),
        };
        graph.bind("h", &"".into(), binding);
    }
    for (pairs, names) in [
        (
            &[("n", Value::I64(1)), ("s", text("v"))][..],
            &["all", "any"][..],
        ),
        (&[("n", Value::I32(1))], &["any"]),
        (&[("n", text("1"))], &[]),
        (&[("x-n", Value::I32(1))], &["x"]),
        (&[("p", Value::Bool(false))], &["there"]),
        (&[], &[]),
    ] {
        let headers = arguments(pairs);
        let headers = Table::decode(&headers).unwrap();
        assert_eq!(routed_by(&graph, "h", "", headers), names, "{headers:?}");
    }
    // An exchange may say how bindings compare that do not say it.
    exchange(&mut graph, "i", Kind::Headers, &[("x-match", text("any"))]);
    for (name, pairs) in [
        ("any", &[("a", Value::I32(1)), ("b", Value::I32(2))][..]),
        (
            "all",
            &[
                ("x-match", text("all")),
                ("a", Value::I32(1)),
                ("b", Value::I32(2)),
            ],
        ),
    ] {
        let binding = Binding {
            destination: queue(name),
            arguments: arguments(pairs),
        };
        graph.bind("i", &"".into(), binding);
    }
    let one = arguments(&[("b", Value::I32(2))]);
    let one = Table::decode(&one).unwrap();
    assert_eq!(routed_by(&graph, "i", "", one), ["any"]);
    let most = [("x-match", text("most"))];
    assert!(declare(&mut graph, "j", "headers", &most).is_err());
    let odd = arguments(&[("x-match", text("most"))]);
    let odd = Table::decode(&odd).unwrap();
    assert!(Kind::Headers.check_binding("", &odd).is_err());
}

#[test]
fn circles_end_and_each_queue_is_reached_once() {
    let mut graph = graph(&[("a", Kind::Fanout), ("b", Kind::Fanout)], &["q"]);
    bind(&mut graph, "a", "", Destination::Exchange("b".into()));
    bind(&mut graph, "b", "", Destination::Exchange("a".into()));
    bind(&mut graph, "a", "", Destination::Exchange("a".into()));
    bind(&mut graph, "a", "", queue("q"));
    bind(&mut graph, "b", "", queue("q"));
    assert_eq!(routed(&graph, "a", ""), ["q"]);
    assert_eq!(routed(&graph, "b", ""), ["q"]);
}

#[test]
fn what_matches_nothing_goes_to_the_alternate_and_its_alternate() {
    let mut graph = graph(&[("last", Kind::Fanout)], &["q", "direct"]);
    exchange(&mut graph, "a", Kind::Direct, &[(ALTERNATES[0], text("b"))]);
    exchange(
        &mut graph,
        "b",
        Kind::Direct,
        &[(ALTERNATES[0], text("last"))],
    );
    bind(&mut graph, "last", "", queue("q"));
    bind(&mut graph, "b", "k", queue("direct"));
    assert_eq!(routed(&graph, "a", "k"), ["direct"]);
    assert_eq!(routed(&graph, "a", "other"), ["q"]);
    exchange(
        &mut graph,
        "c",
        Kind::Direct,
        &[(ALTERNATES[1], text("last"))],
    );
    assert_eq!(routed(&graph, "c", "other"), ["q"], "as LavinMQ says it");
    exchange(
        &mut graph,
        "round",
        Kind::Direct,
        &[(ALTERNATES[0], text("and"))],
    );
    exchange(
        &mut graph,
        "and",
        Kind::Direct,
        &[(ALTERNATES[0], text("round"))],
    );
    assert!(routed(&graph, "round", "k").is_empty(), "a circle ends");
}

#[test]
fn what_goes_takes_its_bindings_and_orphans_the_exchanges_before_it() {
    let mut graph = graph(&[("a", Kind::Fanout), ("b", Kind::Fanout)], &["q"]);
    bind(&mut graph, "a", "k", Destination::Exchange("b".into()));
    bind(&mut graph, "b", "l", queue("q"));
    let before = graph.generation();
    let removed = graph.remove_queue("q");
    assert!(graph.generation() > before);
    assert_eq!(removed.bindings.len(), 1);
    assert_eq!(removed.orphans, ["b".into()]);
    let removed = graph.remove_exchange("b");
    assert_eq!(removed.orphans, ["a".into()]);
    assert!(graph.exchange("a").is_some_and(Exchange::is_unused));
}

#[test]
fn a_delayed_message_waits_wherever_it_meets_an_exchange_that_delays() {
    let mut graph = graph(&[("f", Kind::Fanout)], &["at-once", "later"]);
    declare(
        &mut graph,
        "d",
        DELAYED,
        &[("x-delayed-type", text("direct"))],
    )
    .unwrap();
    let waiting = Waiting {
        exchange: "d".into(),
        shard: ShardId(0),
        stream: StreamId(99),
    };
    graph.set_waiting(waiting.clone());
    bind(&mut graph, "f", "", queue("at-once"));
    bind(&mut graph, "f", "", Destination::Exchange("d".into()));
    bind(&mut graph, "d", "k", queue("later"));
    assert_eq!(routed(&graph, "f", "k"), ["at-once", "later"], "no delay");
    for (delay, ms) in [
        (Value::I32(5), Some(5)),
        (Value::I64(1 << 52), Some(1 << 52)),
        (text("7"), Some(7)),
        (Value::F64(8.5), Some(8)),
        (Value::I32(0), None),
        (Value::I32(-5), None),
        (text("soon"), None),
    ] {
        let headers = arguments(&[(DELAY, delay)]);
        let properties = Properties {
            headers: Some(Table::decode(&headers).unwrap()),
            ..Properties::default()
        };
        let routed = found(&graph, "f", &["k"], &properties).unwrap();
        assert!(routed.by_message);
        match ms {
            None => assert_eq!(
                (names(&routed), routed.beside.waiting),
                (vec!["at-once".into(), "later".into()], vec![])
            ),
            Some(ms) => {
                assert_eq!(names(&routed), ["at-once"], "{delay:?}");
                assert_eq!(
                    (routed.beside.delay_ms, &routed.beside.waiting[..]),
                    (ms, &[waiting.clone()][..])
                );
            }
        }
        let routing = Routing {
            keys: &["k"],
            properties: &properties,
            content: content(),
            due: true,
            now: Timestamp(0),
        };
        assert_eq!(names(&graph.route("d", &routing).unwrap()), ["later"]);
    }
    for wrong in [
        &[][..],
        &[("x-delayed-type", text("x-delayed-message"))],
        &[("x-delayed-type", text("odd"))],
    ] {
        assert!(
            declare(&mut graph, "w", DELAYED, wrong).is_err(),
            "{wrong:?}"
        );
    }
}

#[test]
fn what_an_exchange_has_had_goes_nowhere() {
    let mut graph = graph(&[], &["q", "r", "alternate"]);
    let dedup = [
        ("x-message-deduplication", Value::Bool(true)),
        (ALTERNATES[0], text("other")),
    ];
    declare(&mut graph, "x", "direct", &dedup).unwrap();
    exchange(&mut graph, "other", Kind::Fanout, &[]);
    bind(&mut graph, "other", "", queue("alternate"));
    bind(&mut graph, "x", "k", queue("q"));
    bind(&mut graph, "x", "l", queue("r"));
    let headers = arguments(&[("x-deduplication-header", text("1"))]);
    let properties = Properties {
        headers: Some(Table::decode(&headers).unwrap()),
        ..Properties::default()
    };
    // One message, whatever number of keys it has.
    let first = found(&graph, "x", &["k", "l"], &properties).unwrap();
    assert_eq!(names(&first), ["q", "r"]);
    assert!(first.by_message);
    let again = found(&graph, "x", &["k"], &properties).unwrap();
    assert!(again.queues.is_empty() && again.noted.is_empty());
    let [Noted::Exchange(name, key)] = &first.noted[..] else {
        panic!("{:?}", first.noted);
    };
    graph.forget(name, *key);
    assert_eq!(
        names(&found(&graph, "x", &["k"], &properties).unwrap()),
        ["q"]
    );
    assert_eq!(routed(&graph, "x", "k"), ["q"], "without a key it is new");
}

#[test]
fn bindings_are_counted_whichever_way_they_go() {
    let mut graph = graph(
        &[("a", Kind::Direct), ("b", Kind::Topic), ("c", Kind::Fanout)],
        &["p", "q"],
    );
    let queue = |name: &str| Destination::Queue(name.into());
    let exchange = |name: &str| Destination::Exchange(name.into());
    let bind = |graph: &mut Graph, source, key: &str, destination| {
        let binding = Binding {
            destination,
            arguments: Arc::default(),
        };
        graph.bind(source, &key.into(), binding)
    };
    for (source, key, destination) in [
        ("a", "k", queue("p")),
        ("a", "k", queue("q")),
        ("b", "#", queue("q")),
        ("b", "#", exchange("c")),
        ("c", "", queue("p")),
    ] {
        assert!(bind(&mut graph, source, key, destination));
    }
    assert!(!bind(&mut graph, "a", "k", queue("p")), "once");
    assert_eq!(graph.sizes(), (3, 5));
    let binding = Binding {
        destination: queue("p"),
        arguments: Arc::default(),
    };
    assert!(graph.is_bound("a", "k", &binding) && !graph.is_bound("b", "#", &binding));
    assert!(graph.unbind("a", "k", &binding) && !graph.unbind("a", "k", &binding));
    assert_eq!(graph.sizes(), (3, 4));
    graph.remove_queue("q");
    assert_eq!(graph.sizes(), (3, 2));
    graph.remove_exchange("c");
    assert_eq!(graph.sizes(), (2, 0), "those from it and those to it");
}
