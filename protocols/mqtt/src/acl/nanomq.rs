//! NanoMQ's `nanomq_acl.conf`: `rules = [{permit, username, clientid, ipaddr, and, or, action, topics}, ...]`.

use longtail_broker::auth::{Effect, ListedRule, Name, Target, When, Who};
use serde::Deserialize;
use serde_json::Value;

use super::{AclError, Action, hocon, network, pattern, rules};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    permit: Permit,
    username: Option<String>,
    clientid: Option<String>,
    ipaddr: Option<String>,
    and: Option<Vec<Named>>,
    or: Option<Vec<Named>>,
    action: Option<Word>,
    topics: Option<Vec<String>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Permit {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Publish,
    Subscribe,
    Pubsub,
}

/// One or more names of a client.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    username: Option<String>,
    clientid: Option<String>,
    ipaddr: Option<String>,
}

pub(super) fn parse(text: &str) -> Result<Vec<ListedRule>, AclError> {
    let (whole, lines) = hocon::parse(text)?;
    if let Some(other) = whole.keys().find(|key| *key != "rules") {
        return Err(AclError::at(
            1,
            format!("{other} is not known here: a list has rules only"),
        ));
    }
    let Some(Value::Array(items)) = whole.get("rules") else {
        return Err(AclError::at(1, "there is no list of rules"));
    };
    let mut all = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let line = lines.get(at).copied().unwrap_or(1);
        let read = Rule::deserialize(item).map_err(|error| error.to_string());
        let rule = read.and_then(Rule::listed);
        all.extend(rule.map_err(|why| AclError::at(line, why))?);
    }
    Ok(all)
}

impl Rule {
    fn listed(self) -> Result<Vec<ListedRule>, String> {
        let named = Named {
            username: self.username,
            clientid: self.clientid,
            ipaddr: self.ipaddr,
        };
        let mut all = named.who()?;
        if let Some(and) = self.and {
            for named in and {
                all.extend(named.who()?);
            }
        }
        if let Some(or) = self.or {
            let mut any = Vec::new();
            for named in or {
                any.push(Who::All(named.who()?));
            }
            all.push(Who::Any(any));
        }
        let action = match self.action {
            Some(Word::Publish) => Action::Publish,
            Some(Word::Subscribe) => Action::Subscribe,
            Some(Word::Pubsub) | None => Action::Both,
        };
        let topics = self
            .topics
            .map(|topics| topics.iter().map(|topic| target(topic)).collect());
        let targets = topics
            .transpose()?
            .unwrap_or_else(|| vec![Target::Everything]);
        let effect = match self.permit {
            Permit::Allow => Effect::Allow,
            Permit::Deny => Effect::Deny,
        };
        Ok(rules(
            &Who::All(all),
            effect,
            action,
            targets,
            When::default(),
        ))
    }
}

impl Named {
    fn who(self) -> Result<Vec<Who>, String> {
        // `#` is every name.
        let name = |name: Option<String>| name.filter(|name| name != "#").map(Name::Is);
        let mut who = Vec::new();
        who.extend(name(self.username).map(Who::Account));
        who.extend(name(self.clientid).map(Who::ClientId));
        if let Some(address) = self.ipaddr {
            who.push(network(&address)?);
        }
        Ok(who)
    }
}

/// `@` in front makes it a filter as it is written.
fn target(topic: &str) -> Result<Target, String> {
    match topic.strip_prefix('@') {
        Some(literal) => Ok(Target::Literal(literal.to_owned())),
        None => pattern(topic),
    }
}
