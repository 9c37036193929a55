use std::collections::BTreeMap;

use longtail_model::Subject;
use proptest::prelude::{any, prop, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;

use super::*;

type TestRouter = Router<u32, u32>;

fn filter(text: &str) -> Filter {
    Filter::new(text).unwrap()
}

fn subject(text: &str) -> Subject {
    Subject::new(text).unwrap()
}

fn group(name: &str, scope: GroupScope, strategy: Strategy) -> Option<GroupSpec> {
    Some(GroupSpec {
        name: Arc::from(name),
        scope,
        strategy,
    })
}

/// Targets with their options, groups with their members.
type Found = (BTreeMap<u32, Vec<u32>>, Vec<(String, Vec<u32>)>);

/// What a look-up found, in an order that can be compared.
fn found(routes: &Routes<u32, u32>) -> Found {
    let mut targets = BTreeMap::new();
    for route in routes.targets() {
        let mut options = route.options.to_vec();
        options.sort_unstable();
        assert!(
            targets.insert(route.key, options).is_none(),
            "target {} twice",
            route.key
        );
    }
    let mut groups: Vec<_> = routes
        .groups()
        .iter()
        .map(|group| {
            let mut members: Vec<u32> = group.members().map(|member| member.key).collect();
            members.sort_unstable();
            (group.name().to_owned(), members)
        })
        .collect();
    groups.sort();
    (targets, groups)
}

fn matched(router: &TestRouter, text: &str) -> BTreeMap<u32, Vec<u32>> {
    let mut routes = Routes::default();
    router.routes(subject(text).as_ref(), &mut routes);
    found(&routes).0
}

fn keys(router: &TestRouter, text: &str) -> Vec<u32> {
    matched(router, text).into_keys().collect()
}

#[test]
fn a_target_comes_once_with_all_its_options() {
    let router = TestRouter::default();
    for (text, options) in [
        ("a/b", 1),
        ("a/+", 2),
        ("#", 3),
        ("a/>", 4),
        ("#/b", 5),
        ("#/b/#", 6),
    ] {
        assert_eq!(
            router.subscribe(&filter(text), 7, Subscription::new(options)),
            Ok(Subscribed::New)
        );
    }
    assert_eq!(
        matched(&router, "a/b"),
        BTreeMap::from([(7, vec![1, 2, 3, 4, 5, 6])])
    );
    assert_eq!(
        matched(&router, "b/b/b"),
        BTreeMap::from([(7, vec![3, 5, 6])])
    );
    assert_eq!(
        router.subscribe(&filter("a/+"), 7, Subscription::new(9)),
        Ok(Subscribed::Replaced)
    );
    assert_eq!(router.len(), 6);
    assert_eq!(
        matched(&router, "a/c"),
        BTreeMap::from([(7, vec![3, 4, 9])])
    );
    assert!(router.unsubscribe(&filter("#"), 7, None));
    assert!(!router.unsubscribe(&filter("#"), 7, None));
    assert!(matched(&router, "c").is_empty());
    assert!(!router.has_interest(subject("c").as_ref()));
    assert!(router.has_interest(subject("b").as_ref()));
}

#[test]
fn the_same_language_written_twice_is_two_subscriptions() {
    let router = TestRouter::default();
    for text in ["a/>", "a/+/#"] {
        router
            .subscribe(&filter(text), 1, Subscription::new(0))
            .unwrap();
    }
    assert!(router.unsubscribe(&filter("a/>"), 1, None));
    assert_eq!(keys(&router, "a/b"), [1]);
}

#[test]
fn hidden_wildcards_do_not_see_dollar_subjects() {
    let router = TestRouter::default();
    let hide = |options| Subscription {
        dollar: DollarRule::Hide,
        ..Subscription::new(options)
    };
    router.subscribe(&filter("#"), 1, hide(0)).unwrap();
    router
        .subscribe(&filter("#"), 2, Subscription::new(0))
        .unwrap();
    router.subscribe(&filter("$SYS/#"), 3, hide(0)).unwrap();
    let member = Subscription {
        group: group("g", GroupScope::Filter, Strategy::RoundRobin),
        ..hide(0)
    };
    router.subscribe(&filter("+/x"), 4, member).unwrap();
    assert_eq!(keys(&router, "$SYS/x"), [2, 3]);
    assert_eq!(keys(&router, "a"), [1, 2]);
    let mut routes = Routes::default();
    router.routes(subject("$SYS/x").as_ref(), &mut routes);
    assert!(routes.groups().is_empty());
    router.routes(subject("a/x").as_ref(), &mut routes);
    assert_eq!(routes.groups().len(), 1);
}

#[test]
fn limits_refuse_and_change_nothing() {
    let router = TestRouter::new(RouterLimits {
        subscriptions_max: 3,
        group_members_max: 1,
    });
    let member = || Subscription {
        group: group("g", GroupScope::Filter, Strategy::Random),
        ..Subscription::new(0)
    };
    router.subscribe(&filter("a"), 1, member()).unwrap();
    assert_eq!(
        router.subscribe(&filter("a"), 2, member()),
        Err(SubscribeError::TooManyMembers { limit: 1 })
    );
    assert_eq!(
        router.subscribe(&filter("a"), 1, member()),
        Ok(Subscribed::Replaced)
    );
    router.subscribe(&filter("b"), 2, member()).unwrap();
    router
        .subscribe(&filter("+"), 3, Subscription::new(0))
        .unwrap();
    let refused = router.subscribe(&filter("c"), 1, Subscription::new(0));
    assert_eq!(
        refused,
        Err(SubscribeError::TooManySubscriptions { limit: 3 })
    );
    assert_eq!(router.len(), 3);
    assert!(router.unsubscribe(&filter("a"), 1, Some("g")));
    assert!(
        !router.unsubscribe(&filter("b"), 2, None),
        "it is a member, not a subscriber of its own"
    );
    assert_eq!(
        router.subscribe(&filter("c"), 1, Subscription::new(0)),
        Ok(Subscribed::New)
    );
}

fn picks(router: &TestRouter, text: &str, chances: impl IntoIterator<Item = Chance>) -> Vec<u32> {
    let mut routes = Routes::default();
    router.routes(subject(text).as_ref(), &mut routes);
    let [group] = routes.groups() else {
        panic!("{} groups", routes.groups().len())
    };
    chances
        .into_iter()
        .map(|chance| {
            let order: Vec<u32> = group.pick(&chance).map(|member| member.key).collect();
            assert_eq!(order.len(), group.members().count());
            order[0]
        })
        .collect()
}

#[test]
fn groups_pick_one_member() {
    let router = TestRouter::default();
    let join = |text: &str, key, scope, strategy| {
        let subscription = Subscription {
            group: group("g", scope, strategy),
            ..Subscription::new(0)
        };
        router.subscribe(&filter(text), key, subscription).unwrap();
    };
    for key in 0..3 {
        join("turn", key, GroupScope::Filter, Strategy::RoundRobin);
        join("random", key, GroupScope::Filter, Strategy::Random);
        join("first", key, GroupScope::Filter, Strategy::First);
        join("sticky/+", key, GroupScope::Filter, Strategy::ByPublisher);
        join("subject/+", key, GroupScope::Filter, Strategy::BySubject);
    }
    assert_eq!(picks(&router, "turn", [Chance::default(); 4]), [0, 1, 2, 0]);
    // The turn goes on when the membership changes.
    join("turn", 3, GroupScope::Filter, Strategy::RoundRobin);
    assert_eq!(picks(&router, "turn", [Chance::default(); 2]), [0, 1]);
    let random = [5, 6, 8].map(|random| Chance {
        random,
        ..Chance::default()
    });
    assert_eq!(picks(&router, "random", random), [2, 0, 2]);

    assert_eq!(picks(&router, "first", random), [0, 0, 0]);
    router.unsubscribe(&filter("first"), 0, Some("g"));
    assert_eq!(picks(&router, "first", random), [1, 1, 1]);

    let of_subject = |subject| Chance {
        subject,
        ..Chance::default()
    };
    let by_subject = picks(&router, "subject/a", (0..64).map(of_subject));
    assert!((0..3).all(|key| by_subject.contains(&key)));
    let again = (0..64).map(|subject| Chance {
        random: 3,
        publisher: subject * 5,
        subject,
    });
    assert_eq!(by_subject, picks(&router, "subject/a", again));

    let sticky: Vec<Chance> = (0..64)
        .map(|publisher| Chance {
            random: publisher * 7,
            publisher,
            subject: publisher * 11,
        })
        .collect();
    let before = picks(&router, "sticky/a", sticky.clone());
    assert_eq!(before, picks(&router, "sticky/b", sticky.clone()));
    assert!((0..3).all(|key| before.contains(&key)));
    router.unsubscribe(&filter("sticky/+"), 1, Some("g"));
    let after = picks(&router, "sticky/a", sticky);
    for (before, after) in before.iter().zip(&after) {
        assert!(
            *before == 1 || before == after,
            "only the keys of the member that left may move"
        );
    }
}

#[test]
fn the_scope_of_a_group_says_whether_filters_share_it() {
    let router = TestRouter::default();
    for (key, text, scope) in [
        (1, "a/+", GroupScope::Space),
        (2, "a/b", GroupScope::Space),
        (3, "a/+", GroupScope::Filter),
        (4, "a/b", GroupScope::Filter),
    ] {
        let name = if scope == GroupScope::Space {
            "nats"
        } else {
            "mqtt"
        };
        let subscription = Subscription {
            group: group(name, scope, Strategy::RoundRobin),
            ..Subscription::new(0)
        };
        router.subscribe(&filter(text), key, subscription).unwrap();
    }
    let mut routes = Routes::default();
    router.routes(subject("a/b").as_ref(), &mut routes);
    let groups = found(&routes).1;
    let expected = [("mqtt", vec![3]), ("mqtt", vec![4]), ("nats", vec![1, 2])];
    assert_eq!(
        groups,
        expected.map(|(name, members)| (name.to_owned(), members))
    );
}

#[test]
fn hostile_nesting_stays_cheap() {
    // Without a memory of what was tried, this walk would take longer than the age of the universe.
    let router = TestRouter::default();
    let nested = ["#"; 8].join("/a/") + "/b";
    router
        .subscribe(&filter(&nested), 1, Subscription::new(0))
        .unwrap();
    let long = ["a"; 127].join("/");
    assert!(keys(&router, &long).is_empty());
    assert_eq!(keys(&router, &format!("{long}/b")), [1]);
}

#[test]
fn caches_notice_changes_and_admit_on_second_sight() {
    let router = TestRouter::default();
    let mut cache = RouteCache::default();
    router
        .subscribe(&filter("a/+"), 1, Subscription::new(0))
        .unwrap();
    let a = subject("a/b");
    for expected in [0, 1, 1] {
        assert_eq!(cache.lookup(&router, a.as_ref()).targets().len(), 1);
        assert_eq!(cache.len(), expected);
    }
    router
        .subscribe(&filter("a/b"), 2, Subscription::new(0))
        .unwrap();
    assert_eq!(cache.lookup(&router, a.as_ref()).targets().len(), 2);
    router
        .subscribe(&filter("#"), 3, Subscription::new(0))
        .unwrap();
    assert_eq!(cache.lookup(&router, a.as_ref()).targets().len(), 3);
    router.update(|batch| {
        for (text, key) in [("a/+", 1), ("a/b", 2), ("#", 3)] {
            assert!(batch.unsubscribe(&filter(text), key, None));
        }
    });
    assert!(cache.lookup(&router, a.as_ref()).is_empty());
    assert!(router.is_empty());
    // One-off subjects leave no trace.
    for number in 0..1_000 {
        cache.lookup(&router, subject(&format!("inbox/{number}")).as_ref());
    }
    assert_eq!(cache.len(), 1);
    // Another router is another matter, even where its counters read the same.
    let other = TestRouter::default();
    other
        .subscribe(&filter("a/b"), 9, Subscription::new(0))
        .unwrap();
    assert_eq!(cache.lookup(&other, a.as_ref()).targets().len(), 1);
}

#[test]
fn caches_do_not_grow_beyond_their_limits() {
    let router = TestRouter::default();
    let mut cache = RouteCache::new(CacheLimits {
        subjects_max: 4,
        targets_max: 10,
    });
    for key in 0..6 {
        router
            .subscribe(&filter("+"), key, Subscription::new(0))
            .unwrap();
    }
    for round in 0..200_u32 {
        let text = (round / 2 % 7).to_string();
        assert_eq!(
            cache
                .lookup(&router, subject(&text).as_ref())
                .targets()
                .len(),
            6
        );
        assert!(
            cache.len() <= 1,
            "two answers of 6 targets exceed the limit of 10"
        );
    }
    assert_eq!(cache.len(), 1);
    // An answer that was admitted may become too wide.
    for key in 6..12 {
        router
            .subscribe(&filter("+"), key, Subscription::new(0))
            .unwrap();
    }
    for number in 0..7_u32 {
        assert_eq!(
            cache
                .lookup(&router, subject(&number.to_string()).as_ref())
                .targets()
                .len(),
            12
        );
    }
    assert_eq!(cache.len(), 0);
}

#[test]
fn readers_never_see_a_change_undone() {
    const KEYS: u32 = 2_000;
    let router = TestRouter::default();
    let a = subject("a/b");
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (router, a) = (&router, &a);
            scope.spawn(move || {
                let mut cache = RouteCache::default();
                let mut routes = Routes::default();
                let mut last = 0;
                while last < KEYS as usize {
                    let seen = if reader == 0 {
                        cache.lookup(router, a.as_ref()).len()
                    } else {
                        router.routes(a.as_ref(), &mut routes);
                        routes.len()
                    };
                    assert!(seen >= last, "{last} subscribers, then {seen}");
                    last = seen;
                }
            });
        }
        for key in 0..KEYS {
            let text = ["a/b", "a/+", "#"][key as usize % 3];
            router
                .subscribe(&filter(text), key, Subscription::new(0))
                .unwrap();
            // What is done is seen by the next publish of whoever did it.
            let mut seen = 0;
            router.visit(a.as_ref(), |_, _| seen += 1);
            assert_eq!(seen, key + 1);
        }
    });
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(String, u32, bool, Option<(u8, bool)>),
    Unsubscribe(String, u32, Option<u8>),
    Publish(String),
}

fn any_filter() -> impl Generator<Value = String> {
    let token = prop::sample::select(vec!["a", "b", "$c", "", "+", "#"]);
    (prop::collection::vec(token, 0..5), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest {
            tokens.push(">");
        }
        tokens.join("/")
    })
}

fn any_step() -> impl Generator<Value = Step> {
    let topic = prop::collection::vec(prop::sample::select(vec!["a", "b", "$c", ""]), 0..5);
    prop_oneof![
        4 => (any_filter(), 0..4_u32, any::<bool>(), prop::option::of((0..2_u8, any::<bool>())))
            .prop_map(|(filter, key, hide, group)| Step::Subscribe(filter, key, hide, group)),
        2 => (any_filter(), 0..4_u32, prop::option::of(0..2_u8))
            .prop_map(|(filter, key, group)| Step::Unsubscribe(filter, key, group)),
        4 => topic.prop_map(|tokens| Step::Publish(tokens.join("/"))),
    ]
}

/// The plain list of subscriptions, as the definition of a match reads.
#[derive(Default)]
struct Model {
    plain: BTreeMap<(String, u32), (bool, u32)>,
    groups: BTreeMap<(String, u8), (bool, bool, Vec<u32>)>,
}

impl Model {
    fn wants(text: &str, hide: bool, subject: &Subject) -> bool {
        let rule = if hide {
            DollarRule::Hide
        } else {
            DollarRule::Match
        };
        filter(text).matches_with(subject.as_ref(), rule)
    }

    fn found(&self, subject: &Subject) -> Found {
        let mut targets: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for ((text, key), (hide, options)) in &self.plain {
            if Model::wants(text, *hide, subject) {
                targets.entry(*key).or_default().push(*options);
            }
        }
        targets
            .values_mut()
            .for_each(|options| options.sort_unstable());
        let mut groups: Vec<(String, Vec<u32>)> = Vec::new();
        let mut wide: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for ((text, name), (hide, space, members)) in &self.groups {
            if Model::wants(text, *hide, subject) {
                if *space {
                    wide.entry(format!("g{name}")).or_default().extend(members);
                } else {
                    groups.push((format!("g{name}"), members.clone()));
                }
            }
        }
        groups.extend(wide);
        groups.iter_mut().for_each(|group| group.1.sort_unstable());
        groups.sort();
        (targets, groups)
    }
}

proptest! {
    #[test]
    fn router_and_cache_agree_with_the_list(steps in prop::collection::vec(any_step(), 1..120)) {
        let router = TestRouter::default();
        let mut cache = RouteCache::new(CacheLimits { subjects_max: 8, targets_max: 12 });
        let mut model = Model::default();
        let mut routes = Routes::default();
        for (number, step) in steps.into_iter().enumerate() {
            let options = u32::try_from(number).unwrap();
            match step {
                Step::Subscribe(text, key, hide, None) => {
                    let dollar = if hide { DollarRule::Hide } else { DollarRule::Match };
                    let new = model.plain.insert((text.clone(), key), (hide, options)).is_none();
                    let subscription = Subscription { dollar, ..Subscription::new(options) };
                    let done = router.subscribe(&filter(&text), key, subscription).unwrap();
                    prop_assert_eq!(done == Subscribed::New, new);
                }
                Step::Subscribe(text, key, hide, Some((name, space))) => {
                    let (dollar, scope) = (
                        if hide { DollarRule::Hide } else { DollarRule::Match },
                        if space { GroupScope::Space } else { GroupScope::Filter },
                    );
                    let members = model.groups.entry((text.clone(), name)).or_insert((hide, space, Vec::new()));
                    if !members.2.contains(&key) {
                        members.2.push(key);
                    }
                    let spec = group(&format!("g{name}"), scope, Strategy::RoundRobin);
                    let subscription = Subscription { options, dollar, group: spec };
                    router.subscribe(&filter(&text), key, subscription).unwrap();
                }
                Step::Unsubscribe(text, key, None) => {
                    let there = model.plain.remove(&(text.clone(), key)).is_some();
                    prop_assert_eq!(router.unsubscribe(&filter(&text), key, None), there);
                }
                Step::Unsubscribe(text, key, Some(name)) => {
                    let mut there = false;
                    if let Some(members) = model.groups.get_mut(&(text.clone(), name)) {
                        let before = members.2.len();
                        members.2.retain(|member| *member != key);
                        there = members.2.len() < before;
                    }
                    model.groups.retain(|_, members| !members.2.is_empty());
                    let group = format!("g{name}");
                    prop_assert_eq!(router.unsubscribe(&filter(&text), key, Some(&group)), there);
                }
                Step::Publish(text) => {
                    let subject = subject(&text);
                    let expected = model.found(&subject);
                    router.routes(subject.as_ref(), &mut routes);
                    prop_assert_eq!(&found(&routes), &expected);
                    for _ in 0..3 {
                        prop_assert_eq!(&found(cache.lookup(&router, subject.as_ref())), &expected);
                    }
                    prop_assert_eq!(router.has_interest(subject.as_ref()), !routes.is_empty());
                    let mut visited = 0;
                    router.visit(subject.as_ref(), |_, _| visited += 1);
                    prop_assert_eq!(visited, expected.0.values().map(Vec::len).sum::<usize>());
                }
            }
            let members: usize = model.groups.values().map(|members| members.2.len()).sum();
            prop_assert_eq!(router.len(), model.plain.len() + members);
        }
    }
}
