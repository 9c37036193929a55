//! What is counted, for metrics and `$SYS`.
//!
//! A session counts what goes through it in a [`Tally`] of its own, which nobody else writes: no processor waits for
//! another's count. [`Counters`] has the sums of what sessions have handed over, which they do when somebody asks
//! ([`census`](crate::census)) and at their end.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_broker::ephemeral::DropReason;

use crate::codec::Qos;
use crate::usage::Usage;

/// Totals since the start, and a few levels.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections with a session.
    pub connected: AtomicU64,
    /// Most of them at a time.
    pub connected_max: AtomicU64,
    /// Logins that were granted.
    pub accepted: AtomicU64,
    /// Logins that were refused, for whatever reason.
    pub refused: AtomicU64,
    /// Those of them that did not prove who they are.
    pub unproven: AtomicU64,
    /// Sessions that another connection took.
    pub taken_over: AtomicU64,
    /// Sessions that ended because their client did not come back in time.
    pub expired: AtomicU64,
    /// Publishes that were not allowed.
    pub denied: AtomicU64,
    /// Times that a client published faster than it may, and was not heard for a while.
    pub held_up: AtomicU64,
    /// Wills published.
    pub wills: AtomicU64,
    usage: Usage,
    dropped: [AtomicU64; DropReason::ALL.len()],
    handed_over: [AtomicU64; Traffic::COUNTS],
}

impl Counters {
    /// Counts messages that were not sent after all, although they were accepted for a session.
    pub fn drop_messages(&self, reason: DropReason, count: u64) {
        if count > 0
            && let Some(counter) = self.dropped.get(reason as usize)
        {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Messages dropped for this reason while they waited in a session.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped
            .get(reason as usize)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// A client is in.
    pub(crate) fn client_came(&self, account: Option<&Arc<str>>) {
        if let Some(account) = account {
            self.usage.came(account);
        }
        let connected = self.connected.fetch_add(1, Ordering::Relaxed) + 1;
        self.connected_max.fetch_max(connected, Ordering::Relaxed);
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A client has gone.
    pub(crate) fn client_gone(&self, account: Option<&Arc<str>>) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
        if let Some(account) = account {
            self.usage.gone(account);
        }
    }

    /// What each account uses.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Adds what a session has counted since it was last asked.
    pub(crate) fn take_over(&self, tally: &Tally) {
        let counts = tally.hand_over().into_counts();
        for (total, count) in self.handed_over.iter().zip(counts) {
            if count > 0 {
                total.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// What has gone through the sessions, as far as they have handed it over.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic::from_counts(std::array::from_fn(|n| {
            self.handed_over[n].load(Ordering::Relaxed)
        }))
    }
}

/// Packets and messages by direction. Bytes are of payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from clients, CONNECT included.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Messages from clients, by QoS.
    pub messages_in: [u64; 3],
    /// Messages to clients, by QoS, those sent again included.
    pub messages_out: [u64; 3],
    /// Payload bytes of the messages from clients.
    pub bytes_in: u64,
    /// Payload bytes of the messages to clients.
    pub bytes_out: u64,
}

impl Traffic {
    const COUNTS: usize = 10;

    /// Messages from clients.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.messages_in.iter().sum()
    }

    /// Messages to clients.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.messages_out.iter().sum()
    }

    const fn into_counts(self) -> [u64; Self::COUNTS] {
        let [in0, in1, in2] = self.messages_in;
        let [out0, out1, out2] = self.messages_out;
        let (packets_in, packets_out) = (self.packets_in, self.packets_out);
        let (bytes_in, bytes_out) = (self.bytes_in, self.bytes_out);
        [
            packets_in,
            packets_out,
            in0,
            in1,
            in2,
            out0,
            out1,
            out2,
            bytes_in,
            bytes_out,
        ]
    }

    const fn from_counts(counts: [u64; Self::COUNTS]) -> Self {
        let [
            packets_in,
            packets_out,
            in0,
            in1,
            in2,
            out0,
            out1,
            out2,
            bytes_in,
            bytes_out,
        ] = counts;
        Traffic {
            packets_in,
            packets_out,
            messages_in: [in0, in1, in2],
            messages_out: [out0, out1, out2],
            bytes_in,
            bytes_out,
        }
    }
}

/// What one session has counted since it was last asked. In this order: what every message to the client changes lies
/// together, at the end.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Tally {
    /// Messages received and sent that it has handed over.
    before: Cell<(u64, u64)>,
    inward: Cell<OneWay>,
    outward: Cell<OneWay>,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct OneWay {
    packets: u64,
    messages: [u64; 3],
    bytes: u64,
}

impl OneWay {
    fn add(mut self, qos: Qos, messages: u64, bytes: usize) -> Self {
        if let Some(total) = self.messages.get_mut(usize::from(qos.bits())) {
            *total += messages;
        }
        self.bytes += bytes as u64;
        self
    }

    fn packets(mut self, packets: u64) -> Self {
        self.packets += packets;
        self
    }

    fn messages(self) -> u64 {
        self.messages.iter().sum()
    }
}

impl Tally {
    fn hand_over(&self) -> Traffic {
        self.before.set(self.messages());
        let (inward, outward) = (self.inward.take(), self.outward.take());
        Traffic {
            packets_in: inward.packets,
            packets_out: outward.packets,
            messages_in: inward.messages,
            messages_out: outward.messages,
            bytes_in: inward.bytes,
            bytes_out: outward.bytes,
        }
    }

    /// Messages that the client has sent and was sent, since it connected.
    #[must_use]
    pub fn messages(&self) -> (u64, u64) {
        let (received, sent) = self.before.get();
        let (inward, outward) = (self.inward.get(), self.outward.get());
        (received + inward.messages(), sent + outward.messages())
    }

    /// A packet has come.
    pub(crate) fn packet_in(&self) {
        self.inward.set(self.inward.get().packets(1));
    }

    /// A packet that is no PUBLISH was written.
    pub(crate) fn packet_out(&self) {
        self.outward.set(self.outward.get().packets(1));
    }

    /// A PUBLISH has come, beside its packet.
    pub(crate) fn message_in(&self, qos: Qos, bytes: usize) {
        self.inward.set(self.inward.get().add(qos, 1, bytes));
    }

    /// A PUBLISH was written.
    pub(crate) fn message_out(&self, qos: Qos, bytes: usize) {
        self.messages_out(qos, 1, bytes);
    }

    /// So many PUBLISH were written, with so many bytes of payload together.
    pub(crate) fn messages_out(&self, qos: Qos, count: u64, bytes: usize) {
        let outward = self.outward.get();
        self.outward
            .set(outward.packets(count).add(qos, count, bytes));
    }
}

/// Messages that one session did not get, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u32; DropReason::ALL.len()]);

impl Drops {
    /// Counts some more.
    pub(crate) fn add(&mut self, reason: DropReason, count: u64) {
        if let Some(total) = self.0.get_mut(reason as usize) {
            *total = total.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// How many were dropped.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// How many were dropped for this reason.
    #[must_use]
    pub fn by(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().map_or(0, u64::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_has_counted_is_handed_over_once() {
        let (counters, tally) = (Counters::default(), Tally::default());
        tally.packet_in();
        tally.message_in(Qos::AtLeastOnce, 10);
        tally.message_out(Qos::ExactlyOnce, 7);
        tally.packet_out();
        counters.take_over(&tally);
        counters.take_over(&tally);
        assert_eq!(tally.messages(), (1, 1));
        let expected = Traffic {
            packets_in: 1,
            packets_out: 2,
            messages_in: [0, 1, 0],
            messages_out: [0, 0, 1],
            bytes_in: 10,
            bytes_out: 7,
        };
        assert_eq!(counters.traffic(), expected);
    }
}
