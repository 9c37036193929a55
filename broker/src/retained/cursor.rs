//! A paced look-up of all values that match a filter.

use std::ops::Bound;

use longtail_model::{DollarRule, Filter, FilterToken, Subject, SubjectRef, Timestamp};

use super::RetainedStore;
use super::kept::Place;
use crate::message::SharedMessage;

/// A walk over the values that match a filter, in bounded steps.
///
/// A value that is there from the first step to the last is found exactly once; one that comes, changes or goes in
/// the meantime is found as it is when the walk passes, or not at all.
#[derive(Clone, Debug)]
pub struct RetainedCursor {
    filter: Filter,
    rule: DollarRule,
    /// Where to go on; `None` at the end.
    next: Option<Bound<Subject>>,
}

/// Where to go on after an entry.
enum Leap {
    /// At the next entry.
    Next,
    /// At the first entry that is not before this subject.
    To(String),
    /// Nowhere: no later entry can match.
    End,
}

impl RetainedCursor {
    /// A walk over what `filter` matches. A leading wildcard matches `$` subjects as `rule` says.
    #[must_use]
    pub fn new(filter: Filter, rule: DollarRule) -> Self {
        RetainedCursor {
            filter,
            rule,
            next: Some(Bound::Unbounded),
        }
    }

    /// A walk over everything, for a snapshot.
    #[must_use]
    pub fn everything() -> Self {
        RetainedCursor::new(Filter::everything(), DollarRule::Match)
    }

    /// Goes on behind `subject`, which an earlier walk has come to.
    #[must_use]
    pub fn behind(mut self, subject: Subject) -> Self {
        self.next = Some(Bound::Excluded(subject));
        self
    }

    /// Whether the walk is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next.is_none()
    }

    /// Looks at up to `most` more entries and appends what matches and has not expired to `found`. Returns whether
    /// there may be more. The store is locked for the time of this step only.
    pub fn step(
        &mut self,
        store: &RetainedStore,
        now: Timestamp,
        most: usize,
        found: &mut Vec<SharedMessage>,
    ) -> bool {
        let inner = store.0.inner.read();
        for _ in 0..most {
            let Some(from) = self.next.take() else {
                return false;
            };
            let from = from.as_ref().map(|subject| subject as &dyn Place);
            let mut rest = inner
                .entries
                .range::<dyn Place, _>((from, Bound::Unbounded));
            let Some(kept) = rest.next() else {
                return false;
            };
            // Nothing is kept whose subject is none.
            let Some(key) = kept.subject() else {
                return false;
            };
            let subject = key.as_ref();
            let leap = if self.filter.matches_with(subject, self.rule) {
                if kept.expires() > now {
                    found.extend(kept.to_message());
                }
                Leap::Next
            } else {
                leap(&self.filter, self.rule, subject)
            };
            self.next = match leap {
                Leap::Next => Some(Bound::Excluded(key)),
                // A text that is too long to be a subject is no reason to miss one: then it goes on entry by entry.
                Leap::To(text) => {
                    Some(Subject::new(&text).map_or(Bound::Excluded(key), Bound::Included))
                }
                Leap::End => None,
            };
        }
        self.next.is_some()
    }
}

/// How far the walk may go from a subject that does not match.
fn leap(filter: &Filter, rule: DollarRule, subject: SubjectRef<'_>) -> Leap {
    if rule == DollarRule::Hide && subject.is_reserved() && filter.starts_with_wildcard() {
        return behind(subject.first_token());
    }
    let mut filter = filter.tokens();
    let mut tokens = subject.tokens();
    // Length of the part of the subject that has matched token by token, with the separator behind it.
    let mut matched = 0;
    loop {
        match (filter.next(), tokens.next()) {
            (Some(FilterToken::Literal(literal)), Some(token)) if literal != token => {
                // Tokens contain no separator, so their order is that of their bytes.
                if token < literal {
                    return Leap::To(format!("{}{literal}", &subject.as_str()[..matched]));
                }
                return behind_parent(subject, matched);
            }
            (Some(FilterToken::Literal(_) | FilterToken::One), Some(token)) => {
                matched += token.len() + 1;
            }
            // The subject is above what matches, which comes soon after it; or it is below a wildcard for several
            // tokens, where anything may match.
            (Some(_), _) => return Leap::Next,
            // The subject is below what matches, and so is everything else here.
            (None, _) => return behind_parent(subject, matched),
        }
    }
}

/// Behind everything below the part of `subject` that ends before byte `matched`.
fn behind_parent(subject: SubjectRef<'_>, matched: usize) -> Leap {
    match matched.checked_sub(1) {
        Some(end) => behind(&subject.as_str()[..end]),
        None => Leap::End,
    }
}

/// Behind a path and everything below it: the least text that starts with the path and goes on with anything but a
/// separator. The path may be one empty token.
fn behind(path: &str) -> Leap {
    Leap::To(format!("{path}\u{1}"))
}
