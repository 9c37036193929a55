//! Transactions in the model: all steps are looked at, then everything happens, then somebody sees it.

use std::collections::BTreeSet;

use longtail_engine::{Reason, Refusal, Reply, Settle, Step, Target};
use longtail_model::{ConsumerTag, Lsn};

use super::dead::{Frame, Grave, Letter};
use super::{At, Logged, Model, Outcome, Place, Told};

pub(super) enum Plan {
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
    letter: Letter,
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
        let mut frame = Frame::default();
        frame.named = named;
        for publish in &publishes {
            self.target(key, publish.to)
                .and_then(|first| self.add(&mut frame, first, &publish.letter))
                .map_err(|why| refused(publish.step, why))?;
        }
        let published = self.commit(frame, plans, told);
        let published = published.into_iter().map(|seq| (seq, Lsn::ZERO)).collect();
        Ok(Reply::Transacted { published })
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
                    letter: Letter {
                        also: also.iter().map(|id| id.0).collect(),
                        fleeting: message.expires_ms == Some(0),
                        message: self.new_message(message),
                        past: Vec::new(),
                    },
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
                    Settle::Reject if self.grave(at, Reason::Rejected) != Grave::Unwanted => {
                        Some(Reason::Rejected)
                    }
                    Settle::Release { failed: true, .. } if spent => Some(Reason::Deliveries),
                    _ => None,
                };
                let failures = now.counts.failures + 1;
                let failed = matches!(how, Settle::Release { failed: true, .. })
                    && config.max_failures.is_some_and(|max| failures > max);
                let dies = dies.or(failed.then_some(Reason::Deliveries));
                if failed && !spent && self.grave(at, Reason::Deliveries) == Grave::Unwanted {
                    return Ok(Some(Plan::Settled(hold)));
                }
                if let Some(reason) = dies {
                    let to = self.grave(at, reason);
                    let (letter, plan) = self.death_of(hold, to, reason);
                    if let (Some(letter), Grave::At(target, ..)) = (letter, to) {
                        publishes.push(Publish {
                            step: number,
                            to: Target::Stream(longtail_model::StreamId(target)),
                            letter,
                        });
                    }
                    return Ok(Some(plan));
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

    pub(super) fn carry_out(
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
