//! What is under way between a source and where its messages go: which delivery is settled when. No I/O, no clock.

use std::collections::VecDeque;

use longtail_model::Timestamp;

use crate::link::Settle;

/// When a message is settled where it came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AckMode {
    /// When the other side has confirmed it: nothing is lost.
    #[default]
    OnConfirm,
    /// When it is sent: what is on its way when a connection breaks is lost.
    OnPublish,
    /// When the source sends it: what either side has not got when a connection breaks is lost.
    NoAck,
}

impl AckMode {
    /// All, by name.
    pub(crate) const NAMES: &[(&str, AckMode)] = &[
        ("on-confirm", AckMode::OnConfirm),
        ("on-publish", AckMode::OnPublish),
        ("no-ack", AckMode::NoAck),
    ];
}

/// Milliseconds before a message that was refused goes back, and comes again.
const PAUSE_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Stored,
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// 0: it was not sent anywhere.
    seq: u64,
    tag: u64,
    state: State,
}

/// Deliveries that are to be settled: so many, the last of which has this tag.
pub(crate) type Settlement = (u64, u32, Settle);

/// See the module.
#[derive(Debug)]
pub(crate) struct Flow {
    mode: AckMode,
    /// Messages that are still to be taken; `None`: all that come.
    left: Option<u64>,
    under_way: VecDeque<Entry>,
    /// Refused messages by when they go back. While one waits, settling several at once would settle it too.
    refused: VecDeque<(Timestamp, u64)>,
    ready: Vec<Settlement>,
    forwarded: u64,
}

impl Flow {
    pub(crate) fn new(mode: AckMode, left: Option<u64>) -> Self {
        Flow {
            mode,
            left,
            under_way: VecDeque::new(),
            refused: VecDeque::new(),
            ready: Vec::new(),
            forwarded: 0,
        }
    }

    /// Whether another message is to be taken; it is then.
    pub(crate) fn take(&mut self) -> bool {
        match &mut self.left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// A delivery was sent on by this number.
    pub(crate) fn sent(&mut self, tag: u64, seq: u64) {
        match self.mode {
            AckMode::OnConfirm => self.begin(tag, seq, State::Waiting),
            AckMode::OnPublish => {
                self.forwarded += 1;
                self.ready.push((tag, 1, Settle::Ack));
            }
            AckMode::NoAck => self.forwarded += 1,
        }
    }

    /// A delivery goes nowhere.
    pub(crate) fn dropped(&mut self, tag: u64) {
        match self.mode {
            AckMode::OnConfirm => {
                self.begin(tag, 0, State::Stored);
                self.advance(Timestamp(0));
            }
            AckMode::OnPublish => self.ready.push((tag, 1, Settle::Ack)),
            AckMode::NoAck => {}
        }
    }

    fn begin(&mut self, tag: u64, seq: u64, state: State) {
        self.under_way.push_back(Entry { seq, tag, state });
    }

    /// The other side says what has become of what was sent.
    pub(crate) fn confirmed(&mut self, seq: u64, multiple: bool, stored: bool, now: Timestamp) {
        let state = if stored {
            State::Stored
        } else {
            State::Refused
        };
        for entry in &mut self.under_way {
            let meant = entry.seq == seq || multiple && entry.seq < seq;
            if meant && entry.state == State::Waiting {
                entry.state = state;
            }
            if entry.seq > seq {
                break;
            }
        }
        self.advance(now);
    }

    /// Settles what is done from the front.
    fn advance(&mut self, now: Timestamp) {
        let mut run: Option<(u64, u32)> = None;
        while let Some(entry) = self.under_way.front().copied() {
            match entry.state {
                State::Waiting => break,
                State::Stored => {
                    self.forwarded += u64::from(entry.seq > 0);
                    if self.refused.is_empty() {
                        let (_, count) = run.unwrap_or_default();
                        run = Some((entry.tag, count + 1));
                    } else {
                        self.ready.push((entry.tag, 1, Settle::Ack));
                    }
                }
                State::Refused => {
                    if let Some((tag, count)) = run.take() {
                        self.ready.push((tag, count, Settle::Ack));
                    }
                    self.refused
                        .push_back((now.plus_millis(PAUSE_MS), entry.tag));
                    if let Some(left) = &mut self.left {
                        // It comes again.
                        *left += 1;
                    }
                }
            }
            self.under_way.pop_front();
        }
        if let Some((tag, count)) = run {
            self.ready.push((tag, count, Settle::Ack));
        }
    }

    /// What is to be settled now, in order.
    pub(crate) fn settlements(&mut self, now: Timestamp) -> Vec<Settlement> {
        while let Some((due, tag)) = self.refused.front().copied() {
            if due > now {
                break;
            }
            self.refused.pop_front();
            self.ready.push((tag, 1, Settle::Requeue));
        }
        std::mem::take(&mut self.ready)
    }

    /// When [`Flow::settlements`] has something although nothing has happened.
    pub(crate) fn due(&self) -> Timestamp {
        let first = self.refused.front();
        first.map_or(Timestamp::NEVER, |(due, _)| *due)
    }

    /// Messages that are not settled.
    pub(crate) fn pending(&self) -> u64 {
        (self.under_way.len() + self.refused.len()) as u64
    }

    /// Messages that were stored on the other side, or sent where nobody waits for that.
    pub(crate) fn forwarded(&self) -> u64 {
        self.forwarded
    }

    /// Messages that are still to be taken.
    pub(crate) fn left(&self) -> Option<u64> {
        self.left
    }

    /// All that was to be taken is done.
    pub(crate) fn is_done(&self) -> bool {
        self.left == Some(0) && self.pending() == 0 && self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(5);

    fn flow(left: Option<u64>, count: u64) -> Flow {
        let mut flow = Flow::new(AckMode::OnConfirm, left);
        for n in 1..=count {
            assert!(flow.take());
            flow.sent(n * 10, n);
        }
        flow
    }

    #[test]
    fn nothing_is_settled_before_it_is_confirmed_and_runs_are_settled_at_once() {
        let mut flow = flow(None, 4);
        assert_eq!(flow.settlements(NOW), []);
        flow.confirmed(2, false, true, NOW);
        assert_eq!(flow.settlements(NOW), [], "the first is still on its way");
        flow.confirmed(3, true, true, NOW);
        assert_eq!(flow.settlements(NOW), [(30, 3, Settle::Ack)]);
        assert_eq!((flow.pending(), flow.forwarded()), (1, 3));
    }

    #[test]
    fn what_is_refused_goes_back_after_a_while_and_is_settled_by_nothing_else() {
        let mut flow = flow(Some(4), 4);
        flow.confirmed(2, false, false, NOW);
        flow.confirmed(4, true, true, NOW);
        let acks = [
            (10, 1, Settle::Ack),
            (30, 1, Settle::Ack),
            (40, 1, Settle::Ack),
        ];
        assert_eq!(flow.settlements(NOW), acks);
        assert!(!flow.is_done());
        assert_eq!(flow.due(), NOW.plus_millis(PAUSE_MS));
        assert_eq!(flow.settlements(flow.due()), [(20, 1, Settle::Requeue)]);
        assert_eq!(flow.left(), Some(1), "it comes again");
        assert!(flow.take() && !flow.take());
        flow.sent(50, 5);
        flow.confirmed(5, false, true, NOW);
        assert_eq!(flow.settlements(NOW), [(50, 1, Settle::Ack)]);
        assert!(flow.is_done());
    }

    #[test]
    fn what_is_dropped_waits_for_what_was_before_it() {
        let mut flow = flow(None, 1);
        flow.dropped(20);
        assert_eq!(flow.settlements(NOW), []);
        flow.confirmed(1, false, true, NOW);
        assert_eq!(flow.settlements(NOW), [(20, 2, Settle::Ack)]);
        assert_eq!(flow.forwarded(), 1);
    }

    #[test]
    fn modes_settle_when_they_say() {
        let mut flow = Flow::new(AckMode::OnPublish, None);
        flow.sent(1, 1);
        assert_eq!(flow.settlements(NOW), [(1, 1, Settle::Ack)]);
        let mut flow = Flow::new(AckMode::NoAck, Some(1));
        assert!(flow.take());
        flow.sent(1, 1);
        assert_eq!(flow.settlements(NOW), []);
        assert!(flow.is_done());
        assert_eq!(flow.forwarded(), 1);
    }
}
