//! An access list: rules in an order that stand before those of every account, each for some clients only.
//!
//! What no rule of the list is about is as the list says for all, or as the client's account says. A list is kept by
//! whoever read it and given to the [`Roster`](super::Roster). On a server without accounts it holds too; names are then
//! what clients give, and nobody has checked them.

use std::net::IpAddr;
use std::str::FromStr;

use regex::Regex;

use super::authenticator::Peer;
use super::names::{NotAnExpression, compile};
use super::ordered::{Defaults, Operation, OrderedRule};
use super::permission::{Effect, Identity};

/// Rules of which the first that is about a client and what it wants decides.
#[derive(Clone, Debug, Default)]
pub struct AccessList {
    /// The space that it is about.
    pub space: String,
    /// The rules.
    pub rules: Vec<ListedRule>,
    /// What holds where none is about something; `None`: what the client's account may do.
    pub otherwise: Option<Effect>,
}

/// A rule, and for whom it is.
#[derive(Clone, Debug)]
pub struct ListedRule {
    /// For whom.
    pub who: Who,
    /// What.
    pub rule: OrderedRule,
}

/// Some clients.
#[derive(Clone, Debug)]
pub enum Who {
    /// All of them.
    Everybody,
    /// Those of the accounts with such names.
    Account(Name),
    /// Those with such identifiers.
    ClientId(Name),
    /// Those that come from there.
    Address(Network),
    /// Those that are all of these.
    All(Vec<Who>),
    /// Those that are any of these.
    Any(Vec<Who>),
}

/// Names that are alike.
#[derive(Clone, Debug)]
pub enum Name {
    /// This one.
    Is(String),
    /// Those that begin so.
    StartsWith(String),
    /// Those in which this expression is found.
    Matches(Regex),
}

impl Name {
    /// An expression.
    ///
    /// # Errors
    /// If it is none.
    pub fn expression(text: &str) -> Result<Self, NotAnExpression> {
        compile(text).map(Name::Matches)
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Name::Is(only) => only == name,
            Name::StartsWith(start) => name.starts_with(start.as_str()),
            Name::Matches(expression) => expression.is_match(name),
        }
    }
}

/// A client, as far as a list wants to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'a> {
    /// The name of its account.
    pub(super) account: &'a str,
    pub(super) client_id: &'a str,
    /// Where it comes from. `None`: nobody knows any more.
    pub(super) peer: Option<Peer>,
}

impl<'a> Asking<'a> {
    pub(super) fn identity(&self) -> Identity<'a> {
        Identity {
            account: self.account,
            client_id: self.client_id,
        }
    }
}

impl Who {
    /// Whether a client is among them; where its address would decide and is not known, `unknown`.
    pub(super) fn has(&self, client: &Asking<'_>, unknown: bool) -> bool {
        match self {
            Who::Everybody => true,
            Who::Account(name) => name.has(client.account),
            Who::ClientId(name) => name.has(client.client_id),
            Who::Address(network) => match client.peer {
                Some(Peer::Address(address)) => network.has(address),
                Some(Peer::Unix) => false,
                None => unknown,
            },
            Who::All(all) => all.iter().all(|who| who.has(client, unknown)),
            Who::Any(any) => any.iter().any(|who| who.has(client, unknown)),
        }
    }
}

impl AccessList {
    /// The rules for a client, in their order. Whose address is not known is denied what any address is denied, and not
    /// allowed what some are.
    pub(super) fn rules_for(&self, client: &Asking<'_>) -> impl Iterator<Item = &OrderedRule> {
        let rules = self.rules.iter();
        let rules = rules.filter(|listed| {
            let unknown = listed.rule.effect == Effect::Deny;
            listed.who.has(client, unknown)
        });
        rules.map(|listed| &listed.rule)
    }

    /// What holds where no rule is about something, and `others` where the list leaves it to them.
    pub(super) fn defaults(&self, others: Defaults) -> Defaults {
        let Some(effect) = self.otherwise else {
            return others;
        };
        let operations = [Operation::Publish, Operation::Receive, Operation::Subscribe];
        let set = |defaults: Defaults, operation| defaults.with(operation, effect);
        operations.into_iter().fold(others, set)
    }
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// A text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address and no network such as 192.0.2.0/24")]
pub struct NoNetwork(pub String);

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NoNetwork(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(wrong());
        }
        Ok(Network { address, bits })
    }
}

impl Network {
    fn has(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differs = own.to_bits() ^ other.to_bits();
                differs.leading_zeros() >= self.bits
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differs = own.to_bits() ^ other.to_bits();
                differs.leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ordered::{Target, When};
    use super::*;

    fn listed(who: Who, effect: Effect) -> ListedRule {
        let rule = OrderedRule {
            operations: vec![Operation::Publish],
            effect,
            target: Target::Everything,
            when: When::default(),
        };
        ListedRule { who, rule }
    }

    fn effects(
        list: &AccessList,
        account: &str,
        client_id: &str,
        address: Option<&str>,
    ) -> Vec<Effect> {
        let client = Asking {
            account,
            client_id,
            peer: address.map(|address| Peer::Address(address.parse().unwrap())),
        };
        list.rules_for(&client).map(|rule| rule.effect).collect()
    }

    #[test]
    fn a_rule_is_for_those_that_it_names() {
        let network = |text: &str| Who::Address(text.parse().unwrap());
        let list = AccessList {
            rules: vec![
                listed(Who::Account(Name::Is("ann".into())), Effect::Allow),
                listed(
                    Who::ClientId(Name::StartsWith("pump-".into())),
                    Effect::Deny,
                ),
                listed(
                    Who::ClientId(Name::expression("^x[0-9]+$").unwrap()),
                    Effect::Allow,
                ),
                listed(
                    Who::All(vec![
                        network("192.0.2.0/24"),
                        Who::Account(Name::Is("bob".into())),
                    ]),
                    Effect::Allow,
                ),
                listed(
                    Who::Any(vec![network("2001:db8::/32"), network("::1")]),
                    Effect::Deny,
                ),
            ],
            ..AccessList::default()
        };
        let (allow, deny) = (Effect::Allow, Effect::Deny);
        assert_eq!(effects(&list, "ann", "c", Some("198.51.100.1")), [allow]);
        assert_eq!(
            effects(&list, "ann", "pump-1", Some("198.51.100.1")),
            [allow, deny]
        );
        assert_eq!(effects(&list, "", "x17", Some("198.51.100.1")), [allow]);
        assert_eq!(
            effects(&list, "bob", "c", Some("::ffff:192.0.2.9")),
            [allow]
        );
        assert_eq!(effects(&list, "bob", "c", Some("192.0.3.9")), []);
        assert_eq!(effects(&list, "cat", "c", Some("2001:db8:1::1")), [deny]);
        assert_eq!(effects(&list, "bob", "c", None), [deny], "the careful way");
    }

    #[test]
    fn networks_are_checked() {
        for text in ["", "x", "1.2.3.4/33", "1.2.3.4/x", "::1/129", "1.2.3"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.has("203.0.113.7".parse().unwrap()));
        assert!(!all.has("::1".parse().unwrap()));
    }
}
