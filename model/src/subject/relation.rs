//! How two filters relate: does one match everything the other does, is there a subject that both match.
//!
//! A filter is read as an automaton whose states are the positions between its tokens. Both questions walk one filter
//! while keeping the set of positions the other may be in, a few machine words; nothing is allocated for filters
//! within the default limits.

use smallvec::{SmallVec, smallvec};

use super::{Filter, FilterToken};

impl Filter {
    /// Most automaton steps [`Filter::covers`] takes before it gives up.
    const COVER_STEPS_MAX: u32 = 10_000;

    /// Whether every subject that `other` matches is matched by this filter too.
    ///
    /// Exact, except that a pair of filters with many multi-token wildcards may be given up on: the answer is then
    /// `false`, which is the safe side for permissions.
    #[must_use]
    pub fn covers(&self, other: &Filter) -> bool {
        let accept = steps(self).count();
        let mut start = Positions::none(accept);
        start.add(0);
        start.close_over(self);
        let mut budget = Filter::COVER_STEPS_MAX;
        covers_from(self, accept, start, steps(other), &mut budget)
    }

    /// Whether some subject is matched by both filters.
    #[must_use]
    pub fn overlaps(&self, other: &Filter) -> bool {
        let accept = steps(other).count();
        let mut row = Positions::none(accept);
        row.add(0);
        row.close_over(other);
        for mine in steps(self) {
            let mut next = Positions::none(accept);
            for (at, theirs) in steps(other).enumerate() {
                match (mine, theirs) {
                    (Step::Any, _) => {
                        if row.has(at) || next.has(at) {
                            next.add(at);
                            next.add(at + 1);
                        }
                        continue;
                    }
                    (Step::One(_), Step::Any) if row.has(at) => next.add(at),
                    (Step::One(a), Step::One(b)) if row.has(at) && compatible(a, b) => {
                        next.add(at + 1);
                    }
                    (Step::One(_), _) => {}
                }
                if theirs == Step::Any && next.has(at) {
                    next.add(at + 1);
                }
            }
            if mine == Step::Any && row.has(accept) {
                next.add(accept);
            }
            row = next;
        }
        row.has(accept)
    }
}

/// A filter token, with "one or more" taken apart: all that remains is one token, or any number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step<'a> {
    /// One token: this one, or any.
    One(Option<&'a str>),
    /// Any number of tokens.
    Any,
}

fn steps(filter: &Filter) -> impl Iterator<Item = Step<'_>> + Clone {
    filter.tokens().flat_map(|token| {
        let (first, second) = match token {
            FilterToken::Literal(literal) => (Step::One(Some(literal)), None),
            FilterToken::One => (Step::One(None), None),
            FilterToken::ZeroOrMore => (Step::Any, None),
            FilterToken::OneOrMore => (Step::One(None), Some(Step::Any)),
        };
        std::iter::once(first).chain(second)
    })
}

fn compatible(a: Option<&str>, b: Option<&str>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// A wildcard of the covered filter stands for a token that no literal equals. That is the hardest one to cover:
/// whatever matches it matches every other token in its place.
fn covers_from<'b>(
    filter: &Filter,
    accept: usize,
    mut at: Positions,
    mut rest: impl Iterator<Item = Step<'b>> + Clone,
    budget: &mut u32,
) -> bool {
    loop {
        match rest.next() {
            None => return at.has(accept),
            Some(Step::One(token)) => at = at.advance(filter, token),
            Some(Step::Any) => loop {
                // Any number of tokens: the rest must be covered from each set that 0, 1, 2, ... of them lead to.
                // The sets reach a fixed point, since only multi-token wildcards survive many tokens.
                if !covers_from(filter, accept, at.clone(), rest.clone(), budget) {
                    return false;
                }
                let next = at.advance(filter, None);
                if next == at {
                    return true;
                }
                at = next;
            },
        }
        *budget = budget.saturating_sub(1);
        if *budget == 0 || at.is_empty() {
            return false;
        }
    }
}

/// A set of positions in a filter.
#[derive(Clone, PartialEq, Eq)]
struct Positions(SmallVec<[u64; 3]>);

impl Positions {
    fn none(highest: usize) -> Self {
        Positions(smallvec![0; highest / 64 + 1])
    }

    fn has(&self, at: usize) -> bool {
        self.0
            .get(at / 64)
            .is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn add(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Adds what is reached without a token: the position behind every multi-token wildcard in the set.
    fn close_over(&mut self, filter: &Filter) {
        for (at, step) in steps(filter).enumerate() {
            if step == Step::Any && self.has(at) {
                self.add(at + 1);
            }
        }
    }

    /// The positions after one more token: `token`, or one that no literal equals.
    fn advance(&self, filter: &Filter, token: Option<&str>) -> Positions {
        let mut next = Positions(smallvec![0; self.0.len()]);
        for (at, step) in steps(filter).enumerate() {
            if self.has(at) {
                match step {
                    Step::Any => next.add(at),
                    Step::One(None) => next.add(at + 1),
                    Step::One(literal) if literal == token => next.add(at + 1),
                    Step::One(_) => {}
                }
            }
        }
        next.close_over(filter);
        next
    }
}
