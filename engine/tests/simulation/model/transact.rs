//! Transactions in the model: all steps are looked at, then everything happens, then somebody sees it.

use std::collections::{BTreeMap, BTreeSet};

use longtail_engine::{Refusal, Reply, Settle, Step, Target};
use longtail_model::{ConsumerTag, Lsn, Seq};

use super::{At, Logged, Message, Model, Outcome, Place, Told};

enum Plan {
    Settled(u64),
    Returned(u64, Logged, u64),
    Parked(u64, Option<u32>),
    Marked(u64, u64),
    Removed(u64, u64),
    Document(String, Option<Vec<u8>>),
}

struct Publish {
    step: u32,
    to: Target,
    also: Vec<u64>,
    message: Message,
    fleeting: bool,
    asked_for: bool,
}

fn refused(step: u32, why: Refusal) -> Refusal {
    let why = Box::new(why);
    Refusal::Step { step, why }
}

impl Model {
    pub(super) fn transact(&mut self, key: usize, steps: &[Step], told: &mut Told) -> Outcome {
        let mut named = BTreeSet::new();
        let (mut plans, mut publishes) = (Vec::new(), Vec::new());
        for (step, number) in steps.iter().zip(0..) {
            let plan = self
                .plan(key, number, step, &mut named, &mut publishes)
                .map_err(|why| refused(number, why))?;
            plans.extend(plan);
        }
        let mut added: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let (mut evicted, mut all_targets) = (Vec::new(), Vec::new());
        for publish in &publishes {
            let targets = self
                .room_for(key, publish, &named, &mut added, &mut evicted)
                .map_err(|why| refused(publish.step, why))?;
            all_targets.push(targets);
        }

        self.within = true;
        for (stream, seq) in evicted {
            self.remove(stream, seq);
        }
        let mut published = Vec::new();
        for (publish, targets) in publishes.iter().zip(&all_targets) {
            let seq = self.place(targets, &publish.message);
            if publish.asked_for {
                published.push((Seq(seq), Lsn::ZERO));
            }
        }
        let (mut holders, mut ready, mut touched) = (BTreeSet::new(), Vec::new(), Vec::new());
        for plan in plans {
            self.carry_out(plan, &mut holders, &mut ready, &mut touched);
        }
        self.within = false;
        self.mark();

        for (publish, targets) in publishes.iter().zip(&all_targets) {
            self.show(targets, publish.fleeting, told);
        }
        for at in ready {
            self.dispatch(at.stream, at.group, told);
        }
        for (key, tag) in holders {
            self.refill(key, tag, told);
        }
        for stream in touched {
            self.drop_if_idle(stream);
        }
        Ok(Reply::Transacted { published })
    }

    fn room_for(
        &self,
        key: usize,
        publish: &Publish,
        named: &BTreeSet<(u64, u64)>,
        added: &mut BTreeMap<u64, Vec<u64>>,
        evicted: &mut Vec<(u64, u64)>,
    ) -> Result<Vec<u64>, Refusal> {
        let first = self.target(key, publish.to)?;
        let bytes = publish.message.bytes();
        let mut targets = Vec::new();
        for &stream in std::iter::once(&first).chain(&publish.also) {
            if targets.contains(&stream) {
                continue;
            }
            if !self.kept.streams.contains_key(&stream) {
                return Err(Refusal::UnknownLink);
            }
            targets.push(stream);
            let more = added.entry(stream).or_default();
            self.make_room(stream, bytes, more, named, evicted)?;
            more.push(bytes);
        }
        Ok(targets)
    }

    fn plan(
        &self,
        key: usize,
        number: u32,
        step: &Step,
        named: &mut BTreeSet<(u64, u64)>,
        publishes: &mut Vec<Publish>,
    ) -> Result<Option<Plan>, Refusal> {
        let mut name = |stream, seq| {
            if named.insert((stream, seq)) {
                Ok(())
            } else {
                Err(Refusal::Unsupported(""))
            }
        };
        let plan = match step {
            Step::Publish { to, also, message } => {
                publishes.push(Publish {
                    step: number,
                    to: *to,
                    also: also.iter().map(|id| id.0).collect(),
                    fleeting: message.expires_ms == Some(0),
                    message: self.new_message(message),
                    asked_for: true,
                });
                return Ok(None);
            }
            Step::Document { name, body } => {
                Plan::Document(name.clone(), body.as_ref().map(|body| body.to_vec()))
            }
            Step::Remove { stream, seq } => {
                let stream = self.target(key, *stream)?;
                if !self.kept.streams[&stream].messages.contains_key(&seq.0) {
                    return Err(Refusal::Gone);
                }
                name(stream, seq.0)?;
                Plan::Removed(stream, seq.0)
            }
            Step::Mark { message, mark } => {
                let hold = self.own_hold(key, *message)?.ok_or(Refusal::Gone)?;
                let at = self.holds[&hold].at();
                name(at.stream, at.seq)?;
                Plan::Marked(hold, *mark)
            }
            Step::Settle { message, how } => {
                let hold = self.own_hold(key, *message)?.ok_or(Refusal::Gone)?;
                let at = self.holds[&hold].at();
                name(at.stream, at.seq)?;
                let config = &self.group(at.stream, at.group).expect("held").config;
                let mut now = self.standing(at).expect("held").now;
                let spent =
                    config.max_deliveries > 0 && now.counts.deliveries >= config.max_deliveries;
                let dies = match how {
                    Settle::Reject if config.dead_letter.is_some() => Some("rejected"),
                    Settle::Release { failed: true, .. } if spent => Some("max-deliveries"),
                    _ => None,
                };
                if let Some(reason) = dies {
                    let Some(target) = self.dead_letter_of(at) else {
                        return Ok(Some(Plan::Parked(hold, None)));
                    };
                    publishes.push(Publish {
                        step: number,
                        to: Target::Stream(longtail_model::StreamId(target)),
                        also: Vec::new(),
                        message: self.dead_copy(at, reason),
                        fleeting: false,
                        asked_for: false,
                    });
                    return Ok(Some(Plan::Settled(hold)));
                }
                match how {
                    Settle::Ack | Settle::Reject => Plan::Settled(hold),
                    Settle::Park { priority } => Plan::Parked(hold, priority.map(|p| p.0)),
                    Settle::Release {
                        priority,
                        delay_ms,
                        failed,
                    } => {
                        let mut delay_ms = *delay_ms;
                        if *failed {
                            now.counts.failures += 1;
                            let failures = now.counts.failures as usize;
                            if delay_ms == 0 && !config.backoff_ms.is_empty() {
                                delay_ms =
                                    config.backoff_ms[failures.min(config.backoff_ms.len()) - 1];
                            }
                        }
                        now.counts.releases += 1;
                        now.delay_ms = delay_ms;
                        now.priority = priority.map_or(now.priority, |p| p.0);
                        Plan::Returned(hold, now, delay_ms)
                    }
                }
            }
        };
        Ok(Some(plan))
    }

    fn carry_out(
        &mut self,
        plan: Plan,
        holders: &mut BTreeSet<(usize, ConsumerTag)>,
        ready: &mut Vec<At>,
        touched: &mut Vec<u64>,
    ) {
        match plan {
            Plan::Document(name, Some(body)) => {
                self.kept.documents.insert(name, body);
            }
            Plan::Document(name, None) => {
                self.kept.documents.remove(&name);
            }
            Plan::Removed(stream, seq) => {
                holders.extend(self.holders(stream, seq));
                self.remove(stream, seq);
                self.stream_mut(stream).expect("found").removed += 1;
                touched.push(stream);
            }
            Plan::Marked(hold, mark) => self.set_mark(hold, mark),
            Plan::Settled(hold) => {
                let (hold, at) = self.let_go(hold).expect("held");
                holders.insert((hold.session, hold.consumer));
                self.stream_mut(at.stream).expect("held").removed += 1;
                self.settled(at);
                touched.push(at.stream);
            }
            Plan::Parked(hold, priority) => {
                let held = &self.holds[&hold];
                holders.insert((held.session, held.consumer));
                self.park(hold, priority);
            }
            Plan::Returned(hold, mut to, delay_ms) => {
                let (hold, at) = self.let_go(hold).expect("held");
                holders.insert((hold.session, hold.consumer));
                to.place = if delay_ms > 0 {
                    Place::Delayed(self.now + delay_ms)
                } else {
                    Place::Ready
                };
                self.standing_mut(at).expect("held").now = to;
                self.log(at);
                if delay_ms > 0 {
                    self.set_delay_alarm(at.stream, at.group);
                }
                ready.push(at);
            }
        }
    }
}
