//! Permissions by regular expressions over names, as RabbitMQ has them.
//!
//! Each right has an expression that is looked for anywhere in the name of what is to be used; an empty one matches
//! nothing but the empty name. Where what is used is a subject and no named thing, its name is that of the exchange
//! that stands for the shared subject space, [`SUBJECTS`], and topic rules for it look at the subject, with dots between
//! its tokens.

use std::fmt;

use longtail_model::{Filter, SubjectRef};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::permission::{Action, Identity};

/// What the shared subject space is called in name rules.
pub const SUBJECTS: &str = "amq.topic";

/// Largest compiled expression, in bytes.
const COMPILED_MAX: usize = 1 << 20;

/// The three expressions of an account for one space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameRules {
    /// What may be created, changed and deleted.
    #[serde(default)]
    pub configure: NamePattern,
    /// What may be written to.
    #[serde(default)]
    pub write: NamePattern,
    /// What may be read from.
    #[serde(default)]
    pub read: NamePattern,
}

/// Narrows publishing to, and binding from, one topic exchange to routing keys that match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRule {
    /// The exchange.
    pub exchange: String,
    /// Keys that may be published with. `{username}`, `{vhost}` and `{client_id}` are filled in.
    #[serde(default)]
    pub write: TopicPattern,
    /// Keys that may be bound to.
    #[serde(default)]
    pub read: TopicPattern,
}

/// A regular expression, known to compile.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(String);

/// The same, with placeholders.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicPattern(String);

/// A text is not a regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a regular expression: {why}")]
pub struct NotAnExpression {
    /// The text.
    pub text: String,
    /// What is wrong with it, in one line.
    pub why: String,
}

pub(super) fn compile(text: &str) -> Result<Regex, NotAnExpression> {
    // As in RabbitMQ, an empty expression is no expression that matches everything.
    let expression = if text.is_empty() { "^$" } else { text };
    RegexBuilder::new(expression)
        .size_limit(COMPILED_MAX)
        .build()
        .map_err(|error| NotAnExpression {
            text: text.to_owned(),
            why: error
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .trim()
                .to_owned(),
        })
}

/// Whether an expression certainly matches every name.
fn is_everything(text: &str) -> bool {
    matches!(text, ".*" | "^.*" | ".*$" | "^.*$" | "^")
}

/// What a topic expression is for somebody.
fn filled(text: &str, account: &str, vhost: &str, client_id: &str) -> String {
    text.replace("{username}", &regex::escape(account))
        .replace("{vhost}", &regex::escape(vhost))
        .replace("{client_id}", &regex::escape(client_id))
}

macro_rules! pattern {
    ($name:ident, $tried:expr) => {
        impl $name {
            /// Checks an expression.
            ///
            /// # Errors
            /// [`NotAnExpression`].
            pub fn new(text: &str) -> Result<Self, NotAnExpression> {
                let tried: fn(&str) -> String = $tried;
                compile(&tried(text)).map_err(|error| NotAnExpression {
                    text: text.to_owned(),
                    ..error
                })?;
                Ok($name(text.to_owned()))
            }

            /// Matches everything.
            #[must_use]
            pub fn everything() -> Self {
                $name(".*".to_owned())
            }

            /// The expression.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAnExpression;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                $name::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(pattern: $name) -> Self {
                pattern.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

pattern!(NamePattern, str::to_owned);
pattern!(TopicPattern, |text| filled(text, "a", "a", "a"));

impl NameRules {
    /// Everything allowed.
    #[must_use]
    pub fn full() -> Self {
        NameRules {
            configure: NamePattern::everything(),
            write: NamePattern::everything(),
            read: NamePattern::everything(),
        }
    }
}

/// An expression that is ready.
#[derive(Clone, Debug)]
enum Ready {
    Everything,
    Matching(Regex),
    /// It does not compile, which was checked: nothing matches it.
    Nothing,
}

impl PartialEq for Ready {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Ready::Matching(one), Ready::Matching(other)) => one.as_str() == other.as_str(),
            (Ready::Everything, Ready::Everything) | (Ready::Nothing, Ready::Nothing) => true,
            _ => false,
        }
    }
}

impl Eq for Ready {}

impl Ready {
    fn new(text: &str) -> Self {
        if is_everything(text) {
            return Ready::Everything;
        }
        compile(text).map_or(Ready::Nothing, Ready::Matching)
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Ready::Everything => true,
            Ready::Matching(regex) => regex.is_match(name),
            Ready::Nothing => false,
        }
    }
}

/// The rules of one account for one space, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameGrants {
    /// By number of the action.
    names: Option<[Ready; 3]>,
    topics: Vec<TopicGrants>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TopicGrants {
    exchange: String,
    write: Ready,
    read: Ready,
}

impl NameGrants {
    /// `None`: there are no such rules.
    pub(super) fn compile(
        rules: Option<&NameRules>,
        topics: &[TopicRule],
        identity: &Identity<'_>,
        vhost: &str,
    ) -> Option<Self> {
        if rules.is_none() && topics.is_empty() {
            return None;
        }
        let filled = |pattern: &TopicPattern| {
            let (account, client_id) = (identity.account, identity.client_id);
            Ready::new(&filled(pattern.as_str(), account, vhost, client_id))
        };
        Some(NameGrants {
            names: rules.map(|rules| {
                [&rules.write, &rules.read, &rules.configure].map(|p| Ready::new(p.as_str()))
            }),
            topics: topics
                .iter()
                .map(|rule| TopicGrants {
                    exchange: rule.exchange.clone(),
                    write: filled(&rule.write),
                    read: filled(&rule.read),
                })
                .collect(),
        })
    }

    /// Whether the rules allow this with what has this name.
    pub(super) fn allows_name(&self, action: Action, name: &str) -> bool {
        let Some([write, read, configure]) = &self.names else {
            return false;
        };
        match action {
            Action::Publish => write.matches(name),
            Action::Consume => read.matches(name),
            Action::Configure => configure.matches(name),
            // Whoever may do everything.
            Action::Manage => [write, read, configure]
                .iter()
                .all(|ready| matches!(ready, Ready::Everything)),
        }
    }

    /// Whether a topic rule stands against this; where there is none for the exchange, nothing does.
    pub(super) fn allows_topic(&self, action: Action, exchange: &str, key: &str) -> bool {
        let mut rules = self.topics.iter().filter(|rule| rule.exchange == exchange);
        rules.all(|rule| match action {
            Action::Publish => rule.write.matches(key),
            Action::Consume => rule.read.matches(key),
            Action::Configure | Action::Manage => true,
        })
    }

    pub(super) fn allows_subject(&self, action: Action, subject: SubjectRef<'_>) -> bool {
        self.allows_name(action, SUBJECTS)
            && (self.topics.is_empty()
                || self.allows_topic(action, SUBJECTS, &dotted(subject.as_str())))
    }

    pub(super) fn allows_filter(&self, action: Action, filter: &Filter) -> bool {
        self.allows_name(action, SUBJECTS)
            && (self.topics.is_empty()
                || self.allows_topic(action, SUBJECTS, &dotted(filter.as_str())))
    }
}

fn dotted(subject: &str) -> String {
    longtail_model::swap_separators(subject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longtail_model::Subject;

    const BOB: Identity<'static> = Identity {
        account: "b.b",
        client_id: "c1",
    };

    fn rules(configure: &str, write: &str, read: &str) -> NameRules {
        NameRules {
            configure: NamePattern::new(configure).unwrap(),
            write: NamePattern::new(write).unwrap(),
            read: NamePattern::new(read).unwrap(),
        }
    }

    fn grants(rules: &NameRules, topics: &[TopicRule]) -> NameGrants {
        NameGrants::compile(Some(rules), topics, &BOB, "/").unwrap()
    }

    #[test]
    fn expressions_are_looked_for_anywhere_and_an_empty_one_allows_nothing() {
        let grants = grants(&rules("", "^jobs", "mail"), &[]);
        assert!(grants.allows_name(Action::Publish, "jobs.1"));
        assert!(!grants.allows_name(Action::Publish, "my-jobs"));
        assert!(grants.allows_name(Action::Consume, "my-mail-box"));
        assert!(!grants.allows_name(Action::Configure, "jobs"));
        assert!(!grants.allows_name(Action::Manage, "jobs"));
    }

    #[test]
    fn a_topic_rule_narrows_its_exchange_only_and_knows_who_asks() {
        let topic = TopicRule {
            exchange: SUBJECTS.to_owned(),
            write: TopicPattern::new("^{username}\\.").unwrap(),
            read: TopicPattern::everything(),
        };
        let grants = grants(&rules(".*", ".*", ".*"), &[topic]);
        assert!(grants.allows_topic(Action::Publish, SUBJECTS, "b.b.x"));
        assert!(
            !grants.allows_topic(Action::Publish, SUBJECTS, "bxb.x"),
            "a name is no expression"
        );
        assert!(grants.allows_topic(Action::Publish, "logs", "anything"));
        let own = Subject::new("b/b/x").unwrap();
        assert!(grants.allows_subject(Action::Publish, own.as_ref()));
        let other = Subject::new("c/x").unwrap();
        assert!(!grants.allows_subject(Action::Publish, other.as_ref()));
        assert!(grants.allows_subject(Action::Consume, other.as_ref()));
    }

    #[test]
    fn what_does_not_compile_is_refused_with_its_reason() {
        let error = NamePattern::new("(").unwrap_err();
        assert!(error.to_string().contains("unclosed group"), "{error}");
        assert!(NamePattern::new("a{1000}{1000}{1000}").is_err());
    }
}
