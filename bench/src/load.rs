//! A load: which connections do what, how deep, until when. Knows no protocol.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// What one connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Publishes only; nobody consumes.
    Put,
    /// Publishes, takes and settles the same number, over and over.
    Cycle,
    /// Publishes for the workers, as far as the window allows.
    Produce,
    /// Blocks for one message, settles it, over and over.
    Work,
    /// Takes and settles without blocking until nothing is left.
    Drain,
    /// Receives what others publish, without asking for each message.
    Subscribe(Interest),
    /// Publishes requests and receives their replies, each of which answers one.
    Request,
    /// Receives requests and publishes a reply to each.
    Respond,
    /// Comes back to the session that it left and receives what was kept for it meanwhile.
    Resume,
    /// Comes back only to discard the session that it left.
    Forget,
    /// Subscribed and silent.
    Idle,
}

/// Which queues a subscriber hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Its own; every subscriber of it gets each message.
    Queue,
    /// All queues of the load.
    Every,
    /// Its own, each message of which goes to one member of a group.
    Shared,
}

/// How often a message arrives, where the protocol lets its clients choose: at most, at least or exactly once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Assurance {
    #[default]
    AtMost,
    AtLeast,
    Exactly,
}

/// What is promised about messages, where the protocol lets its clients choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) assurance: Assurance,
    /// What subscribers have not settled outlives their connections.
    pub(crate) persistent: bool,
}

/// What a load's throughput counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    /// Commands answered with success.
    Commands,
    /// Messages that reached a subscriber.
    Deliveries,
}

/// How long a load runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stop {
    /// So long, after a warm-up that is not measured.
    After {
        warm_up: Duration,
        measure: Duration,
    },
    /// When the connections together did so many publishes or cycles of one message; everything is measured.
    Count(u64),
    /// When every connection says so itself (draining); everything is measured.
    Finished,
    /// When so many messages, which wait in the server, have arrived; everything is measured.
    Delivered(u64),
}

/// One load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// One role a connection.
    pub(crate) roles: Vec<Role>,
    /// Commands in one write.
    pub(crate) depth: u32,
    /// Bytes of a message's body.
    pub(crate) body_bytes: usize,
    /// When it ends.
    pub(crate) stop: Stop,
    /// Open loop: commands a second over all connections that publish or cycle. None is a closed loop.
    pub(crate) rate: Option<f64>,
    /// Generator threads.
    pub(crate) threads: usize,
    /// Messages that producers may have in flight together, counted once for each subscriber that gets them.
    pub(crate) window: i64,
    /// Subscribers that get each message; 1 also for workers.
    pub(crate) audience: u32,
    /// Bindings of each queue at the topic exchange that messages go through, where the protocol has such; otherwise
    /// subscriptions of each subscriber besides the one that it hears something of. 0: none.
    pub(crate) bindings: u32,
    /// What is promised about the messages.
    pub(crate) promise: Promise,
    /// Queues over which the connections are spread.
    pub(crate) queues: u32,
    /// Prefix of the queues' names; a fresh one a run, so that nothing left over from another run is met.
    pub(crate) queue_prefix: String,
}

/// What a protocol needs to know about one connection.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    /// From 0, over all threads.
    pub(crate) connection: u32,
    /// What it does.
    pub(crate) role: Role,
    /// Commands in one write.
    pub(crate) depth: u32,
    /// Bytes of a message's body.
    pub(crate) body_bytes: usize,
    /// What the names of the load's queues begin with.
    pub(crate) queue_prefix: String,
    /// Which of them it uses.
    pub(crate) queue: u32,
    /// Subscribers that get each message.
    pub(crate) audience: u32,
    /// Bindings of the queue at a topic exchange, or subscriptions besides; 0: there are none.
    pub(crate) bindings: u32,
    /// What is promised about the messages.
    pub(crate) promise: Promise,
    /// Publishes left to do; none is unlimited.
    pub(crate) budget: Option<u64>,
}

impl Load {
    /// The seats, in order of connection.
    pub(crate) fn seats(&self) -> Vec<Seat> {
        let publishers = self.publishers();
        let mut publisher = 0..publishers;
        let queues = self.queues.max(1);
        (0u32..)
            .zip(&self.roles)
            .map(|(connection, &role)| Seat {
                connection,
                role,
                depth: self.depth,
                body_bytes: self.body_bytes,
                queue_prefix: self.queue_prefix.clone(),
                queue: connection % queues,
                audience: self.audience,
                bindings: self.bindings,
                promise: self.promise,
                budget: match self.stop {
                    Stop::Count(total) if role.is_publisher() => publisher
                        .next()
                        .map(|number| total / publishers + u64::from(number < total % publishers)),
                    Stop::Count(_) | Stop::After { .. } | Stop::Finished | Stop::Delivered(_) => {
                        None
                    }
                },
            })
            .collect()
    }

    /// Nanoseconds between two bursts of one paced connection.
    pub(crate) fn pace_ns(&self) -> Option<f64> {
        self.rate
            .map(|rate| f64::from(self.depth) * self.publishers() as f64 * 1e9 / rate)
    }

    /// What its throughput counts.
    pub(crate) fn counts(&self) -> Counts {
        let receives = |role: &Role| matches!(role, Role::Subscribe(_) | Role::Resume);
        if self.roles.iter().any(receives) {
            Counts::Deliveries
        } else {
            Counts::Commands
        }
    }

    /// Whether messages may get lost without anybody breaking a promise.
    pub(crate) fn may_lose(&self) -> bool {
        self.counts() == Counts::Deliveries && self.promise.assurance == Assurance::AtMost
    }

    /// How many connections publish.
    pub(crate) fn publishers(&self) -> u64 {
        self.roles.iter().filter(|role| role.is_publisher()).count() as u64
    }
}

impl Role {
    /// Whether it publishes: then an open loop's rate and a count apply.
    pub(crate) fn is_publisher(self) -> bool {
        matches!(
            self,
            Role::Put | Role::Cycle | Role::Produce | Role::Request
        )
    }
}

/// What the connections of one load share.
#[derive(Debug)]
pub(crate) struct Flow {
    in_flight: AtomicI64,
    window: i64,
    publishers: AtomicU64,
    lost: AtomicU64,
    aborted: AtomicBool,
}

impl Flow {
    pub(crate) fn new(window: i64, publishers: u64) -> Self {
        Flow {
            in_flight: AtomicI64::new(0),
            window,
            publishers: AtomicU64::new(publishers),
            lost: AtomicU64::new(0),
            aborted: AtomicBool::new(false),
        }
    }

    /// So many messages are on their way before the load begins: a backlog.
    pub(crate) fn expect(&self, messages: u64) {
        let messages = i64::try_from(messages).unwrap_or(i64::MAX);
        self.in_flight.fetch_add(messages, Ordering::Relaxed);
    }

    /// Takes room for `messages` of a producer; false when the window is full. A window smaller than one burst still
    /// lets one burst through at a time.
    pub(crate) fn admit(&self, messages: u32) -> bool {
        let messages = i64::from(messages);
        let before = self.in_flight.fetch_add(messages, Ordering::Relaxed);
        if before > 0 && before + messages > self.window {
            self.in_flight.fetch_sub(messages, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Gives back room: messages settled or refused.
    pub(crate) fn leave(&self, messages: u32) {
        self.in_flight
            .fetch_sub(i64::from(messages), Ordering::Relaxed);
    }

    /// A publisher finished.
    pub(crate) fn publisher_done(&self) {
        self.publishers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether every message admitted has left and no more will come.
    pub(crate) fn is_drained(&self) -> bool {
        self.publishers.load(Ordering::Relaxed) == 0 && self.in_flight.load(Ordering::Relaxed) <= 0
    }

    /// Messages admitted that have not left, once no more will come; 0 until then.
    pub(crate) fn left_over(&self) -> i64 {
        if self.publishers.load(Ordering::Relaxed) > 0 {
            return 0;
        }
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts what is in flight as lost, so that its room can be used again. What arrives after all is then counted
    /// both ways.
    pub(crate) fn write_off(&self) {
        let lost = self.in_flight.swap(0, Ordering::Relaxed);
        self.lost
            .fetch_add(u64::try_from(lost).unwrap_or(0), Ordering::Relaxed);
    }

    /// Messages written off.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Tells all threads to give up because one failed.
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
    }

    /// Whether a thread failed.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(connections: usize, stop: Stop) -> Load {
        Load {
            roles: vec![Role::Put; connections],
            depth: 4,
            body_bytes: 10,
            stop,
            rate: Some(1000.0),
            threads: 1,
            window: 8,
            audience: 1,
            bindings: 0,
            promise: Promise::default(),
            queues: 2,
            queue_prefix: "q".to_owned(),
        }
    }

    #[test]
    fn a_count_is_shared_out_without_loss() {
        let budgets: Vec<_> = load(3, Stop::Count(11))
            .seats()
            .iter()
            .map(|seat| seat.budget)
            .collect();
        assert_eq!(budgets, [Some(4), Some(4), Some(3)]);
    }

    #[test]
    fn connections_alternate_between_queues() {
        let queues: Vec<_> = load(3, Stop::Finished)
            .seats()
            .into_iter()
            .map(|seat| seat.queue)
            .collect();
        assert_eq!(queues, [0, 1, 0]);
    }

    #[test]
    fn the_rate_counts_commands_over_all_paced_connections() {
        // 5 connections of bursts of 4 at 1000 a second: 250 bursts a second, 50 a connection.
        assert_eq!(load(5, Stop::Finished).pace_ns(), Some(20e6));
    }

    #[test]
    fn what_is_written_off_makes_room_and_is_remembered() {
        let flow = Flow::new(8, 1);
        flow.expect(3);
        assert!(flow.admit(5) && !flow.admit(1));
        flow.leave(2);
        flow.write_off();
        assert_eq!(flow.lost(), 6);
        assert!(flow.admit(8) && !flow.is_drained());
    }

    #[test]
    fn a_load_with_subscribers_counts_deliveries() {
        let mut load = load(2, Stop::Finished);
        assert_eq!(load.counts(), Counts::Commands);
        load.roles.push(Role::Subscribe(Interest::Queue));
        assert_eq!(load.counts(), Counts::Deliveries);
        assert_eq!(load.publishers(), 2);
    }

    #[test]
    fn the_window_admits_one_oversized_burst_at_a_time() {
        let flow = Flow::new(8, 1);
        assert!(flow.admit(32));
        assert!(!flow.admit(1));
        flow.leave(32);
        assert!(!flow.is_drained());
        flow.publisher_done();
        assert!(flow.is_drained());
        assert!(flow.admit(6) && flow.admit(2) && !flow.admit(1));
    }
}
