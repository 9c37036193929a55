use longtail_model::{ShardId, StreamId};

use super::*;
use crate::codec::TableBuf;
use crate::queue::{QueueArguments, QueueConfig, QueueSettings};

fn arguments(pairs: &[(&str, Value<'_>)]) -> Arc<[u8]> {
    let mut table = TableBuf::default();
    for (key, value) in pairs {
        table.put(key, *value).unwrap();
    }
    table.as_table().as_bytes().into()
}

fn text(text: &str) -> Value<'_> {
    Value::LongString(text.as_bytes())
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
    let config = ExchangeConfig {
        kind,
        durable: false,
        auto_delete: true,
        internal: false,
        arguments: arguments(pairs),
    };
    graph.add_exchange(name.into(), config);
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
    let routed = graph.route(exchange, &Routing { key, headers }).unwrap();
    let mut names: Vec<_> = routed
        .queues
        .iter()
        .map(|queue| queue.name.to_string())
        .collect();
    names.sort();
    names
}

#[test]
fn the_default_exchange_leads_to_the_queue_of_the_name() {
    let graph = graph(&[], &["q"]);
    assert_eq!(routed(&graph, "", "q"), ["q"]);
    assert!(routed(&graph, "", "other").is_empty());
    let routing = Routing {
        key: "q",
        headers: Table::default(),
    };
    assert!(graph.route("x", &routing).is_none());
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
    let odd = arguments(&[("x-match", text("most"))]);
    assert!(!is_match_valid(&Table::decode(&odd).unwrap()));
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
    exchange(&mut graph, "a", Kind::Direct, &[(ALTERNATE, text("b"))]);
    exchange(&mut graph, "b", Kind::Direct, &[(ALTERNATE, text("last"))]);
    bind(&mut graph, "last", "", queue("q"));
    bind(&mut graph, "b", "k", queue("direct"));
    assert_eq!(routed(&graph, "a", "k"), ["direct"]);
    assert_eq!(routed(&graph, "a", "other"), ["q"]);
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
