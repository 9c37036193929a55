//! Rules in an order, of which the first that is about something decides.
//!
//! The other rules of an account ([`Rule`](super::Rule)) have no order: what one denies stays denied. Roles and access
//! lists of MQTT brokers do have one, and tell four operations apart where the rest of the model has two: to subscribe to
//! a filter and to be sent a message are asked separately, and so is to unsubscribe. What no rule is about is as
//! [`Defaults`] say, or, where they say nothing, as the account's other rules do.
//!
//! Wildcards in the first place do not reach subjects that begin with `$`, as in MQTT.

use longtail_model::{DollarRule, Filter, FilterToken, SubjectError, SubjectRef};

use crate::message::Quality;

use super::permission::{Effect, Identity, IdentityError, Pattern, Verdict};

/// Something that a rule in an order can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Send a message to a subject.
    Publish,
    /// Be sent a message of a subject that is subscribed to.
    Receive,
    /// Subscribe to a filter.
    Subscribe,
    /// End a subscription.
    Unsubscribe,
    /// Administer what a subject stands for.
    Manage,
}

impl Operation {
    const COUNT: usize = 5;

    /// All of them.
    pub const ALL: [Operation; Operation::COUNT] = [
        Operation::Publish,
        Operation::Receive,
        Operation::Subscribe,
        Operation::Unsubscribe,
        Operation::Manage,
    ];
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All subjects, and all filters, that a pattern covers.
    Pattern(Pattern),
    /// This subject, or this filter as it is written, and no other.
    Literal(String),
    /// Every filter that has wildcards, and no subject.
    Wildcards,
    /// All of them, those that begin with `$` too.
    Everything,
}

impl Target {
    /// A filter of MQTT, in which a level that is `%c` or `%u` stands for the client's identifier or account.
    ///
    /// # Errors
    /// If it is no filter.
    pub fn pattern(filter: &str) -> Result<Self, SubjectError> {
        let levels = filter.split('/').map(|level| match level {
            "%c" | "%u" => level.to_owned(),
            other => other.replace('%', "%%"),
        });
        Target::template(&levels.collect::<Vec<_>>().join("/"))
    }

    /// A filter of MQTT in which `%c` and `%u` stand for the client's identifier and account wherever they are, and `%%`
    /// for a percent sign.
    ///
    /// # Errors
    /// If it is no filter.
    pub fn template(filter: &str) -> Result<Self, SubjectError> {
        let filter = Filter::parse_mqtt(filter)?;
        Ok(Target::Pattern(Pattern::of_filter(filter)))
    }
}

/// How something is done, as far as that is known: what rules may be about beside its subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// How surely a message is published, or is to be had.
    pub quality: Option<Quality>,
    /// Whether it is to be kept as its subject's last value.
    pub retain: Option<bool>,
}

impl Manner {
    /// Of who wants messages.
    #[must_use]
    pub const fn of_subscription(quality: Quality) -> Self {
        Manner {
            quality: Some(quality),
            retain: None,
        }
    }

    /// Of a message that is published.
    #[must_use]
    pub const fn of_publish(quality: Quality, retain: bool) -> Self {
        Manner {
            quality: Some(quality),
            retain: Some(retain),
        }
    }
}

/// The manners that a rule is about. By default, all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// For each quality whether it is among them.
    pub qualities: [bool; 3],
    /// Of messages that are to be kept as the last value, or of those that are not; `None`: no matter.
    pub retain: Option<bool>,
}

impl Default for When {
    fn default() -> Self {
        When {
            qualities: [true; 3],
            retain: None,
        }
    }
}

impl When {
    /// Whether a rule with this effect is about a manner. What is not known is as denied as anything may be, and not
    /// allowed what only some may.
    fn has(&self, manner: Manner, effect: Effect) -> bool {
        let unknown = effect == Effect::Deny;
        let quality = match manner.quality {
            Some(quality) => self.qualities[quality as usize],
            None => unknown || self.qualities == [true; 3],
        };
        let retain = match (self.retain, manner.retain) {
            (None, _) => true,
            (Some(wanted), Some(retain)) => wanted == retain,
            (Some(_), None) => unknown,
        };
        quality && retain
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedRule {
    /// What it is about.
    pub operations: Vec<Operation>,
    /// What it does.
    pub effect: Effect,
    /// The subjects or filters that it is about.
    pub target: Target,
    /// The manners that it is about.
    pub when: When,
}

/// What holds for an operation that no rule is about; `None`: what the account's other rules say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults([Option<Effect>; Operation::COUNT]);

impl Defaults {
    /// The same with another answer for one operation.
    #[must_use]
    pub fn with(mut self, operation: Operation, effect: Effect) -> Self {
        self.0[operation as usize] = Some(effect);
        self
    }

    fn of(&self, operation: Operation) -> Option<Effect> {
        self.0[operation as usize]
    }
}

/// The rules of one client, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OrderedGrants {
    lists: [Vec<Line>; Operation::COUNT],
    defaults: Defaults,
    /// Some rule is about some manners only.
    depends: bool,
}

/// One rule about one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    effect: Effect,
    target: Compiled,
    when: When,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Compiled {
    Pattern(Filter),
    Literal(Box<str>),
    Wildcards,
    Everything,
}

/// What rules in an order make of all subjects of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// This.
    Decided(Verdict),
    /// No rule is about all of it: other rules decide.
    Open {
        /// Some of it is denied whatever they say.
        some_denied: bool,
    },
}

impl Judged {
    fn allowed(some_denied: bool) -> Self {
        Judged::Decided(if some_denied {
            Verdict::Screened
        } else {
            Verdict::Allowed
        })
    }

    /// Where others have this to say.
    pub(super) fn or(self, others: impl FnOnce() -> Verdict) -> Verdict {
        match self {
            Judged::Decided(verdict) => verdict,
            Judged::Open { some_denied } => match others() {
                Verdict::Allowed if some_denied => Verdict::Screened,
                verdict => verdict,
            },
        }
    }
}

/// How a target and a filter lie to each other.
enum Relation {
    Covers,
    Overlaps,
    Apart,
}

impl OrderedGrants {
    /// Compiles rules for one client. A rule that names who has no name is about nobody.
    ///
    /// # Errors
    /// [`IdentityError`] if a rule needs a name that cannot stand in a subject.
    pub(super) fn compile<'r>(
        rules: impl IntoIterator<Item = &'r OrderedRule>,
        defaults: Defaults,
        identity: &Identity<'_>,
    ) -> Result<Self, IdentityError> {
        let mut grants = OrderedGrants {
            lists: Default::default(),
            defaults,
            depends: false,
        };
        for rule in rules {
            let target = match &rule.target {
                Target::Pattern(pattern) if pattern.names_nobody(identity) => continue,
                Target::Pattern(pattern) => Compiled::Pattern(pattern.expand(identity)?),
                Target::Literal(text) => Compiled::Literal(text.as_str().into()),
                Target::Wildcards => Compiled::Wildcards,
                Target::Everything => Compiled::Everything,
            };
            grants.depends |= rule.when != When::default();
            for operation in &rule.operations {
                grants.lists[*operation as usize].push(Line {
                    effect: rule.effect,
                    target: target.clone(),
                    when: rule.when,
                });
            }
        }
        Ok(grants)
    }

    /// Whether what they say depends on more than the subject.
    pub(super) fn depends(&self) -> bool {
        self.depends
    }

    /// The rules about an operation that are about a manner.
    fn lines(&self, operation: Operation, manner: Manner) -> impl Iterator<Item = &Line> {
        let lines = self.lists[operation as usize].iter();
        lines.filter(move |line| line.when.has(manner, line.effect))
    }

    /// What the first rule about a subject says.
    pub(super) fn of_subject(
        &self,
        operation: Operation,
        subject: SubjectRef<'_>,
        manner: Manner,
    ) -> Option<Effect> {
        let mut lines = self.lines(operation, manner);
        let found = lines.find(|line| line.target.has(subject));
        found
            .map(|line| line.effect)
            .or(self.defaults.of(operation))
    }

    /// What the first rule says that is about all of a filter.
    pub(super) fn of_filter(
        &self,
        operation: Operation,
        filter: &Filter,
        manner: Manner,
    ) -> Option<Effect> {
        let mut lines = self.lines(operation, manner);
        let found = lines.find(|line| matches!(line.target.against(filter), Relation::Covers));
        found
            .map(|line| line.effect)
            .or(self.defaults.of(operation))
    }

    /// What may be done with the subjects that a filter matches.
    pub(super) fn all_of(&self, operation: Operation, filter: &Filter, manner: Manner) -> Judged {
        let mut some_denied = false;
        for line in self.lines(operation, manner) {
            match (line.effect, line.target.against(filter)) {
                (Effect::Allow, Relation::Covers) => return Judged::allowed(some_denied),
                (Effect::Deny, Relation::Covers) => return Judged::Decided(Verdict::Denied),
                (Effect::Deny, Relation::Overlaps) => some_denied = true,
                (_, Relation::Overlaps | Relation::Apart) => {}
            }
        }
        match self.defaults.of(operation) {
            Some(Effect::Allow) => Judged::allowed(some_denied),
            Some(Effect::Deny) => Judged::Decided(Verdict::Denied),
            None => Judged::Open { some_denied },
        }
    }
}

impl Compiled {
    fn has(&self, subject: SubjectRef<'_>) -> bool {
        match self {
            Compiled::Pattern(filter) => filter.matches_with(subject, DollarRule::Hide),
            Compiled::Literal(text) => **text == *subject.as_str(),
            Compiled::Wildcards => false,
            Compiled::Everything => true,
        }
    }

    fn against(&self, filter: &Filter) -> Relation {
        match self {
            Compiled::Wildcards if filter.is_literal() => Relation::Apart,
            Compiled::Wildcards | Compiled::Everything => Relation::Covers,
            Compiled::Literal(text) if **text == *filter.as_str() => Relation::Covers,
            Compiled::Literal(text) => {
                let subject = SubjectRef::new(text).is_ok_and(|subject| filter.matches(subject));
                if subject {
                    Relation::Overlaps
                } else {
                    Relation::Apart
                }
            }
            Compiled::Pattern(pattern) => {
                if pattern.starts_with_wildcard() && is_reserved(filter) {
                    Relation::Apart
                } else if pattern.covers(filter) {
                    Relation::Covers
                } else if pattern.overlaps(filter) {
                    Relation::Overlaps
                } else {
                    Relation::Apart
                }
            }
        }
    }
}

/// Whether a filter asks for subjects that begin with `$`.
fn is_reserved(filter: &Filter) -> bool {
    let first = filter.tokens().next();
    matches!(first, Some(FilterToken::Literal(token)) if token.starts_with('$'))
}

#[cfg(test)]
mod tests {
    use longtail_model::Subject;

    use super::*;

    const ANN: Identity<'_> = Identity {
        account: "ann",
        client_id: "pump",
    };

    fn rule(effect: Effect, operations: &[Operation], target: Target) -> OrderedRule {
        OrderedRule {
            operations: operations.to_vec(),
            effect,
            target,
            when: When::default(),
        }
    }

    fn pattern(text: &str) -> Target {
        Target::pattern(text).unwrap()
    }

    fn filter(text: &str) -> Filter {
        Filter::new(text).unwrap()
    }

    fn publish(grants: &OrderedGrants, topic: &str) -> Option<Effect> {
        let subject = Subject::new(topic).unwrap();
        grants.of_subject(Operation::Publish, subject.as_ref(), Manner::default())
    }

    #[test]
    fn the_first_rule_decides_whatever_later_ones_say() {
        use Effect::{Allow, Deny};
        let only = [Operation::Publish];
        let rules = [
            rule(Allow, &only, pattern("a/b")),
            rule(Deny, &only, pattern("a/#")),
            rule(Allow, &only, pattern("#")),
        ];
        let grants = OrderedGrants::compile(&rules, Defaults::default(), &ANN).unwrap();
        assert_eq!(publish(&grants, "a/b"), Some(Allow));
        assert_eq!(publish(&grants, "a/c"), Some(Deny));
        assert_eq!(publish(&grants, "x"), Some(Allow));
        assert_eq!(publish(&grants, "$CONTROL/x"), None, "no leading wildcard");
        let denied = Defaults::default().with(Operation::Publish, Deny);
        let grants = OrderedGrants::compile(&rules, denied, &ANN).unwrap();
        assert_eq!(publish(&grants, "$CONTROL/x"), Some(Deny));
    }

    #[test]
    fn whole_levels_stand_for_names_and_other_percent_signs_for_themselves() {
        let only = [Operation::Publish];
        let rules = [
            rule(Effect::Allow, &only, pattern("of/%u/%c")),
            rule(Effect::Allow, &only, pattern("100%/x%c")),
        ];
        let grants = OrderedGrants::compile(&rules, Defaults::default(), &ANN).unwrap();
        assert!(publish(&grants, "of/ann/pump").is_some());
        assert!(publish(&grants, "100%/x%c").is_some());
        assert!(publish(&grants, "of/%u/%c").is_none());
        let nobody = Identity {
            account: "",
            client_id: "pump",
        };
        let grants = OrderedGrants::compile(&rules, Defaults::default(), &nobody).unwrap();
        assert!(publish(&grants, "of//pump").is_none());
        let unfit = Identity {
            account: "a/b",
            client_id: "pump",
        };
        assert!(OrderedGrants::compile(&rules, Defaults::default(), &unfit).is_err());
    }

    #[test]
    fn a_literal_rule_is_about_its_own_text_and_a_pattern_about_what_it_covers() {
        let only = [Operation::Subscribe];
        let rules = [
            rule(Effect::Deny, &only, Target::Literal("#".to_owned())),
            rule(Effect::Allow, &only, pattern("a/+")),
        ];
        let grants = OrderedGrants::compile(&rules, Defaults::default(), &ANN).unwrap();
        let of = |text| grants.of_filter(Operation::Subscribe, &filter(text), Manner::default());
        assert_eq!(of("#"), Some(Effect::Deny));
        assert_eq!(of("a/b"), Some(Effect::Allow));
        assert_eq!(of("a/+"), Some(Effect::Allow));
        assert_eq!(of("a/#"), None);
        let rules = [rule(Effect::Deny, &only, Target::Wildcards)];
        let grants = OrderedGrants::compile(&rules, Defaults::default(), &ANN).unwrap();
        let of = |text| grants.of_filter(Operation::Subscribe, &filter(text), Manner::default());
        assert_eq!((of("a/b"), of("a/+")), (None, Some(Effect::Deny)));
    }

    #[test]
    fn what_is_denied_in_part_has_to_be_asked_about_message_by_message() {
        let only = [Operation::Receive];
        let rules = [
            rule(Effect::Deny, &only, pattern("a/secret")),
            rule(Effect::Allow, &only, pattern("a/#")),
        ];
        let grants = OrderedGrants::compile(&rules, Defaults::default(), &ANN).unwrap();
        let of = |text| grants.all_of(Operation::Receive, &filter(text), Manner::default());
        assert_eq!(of("a/+"), Judged::Decided(Verdict::Screened));
        assert_eq!(of("a/b"), Judged::Decided(Verdict::Allowed));
        assert_eq!(of("a/secret"), Judged::Decided(Verdict::Denied));
        assert_eq!(of("b"), Judged::Open { some_denied: false });
        assert_eq!(of("#"), Judged::Open { some_denied: true });
        assert_eq!(of("#").or(|| Verdict::Allowed), Verdict::Screened);
        assert_eq!(of("#").or(|| Verdict::Denied), Verdict::Denied);
    }

    #[test]
    fn a_rule_for_some_qualities_leaves_the_others_to_those_behind_it() {
        use Quality::{AtLeastOnce, AtMostOnce, ExactlyOnce};
        let operations = [Operation::Publish, Operation::Subscribe];
        let of_exactly_once = OrderedRule {
            when: When {
                qualities: [false, false, true],
                retain: None,
            },
            ..rule(Effect::Deny, &operations, pattern("a"))
        };
        let of_retained = OrderedRule {
            when: When {
                qualities: [true; 3],
                retain: Some(true),
            },
            ..rule(Effect::Deny, &operations, pattern("b"))
        };
        let kept_at_most_once = OrderedRule {
            when: When {
                qualities: [true, false, false],
                retain: Some(false),
            },
            ..rule(Effect::Allow, &operations, pattern("c"))
        };
        let rules = [of_exactly_once, of_retained, kept_at_most_once];
        let grants = OrderedGrants::compile(&rules, Defaults::default(), &ANN).unwrap();
        assert!(grants.depends());
        let of = |topic, quality, retain| {
            let subject = Subject::new(topic).unwrap();
            let manner = Manner::of_publish(quality, retain);
            grants.of_subject(Operation::Publish, subject.as_ref(), manner)
        };
        assert_eq!(of("a", AtLeastOnce, true), None);
        assert_eq!(of("a", ExactlyOnce, false), Some(Effect::Deny));
        assert_eq!(of("b", AtMostOnce, false), None);
        assert_eq!(of("b", AtMostOnce, true), Some(Effect::Deny));
        assert_eq!(of("c", AtMostOnce, false), Some(Effect::Allow));
        assert_eq!(of("c", AtMostOnce, true), None);
        assert_eq!(of("c", AtLeastOnce, false), None);
        let at = |quality| {
            let manner = Manner::of_subscription(quality);
            grants.of_filter(Operation::Subscribe, &filter("a"), manner)
        };
        assert_eq!(
            (at(AtLeastOnce), at(ExactlyOnce)),
            (None, Some(Effect::Deny))
        );
        // Where nobody knows how, it is the worst that it may be.
        assert_eq!(publish(&grants, "a"), Some(Effect::Deny));
        assert_eq!(publish(&grants, "b"), Some(Effect::Deny));
        assert_eq!(publish(&grants, "c"), None);
    }
}
