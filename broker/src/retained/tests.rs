use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use longtail_model::{DollarRule, Filter};
use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy;

use super::*;

fn subject(text: &str) -> Subject {
    Subject::new(text).unwrap()
}

fn value(text: &str, body: &str, expires: Timestamp) -> SharedMessage {
    let message = Message::new(subject(text), Bytes::copy_from_slice(body.as_bytes()));
    Arc::new(Message {
        expires,
        retain: true,
        ..message
    })
}

fn find(
    store: &RetainedStore,
    filter: &str,
    rule: DollarRule,
    now: Timestamp,
    pace: usize,
) -> Vec<String> {
    let mut cursor = RetainedCursor::new(Filter::new(filter).unwrap(), rule);
    let mut found = Vec::new();
    while cursor.step(store, now, pace, &mut found) {}
    assert!(cursor.is_done());
    found
        .iter()
        .map(|message| message.subject.to_string())
        .collect()
}

fn all(store: &RetainedStore, filter: &str) -> Vec<String> {
    find(store, filter, DollarRule::Match, Timestamp(0), 3)
}

fn set(store: &RetainedStore, message: SharedMessage) -> Result<(), RetainedError> {
    let settled = store.set(message, Box::new(|_| panic!("there is no log")))?;
    assert_eq!(settled, Settled::Now);
    Ok(())
}

fn clear(store: &RetainedStore, text: &str) {
    let settled = store.clear(&subject(text), Box::new(|_| panic!("there is no log")));
    assert_eq!(settled, Settled::Now);
}

fn filled(subjects: &[&str]) -> RetainedStore {
    let store = RetainedStore::default();
    for text in subjects {
        set(&store, value(text, "v", Timestamp::NEVER)).unwrap();
    }
    store
}

#[test]
fn the_latest_value_wins_and_clearing_forgets_it() {
    let store = filled(&["a"]);
    set(&store, value("a", "new", Timestamp::NEVER)).unwrap();
    assert_eq!(
        store.get(&subject("a"), Timestamp(0)).unwrap().payload,
        "new"
    );
    assert_eq!(store.bytes(), 4 + RetainedStore::OVERHEAD);
    clear(&store, "a");
    clear(&store, "a");
    assert!(store.is_empty());
    assert_eq!(store.bytes(), 0);
}

#[test]
fn look_ups_by_wildcard() {
    let store = filled(&[
        "", "a", "a!", "a/b", "a/b/c", "a/b!/c", "a//c", "b/b/c", "$SYS/b/c", "/",
    ]);
    assert_eq!(all(&store, "a/b"), ["a/b"]);
    assert_eq!(all(&store, "a/#"), ["a", "a//c", "a/b", "a/b/c", "a/b!/c"]);
    assert_eq!(all(&store, "a/>"), ["a//c", "a/b", "a/b/c", "a/b!/c"]);
    assert_eq!(all(&store, "+/b/c"), ["$SYS/b/c", "a/b/c", "b/b/c"]);
    assert_eq!(
        find(&store, "+/b/c", DollarRule::Hide, Timestamp(0), 1),
        ["a/b/c", "b/b/c"]
    );
    assert_eq!(all(&store, "+/+"), ["/", "a/b"]);
    assert_eq!(
        all(&store, "#/c"),
        ["$SYS/b/c", "a//c", "a/b/c", "a/b!/c", "b/b/c"]
    );
    assert_eq!(
        all(&filled(&["/a", "a//a"]), "+//>"),
        ["a//a"],
        "an empty first token is a token"
    );
    assert_eq!(all(&store, "z/#"), [""; 0]);
    assert_eq!(all(&store, "#").len(), store.len());
}

#[test]
fn look_ups_leap_over_what_cannot_match() {
    let store = RetainedStore::default();
    for site in 0..20 {
        for device in 0..500 {
            set(
                &store,
                value(
                    &format!("site{site:02}/{device:03}/temp"),
                    "v",
                    Timestamp::NEVER,
                ),
            )
            .unwrap();
        }
    }
    let mut cursor = RetainedCursor::new(Filter::new("+/250/temp").unwrap(), DollarRule::Hide);
    let mut found = Vec::new();
    // At most three looks for each site: its first entry, the match, the one behind it.
    assert!(!cursor.step(&store, Timestamp(0), 61, &mut found));
    assert_eq!(found.len(), 20);
}

#[test]
fn values_expire() {
    let store = RetainedStore::default();
    for (text, expires) in [("a", 10), ("b", 20), ("c", 30)] {
        set(&store, value(text, "v", Timestamp(expires))).unwrap();
    }
    set(&store, value("d", "v", Timestamp::NEVER)).unwrap();
    // A new value has a new deadline.
    set(&store, value("a", "v", Timestamp(25))).unwrap();
    assert_eq!(store.next_expiry(), Timestamp(20));
    assert!(store.get(&subject("b"), Timestamp(19)).is_some());
    assert!(store.get(&subject("b"), Timestamp(20)).is_none());
    assert_eq!(
        find(&store, "#", DollarRule::Match, Timestamp(20), 9),
        ["a", "c", "d"]
    );
    assert_eq!(store.expire(Timestamp(19), 9, |_| {}), 0);
    assert_eq!(store.expire(Timestamp(30), 2, |_| {}), 2);
    assert_eq!(store.expire(Timestamp(30), 2, |_| {}), 1);
    assert_eq!(store.len(), 1);
    assert_eq!(store.next_expiry(), Timestamp::NEVER);
}

#[test]
fn limits_refuse_but_let_replace() {
    let entry = RetainedStore::OVERHEAD + 2;
    let store = RetainedStore::new(RetainedLimits {
        messages_max: 2,
        bytes_max: 2 * entry + 1,
    });
    set(&store, value("a", "1", Timestamp::NEVER)).unwrap();
    set(&store, value("b", "1", Timestamp::NEVER)).unwrap();
    let third = value("c", "1", Timestamp::NEVER);
    assert_eq!(
        set(&store, third),
        Err(RetainedError::TooManyMessages { limit: 2 })
    );
    assert!(set(&store, value("a", "12", Timestamp::NEVER)).is_ok());
    let larger = set(&store, value("b", "12", Timestamp::NEVER));
    assert_eq!(
        larger,
        Err(RetainedError::TooManyBytes {
            limit: 2 * entry + 1
        })
    );
    assert_eq!(store.bytes(), 2 * entry + 1);
}

fn any_subject() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "b!", "$c", ""]), 0..5)
        .prop_map(|t| t.join("/"))
}

fn any_filter() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec!["a", "b", "$c", "", "+", "#"]);
    (prop::collection::vec(token, 0..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest {
            tokens.push(">");
        }
        tokens.join("/")
    })
}

#[derive(Clone, Debug)]
enum Step {
    Set(String, u64),
    Clear(String),
    Expire(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any_subject(), prop_oneof![Just(u64::MAX), 1..50_u64]).prop_map(|(s, at)| Step::Set(s, at)),
        2 => any_subject().prop_map(Step::Clear),
        1 => (0..50_u64).prop_map(Step::Expire),
    ]
}

proptest! {
    #[test]
    fn the_store_agrees_with_a_list(
        steps in prop::collection::vec(any_step(), 0..80),
        filter in any_filter(),
        hide in any::<bool>(),
        now in 0..50_u64,
        pace in 1..6_usize,
    ) {
        let store = RetainedStore::default();
        let mut model: BTreeMap<String, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Set(text, expires) => {
                    set(&store, value(&text, "v", Timestamp(expires))).unwrap();
                    model.insert(text, expires);
                }
                Step::Clear(text) => {
                    let there = model.remove(&text).is_some_and(|expires| expires > 0);
                    prop_assert_eq!(store.get(&subject(&text), Timestamp(0)).is_some(), there);
                    clear(&store, &text);
                }
                Step::Expire(now) => {
                    let before = model.len();
                    model.retain(|_, expires| *expires > now);
                    prop_assert_eq!(store.expire(Timestamp(now), 100, |_| {}), before - model.len());
                }
            }
        }
        let next = model.values().min().map_or(u64::MAX, |expires| *expires);
        prop_assert_eq!(store.next_expiry(), Timestamp(next));
        let bytes: usize = model.keys().map(|text| text.len() + 1).sum();
        prop_assert_eq!(store.bytes(), (bytes as u64) + RetainedStore::OVERHEAD * model.len() as u64);
        let rule = if hide { DollarRule::Hide } else { DollarRule::Match };
        let mut found = find(&store, &filter, rule, Timestamp(now), pace);
        found.sort();
        let pattern = Filter::new(&filter).unwrap();
        let expected: Vec<String> = model
            .iter()
            .filter(|(text, expires)| **expires > now && pattern.matches_with(subject(text).as_ref(), rule))
            .map(|(text, _)| text.clone())
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_walk_finds_what_stays_exactly_once(
        stay in prop::collection::btree_set(any_subject(), 1..20),
        changes in prop::collection::vec((any_subject(), any::<bool>()), 1..20),
    ) {
        let store = RetainedStore::default();
        for text in &stay {
            set(&store, value(text, "v", Timestamp::NEVER)).unwrap();
        }
        let mut cursor = RetainedCursor::everything();
        let mut found = Vec::new();
        let mut changes = changes.iter().cycle();
        while cursor.step(&store, Timestamp(0), 1, &mut found) {
            if let Some((text, is_set)) = changes.next() {
                if *is_set {
                    // Bounded: a walk that is always given more ahead of it need not end.
                    set(&store, value(text, "v", Timestamp::NEVER)).unwrap();
                } else if !stay.contains(text) {
                    clear(&store, text);
                }
            }
        }
        for text in &stay {
            prop_assert_eq!(found.iter().filter(|message| message.subject.as_str() == text).count(), 1);
        }
        let mut once: Vec<_> = found.iter().map(|message| message.subject.to_string()).collect();
        once.sort();
        once.dedup();
        prop_assert!(once.len() == found.len());
    }
}
