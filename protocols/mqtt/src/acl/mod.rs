//! Access lists as other brokers write them: EMQX's `acl.conf`, NanoMQ's `nanomq_acl.conf`, Mochi's ledger.
//!
//! What they say becomes an [`AccessList`] of the broker, whose first rule that is about a client and what it wants
//! decides. What subscribing is denied for is not sent to a wider subscription either.

mod emqx;
mod erlang;
mod hocon;
pub mod ledger;
mod nanomq;

use longtail_broker::auth::{
    AccessList, Effect, ListedRule, NoNetwork, NotAnExpression, Operation, OrderedRule, Target,
    When, Who,
};
use longtail_model::SubjectError;

/// Whose format a list has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Terms of Erlang.
    #[default]
    Emqx,
    /// HOCON.
    Nanomq,
}

/// Why a list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct AclError {
    /// Where, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

impl AclError {
    fn at(line: usize, why: impl Into<String>) -> Self {
        AclError {
            line,
            why: why.into(),
        }
    }
}

/// Reads a list that is about `space`; `otherwise` is what holds where no rule of it is about something.
///
/// # Errors
/// [`AclError`], for anything that is not understood: a rule that is left out could be one that denies.
pub fn parse(
    format: Format,
    text: &str,
    space: &str,
    otherwise: Option<Effect>,
) -> Result<AccessList, AclError> {
    let rules = match format {
        Format::Emqx => emqx::parse(text),
        Format::Nanomq => nanomq::parse(text),
    };
    Ok(AccessList {
        space: space.to_owned(),
        rules: rules?,
        otherwise,
    })
}

/// To publish, to subscribe, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Publish,
    Subscribe,
    Both,
}

impl Action {
    fn operations(self) -> Vec<Operation> {
        match self {
            Action::Publish => vec![Operation::Publish],
            Action::Subscribe => vec![Operation::Subscribe, Operation::Receive],
            Action::Both => vec![Operation::Publish, Operation::Subscribe, Operation::Receive],
        }
    }
}

/// One rule for each topic.
fn rules(
    who: &Who,
    effect: Effect,
    action: Action,
    targets: Vec<Target>,
    when: When,
) -> Vec<ListedRule> {
    let rule = |target| ListedRule {
        who: who.clone(),
        rule: OrderedRule {
            operations: action.operations(),
            effect,
            target,
            when,
        },
    };
    targets.into_iter().map(rule).collect()
}

/// A filter in which `${clientid}` and `${username}`, or `%c` and `%u` as a whole level, stand for names.
fn pattern(topic: &str) -> Result<Target, String> {
    let levels = topic.split('/').map(|level| match level {
        "%c" | "%u" => level.to_owned(),
        level => level
            .replace('%', "%%")
            .replace("${clientid}", "%c")
            .replace("${username}", "%u"),
    });
    let text = levels.collect::<Vec<_>>().join("/");
    if text.contains("${") {
        return Err(format!(
            "{topic:?} has a placeholder that is not known here"
        ));
    }
    Target::template(&text).map_err(|error: SubjectError| format!("{topic:?}: {error}"))
}

fn network(text: &str) -> Result<Who, String> {
    let network = text.parse();
    network
        .map(Who::Address)
        .map_err(|error: NoNetwork| error.to_string())
}

fn expression(text: &str) -> Result<longtail_broker::auth::Name, String> {
    longtail_broker::auth::Name::expression(text)
        .map_err(|error: NotAnExpression| error.to_string())
}

#[cfg(test)]
mod tests;
