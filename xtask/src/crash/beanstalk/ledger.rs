//! What the clients know for sure about every job: the account that the server is held to after a crash.
//!
//! A job is known by its token, which its body carries, so that a job whose `INSERTED` never arrived can be recognised
//! when it turns up. An operation under way when the server dies may have happened or not; one that was acknowledged
//! must have.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::time::Instant;

use crate::random::Random;

/// Faults described in full; later ones are only counted.
const DESCRIBED_MAX: usize = 20;

/// Where an acknowledged job must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ready,
    /// Ready from this moment on.
    Delayed(Instant),
    Buried,
    /// In any of these: an operation that moves it is, or was at the crash, under way.
    Somewhere,
}

/// What is known about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// The put is, or was at the crash, under way.
    Putting,
    /// It must exist.
    Live,
    /// The delete is, or was at the crash, under way.
    Deleting,
}

#[derive(Clone, Debug)]
struct Entry {
    id: Option<u64>,
    known: Known,
    place: Place,
    priority: u32,
    /// The connection that reserved it, since the last crash.
    holder: Option<usize>,
    /// Changes whenever the job changes hands, so that a late acknowledgement does not overwrite newer knowledge.
    version: u64,
}

/// What a job found in the server contradicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Acknowledged and gone.
    Lost,
    /// There once more: after its delete was acknowledged, twice at once, or under two ids.
    Duplicated,
    /// Another body, state or priority than acknowledged.
    Wrong,
}

/// Totals for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) puts: u64,
    pub(super) deletes: u64,
    pub(super) moves: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) wrong: u64,
}

/// The account.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: HashMap<u64, Entry>,
    tokens: HashMap<u64, u64>,
    next_token: u64,
    /// Ids whose delete was acknowledged, in order.
    deleted: Vec<u64>,
    /// Jobs whose put was never answered and that have not turned up.
    unanswered: HashSet<u64>,
    /// Kicks of many jobs that are under way.
    kicks: usize,
    /// beanstalkd writes no record of a release without delay, so that the priority it set is gone after a crash.
    priorities_may_be_old: bool,
    pub(super) counts: Counts,
    pub(super) faults: Vec<String>,
}

/// A move under way: what [`Ledger::moved`] needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    token: u64,
    version: u64,
}

impl Ledger {
    /// An empty account.
    pub(super) fn new(priorities_may_be_old: bool) -> Self {
        Ledger {
            priorities_may_be_old,
            ..Ledger::default()
        }
    }

    /// Jobs that exist or may exist.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A put begins; returns its token.
    pub(super) fn putting(&mut self, priority: u32, place: Place) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let entry = Entry {
            id: None,
            known: Known::Putting,
            place,
            priority,
            holder: None,
            version: 0,
        };
        self.entries.insert(token, entry);
        token
    }

    /// A put was acknowledged.
    pub(super) fn put(&mut self, token: u64, id: u64) {
        self.counts.puts += 1;
        // Gone already when another connection was faster to reserve and delete it.
        let Some(entry) = self.entries.get_mut(&token) else {
            return;
        };
        if entry.known == Known::Putting {
            entry.known = Known::Live;
        }
        match entry.id.replace(id) {
            Some(other) if other != id => {
                self.fault(
                    Fault::Duplicated,
                    format!("job {token} has the ids {other} and {id}"),
                );
            }
            _ => {}
        }
        self.tokens.insert(id, token);
    }

    /// A job was delivered to a connection.
    pub(super) fn delivered(&mut self, connection: usize, id: u64, body: &[u8]) {
        let Some(token) = token_of(body) else {
            self.fault(
                Fault::Wrong,
                format!("job {id} was delivered with a damaged body"),
            );
            return;
        };
        self.unanswered.remove(&token);
        let Some(entry) = self.entries.get_mut(&token) else {
            self.fault(
                Fault::Duplicated,
                format!("job {id} was delivered after its delete was acknowledged"),
            );
            return;
        };
        let (other, holder) = (entry.id.replace(id), entry.holder.replace(connection));
        // A delete that was under way at the crash did not happen.
        entry.known = Known::Live;
        entry.version += 1;
        entry.place = Place::Ready;
        self.tokens.insert(id, token);
        if let Some(holder) = holder {
            self.fault(
                Fault::Duplicated,
                format!("job {id} was delivered to {connection} while {holder} holds it"),
            );
        }
        if let Some(other) = other.filter(|other| *other != id) {
            self.fault(
                Fault::Duplicated,
                format!("job {token} has the ids {other} and {id}"),
            );
        }
    }

    /// A delete begins.
    pub(super) fn deleting(&mut self, id: u64) {
        if let Some(entry) = self.entry(id) {
            entry.known = Known::Deleting;
        }
    }

    /// A delete was acknowledged.
    pub(super) fn deleted(&mut self, id: u64) {
        self.counts.deletes += 1;
        self.gone(id);
    }

    /// A release, bury or kick begins: from now on others may get the job, with the new priority if it has one.
    pub(super) fn moving(&mut self, id: u64, priority: Option<u32>) -> Option<Move> {
        let token = *self.tokens.get(&id)?;
        let entry = self.entries.get_mut(&token)?;
        entry.holder = None;
        entry.place = Place::Somewhere;
        entry.version += 1;
        entry.priority = priority.unwrap_or(entry.priority);
        Some(Move {
            token,
            version: entry.version,
        })
    }

    /// A release, bury or kick was acknowledged.
    pub(super) fn moved(&mut self, move_: Move, place: Place) {
        self.counts.moves += 1;
        let Some(entry) = self.entries.get_mut(&move_.token) else {
            return;
        };
        if entry.version == move_.version && entry.known == Known::Live {
            entry.place = place;
        } else {
            // Others moved it meanwhile, and nothing says who was first.
            entry.place = Place::Somewhere;
            entry.version += 1;
        }
    }

    /// A `kick` of many jobs begins: until it is answered it may move any that is parked, and any parked meanwhile.
    pub(super) fn kicking(&mut self) {
        self.kicks += 1;
    }

    /// A `kick` of many jobs was answered.
    pub(super) fn kicked(&mut self) {
        self.kicks -= 1;
        self.unsettle();
    }

    fn unsettle(&mut self) {
        for entry in self
            .entries
            .values_mut()
            .filter(|entry| entry.place != Place::Ready)
        {
            entry.place = Place::Somewhere;
            entry.version += 1;
        }
    }

    /// The holder of a job was told that it does not hold it.
    pub(super) fn refused(&mut self, id: u64, command: &str, reply: &str) {
        self.fault(
            Fault::Lost,
            format!("{command} of the reserved job {id} was answered with {reply}"),
        );
    }

    /// A job that is parked, to kick.
    pub(super) fn parked(&self, random: &mut Random) -> Option<u64> {
        // A look at some entries from a random one on is enough: most of the time there is one.
        let ids = (0..20).filter_map(|_| self.entries.get(&random.below(self.next_token.max(1))));
        ids.filter(|entry| {
            matches!(entry.place, Place::Buried | Place::Delayed(_)) && entry.known == Known::Live
        })
        .find_map(|entry| entry.id)
    }

    /// The server died: nobody holds anything, and reserved jobs are ready again.
    pub(super) fn crashed(&mut self) {
        if std::mem::take(&mut self.kicks) > 0 {
            self.unsettle();
        }
        let unanswered = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.known == Known::Putting && entry.id.is_none());
        self.unanswered.extend(unanswered.map(|(token, _)| *token));
        for entry in self.entries.values_mut() {
            entry.holder = None;
            entry.version += 1;
        }
    }

    /// The ids to look at: jobs that must or may exist.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.entries.values().filter_map(|entry| entry.id).collect()
    }

    /// Ids whose delete was acknowledged: the last `recent` ones and `sample` of the others.
    pub(super) fn deleted_ids(
        &self,
        recent: usize,
        sample: usize,
        random: &mut Random,
    ) -> Vec<u64> {
        let (old, new) = self
            .deleted
            .split_at(self.deleted.len().saturating_sub(recent));
        let mut ids = new.to_vec();
        if old.len() <= sample {
            ids.extend(old);
        } else {
            ids.extend((0..sample).map(|_| *random.pick(old)));
        }
        ids
    }

    /// After a restart a job was found by its id: its body, state and priority.
    pub(super) fn found(&mut self, id: u64, body: &[u8], state: &str, priority: u32) {
        let Some(&token) = self.tokens.get(&id) else {
            self.fault(
                Fault::Duplicated,
                format!("job {id} is there although its delete was acknowledged"),
            );
            return;
        };
        if token_of(body) != Some(token) {
            self.fault(Fault::Wrong, format!("the body of job {id} is damaged"));
        }
        let Some(entry) = self.entries.get_mut(&token) else {
            return;
        };
        if entry.known != Known::Live {
            entry.known = Known::Live;
            entry.place = Place::Somewhere;
        }
        let allowed: &[&str] = match entry.place {
            Place::Ready => &["ready"],
            Place::Delayed(due) if Instant::now() < due => &["delayed"],
            Place::Delayed(_) => &["delayed", "ready"],
            Place::Buried => &["buried"],
            Place::Somewhere => &["ready", "delayed", "buried"],
        };
        let expected = entry.priority;
        let sure = entry.place != Place::Somewhere;
        if !allowed.contains(&state) {
            self.fault(
                Fault::Wrong,
                format!("job {id} is {state}, not {allowed:?}"),
            );
        } else if sure && priority != expected && !self.priorities_may_be_old {
            self.fault(
                Fault::Wrong,
                format!("job {id} has priority {priority}, not {expected}"),
            );
        } else if !sure && let Some(entry) = self.entries.get_mut(&token) {
            entry.priority = priority;
            if state == "ready" {
                entry.place = Place::Ready;
            }
        }
    }

    /// After a restart there was no job of this id.
    pub(super) fn missing(&mut self, id: u64) {
        match self.entry(id).map(|entry| entry.known) {
            Some(Known::Live) => {
                self.fault(Fault::Lost, format!("job {id} is gone"));
                self.gone(id);
            }
            Some(Known::Deleting | Known::Putting) => self.gone(id),
            None => {}
        }
    }

    /// Everything was delivered and deleted: whatever must exist and did not turn up is lost. Ends the account.
    pub(super) fn close(&mut self) {
        let unanswered = std::mem::take(&mut self.unanswered);
        let left: Vec<u64> = self
            .entries
            .keys()
            .filter(|token| !unanswered.contains(token))
            .copied()
            .collect();
        for token in left {
            self.fault(Fault::Lost, format!("job {token} was never delivered"));
        }
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.entries.get_mut(self.tokens.get(&id)?)
    }

    fn gone(&mut self, id: u64) {
        if let Some(token) = self.tokens.remove(&id) {
            self.entries.remove(&token);
        }
        self.deleted.push(id);
    }

    fn fault(&mut self, fault: Fault, what: impl Display) {
        match fault {
            Fault::Lost => self.counts.lost += 1,
            Fault::Duplicated => self.counts.duplicated += 1,
            Fault::Wrong => self.counts.wrong += 1,
        }
        if self.faults.len() < DESCRIBED_MAX {
            self.faults.push(format!("{fault:?}: {what}"));
        }
    }
}

/// The body of a job: its token, and filling that depends on it.
pub(super) fn body_of(token: u64) -> Vec<u8> {
    let mut random = Random::new(token);
    let size = match random.below(20) {
        0 => 2000 + random.below(6000),
        _ => random.below(200),
    };
    let mut body = token.to_le_bytes().to_vec();
    body.extend((0..size).map(|_| random.next() as u8));
    body
}

/// The token in a body, unless a single byte of it is wrong.
fn token_of(body: &[u8]) -> Option<u64> {
    let token = u64::from_le_bytes(body.first_chunk().copied()?);
    (body_of(token) == body).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::{Ledger, Place, body_of, token_of};

    fn with_one_job() -> (Ledger, Vec<u8>) {
        let mut ledger = Ledger::default();
        let token = ledger.putting(5, Place::Ready);
        ledger.put(token, 1);
        (ledger, body_of(token))
    }

    #[test]
    fn bodies_carry_their_token() {
        for token in 0..200 {
            let mut body = body_of(token);
            assert_eq!(token_of(&body), Some(token));
            *body.last_mut().expect("a body is never empty") ^= 1;
            assert_eq!(token_of(&body), None);
        }
    }

    #[test]
    fn a_life_without_faults() {
        let (mut ledger, body) = with_one_job();
        ledger.delivered(0, 1, &body);
        let move_ = ledger.moving(1, Some(9)).expect("it is known");
        ledger.moved(move_, Place::Buried);
        ledger.crashed();
        ledger.found(1, &body, "buried", 9);
        ledger.delivered(0, 1, &body);
        ledger.deleting(1);
        ledger.deleted(1);
        ledger.missing(1);
        ledger.close();
        assert_eq!(ledger.faults, Vec::<String>::new());
        assert_eq!(ledger.len(), 0);
    }

    #[test]
    fn an_acknowledged_job_must_be_there() {
        let (mut ledger, _) = with_one_job();
        ledger.crashed();
        ledger.missing(1);
        assert_eq!(ledger.counts.lost, 1);
        let (mut ledger, _) = with_one_job();
        ledger.close();
        assert_eq!(ledger.counts.lost, 1);
    }

    #[test]
    fn a_deleted_job_must_not_come_back() {
        let (mut ledger, body) = with_one_job();
        ledger.delivered(0, 1, &body);
        ledger.deleting(1);
        ledger.deleted(1);
        ledger.delivered(0, 1, &body);
        ledger.found(1, &body, "ready", 5);
        assert_eq!(ledger.counts.duplicated, 2);
    }

    #[test]
    fn a_held_job_must_not_go_to_another() {
        let (mut ledger, body) = with_one_job();
        ledger.delivered(0, 1, &body);
        ledger.delivered(1, 1, &body);
        assert_eq!(ledger.counts.duplicated, 1);
    }

    #[test]
    fn state_priority_and_body_are_checked() {
        let (mut ledger, body) = with_one_job();
        ledger.found(1, &body, "buried", 5);
        ledger.found(1, &body, "ready", 6);
        ledger.found(1, b"something else", "ready", 5);
        assert_eq!(ledger.counts.wrong, 3);
    }

    #[test]
    fn what_was_under_way_may_be_either() {
        let (mut ledger, body) = with_one_job();
        ledger.putting(1, Place::Ready);
        ledger.delivered(0, 1, &body);
        ledger.deleting(1);
        ledger.crashed();
        ledger.found(1, &body, "ready", 5);
        ledger.delivered(0, 1, &body);
        ledger.deleting(1);
        ledger.crashed();
        ledger.missing(1);
        ledger.close();
        assert_eq!(ledger.faults, Vec::<String>::new());
    }
}
