//! EMQX's `acl.conf`: `{allow | deny, WHO, ACTION, TOPICS}.`, and `{allow | deny, WHO}.` for everything.

use longtail_broker::auth::{Effect, ListedRule, Name, Target, When, Who};

use super::erlang::{self, Term};
use super::{AclError, Action, expression, network, pattern, rules};

pub(super) fn parse(text: &str) -> Result<Vec<ListedRule>, AclError> {
    let mut all = Vec::new();
    for (line, term) in erlang::parse(text)? {
        all.extend(rule(&term).map_err(|why| AclError::at(line, why))?);
    }
    Ok(all)
}

fn rule(term: &Term) -> Result<Vec<ListedRule>, String> {
    let wrong =
        || "a rule is {allow | deny, WHO} or {allow | deny, WHO, ACTION, TOPICS}".to_owned();
    let Term::Tuple(parts) = term else {
        return Err(wrong());
    };
    let (effect, who, (action, when), targets) = match &parts[..] {
        [effect, of] => {
            let everything = vec![Target::Everything];
            (
                effect,
                who(of)?,
                (Action::Both, When::default()),
                everything,
            )
        }
        [effect, of, action, Term::List(topics)] => {
            let targets = topics.iter().map(topic).collect::<Result<_, _>>()?;
            (effect, who(of)?, self::action(action)?, targets)
        }
        _ => return Err(wrong()),
    };
    let effect = match effect {
        Term::Atom(word) if word == "allow" => Effect::Allow,
        Term::Atom(word) if word == "deny" => Effect::Deny,
        _ => return Err(wrong()),
    };
    Ok(rules(&who, effect, action, targets, when))
}

fn who(term: &Term) -> Result<Who, String> {
    let (kind, of) = match term {
        Term::Atom(word) if word == "all" => return Ok(Who::Everybody),
        Term::Tuple(parts) => match &parts[..] {
            [Term::Atom(kind), of] => (kind.as_str(), of),
            [Term::Atom(kind), ..] => {
                return Err(format!("clients cannot be told apart by {kind} here"));
            }
            _ => return Err("WHO begins with a word".to_owned()),
        },
        _ => {
            return Err(
                "WHO is all, or {username | clientid | ipaddr | ipaddrs | 'and' | 'or', ...}"
                    .to_owned(),
            );
        }
    };
    match (kind, of) {
        ("username" | "user", of) => Ok(Who::Account(name(of)?)),
        ("clientid" | "client", of) => Ok(Who::ClientId(name(of)?)),
        ("ipaddr", Term::Text(text)) => network(text),
        ("ipaddrs", Term::List(texts)) => {
            let one = |term: &Term| match term {
                Term::Text(text) => network(text),
                _ => Err("an address is a text".to_owned()),
            };
            texts
                .iter()
                .map(one)
                .collect::<Result<_, _>>()
                .map(Who::Any)
        }
        ("and", Term::List(all)) => all.iter().map(who).collect::<Result<_, _>>().map(Who::All),
        ("or", Term::List(any)) => any.iter().map(who).collect::<Result<_, _>>().map(Who::Any),
        (kind, _) => Err(format!("clients cannot be told apart by {kind} here")),
    }
}

fn name(term: &Term) -> Result<Name, String> {
    match term {
        Term::Text(name) => Ok(Name::Is(name.clone())),
        Term::Atom(word) if word == "all" => expression(".*"),
        Term::Tuple(parts) => match &parts[..] {
            [Term::Atom(word), Term::Text(text)] if word == "re" => expression(text),
            _ => Err("a name is a text or {re, EXPRESSION}".to_owned()),
        },
        _ => Err("a name is a text or {re, EXPRESSION}".to_owned()),
    }
}

/// An action, or one with what it is about: `{publish, [{qos, 1}, {retain, false}]}`.
fn action(term: &Term) -> Result<(Action, When), String> {
    let wrong = || "ACTION is publish, subscribe or all, or one with {qos, ..}, {retain, ..}";
    let (word, about) = match term {
        Term::Atom(word) => (word, &[][..]),
        Term::Tuple(parts) => match &parts[..] {
            [Term::Atom(word), Term::List(about)] => (word, &about[..]),
            [Term::Atom(word), about @ Term::Tuple(_)] => (word, std::slice::from_ref(about)),
            _ => return Err(wrong().to_owned()),
        },
        _ => return Err(wrong().to_owned()),
    };
    let action = match word.as_str() {
        "publish" => Action::Publish,
        "subscribe" => Action::Subscribe,
        "all" | "pubsub" => Action::Both,
        word => {
            return Err(format!(
                "there is no action {word}: use publish, subscribe or all"
            ));
        }
    };
    let mut when = When::default();
    for term in about {
        let Term::Tuple(parts) = term else {
            return Err(wrong().to_owned());
        };
        match &parts[..] {
            [Term::Atom(name), of] if name == "qos" => when.qualities = qualities(of)?,
            [Term::Atom(name), of] if name == "retain" && action == Action::Publish => {
                when.retain = retain(of)?;
            }
            // Whoever subscribes retains nothing: it would be a rule for half of what it says.
            [Term::Atom(name), _] if name == "retain" => {
                return Err("retain is about publish only".to_owned());
            }
            _ => return Err(wrong().to_owned()),
        }
    }
    Ok((action, when))
}

fn qualities(term: &Term) -> Result<[bool; 3], String> {
    let mut qualities = [false; 3];
    let one = std::slice::from_ref(term);
    let all = match term {
        Term::List(all) => &all[..],
        _ => one,
    };
    for term in all {
        let at = match term {
            Term::Number(number) => usize::try_from(*number).ok(),
            _ => None,
        };
        let place = at.and_then(|at| qualities.get_mut(at));
        *place.ok_or("qos is 0, 1, 2 or a list of these")? = true;
    }
    Ok(qualities)
}

fn retain(term: &Term) -> Result<Option<bool>, String> {
    match term {
        Term::Atom(word) if word == "true" => Ok(Some(true)),
        Term::Atom(word) if word == "false" => Ok(Some(false)),
        Term::Atom(word) if word == "all" => Ok(None),
        _ => Err("retain is true, false or all".to_owned()),
    }
}

fn topic(term: &Term) -> Result<Target, String> {
    match term {
        Term::Text(topic) => pattern(topic),
        Term::Tuple(parts) => match &parts[..] {
            [Term::Atom(word), Term::Text(topic)] if word == "eq" => {
                Ok(Target::Literal(topic.clone()))
            }
            _ => Err("a topic is a text or {eq, TEXT}".to_owned()),
        },
        _ => Err("a topic is a text or {eq, TEXT}".to_owned()),
    }
}
