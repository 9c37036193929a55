//! Rules, and what they grant once a client has logged in.
//!
//! A rule allows or denies actions on the subjects that match a pattern. What no rule allows is denied; what a rule
//! denies stays denied, whatever else allows it. Patterns are filters in canonical text (`sensors/+/temp`, `orders/#`)
//! that may contain the placeholders `%u` (the account's name) and `%c` (the client id); `%%` is a percent sign. They
//! know no exception for `$` subjects: `#` is everything.

mod cached;

use std::sync::{Arc, LazyLock};

use longtail_model::{Filter, FilterToken, Subject, SubjectError, SubjectRef};
use serde::{Deserialize, Serialize};

use super::names::NameGrants;
use super::ordered::{Defaults, Manner, Operation, OrderedGrants, OrderedRule};

pub use cached::CachedGrants;

/// What a client wants to do with a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Send messages to it.
    Publish,
    /// Receive messages from it: subscribe, consume, read.
    Consume,
    /// Create, bind, change or delete what is named by it.
    Configure,
    /// Administer the space: inspect, purge, close connections of others.
    Manage,
}

impl Action {
    const COUNT: usize = 4;
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Allows, unless another rule denies.
    #[default]
    Allow,
    /// Denies, whatever others allow.
    Deny,
}

/// One line of an account's permissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The actions it is about.
    pub actions: Vec<Action>,
    /// Allows if left out.
    #[serde(default)]
    pub effect: Effect,
    /// The subjects it is about.
    pub subject: Pattern,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a filter.
    #[error("{0}")]
    Filter(#[from] SubjectError),
    /// A `%` that is not part of `%u`, `%c` or `%%`.
    #[error(
        "unknown placeholder in {0:?}: use %u (account), %c (client id) or %% (a percent sign)"
    )]
    Placeholder(String),
}

/// A filter with placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Filter);

/// Who a client is: what the placeholders stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The account's name.
    pub account: &'a str,
    /// The client id, empty where the protocol has none.
    pub client_id: &'a str,
}

/// A name that a rule needs cannot stand in a subject.
///
/// A name with a separator would change the meaning of a rule, and an empty one would make a token that others share,
/// so such a client is not let in. Wildcard characters in names are harmless: they are taken literally.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rule {pattern:?} needs a {what} that is not empty and has no separator")]
pub struct IdentityError {
    /// The pattern.
    pub pattern: String,
    /// Which name.
    pub what: &'static str,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let filter = Filter::new(text)?;
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            rest = &rest[at + 1..];
            rest = rest
                .strip_prefix(['u', 'c', '%'])
                .ok_or_else(|| PatternError::Placeholder(text.to_owned()))?;
        }
        Ok(Pattern(filter))
    }

    /// One whose percent signs are known to be in their places.
    pub(super) fn of_filter(filter: Filter) -> Self {
        Pattern(filter)
    }

    /// Whether it needs a name that the client does not have.
    pub(super) fn names_nobody(&self, identity: &Identity<'_>) -> bool {
        let needs =
            |name: &str, placeholder| name.is_empty() && self.0.as_str().contains(placeholder);
        needs(identity.account, "%u") || needs(identity.client_id, "%c")
    }

    /// Fills in the placeholders.
    ///
    /// # Errors
    /// [`IdentityError`] if a name that is needed is unfit.
    pub(crate) fn expand(&self, identity: &Identity<'_>) -> Result<Filter, IdentityError> {
        if !self.0.as_str().contains('%') {
            return Ok(self.0.clone());
        }
        let mut tokens = Vec::new();
        for token in self.0.tokens() {
            let literal = match token {
                FilterToken::Literal(literal) => Some(self.fill(literal, identity)?),
                _ => None,
            };
            tokens.push((token, literal));
        }
        let filled = tokens.iter().map(|(token, literal)| match literal {
            Some(literal) => FilterToken::Literal(literal),
            None => *token,
        });
        // Only its length can still be wrong.
        Filter::from_tokens(filled).map_err(|_| self.unfit("shorter name"))
    }

    fn fill(&self, token: &str, identity: &Identity<'_>) -> Result<String, IdentityError> {
        let mut filled = String::with_capacity(token.len());
        let mut chars = token.chars();
        while let Some(char) = chars.next() {
            if char != '%' {
                filled.push(char);
                continue;
            }
            let (name, what) = match chars.next() {
                Some('u') => (identity.account, "account name"),
                Some('c') => (identity.client_id, "client id"),
                _ => ("%", "percent sign"),
            };
            if name.is_empty() || name.contains(['/', '\0']) {
                return Err(self.unfit(what));
            }
            filled.push_str(name);
        }
        Ok(filled)
    }

    fn unfit(&self, what: &'static str) -> IdentityError {
        IdentityError {
            pattern: self.0.as_str().to_owned(),
            what,
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Pattern::new(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.as_str().to_owned()
    }
}

/// What may be done with a filter as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every subject it matches is allowed.
    Allowed,
    /// A rule allows it, but some subjects it matches are denied: each message has to be asked about.
    Screened,
    /// No single rule allows it, or one denies it as a whole.
    Denied,
}

/// What a client may do: the rules of one account for one space, compiled. Immutable, shared, never locked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    actions: [ActionGrants; Action::COUNT],
    /// Rules by regular expressions over names, beside the others.
    names: Option<Arc<NameGrants>>,
    /// Rules in an order, before all others.
    ordered: Option<Arc<OrderedGrants>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ActionGrants {
    allow: Vec<Filter>,
    deny: Vec<Filter>,
    /// Everything is allowed and nothing denied: no need to look.
    all: bool,
}

impl Grants {
    /// Everything allowed.
    #[must_use]
    pub fn full() -> Self {
        let all = ActionGrants {
            allow: vec![Filter::everything()],
            deny: Vec::new(),
            all: true,
        };
        Grants {
            actions: std::array::from_fn(|_| all.clone()),
            names: None,
            ordered: None,
        }
    }

    /// As [`Grants::full`], the same for everybody: the clients of an open server have none of their own.
    #[must_use]
    pub fn everything() -> Arc<Self> {
        static FULL: LazyLock<Arc<Grants>> = LazyLock::new(|| Arc::new(Grants::full()));
        Arc::clone(&FULL)
    }

    /// As [`Grants::default`], the same for everybody.
    #[must_use]
    pub fn nothing() -> Arc<Self> {
        static NONE: LazyLock<Arc<Grants>> = LazyLock::new(Arc::default);
        Arc::clone(&NONE)
    }

    /// What rules in an order grant, and nothing beside.
    ///
    /// # Errors
    /// [`IdentityError`] if a rule needs a name that is unfit.
    pub fn in_order(
        rules: &[OrderedRule],
        defaults: Defaults,
        identity: &Identity<'_>,
    ) -> Result<Self, IdentityError> {
        let ordered = OrderedGrants::compile(rules, defaults, identity)?;
        Ok(Grants::default().with_ordered(ordered))
    }

    /// With rules in an order, which are asked before all others.
    pub(super) fn with_ordered(mut self, ordered: OrderedGrants) -> Self {
        self.ordered = Some(Arc::new(ordered));
        self
    }

    /// With rules by regular expressions over names: what they allow is allowed too, unless a rule denies it.
    pub(super) fn with_names(mut self, names: Option<NameGrants>) -> Self {
        self.names = names.map(Arc::new);
        self
    }

    /// Compiles rules for one client.
    ///
    /// # Errors
    /// [`IdentityError`] if a rule needs a name that is unfit. Such a rule cannot just be left out: it may be one that
    /// denies.
    pub fn compile(rules: &[Rule], identity: &Identity<'_>) -> Result<Self, IdentityError> {
        let mut grants = Grants::default();
        for rule in rules {
            let filter = rule.subject.expand(identity)?;
            for action in &rule.actions {
                let grants = &mut grants.actions[*action as usize];
                match rule.effect {
                    Effect::Allow => grants.allow.push(filter.clone()),
                    Effect::Deny => grants.deny.push(filter.clone()),
                }
            }
        }
        let everything = Filter::everything();
        for grants in &mut grants.actions {
            grants.all = grants.deny.is_empty() && grants.allow.contains(&everything);
        }
        Ok(grants)
    }

    /// Whether `action` on `subject` is allowed: to consume, of what was subscribed to. Allocates nothing, but with topic
    /// rules.
    #[must_use]
    pub fn allows(&self, action: Action, subject: SubjectRef<'_>) -> bool {
        self.allows_in(action, subject, Manner::default())
    }

    /// As [`Grants::allows`], where it is known how.
    #[must_use]
    pub fn allows_in(&self, action: Action, subject: SubjectRef<'_>, manner: Manner) -> bool {
        let ordered = self.ordered.as_ref().zip(operation_of(action));
        let decided =
            ordered.and_then(|(ordered, operation)| ordered.of_subject(operation, subject, manner));
        if let Some(effect) = decided {
            return effect == Effect::Allow;
        }
        let named = |names: &NameGrants| names.allows_subject(action, subject);
        self.allows_or(action, subject, named)
    }

    /// Whether `action` on what is called `name`, a subject with dots or any other text, is allowed.
    #[must_use]
    pub fn allows_name(&self, action: Action, name: &str) -> bool {
        self.allows_as(action, name, name)
    }

    /// As [`Grants::allows_name`] where rules for subjects and rules for names know the same thing by different names.
    #[must_use]
    pub fn allows_as(&self, action: Action, subject: &str, name: &str) -> bool {
        let named = |names: &NameGrants| names.allows_name(action, name);
        match Subject::from_dotted(subject) {
            // A thing with a name is subscribed to and read in one.
            Ok(subject) if self.ordered.is_some() && action == Action::Consume => {
                self.allows_filter(action, &Filter::literal(subject.as_ref()))
            }
            Ok(subject) if self.ordered.is_some() => self.allows(action, subject.as_ref()),
            Ok(subject) => self.allows_or(action, subject.as_ref(), named),
            // What is no subject, no rule but one for everything is about.
            Err(_) => self.actions[action as usize].all || self.names.as_deref().is_some_and(named),
        }
    }

    /// Whether no topic rule forbids `action` with this routing key at an exchange that may be used otherwise.
    #[must_use]
    pub fn allows_topic(&self, action: Action, exchange: &str, key: &str) -> bool {
        let names = self.names.as_deref();
        names.is_none_or(|names| names.allows_topic(action, exchange, key))
    }

    fn allows_or(
        &self,
        action: Action,
        subject: SubjectRef<'_>,
        named: impl FnOnce(&NameGrants) -> bool,
    ) -> bool {
        let grants = &self.actions[action as usize];
        let any = |filters: &[Filter]| filters.iter().any(|filter| filter.matches(subject));
        grants.all
            || (any(&grants.allow) || self.names.as_deref().is_some_and(named))
                && !any(&grants.deny)
    }

    /// What `action` on everything that `filter` matches gets. One rule has to allow all of it: two that allow a half
    /// each do not add up. Allocates nothing.
    #[must_use]
    pub fn judge(&self, action: Action, filter: &Filter) -> Verdict {
        self.judge_in(action, filter, Manner::default())
    }

    /// As [`Grants::judge`], where it is known how.
    #[must_use]
    pub fn judge_in(&self, action: Action, filter: &Filter, manner: Manner) -> Verdict {
        let Some(ordered) = &self.ordered else {
            return self.judge_unordered(action, filter);
        };
        let others = || self.judge_unordered(action, filter);
        match action {
            Action::Publish => ordered
                .all_of(Operation::Publish, filter, manner)
                .or(others),
            Action::Manage => ordered.all_of(Operation::Manage, filter, manner).or(others),
            Action::Configure => others(),
            Action::Consume => {
                let subscribed = match ordered.of_filter(Operation::Subscribe, filter, manner) {
                    Some(Effect::Allow) => Verdict::Allowed,
                    Some(Effect::Deny) => Verdict::Denied,
                    None => others(),
                };
                // The messages are asked about by themselves.
                let had = ordered
                    .all_of(Operation::Receive, filter, manner)
                    .or(|| subscribed);
                match (subscribed, had) {
                    (Verdict::Allowed, Verdict::Screened | Verdict::Denied) => Verdict::Screened,
                    (subscribed, _) => subscribed,
                }
            }
        }
    }

    /// Whether a subscription to `filter` may be ended by its client.
    #[must_use]
    pub fn may_unsubscribe(&self, filter: &Filter) -> bool {
        let ordered = self.ordered.as_deref();
        let decided = ordered.and_then(|ordered| {
            ordered.of_filter(Operation::Unsubscribe, filter, Manner::default())
        });
        decided != Some(Effect::Deny)
    }

    fn judge_unordered(&self, action: Action, filter: &Filter) -> Verdict {
        let grants = &self.actions[action as usize];
        if grants.all {
            return Verdict::Allowed;
        }
        let named = self.names.as_deref();
        let allowed = grants.allow.iter().any(|allow| allow.covers(filter))
            || named.is_some_and(|names| names.allows_filter(action, filter));
        if !allowed || grants.deny.iter().any(|deny| deny.covers(filter)) {
            return Verdict::Denied;
        }
        if grants.deny.iter().any(|deny| deny.overlaps(filter)) {
            return Verdict::Screened;
        }
        Verdict::Allowed
    }

    /// Whether `action` is allowed on every subject that `filter` matches. Allocates nothing.
    #[must_use]
    pub fn allows_filter(&self, action: Action, filter: &Filter) -> bool {
        self.judge(action, filter) == Verdict::Allowed
    }

    fn is_trivial(&self, action: Action) -> bool {
        if self.ordered.is_some() {
            return false;
        }
        let grants = &self.actions[action as usize];
        grants.all || grants.allow.is_empty() && self.names.is_none()
    }
}

/// What an action on a subject is among rules in an order; they do not know all of them.
fn operation_of(action: Action) -> Option<Operation> {
    match action {
        Action::Publish => Some(Operation::Publish),
        Action::Consume => Some(Operation::Receive),
        Action::Manage => Some(Operation::Manage),
        Action::Configure => None,
    }
}
