//! What a shard must be after a restart: the model at the recovered end of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use longtail_engine::{
    Command, GroupConfig, Handle, MessageInfo, MessageState, Numbering, Reply, Role, StreamConfig,
    StreamName, Wait,
};
use longtail_model::{Durability, GroupId, Link, Lsn, Seq};

use super::model::{Kept, Logged, Message, Pause, Place, Space, Standing, Stream};
use super::schedule::SPACES;
use super::world::World;

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($why:tt)+) => {
        let (found, expected) = ($found, $expected);
        ensure!(
            found == expected,
            "{}: {found:?} instead of {expected:?}",
            format_args!($($why)+)
        );
    };
}

/// What is dead-lettered is in one of both streams: never in both, never in none.
fn whole_dead_letters(kept: &Kept, low: &Kept, high: &Kept) -> Result<(), String> {
    let durable = |kept: &Kept, id: &u64| kept.streams.get(id).is_some_and(|s| s.durable());
    for (id, stream) in &high.streams {
        for (seq, message) in &stream.messages {
            let Some(of) = message
                .copy_of
                .filter(|of| durable(high, id) && durable(low, &of.stream))
            else {
                continue;
            };
            let before = |kept: &Kept| (kept.streams.get(id)).map(|s| s.messages.contains_key(seq));
            let standing = |kept: &Kept| {
                let stream = kept.streams.get(&of.stream)?;
                let group = stream.groups.iter().find(|g| g.id == of.group)?;
                Some(group.messages.contains_key(&of.seq))
            };
            // This step made the copy and let go of the original.
            if before(low) != Some(true)
                && standing(low) == Some(true)
                && standing(high) != Some(true)
            {
                let copied = before(kept) == Some(true);
                let stands = standing(kept) == Some(true);
                ensure!(
                    copied != stands,
                    "{of:?} is {} as message {seq} of stream {id}",
                    if copied {
                        "there and dead"
                    } else {
                        "lost and not there"
                    }
                );
            }
        }
    }
    Ok(())
}

impl World {
    /// Compares the shard with what the log must have brought back, and takes over what may be one way or another.
    pub fn reconcile(&mut self, recovered: Lsn) {
        let session = self.shard.attach();
        let chain = self.between(recovered);
        let last = chain.len() - 1;
        let mut why = Vec::new();
        // The step in whose middle the log ends wrote it somewhere between two of these, one after the other.
        let kept = (0..last.max(1)).find_map(|at| {
            let (low, high) = (&chain[at], &chain[(at + 1).min(last)]);
            self.between_two(session, low, high)
                .map_err(|reason| why.push(reason))
                .ok()
        });
        let Some(kept) = kept else {
            panic!("{}", why.join("\n  and on the way from there "));
        };
        let ids: u64 = kept
            .streams
            .values()
            .flat_map(|s| s.groups.iter().map(|g| g.id).chain([s.id]))
            .max()
            .unwrap_or(0);
        self.model.kept = kept;
        self.probe_numbers(session, ids);
        self.shard.detach(
            longtail_model::Timestamp(self.now),
            session,
            &mut super::world::Ignore,
        );
        let next = self.shard.attach();
        self.shard.detach(
            longtail_model::Timestamp(self.now),
            next,
            &mut super::world::Ignore,
        );
        self.model.restart(self.now);
        self.model.next_session = next.0 + 1;
    }

    /// What the model was from where the log ends, one after the other; just one when it ends after a step.
    fn between(&self, recovered: Lsn) -> Vec<Rc<Kept>> {
        let at = self
            .history
            .iter()
            .rposition(|snapshot| snapshot.end <= recovered)
            .unwrap_or_else(|| panic!("nothing is known of position {recovered}"));
        let low = &self.history[at];
        let (from, to) = if low.derailed && at > 0 {
            (&self.history[at - 1], low)
        } else {
            match self.history.get(at + 1) {
                Some(high) if low.end < recovered => (low, high),
                _ => return vec![low.kept.clone()],
            }
        };
        let mut chain = vec![from.kept.clone()];
        chain.extend(to.via.iter().cloned());
        chain.push(to.kept.clone());
        chain
    }

    /// What the shard is, when it is between two models; else what is not.
    fn between_two(
        &mut self,
        session: longtail_model::SessionId,
        low: &Kept,
        high: &Kept,
    ) -> Result<Kept, String> {
        let mut kept = Kept::default();
        let mut seen = BTreeSet::new();
        let names: Vec<StreamName> = self.shard.stream_names().cloned().collect();
        for name in names {
            let Reply::StreamInfo(info) =
                self.ask(session, Command::DescribeStream { name: name.clone() })
            else {
                panic!("stream {name} is listed and not there");
            };
            let id = info.stream.0;
            seen.insert(id);
            let known: Vec<&Stream> = [low, high]
                .into_iter()
                .filter_map(|kept| kept.streams.get(&id).map(Rc::as_ref))
                .filter(|s| s.durable())
                .collect();
            ensure!(
                !known.is_empty(),
                "stream {id} ({name}) came back from nowhere"
            );
            ensure!(
                known.iter().all(|s| s.name == name),
                "stream {id} came back as {name}"
            );
            let stream = self.reconcile_stream(
                session,
                &name,
                low.streams.get(&id).map(Rc::as_ref),
                high.streams.get(&id).map(Rc::as_ref),
            )?;
            let all = self.ask(
                session,
                Command::Read {
                    name: name.clone(),
                    from: Seq(1),
                    max: 1000,
                    max_bytes: u64::MAX,
                    wait: Wait::No,
                },
            );
            if let Reply::Batch { messages, .. } = all {
                let found: Vec<u64> = messages.iter().map(|m| m.0.0).collect();
                let expected: Vec<u64> = stream.messages.keys().copied().collect();
                ensure_eq!(found, expected, "messages of {name}");
            }
            let bytes: u64 = stream.messages.values().map(Message::bytes).sum();
            ensure_eq!(
                (info.messages, info.bytes),
                (stream.messages.len() as u64, bytes),
                "messages and bytes of {name}: more or less than can be found"
            );
            let space = stream.space.clone();
            let given = info.next.0 - 1;
            let floor = [low, high]
                .iter()
                .filter_map(|kept| kept.spaces.get(&space))
                .map(|l| l.logged)
                .min();
            let ceiling = self.model.kept.spaces.get(&space).map_or(0, |l| l.given);
            let ceiling = [low, high]
                .iter()
                .filter_map(|kept| kept.spaces.get(&space))
                .map(|l| l.given)
                .fold(ceiling, u64::max);
            let floor = floor.unwrap_or(0);
            ensure!(
                (floor..=ceiling).contains(&given),
                "{name} goes on after {given}, not {floor} to {ceiling}"
            );
            kept.spaces.insert(
                space,
                super::model::Last {
                    given,
                    logged: floor,
                },
            );
            kept.streams.insert(id, Rc::new(stream));
        }
        for (id, stream) in low
            .streams
            .iter()
            .filter(|(id, s)| s.durable() && !seen.contains(id))
        {
            let after = high.streams.get(id);
            let may_go = after.is_none_or(|after| !after.durable())
                || (stream.config.auto_delete
                    && (stream.messages.is_empty()
                        || after.is_some_and(|s| s.messages.is_empty())));
            ensure!(
                may_go,
                "stream {id} ({}) with {} messages is lost",
                stream.name,
                stream.messages.len()
            );
        }

        let documents: BTreeMap<String, Vec<u8>> = self
            .shard
            .documents()
            .map(|(name, body)| (name.to_owned(), body.to_vec()))
            .collect();
        ensure!(
            documents == low.documents || documents == high.documents,
            "documents {:?} instead of {:?}",
            documents.keys(),
            low.documents.keys()
        );
        kept.documents = documents;
        whole_dead_letters(&kept, low, high)?;

        Ok(kept)
    }

    fn reconcile_stream(
        &mut self,
        session: longtail_model::SessionId,
        name: &StreamName,
        low: Option<&Stream>,
        high: Option<&Stream>,
    ) -> Result<Stream, String> {
        let both: Vec<&Stream> = [low, high].into_iter().flatten().collect();
        let newest = *both.last().expect("one of them knows it");
        let mut stream = newest.clone();
        stream.defined = true;
        // The default group may have come or gone in between.
        let known = both.iter().rev().map(|s| &s.config).find(|config| {
            let again = Command::Define {
                name: name.clone(),
                config: Box::new((*config).clone()),
            };
            self.ask(session, again) == Reply::Done
        });
        let Some(config) = known else {
            return Err(format!("{name} has another configuration"));
        };
        stream.config = config.clone();
        let Reply::Groups(groups) = self.ask(
            session,
            Command::DescribeGroups {
                stream: name.clone(),
            },
        ) else {
            panic!("stream {name} has no groups");
        };
        let real: BTreeSet<(u64, String)> = groups
            .iter()
            .map(|g| (g.group.0, g.name.to_string()))
            .collect();
        let of = |s: &Stream| -> BTreeSet<(u64, String)> {
            s.groups.iter().map(|g| (g.id, g.name.clone())).collect()
        };
        let source = both.iter().rev().find(|s| of(s) == real);
        let Some(source) = source else {
            return Err(format!(
                "groups of {name}: {real:?} instead of {:?}",
                of(newest)
            ));
        };
        stream.groups = source.groups.clone();
        for group in &mut stream.groups {
            if let (true, Some(config)) = (group.name.is_empty(), &stream.config.group) {
                group.config = config.clone();
            }
            group.messages.clear();
            let left = groups
                .iter()
                .find(|g| g.group.0 == group.id)
                .map_or(0, |g| g.pause_left_ms);
            let pauses = both
                .iter()
                .flat_map(|s| s.groups.iter().filter(|g| g.id == group.id))
                .map(|g| g.pause);
            group.pause = self.pause_of(left, pauses, &group.name)?;
        }
        let Reply::StreamInfo(info) =
            self.ask(session, Command::DescribeStream { name: name.clone() })
        else {
            panic!("stream {name} is there");
        };
        stream.pause = self.pause_of(info.pause_left_ms, both.iter().map(|s| s.pause), name)?;
        stream.messages.clear();

        let all = Command::Read {
            name: name.clone(),
            from: Seq(1),
            max: 1000,
            max_bytes: u64::MAX,
            wait: Wait::No,
        };
        let here: BTreeMap<u64, Lsn> = match self.ask(session, all) {
            Reply::Batch { messages, .. } => messages.iter().map(|m| (m.0.0, m.1)).collect(),
            other => panic!("{other:?}"),
        };
        let seqs: BTreeSet<u64> = both
            .iter()
            .flat_map(|s| s.messages.keys().copied())
            .collect();
        for seq in seqs {
            let holders: Vec<&Stream> = both
                .iter()
                .copied()
                .filter(|s| s.messages.contains_key(&seq))
                .collect();
            let message = holders[0].messages[&seq].clone();
            match here.get(&seq) {
                Some(&position) => self.check_body(position, Some(&message.shown)),
                None => {
                    ensure!(
                        holders.len() < both.len(),
                        "message {seq} of {name} is lost"
                    );
                    continue;
                }
            }
            stream.messages.insert(seq, message);
            for at in 0..stream.groups.len() {
                let id = stream.groups[at].id;
                let handle = Handle::Group(GroupId(id), Seq(seq));
                let info = match self.ask(session, Command::DescribeMessage { message: handle }) {
                    Reply::MessageInfo(info) => Some(info),
                    Reply::NotFound => None,
                    other => panic!("{other:?}"),
                };
                let states: Vec<Option<&Standing>> = holders
                    .iter()
                    .map(|s| {
                        s.groups
                            .iter()
                            .find(|g| g.id == id)
                            .and_then(|g| g.messages.get(&seq))
                    })
                    .collect();
                let Some(info) = info else {
                    ensure!(
                        states.iter().any(Option::is_none),
                        "group {id} of {name} has lost message {seq}: {states:?}"
                    );
                    continue;
                };
                let logged: Vec<Logged> = states
                    .iter()
                    .flatten()
                    .flat_map(|s| s.logged.iter().copied())
                    .collect();
                ensure!(
                    !logged.is_empty(),
                    "group {id} of {name} has message {seq} again, which is settled"
                );
                let now = self.now;
                let found = logged.iter().find(|logged| fits(logged, &info, now));
                let Some(found) = found else {
                    return Err(format!(
                        "message {seq} of group {id} of {name} came back as {info:?} instead of {logged:?}"
                    ));
                };
                let mut back = *found;
                if info.state == MessageState::Ready {
                    back.place = Place::Ready;
                }
                stream.groups[at]
                    .messages
                    .insert(seq, Standing { now: back, logged });
            }
        }
        Ok(stream)
    }

    /// The one of these pauses that a restart has brought back, as what is left of it says.
    fn pause_of(
        &self,
        left: u64,
        pauses: impl Iterator<Item = Option<Pause>>,
        of: &impl std::fmt::Display,
    ) -> Result<Option<Pause>, String> {
        let known: Vec<Option<Pause>> = pauses
            .map(|pause| pause.filter(|pause| pause.durable))
            .collect();
        let found = known
            .iter()
            .find(|pause| pause.map_or(0, |pause| pause.left_ms(self.now)) == left);
        match found {
            Some(pause) => Ok(*pause),
            None => Err(format!("the pause of {of} has {left} ms left: {known:?}")),
        }
    }

    /// Learns what numbers the shard gives next, which depends on how much of what was never logged was in a checkpoint.
    fn probe_numbers(&mut self, session: longtail_model::SessionId, highest: u64) {
        let probe = |numbering| StreamConfig {
            numbering,
            auto_delete: true,
            group: Some(GroupConfig::default()),
            ..StreamConfig::default()
        };
        for space in SPACES {
            let name = StreamName::new("sim", format!("probe of {space}"));
            let config = probe(Numbering::Shared((*space).into()));
            self.open_probe(session, &name, config);
            let Reply::StreamInfo(info) = self.ask(session, Command::DescribeStream { name })
            else {
                panic!("a stream just opened is not there");
            };
            let space = Space::Shared(StreamName::new("sim", *space));
            let last = self.model.kept.spaces.entry(space).or_default();
            last.given = info.next.0 - 1;
        }
        let id = self.open_probe(
            session,
            &StreamName::new("sim", "probe"),
            probe(Numbering::Own),
        );
        assert!(id > highest, "number {id} is given again");
        self.ask(session, Command::Close { link: Link(900) });
        self.model.next_id = id + 2;
    }

    fn open_probe(
        &mut self,
        session: longtail_model::SessionId,
        name: &StreamName,
        config: StreamConfig,
    ) -> u64 {
        let open = Command::Open {
            link: Link(900),
            name: name.clone(),
            create: Some(Box::new(config)),
            role: Role::Consumer,
        };
        match self.ask(session, open) {
            Reply::Opened { stream } => stream.0,
            other => panic!("{other:?}"),
        }
    }
}

/// Whether a message that came back as `info` is in this state.
fn fits(logged: &Logged, info: &MessageInfo, now: u64) -> bool {
    let place = match (logged.place, info.state) {
        (Place::Ready, MessageState::Ready) | (Place::Parked(_), MessageState::Parked) => true,
        (Place::Delayed(due), MessageState::Delayed) => {
            info.due.is_some_and(|found| found.0 == due)
        }
        (Place::Delayed(due), MessageState::Ready) => due <= now,
        _ => false,
    };
    place
        && logged.priority == info.priority.0
        && logged.delay_ms == info.delay_ms
        && logged.counts == info.counts
        && logged.mark == info.mark
}

impl Stream {
    /// Whether a restart brings it back.
    pub fn durable(&self) -> bool {
        self.defined && self.level != Durability::Memory
    }
}
