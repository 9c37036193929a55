//! Exchanges that pick one of their bindings.

use super::*;

/// How many of so many messages with different keys each queue gets.
fn shares(graph: &Graph, exchange: &str, messages: u32) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for number in 0..messages {
        let names = routed(graph, exchange, &format!("key.{number}"));
        let [name] = &names[..] else {
            panic!("{names:?}");
        };
        *shares.entry(name.clone()).or_default() += 1;
    }
    shares
}

#[test]
fn a_consistent_hash_divides_by_weight_and_moves_only_what_it_must() {
    let names = ["a", "b", "c"];
    let mut graph = graph(&[("h", Kind::ConsistentHash)], &names);
    bind(&mut graph, "h", "1", queue("a"));
    assert_eq!(shares(&graph, "h", 10)["a"], 10, "all goes to the only one");
    bind(&mut graph, "h", "2", queue("b"));
    bind(&mut graph, "h", "5", queue("c"));
    let divided = shares(&graph, "h", 8_000);
    for (name, weight) in [("a", 1_000_u32), ("b", 2_000), ("c", 5_000)] {
        let off = divided[name].abs_diff(weight);
        assert!(off < 200, "{name}: {divided:?}");
    }
    let key = |number: u32| format!("key.{number}");
    let before: Vec<_> = (0..1_000).map(|n| routed(&graph, "h", &key(n))).collect();
    graph.remove_queue("b");
    for (number, before) in (0..1_000).zip(&before) {
        let now = routed(&graph, "h", &key(number));
        assert!(before == &now || before == &["b"], "{before:?} {now:?}");
    }
}

#[test]
fn a_consistent_hash_goes_by_what_its_arguments_name() {
    let mut graph = graph(&[], &["a", "b", "c", "d"]);
    let property = [("hash-property", text("message_id"))];
    declare(
        &mut graph,
        "h",
        "x-consistent-hash",
        &[("hash-header", text("user"))],
    )
    .unwrap();
    declare(
        &mut graph,
        "l",
        "x-consistent-hash",
        &[("x-hash-on", text("user"))],
    )
    .unwrap();
    declare(&mut graph, "m", "x-consistent-hash", &property).unwrap();
    for (exchange, name) in [
        ("h", "a"),
        ("h", "b"),
        ("l", "a"),
        ("l", "b"),
        ("m", "c"),
        ("m", "d"),
    ] {
        bind(&mut graph, exchange, "10", queue(name));
    }
    let mut seen = HashSet::new();
    for number in 0..50 {
        let user = number.to_string();
        let headers = arguments(&[("user", text(&user))]);
        let headers = Table::decode(&headers).unwrap();
        for exchange in ["h", "l"] {
            let one = routed_by(&graph, exchange, "some", headers);
            assert_eq!(one, routed_by(&graph, exchange, "other", headers));
            seen.insert(one);
        }
        let properties = Properties {
            message_id: Some(&user),
            ..Properties::default()
        };
        let routed = found(&graph, "m", &["k"], &properties).unwrap();
        assert!(routed.by_message);
        seen.insert(names(&routed));
    }
    assert_eq!(seen.len(), 4);
    let both = [("hash-header", text("a")), property[0]];
    for wrong in [
        &both[..],
        &[("hash-property", text("app_id"))],
        &[("hash-header", Value::I32(1))],
    ] {
        assert!(declare(&mut graph, "w", "x-consistent-hash", wrong).is_err());
    }
    for (key, fine) in [
        ("1", true),
        (" 7", true),
        ("0", false),
        ("-1", false),
        ("x", false),
        ("", false),
    ] {
        let checked = Kind::ConsistentHash.check_binding(key, &Table::default());
        assert_eq!(checked.is_ok(), fine, "{key}");
    }
}

#[test]
fn random_and_modulus_pick_one() {
    let kinds = [
        ("r", Kind::Random),
        ("l", Kind::LocalRandom),
        ("m", Kind::ModulusHash),
    ];
    let mut graph = graph(&kinds, &["a", "b", "c"]);
    for (exchange, _) in kinds {
        assert!(routed(&graph, exchange, "k").is_empty(), "nothing is bound");
        for name in ["a", "b", "c"] {
            bind(&mut graph, exchange, "", queue(name));
        }
        let divided = shares(&graph, exchange, 3_000);
        assert_eq!(divided.len(), 3);
        assert!(divided.values().all(|share| *share > 800), "{divided:?}");
    }
    assert_eq!(routed(&graph, "m", "k"), routed(&graph, "m", "k"));
}
