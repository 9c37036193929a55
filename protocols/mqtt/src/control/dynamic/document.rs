//! Clients, groups and roles, and what they mean for the accounts of the broker.

use std::collections::{BTreeMap, HashMap};

use longtail_broker::auth::{
    Account, Defaults, Effect, Member, Operation, OrderedRule, PasswordHash, RoleBook, Target, When,
};
use longtail_model::SubjectError;
use serde_json::{Map, Value};

use crate::control::CONTROL;

/// Priority of a role or a group that is given none.
pub(super) const PRIORITY: i64 = -1;

/// Fields that are not known here and are kept.
pub(super) type Others = Map<String, Value>;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Document {
    pub(super) defaults: Access,
    pub(super) clients: BTreeMap<String, Client>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) roles: BTreeMap<String, Role>,
    /// The group of clients that show no credentials.
    pub(super) anonymous_group: Option<String>,
    /// Counts the changes.
    pub(super) changes: u64,
    pub(super) others: Others,
}

/// What holds where no rule is about something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) send: bool,
    pub(super) receive: bool,
    pub(super) subscribe: bool,
    pub(super) unsubscribe: bool,
}

impl Default for Access {
    fn default() -> Self {
        Access {
            send: false,
            receive: true,
            subscribe: false,
            unsubscribe: true,
        }
    }
}

/// What people call something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Client {
    pub(super) password: Option<PasswordHash>,
    /// The only client identifier that it may have.
    pub(super) client_id: Option<String>,
    pub(super) texts: Texts,
    pub(super) disabled: bool,
    pub(super) roles: Ranks,
    pub(super) others: Others,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Group {
    pub(super) texts: Texts,
    pub(super) roles: Ranks,
    /// Those that are in it, with the priority that it has for each.
    pub(super) clients: Ranks,
    pub(super) others: Others,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Role {
    pub(super) texts: Texts,
    /// Filters with wildcards are not refused by the role as a whole.
    pub(super) wildcards: bool,
    /// In the order in which they were added.
    pub(super) acls: Vec<Acl>,
    pub(super) others: Others,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    pub(super) kind: AclKind,
    pub(super) topic: String,
    pub(super) priority: i64,
    pub(super) allow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AclKind {
    PublishClientSend,
    PublishClientReceive,
    SubscribeLiteral,
    SubscribePattern,
    UnsubscribeLiteral,
    UnsubscribePattern,
}

impl AclKind {
    /// In the order in which they are listed, which is also that in which they are asked: a literal before patterns.
    pub(super) const ALL: [(&'static str, AclKind); 6] = [
        ("publishClientSend", AclKind::PublishClientSend),
        ("publishClientReceive", AclKind::PublishClientReceive),
        ("subscribeLiteral", AclKind::SubscribeLiteral),
        ("subscribePattern", AclKind::SubscribePattern),
        ("unsubscribeLiteral", AclKind::UnsubscribeLiteral),
        ("unsubscribePattern", AclKind::UnsubscribePattern),
    ];

    pub(super) fn parse(word: &str) -> Option<Self> {
        let known = AclKind::ALL.iter();
        let mut known = known.filter(|(name, _)| name.eq_ignore_ascii_case(word));
        known.next().map(|(_, kind)| *kind)
    }

    pub(super) fn as_str(self) -> &'static str {
        let known = AclKind::ALL.iter().find(|(_, kind)| *kind == self);
        known.map_or("", |(name, _)| name)
    }
}

impl Acl {
    /// As the broker takes it.
    ///
    /// # Errors
    /// If its topic is no filter.
    pub(super) fn rule(&self) -> Result<OrderedRule, SubjectError> {
        let pattern = Target::pattern(&self.topic)?;
        let literal = Target::Literal(self.topic.clone());
        let (operation, target) = match self.kind {
            AclKind::PublishClientSend => (Operation::Publish, pattern),
            AclKind::PublishClientReceive => (Operation::Receive, pattern),
            AclKind::SubscribeLiteral => (Operation::Subscribe, literal),
            AclKind::SubscribePattern => (Operation::Subscribe, pattern),
            AclKind::UnsubscribeLiteral => (Operation::Unsubscribe, literal),
            AclKind::UnsubscribePattern => (Operation::Unsubscribe, pattern),
        };
        let mut operations = vec![operation];
        if operation == Operation::Publish && self.topic.split('/').next() == Some(CONTROL) {
            operations.push(Operation::Manage);
        }
        Ok(OrderedRule {
            operations,
            effect: effect(self.allow),
            target,
            when: When::default(),
        })
    }
}

fn effect(allow: bool) -> Effect {
    if allow { Effect::Allow } else { Effect::Deny }
}

/// Names with their priorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranks(BTreeMap<String, i64>);

impl Ranks {
    /// `false`: it is there already, and stays as it is.
    pub(super) fn add(&mut self, name: &str, priority: i64) -> bool {
        if self.0.contains_key(name) {
            return false;
        }
        self.0.insert(name.to_owned(), priority);
        true
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(super) fn get(&self, name: &str) -> Option<i64> {
        self.0.get(name).copied()
    }

    /// The highest priority first, of equal ones by their names.
    pub(super) fn ordered(&self) -> Vec<(&str, i64)> {
        let mut names: Vec<(&str, i64)> = self.0.iter().map(|(name, at)| (&**name, *at)).collect();
        names.sort_by_key(|(_, priority)| std::cmp::Reverse(*priority));
        names
    }

    fn names(&self) -> Vec<String> {
        let ordered = self.ordered().into_iter();
        ordered.map(|(name, _)| name.to_owned()).collect()
    }
}

impl FromIterator<(String, i64)> for Ranks {
    fn from_iter<T: IntoIterator<Item = (String, i64)>>(names: T) -> Self {
        Ranks(names.into_iter().collect())
    }
}

impl Role {
    /// The rules of the role, the first that is about something first.
    fn rules(&self) -> Vec<OrderedRule> {
        let mut rules = Vec::with_capacity(self.acls.len() + 1);
        if !self.wildcards {
            rules.push(OrderedRule {
                operations: vec![Operation::Subscribe],
                effect: Effect::Deny,
                target: Target::Wildcards,
                when: When::default(),
            });
        }
        for (_, kind) in AclKind::ALL {
            let mut acls: Vec<&Acl> = self.acls.iter().filter(|acl| acl.kind == kind).collect();
            acls.sort_by_key(|acl| std::cmp::Reverse(acl.priority));
            // Topics were checked when they came.
            rules.extend(acls.into_iter().filter_map(|acl| acl.rule().ok()));
        }
        rules
    }
}

impl Document {
    /// The groups that a client is in, the highest priority first.
    pub(super) fn groups_of(&self, client: &str) -> Vec<(&str, i64)> {
        let mut groups: Vec<(&str, i64)> = self
            .groups
            .iter()
            .filter_map(|(name, group)| Some((name.as_str(), group.clients.get(client)?)))
            .collect();
        groups.sort_by_key(|(_, priority)| std::cmp::Reverse(*priority));
        groups
    }

    /// As the accounts of the broker.
    pub(super) fn book(&self, space: &str) -> RoleBook {
        let mut groups_of: HashMap<&str, Vec<(&str, i64)>> = HashMap::new();
        for (name, group) in &self.groups {
            for (client, priority) in group.clients.ordered() {
                groups_of.entry(client).or_default().push((name, priority));
            }
        }
        let member = |(name, client): (&String, &Client)| {
            let mut groups = groups_of.remove(name.as_str()).unwrap_or_default();
            groups.sort_by_key(|(_, priority)| std::cmp::Reverse(*priority));
            Member {
                account: Account {
                    password: client.password.clone(),
                    client_id: client.client_id.clone(),
                    enabled: !client.disabled,
                    ..Account::named(name)
                },
                roles: client.roles.names(),
                groups: groups
                    .into_iter()
                    .map(|(name, _)| name.to_owned())
                    .collect(),
            }
        };
        let Access {
            send,
            receive,
            subscribe,
            unsubscribe,
        } = self.defaults;
        RoleBook {
            space: space.to_owned(),
            members: self.clients.iter().map(member).collect(),
            groups: self
                .groups
                .iter()
                .map(|(name, group)| (name.clone(), group.roles.names()))
                .collect(),
            roles: self
                .roles
                .iter()
                .map(|(name, role)| (name.clone(), role.rules()))
                .collect(),
            anonymous: self.anonymous_group.clone(),
            // Nobody administers anything by default, whatever may be published.
            defaults: Defaults::default()
                .with(Operation::Publish, effect(send))
                .with(Operation::Receive, effect(receive))
                .with(Operation::Subscribe, effect(subscribe))
                .with(Operation::Unsubscribe, effect(unsubscribe))
                .with(Operation::Manage, Effect::Deny),
        }
    }
}
