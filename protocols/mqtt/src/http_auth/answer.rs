//! What the server's answer means.

use longtail_broker::auth::{
    Defaults, Effect, Grants, Identity, IdentityError, Operation, OrderedRule, Target, When,
};
use serde_json::{Map, Value};

use super::ask::{Answer, Failed};
use crate::hooks::Proof;

/// What was decided about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is let in.
    Allow {
        /// It may do everything.
        superuser: bool,
        /// What it may do, the first rule that is about something deciding.
        rules: Option<Vec<OrderedRule>>,
    },
    /// It is not let in.
    Deny,
    /// The server does not know it.
    Ignore,
}

/// Reads an answer of EMQX's kind.
pub(super) fn of_emqx(answer: &Answer) -> Result<Outcome, Failed> {
    match answer.status {
        204 => {
            return Ok(Outcome::Allow {
                superuser: false,
                rules: None,
            });
        }
        200 => {}
        status if status >= 500 => return Err(Failed::Status(status)),
        _ => return Ok(Outcome::Ignore),
    }
    let wrong = |why: &str| Failed::Answer(why.to_owned());
    let body: Value =
        serde_json::from_slice(&answer.body).map_err(|error| Failed::Answer(error.to_string()))?;
    let body = body.as_object().ok_or_else(|| wrong("no object"))?;
    match body.get("result").and_then(Value::as_str) {
        Some("allow") => {}
        Some("deny") => return Ok(Outcome::Deny),
        Some("ignore") => return Ok(Outcome::Ignore),
        _ => return Err(wrong("result is allow, deny or ignore")),
    }
    let superuser = match body.get("is_superuser") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(superuser)) => *superuser,
        Some(_) => return Err(wrong("is_superuser is true or false")),
    };
    if body.get("expire_at").is_some_and(|at| !at.is_null()) {
        // To let it in for ever would be more than what was said.
        return Err(wrong("expire_at is not supported"));
    }
    let rules = match body.get("acl") {
        None | Some(Value::Null) => None,
        Some(Value::Array(list)) => Some(list.iter().map(rule).collect::<Result<_, _>>()?),
        Some(_) => return Err(wrong("acl is a list")),
    };
    Ok(Outcome::Allow { superuser, rules })
}

fn rule(value: &Value) -> Result<OrderedRule, Failed> {
    let wrong = |why: String| Failed::Answer(format!("acl: {why}"));
    let none = Map::new();
    let entry = value.as_object().unwrap_or(&none);
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let effect = match text("permission") {
        Some("allow") => Effect::Allow,
        Some("deny") => Effect::Deny,
        _ => return Err(wrong("permission is allow or deny".to_owned())),
    };
    let operations = match text("action") {
        Some("publish") => vec![Operation::Publish],
        Some("subscribe") => vec![Operation::Subscribe],
        Some("all") => vec![Operation::Publish, Operation::Subscribe],
        _ => return Err(wrong("action is publish, subscribe or all".to_owned())),
    };
    let known = ["permission", "action", "topic", "qos", "retain"];
    if let Some((other, _)) = entry
        .iter()
        .find(|(name, _)| !known.contains(&name.as_str()))
    {
        return Err(wrong(format!("{other} is not supported in a rule")));
    }
    let topic = text("topic").ok_or_else(|| wrong("topic is missing".to_owned()))?;
    let target = match topic.strip_prefix("eq ") {
        Some(literal) => Target::Literal(literal.to_owned()),
        None => {
            let levels = topic.split('/').map(|level| match level {
                "${clientid}" => "%c",
                "${username}" => "%u",
                other => other,
            });
            let topic = levels.collect::<Vec<_>>().join("/");
            if topic.contains("${") {
                return Err(wrong(format!("{topic:?}: placeholders are whole levels")));
            }
            Target::pattern(&topic).map_err(|error| wrong(format!("{topic:?}: {error}")))?
        }
    };
    let mut when = When::default();
    if let Some(value) = entry.get("qos") {
        when.qualities = qualities(value).ok_or_else(|| wrong("qos is 0, 1 or 2".to_owned()))?;
    }
    when.retain = match entry.get("retain") {
        None => None,
        Some(Value::Bool(retain)) => Some(*retain),
        Some(Value::String(all)) if all == "all" => None,
        Some(_) => return Err(wrong("retain is true, false or all".to_owned())),
    };
    if when.retain.is_some() && operations != [Operation::Publish] {
        // Whoever subscribes retains nothing: it would be a rule for half of what it says.
        return Err(wrong("retain is about publish only".to_owned()));
    }
    Ok(OrderedRule {
        operations,
        effect,
        target,
        when,
    })
}

/// A QoS, or a list of them, as numbers or texts.
fn qualities(value: &Value) -> Option<[bool; 3]> {
    let mut qualities = [false; 3];
    let one = std::slice::from_ref(value);
    let all = value.as_array().map_or(one, Vec::as_slice);
    for value in all {
        let number = match value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        *qualities.get_mut(usize::try_from(number?).ok()?)? = true;
    }
    Some(qualities)
}

/// What rules grant a client; what none is about is not allowed. What a client may subscribe to, it is sent.
pub(super) fn grants(rules: &[OrderedRule], proof: &Proof) -> Result<Grants, IdentityError> {
    let defaults = Defaults::default()
        .with(Operation::Publish, Effect::Deny)
        .with(Operation::Subscribe, Effect::Deny)
        .with(Operation::Receive, Effect::Allow)
        .with(Operation::Unsubscribe, Effect::Allow)
        .with(Operation::Manage, Effect::Deny);
    let identity = Identity {
        account: proof.username.as_deref().unwrap_or_default(),
        client_id: &proof.client_id,
    };
    Grants::in_order(rules, defaults, &identity)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(status: u16, body: &Value) -> Option<Outcome> {
        let body = body.to_string().into();
        of_emqx(&Answer { status, body }).ok()
    }

    #[test]
    fn results_and_statuses_decide() {
        let allow = |superuser| Outcome::Allow {
            superuser,
            rules: None,
        };
        assert_eq!(read(204, &Value::Null), Some(allow(false)));
        assert_eq!(read(200, &json!({"result": "allow"})), Some(allow(false)));
        let superuser = json!({"result": "allow", "is_superuser": true});
        assert_eq!(read(200, &superuser), Some(allow(true)));
        assert_eq!(read(200, &json!({"result": "deny"})), Some(Outcome::Deny));
        assert_eq!(
            read(200, &json!({"result": "ignore"})),
            Some(Outcome::Ignore)
        );
        assert_eq!(read(404, &Value::Null), Some(Outcome::Ignore));
        for wrong in [
            json!({}),
            json!([]),
            json!({"result": "yes"}),
            json!({"result": "allow", "acl": 1}),
        ] {
            assert_eq!(read(200, &wrong), None, "{wrong}");
        }
        assert_eq!(read(500, &json!({"result": "allow"})), None);
    }

    #[test]
    fn a_rule_that_says_what_is_not_known_lets_nobody_in() {
        let with = |rule: Value| read(200, &json!({"result": "allow", "acl": [rule]})).is_some();
        assert!(with(
            json!({"permission": "allow", "action": "all", "topic": "a/${clientid}/#"})
        ));
        assert!(with(
            json!({"permission": "deny", "action": "publish", "topic": "eq a/#"})
        ));
        assert!(with(json!({
            "permission": "deny", "action": "publish", "topic": "a", "qos": ["1", 2], "retain": true,
        })));
        assert!(with(
            json!({"permission": "deny", "action": "all", "topic": "a", "qos": 0, "retain": "all"})
        ));
        for wrong in [
            json!({"permission": "perhaps", "action": "all", "topic": "a"}),
            json!({"permission": "allow", "action": "read", "topic": "a"}),
            json!({"permission": "allow", "action": "all"}),
            json!({"permission": "allow", "action": "all", "topic": "a/#/b"}),
            json!({"permission": "allow", "action": "all", "topic": "a-${clientid}"}),
            json!({"permission": "allow", "action": "publish", "topic": "a", "qos": [3]}),
            json!({"permission": "allow", "action": "publish", "topic": "a", "retain": 1}),
            json!({"permission": "allow", "action": "all", "topic": "a", "retain": true}),
            json!({"permission": "allow", "action": "publish", "topic": "a", "zone": "x"}),
            json!("allow"),
        ] {
            assert!(!with(wrong.clone()), "{wrong}");
        }
    }
}
