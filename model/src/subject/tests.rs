use proptest::prelude::*;

use super::*;

fn subject(text: &str) -> Subject {
    Subject::new(text).unwrap()
}

fn filter(text: &str) -> Filter {
    Filter::new(text).unwrap()
}

/// Matching as its definition reads: no cleverness, exponential time.
fn naive(filter: &[FilterToken<'_>], subject: &[&str]) -> bool {
    match (filter.split_first(), subject.split_first()) {
        (None, None) => true,
        (Some((FilterToken::ZeroOrMore, rest)), _) => {
            (0..=subject.len()).any(|taken| naive(rest, &subject[taken..]))
        }
        (Some((FilterToken::OneOrMore, rest)), _) => {
            (1..=subject.len()).any(|taken| naive(rest, &subject[taken..]))
        }
        (Some((FilterToken::One, rest)), Some((_, tail))) => naive(rest, tail),
        (Some((FilterToken::Literal(literal), rest)), Some((token, tail))) => {
            literal == token && naive(rest, tail)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn naive_match(filter: &Filter, subject: &Subject) -> bool {
    let tokens: Vec<_> = filter.tokens().collect();
    let path: Vec<_> = subject.as_ref().tokens().collect();
    naive(&tokens, &path)
}

#[test]
fn limits_and_nul_are_refused() {
    assert_eq!(Subject::new("a\0b"), Err(SubjectError::Nul));
    let long = "a".repeat(65_536);
    assert_eq!(
        Subject::new(&long),
        Err(SubjectError::TooLong {
            bytes: 65_536,
            limit: 65_535
        })
    );
    assert!(Subject::new(&long[1..]).is_ok());
    let deep = "/".repeat(128);
    assert_eq!(
        Subject::new(&deep),
        Err(SubjectError::TooManyTokens {
            tokens: 129,
            limit: 128
        })
    );
    assert!(Filter::new(&deep[1..]).is_ok());
    let tight = SubjectLimits {
        bytes_max: 3,
        tokens_max: 2,
    };
    assert!(SubjectRef::with_limits("a/b", &tight).is_ok());
    assert!(SubjectRef::with_limits("//", &tight).is_err());
}

#[test]
fn empty_subject_has_no_tokens() {
    assert_eq!(subject("").as_ref().tokens().count(), 0);
    assert_eq!(subject("/").as_ref().tokens().collect::<Vec<_>>(), ["", ""]);
    assert!(filter("#").matches(subject("").as_ref()));
    assert!(!filter("+").matches(subject("").as_ref()));
    assert!(filter("").matches(subject("").as_ref()));
    assert!(!filter("").matches(subject("a").as_ref()));
}

#[test]
fn separators_swap_without_loss() {
    assert_eq!(Subject::parse_nats("a.b").unwrap().as_str(), "a/b");
    assert_eq!(Subject::parse_mqtt("a.b/c").unwrap().to_dotted(), "a/b.c");
    assert_eq!(Subject::parse_nats("a/b.c").unwrap().as_str(), "a.b/c");
    assert_eq!(
        Syntax::Amqp.write_subject(subject("a.b/c").as_ref()),
        "a/b.c"
    );
    assert_eq!(
        Syntax::Mqtt.write_subject(subject("a.b/c").as_ref()),
        "a.b/c"
    );
}

#[test]
fn each_syntax_refuses_what_its_protocol_forbids() {
    assert_eq!(Subject::parse_mqtt(""), Err(SubjectError::Empty));
    assert_eq!(Subject::parse_mqtt("a/+"), Err(SubjectError::Wildcard('+')));
    assert_eq!(Subject::parse_mqtt("a#"), Err(SubjectError::Wildcard('#')));
    assert_eq!(Subject::parse_nats("a..b"), Err(SubjectError::EmptyToken));
    assert_eq!(Subject::parse_nats("a.*"), Err(SubjectError::Wildcard('*')));
    assert_eq!(Subject::parse_nats("a b"), Err(SubjectError::Whitespace));
    assert_eq!(Subject::parse_nats("a*b.x>").unwrap().as_str(), "a*b/x>");
    assert!(Subject::parse_amqp("").unwrap().is_empty());
    assert_eq!(
        Filter::parse_mqtt("a/#/b"),
        Err(SubjectError::WildcardNotLast('#'))
    );
    assert_eq!(
        Filter::parse_mqtt("a/b+"),
        Err(SubjectError::PartialWildcard('+'))
    );
    assert_eq!(Filter::parse_mqtt(""), Err(SubjectError::Empty));
    assert_eq!(
        Filter::parse_nats("a.>.b"),
        Err(SubjectError::WildcardNotLast('>'))
    );
    assert_eq!(Filter::parse_nats("a."), Err(SubjectError::EmptyToken));
    assert_eq!(
        Filter::new("a/>/b"),
        Err(SubjectError::WildcardNotLast('>'))
    );
    let many = ["#"; 9].join(".a.");
    assert_eq!(
        Filter::parse_amqp(&many),
        Err(SubjectError::TooManyWildcards { limit: 8 })
    );
}

#[test]
fn what_a_protocol_cannot_express_is_known() {
    assert!(Syntax::Nats.can_express(subject("a/b").as_ref()));
    for text in ["", "a//b", "a b"] {
        assert!(!Syntax::Nats.can_express(subject(text).as_ref()), "{text}");
    }
    assert!(!Syntax::Mqtt.can_express(subject("a/+").as_ref()));
    assert!(Syntax::Mqtt.can_express(subject("a//b").as_ref()));
}

#[test]
fn wildcards_of_one_syntax_are_names_in_another() {
    // NATS has no `+` and no `#`; MQTT has no `*` and no `>`.
    let names = Filter::parse_nats("+.#.x").unwrap();
    assert!(names.is_literal());
    assert_eq!(names.as_str(), r"\+/\#/x");
    assert_eq!(names.to_subject().unwrap().as_str(), "+/#/x");
    assert!(names.matches(subject("+/#/x").as_ref()));
    assert!(!names.matches(subject("a/b/x").as_ref()));
    assert!(Filter::parse_mqtt("*/>").unwrap().is_literal());
    assert!(Filter::literal(subject(r"\a/>").as_ref()).matches(subject(r"\a/>").as_ref()));
}

#[test]
fn tables_of_the_protocols() {
    let mqtt = |f: &str, s: &str| {
        Filter::parse_mqtt(f)
            .unwrap()
            .matches(Subject::parse_mqtt(s).unwrap().as_ref())
    };
    assert!(mqtt("sport/tennis/player1/#", "sport/tennis/player1"));
    assert!(mqtt("sport/#", "sport"));
    assert!(mqtt("+/+", "/finance"));
    assert!(mqtt("/+", "/finance"));
    assert!(!mqtt("+", "/finance"));
    assert!(mqtt("sport/+", "sport/"));
    assert!(!mqtt("sport/+", "sport"));
    let nats = |f: &str, s: &str| {
        Filter::parse_nats(f)
            .unwrap()
            .matches(Subject::parse_nats(s).unwrap().as_ref())
    };
    assert!(nats("time.>", "time.us.east"));
    assert!(!nats("time.>", "time"));
    assert!(nats("*.*.east", "time.us.east"));
    assert!(!nats("time.*", "time.us.east"));
    let amqp = |f: &str, s: &str| {
        Filter::parse_amqp(f)
            .unwrap()
            .matches(Subject::parse_amqp(s).unwrap().as_ref())
    };
    assert!(amqp("a.#.b", "a.b"));
    assert!(amqp("a.#.b", "a.x.y.b"));
    assert!(!amqp("a.#.b", "a.b.c"));
    assert!(amqp("#.#", ""));
    assert!(amqp("*.#.*", "a.b"));
    assert!(!amqp("*.#.*", "a"));
    assert!(amqp("a..b", "a..b"));
    assert!(amqp("a.*.b", "a..b"));
}

#[test]
fn dollar_subjects_hide_from_leading_wildcards_on_request() {
    let system = subject("$SYS/load");
    for text in ["#", "+/load", ">"] {
        assert!(
            !filter(text).matches_with(system.as_ref(), DollarRule::Hide),
            "{text}"
        );
        assert!(filter(text).matches(system.as_ref()), "{text}");
    }
    assert!(filter("$SYS/#").matches_with(system.as_ref(), DollarRule::Hide));
    assert!(filter("#").matches_with(subject("a/$b").as_ref(), DollarRule::Hide));
}

#[test]
fn relations_by_example() {
    let covers = |a: &str, b: &str| filter(a).covers(&filter(b));
    assert!(covers("#", "a/+/b/>"));
    assert!(covers(">", "a"));
    assert!(!covers(">", "#"));
    assert!(covers("a/#", "a/>"));
    assert!(!covers("a/>", "a/#"));
    assert!(covers("#/+", "+/#"));
    assert!(covers("+/#", "#/+"));
    assert!(!covers("a/+/#/b", "a/#/b"));
    assert!(covers("a/#/b", "a/+/#/b"));
    assert!(!covers("a/+", "+/a"));
    assert!(covers("#/a/#", "x/#/a"));
    let overlaps =
        |a: &str, b: &str| filter(a).overlaps(&filter(b)) && filter(b).overlaps(&filter(a));
    assert!(overlaps("a/+", "+/b"));
    assert!(overlaps("#/b", "a/#"));
    assert!(!overlaps("a/#", "b/#"));
    assert!(!overlaps("+", "+/+"));
    assert!(overlaps("#", ""));
    assert!(!overlaps(">", ""));
    assert!(overlaps("a/#/z", "a/z"));
}

#[test]
fn hostile_filters_are_answered_within_the_budget() {
    let many = ["#"; 8].join("/a/");
    let deep = format!("{many}/{}", ["+"; 100].join("/"));
    // Deep does not end in anything `many` lacks, but finding out could take forever: giving up says no.
    assert!(filter(&many).overlaps(&filter(&deep)));
    assert!(!filter(&deep).covers(&filter(&many)));
}

const TOKENS: [&str; 6] = ["a", "b", "", "+", "#", "\\x"];

fn any_subject() -> impl Strategy<Value = Subject> {
    prop::collection::vec(prop::sample::select(TOKENS.to_vec()), 0..6)
        .prop_map(|tokens| subject(&tokens.join("/")))
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let token = prop_oneof![
        4 => prop::sample::select(TOKENS.to_vec()).prop_map(FilterToken::Literal),
        2 => Just(FilterToken::One),
        2 => Just(FilterToken::ZeroOrMore),
    ];
    (prop::collection::vec(token, 0..5), any::<bool>()).prop_filter_map(
        "a filter",
        |(mut tokens, rest)| {
            if rest {
                tokens.push(FilterToken::OneOrMore);
            }
            Filter::from_tokens(tokens).ok()
        },
    )
}

/// Every subject of up to five tokens over two names and one that no filter here uses.
fn universe() -> Vec<Subject> {
    let mut all = vec![subject("")];
    let mut level = vec![String::new()];
    for depth in 0..5 {
        level = level
            .iter()
            .flat_map(|head| {
                ["a", "b", "z"].map(|token| {
                    if depth == 0 {
                        token.to_owned()
                    } else {
                        format!("{head}/{token}")
                    }
                })
            })
            .collect();
        all.extend(level.iter().map(|text| subject(text)));
    }
    all
}

fn plain_filter() -> impl Strategy<Value = Filter> {
    let token = prop::sample::select(vec!["a", "b", "+", "#"]);
    (prop::collection::vec(token, 0..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest {
            tokens.push(">");
        }
        filter(&tokens.join("/"))
    })
}

proptest! {
    #[test]
    fn swapping_twice_changes_nothing(text in "[a./é]{0,12}") {
        prop_assert_eq!(swap_separators(&swap_separators(&text)), text);
    }

    #[test]
    fn filters_survive_their_text(filter in any_filter()) {
        prop_assert_eq!(Filter::new(filter.as_str()).unwrap(), filter.clone());
        prop_assert_eq!(Filter::from_tokens(filter.tokens()).unwrap(), filter);
    }

    #[test]
    fn literal_filters_match_their_subject_only(a in any_subject(), b in any_subject()) {
        let exact = Filter::literal(a.as_ref());
        prop_assert_eq!(exact.matches(b.as_ref()), a == b);
        prop_assert_eq!(exact.to_subject(), Some(a));
    }

    #[test]
    fn matching_is_what_its_definition_says(filter in any_filter(), subject in any_subject()) {
        prop_assert_eq!(filter.matches(subject.as_ref()), naive_match(&filter, &subject));
    }

    #[test]
    fn relations_agree_with_enumeration(a in plain_filter(), b in plain_filter()) {
        let all = universe();
        let both = all.iter().any(|s| a.matches(s.as_ref()) && b.matches(s.as_ref()));
        let beyond = all.iter().any(|s| !a.matches(s.as_ref()) && b.matches(s.as_ref()));
        // A witness within the enumerated depth decides; no witness decides too, as four tokens against four need
        // at most eight, and shorter ones exist for these alphabets in all but the overlap of two deep filters.
        if both {
            prop_assert!(a.overlaps(&b));
        }
        if beyond {
            prop_assert!(!a.covers(&b));
        }
        if a.as_str().split('/').count() + b.as_str().split('/').count() <= 5 {
            prop_assert_eq!(a.overlaps(&b), both);
            prop_assert_eq!(a.covers(&b), !beyond);
        }
    }

    #[test]
    fn covering_and_overlapping_are_consistent(a in any_filter(), b in any_filter(), s in any_subject()) {
        prop_assert!(a.covers(&a));
        prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
        if a.covers(&b) {
            prop_assert!(a.overlaps(&b));
            prop_assert!(!b.matches(s.as_ref()) || a.matches(s.as_ref()));
        }
    }
}
