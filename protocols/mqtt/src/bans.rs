//! Who is kept out: clients, users and addresses, for some time or until somebody thinks better of it. And clients that
//! come and go too often, which are kept out by themselves for a while.
//!
//! Bans are last values of the stream `$mqtt/bans`: they survive a restart. A client is looked up when it says CONNECT,
//! by its identifier, the name it gives and the address it comes from, and once more by the account that it proved.

mod ban;
mod flapping;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use longtail_broker::last_values::LastValues;
use longtail_broker::{Broker, BrokerError, Space};
use longtail_engine::StreamName;
use longtail_model::{Durability, Timestamp};

use crate::codec::ReasonCode;
use crate::registry::Seen;
use crate::tenant::Tenant;
use flapping::Connects;

pub use ban::{Ban, BanError, Who};
pub use flapping::Flapping;

const STREAM: &str = "$mqtt/bans";

/// Bans that there may be.
pub const BANS_MAX: usize = 100_000;

/// Longest value of a ban, and longest reason, in bytes.
pub const TEXT_MAX: usize = 1024;

/// All bans of a space.
pub(crate) struct Bans {
    /// By what is written of who.
    values: LastValues<(Arc<str>, Arc<Ban>)>,
    /// The ranges among them.
    ranges: ArcSwap<Vec<Arc<Ban>>>,
    /// When the first of them ends.
    next_end: AtomicU64,
    is_kept: bool,
    connects: Connects,
}

impl Bans {
    pub(crate) fn open(
        broker: &Broker,
        space: &Space,
        flapping: Flapping,
    ) -> Result<Self, BrokerError> {
        let name = StreamName::new(Arc::clone(&space.name), STREAM);
        let taken_back = Box::new(|key: &str| {
            tracing::warn!(key, "a ban cannot be kept");
        });
        let is_kept = broker.durability() != Durability::Memory;
        let values = if is_kept {
            let read = |key: &str, record| {
                let ban = Ban::read(key, &record)?;
                Some((Arc::from(key), Arc::new(ban)))
            };
            LastValues::open(broker, &name, read, taken_back)?
        } else {
            LastValues::empty(broker, &name, taken_back)
        };
        let bans = Bans {
            values,
            ranges: ArcSwap::default(),
            next_end: AtomicU64::new(u64::MAX),
            is_kept,
            connects: Connects::new(flapping),
        };
        bans.look_through();
        Ok(bans)
    }

    /// Finds the ranges, and when the first ban ends.
    fn look_through(&self) {
        let mut ranges = Vec::new();
        let mut next_end = Timestamp::NEVER;
        self.values.for_each(|(_, ban)| {
            next_end = next_end.min(ban.until);
            if matches!(ban.who, Who::Address(_)) {
                ranges.push(Arc::clone(ban));
            }
        });
        self.ranges.store(Arc::new(ranges));
        self.next_end.store(next_end.0, Ordering::Relaxed);
    }

    /// The ban that keeps a client out.
    pub(crate) fn find(
        &self,
        client_id: &str,
        user: Option<&str>,
        address: Option<IpAddr>,
        now: Timestamp,
    ) -> Option<Arc<Ban>> {
        if self.values.is_empty() {
            return None;
        }
        let named = |kind: &str, value: &str| {
            let ban = self.values.get(&[kind, "/", value].concat());
            ban.map(|(_, ban)| ban).filter(|ban| now < ban.until)
        };
        named("client", client_id)
            .or_else(|| named("user", user?))
            .or_else(|| {
                let address = address?;
                let ranges = self.ranges.load();
                let found = ranges.iter().find(|ban| {
                    let Who::Address(range) = ban.who else {
                        return false;
                    };
                    range.contains(address) && now < ban.until
                });
                found.cloned()
            })
    }

    /// All of them behind the one that is named so, in the order of their names.
    fn list(&self, after: Option<&str>, max: usize, now: Timestamp) -> Vec<Arc<Ban>> {
        let mut found = Vec::new();
        self.values.for_each(|(key, ban)| {
            if now < ban.until && after.is_none_or(|after| **key > *after) {
                found.push(Arc::clone(ban));
            }
        });
        found.sort_by_key(|ban| ban.who.to_string());
        found.truncate(max);
        found
    }

    /// A client was let in; the ban that it gets if that was once too often.
    pub(crate) fn count_connect(&self, client_id: &Arc<str>, now: Timestamp) -> Option<Ban> {
        self.connects.count(client_id, now)
    }

    /// Removes what has ended.
    pub(crate) fn expire(&self, now: Timestamp) {
        if now.0 < self.next_end.load(Ordering::Relaxed) {
            return;
        }
        let mut ended = Vec::new();
        self.values.for_each(|(key, ban)| {
            if ban.until <= now {
                ended.push(Arc::clone(key));
            }
        });
        for key in ended {
            // Whether it is gone on the disk as well is of no interest: it has ended there too.
            let _ = self.values.remove(&key, Box::new(|_| ()));
        }
        self.look_through();
    }
}

impl Tenant {
    /// Keeps somebody out from now on, and disconnects (0x98) those who are in. Answers when that is durable.
    ///
    /// # Errors
    /// When there are too many bans, or the log refuses.
    pub async fn ban(
        &self,
        who: Who,
        until: Timestamp,
        reason: &str,
    ) -> Result<Arc<Ban>, BanFailed> {
        if reason.len() > TEXT_MAX {
            return Err(BanError::TooLong.into());
        }
        let ban = Ban {
            who,
            since: self.now(),
            until,
            reason: reason.into(),
        };
        let (ban, kept) = self.begin_ban(ban)?;
        if let Some(kept) = kept {
            kept.await??;
        }
        Ok(ban)
    }

    /// As [`Tenant::ban`], without waiting for the disk.
    pub(crate) fn ban_now(&self, ban: Ban) {
        let who = ban.who.to_string();
        if let Err(error) = self.begin_ban(ban) {
            tracing::warn!(who, %error, "not kept out");
        }
    }

    fn begin_ban(&self, ban: Ban) -> Result<(Arc<Ban>, Option<Kept>), BanError> {
        let bans = self.bans();
        let key = ban.who.key();
        if bans.values.len() >= BANS_MAX && bans.values.get(&key).is_none() {
            return Err(BanError::Full);
        }
        let ban = Arc::new(ban);
        let (sender, kept) = tokio::sync::oneshot::channel();
        let done = Box::new(move |outcome| {
            // Who does not wait need not be told.
            let _ = sender.send(outcome);
        });
        let value = (key, Arc::clone(&ban));
        bans.values.set(value, ban.record(), done);
        bans.look_through();
        bans.values.run();
        tracing::info!(who = %ban.who, until = ban.until.0, reason = &*ban.reason, "kept out");
        self.send_away(&ban);
        // In memory, it is done already; waiting would do no harm, and tell nothing.
        Ok((ban, bans.is_kept.then_some(kept)))
    }

    /// Ends a ban; `false`: there was none.
    ///
    /// # Errors
    /// What the log refuses.
    pub async fn unban(&self, who: &Who) -> Result<bool, BrokerError> {
        let bans = self.bans();
        let was_there = bans.values.erase(&who.key()).await?;
        bans.look_through();
        Ok(was_there)
    }

    /// The bans behind `after`, which is written as [`Who`] is, in the order of what is written so.
    #[must_use]
    pub fn list_bans(&self, after: Option<&str>, max: usize) -> Vec<Arc<Ban>> {
        self.bans().list(after, max, self.now())
    }

    /// Disconnects those whom a ban is about.
    fn send_away(&self, ban: &Ban) {
        let mut clients = Vec::new();
        self.registry().for_each(|client_id, seen| {
            let Seen::Connected(conn) = seen else {
                return;
            };
            let is_meant = match &ban.who {
                Who::Client(id) => id == client_id,
                Who::Address(range) => conn.peer().ip().is_some_and(|ip| range.contains(ip)),
                Who::User(user) => {
                    let account = conn.with(|client, _| client.session()?.account().cloned());
                    account.flatten().is_some_and(|account| account == *user)
                }
            };
            if is_meant {
                clients.push(Arc::clone(client_id));
            }
        });
        for client_id in clients {
            self.disconnect(&client_id, ReasonCode::AdministrativeAction);
        }
    }
}

type Kept = tokio::sync::oneshot::Receiver<Result<(), longtail_engine::Refusal>>;

/// Why a ban was not made.
#[derive(Debug, thiserror::Error)]
pub enum BanFailed {
    /// It is none, or one too many.
    #[error(transparent)]
    Ban(#[from] BanError),
    /// The log refuses.
    #[error(transparent)]
    Refused(#[from] longtail_engine::Refusal),
    /// The broker is closing.
    #[error("the broker is closed")]
    Closed(#[from] tokio::sync::oneshot::error::RecvError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn bans(flapping: Flapping) -> Bans {
        let broker = Broker::open(longtail_broker::BrokerConfig {
            data: None,
            durability: Durability::Memory,
            ..longtail_broker::BrokerConfig::default()
        });
        let broker = broker.unwrap();
        let space = broker.space("default").unwrap();
        Bans::open(&broker, &space, flapping).unwrap()
    }

    fn add(bans: &Bans, who: &str, until: Timestamp) {
        let ban = Arc::new(Ban {
            who: who.parse().unwrap(),
            since: NOW,
            until,
            reason: "because".into(),
        });
        let value = (ban.who.key(), Arc::clone(&ban));
        bans.values.set(value, ban.record(), Box::new(|_| ()));
        bans.look_through();
    }

    #[test]
    fn a_client_is_found_by_each_of_its_names_until_the_ban_ends() {
        let bans = bans(Flapping::default());
        let later = NOW.plus_millis(1000);
        add(&bans, "client/a/b", Timestamp::NEVER);
        add(&bans, "user/eve", later);
        add(&bans, "address/192.0.2.0/24", Timestamp::NEVER);
        let address = |text: &str| Some(text.parse().unwrap());
        let found = |id, user, ip, now| bans.find(id, user, ip, now).map(|ban| ban.who.to_string());
        assert_eq!(found("a/b", None, None, NOW).as_deref(), Some("client/a/b"));
        assert_eq!(
            found("x", Some("eve"), None, NOW).as_deref(),
            Some("user/eve")
        );
        assert_eq!(found("x", Some("eve"), None, later), None);
        let near = found("x", None, address("192.0.2.9"), NOW);
        assert_eq!(near.as_deref(), Some("address/192.0.2.0/24"));
        assert_eq!(found("x", Some("bob"), address("192.0.3.9"), NOW), None);
        bans.expire(later);
        let left: Vec<_> = bans
            .list(None, 10, NOW)
            .iter()
            .map(|ban| ban.who.kind())
            .collect();
        assert_eq!(left, ["address", "client"]);
        assert_eq!(bans.list(Some("address/192.0.2.0/24"), 10, NOW).len(), 1);
    }
}
