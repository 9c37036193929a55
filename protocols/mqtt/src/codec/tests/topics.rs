use super::super::topic::{TopicError, TopicFilter, check_name};

#[test]
fn topic_names_have_no_wildcards_and_are_not_empty() {
    for name in ["a", "/", "a//b", "/a", "a/", "$SYS/x", "ü", " "] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    assert_eq!(check_name(""), Err(TopicError::Empty));
    assert_eq!(check_name("a/+"), Err(TopicError::Wildcard));
    assert_eq!(check_name("a#"), Err(TopicError::Wildcard));
    assert_eq!(check_name("a\0"), Err(TopicError::Nul));
    let long = "a".repeat(65_536);
    assert_eq!(check_name(&long), Err(TopicError::TooLong(65_536)));
    assert_eq!(check_name(&long[1..]), Ok(()));
}

#[test]
fn wildcards_are_levels_of_their_own() {
    for filter in ["#", "+", "a/#", "a/+/b", "+/+", "/+", "+/#", "//", "a/+"] {
        let parsed = TopicFilter::parse(filter).expect(filter);
        assert_eq!((parsed.group, parsed.filter), (None, filter));
    }
    for filter in ["a#", "#/a", "a/#/b", "a+", "+a", "a/b+/c", "##", "++"] {
        let parsed = TopicFilter::parse(filter);
        assert_eq!(parsed, Err(TopicError::MisplacedWildcard), "{filter}");
    }
}

#[test]
fn a_shared_subscription_has_a_group_and_a_filter() {
    let shared = |text| TopicFilter::parse(text).map(|parsed| (parsed.group, parsed.filter));
    assert_eq!(shared("$share/g/a/+"), Ok((Some("g"), "a/+")));
    assert_eq!(shared("$share/g//a"), Ok((Some("g"), "/a")));
    assert_eq!(shared("$share/g/$SYS/#"), Ok((Some("g"), "$SYS/#")));
    for text in [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
        "$share/g#/a",
    ] {
        assert_eq!(shared(text), Err(TopicError::Share), "{text}");
    }
    assert_eq!(shared("$share/g/a#"), Err(TopicError::MisplacedWildcard));
    // The prefix is lower case, and a whole level.
    assert_eq!(shared("$SHARE/g/a"), Ok((None, "$SHARE/g/a")));
    assert_eq!(shared("$shared/g"), Ok((None, "$shared/g")));
}

#[test]
fn a_queue_is_a_share_and_what_is_exclusive_says_so() {
    let parsed = |text| {
        let parsed = TopicFilter::parse(text)?;
        Ok((parsed.group, parsed.exclusive, parsed.filter))
    };
    assert_eq!(parsed("$queue/a/+"), Ok((Some("$queue"), false, "a/+")));
    assert_eq!(parsed("$exclusive/a/+"), Ok((None, true, "a/+")));
    assert_eq!(parsed("a/$queue/b"), Ok((None, false, "a/$queue/b")));
    for text in ["$queue", "$queue/", "$exclusive", "$exclusive/"] {
        assert_eq!(parsed(text), Err(TopicError::Share), "{text}");
    }
    assert_eq!(parsed("$queues/a"), Ok((None, false, "$queues/a")));
}

#[test]
fn a_filter_with_wildcards_says_so() {
    let wild = |text| TopicFilter::parse(text).expect(text).has_wildcards();
    assert!(wild("a/+"));
    assert!(wild("$share/g/#"));
    assert!(!wild("a/b"));
    assert!(!wild("$share/g/a"));
}
