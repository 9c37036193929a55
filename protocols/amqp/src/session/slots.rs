//! The channels of a connection by their numbers: opened, closed by either side, and opened again.

use std::sync::Arc;

use longtail_edge::{CloseReason, Out};
use longtail_model::{SessionId, ShardId};

use super::channel::Channel;
use super::shared::Answerer;
use super::{Action, Ended, Phase, Session, Slot, Unheard, channel_error, say, touch};
use crate::codec::{Method, ReplyCode};
use crate::exception::Exception;
use crate::queue::Queue;

impl Session {
    pub(super) fn channel_method(
        &mut self,
        number: u16,
        method: &Method<'_>,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if self.phase != Phase::Running {
            return Err(self.unexpected_method());
        }
        match (self.channels.get_mut(&number), method) {
            (None, Method::ChannelOpen { .. }) => self.open_channel(number),
            (Some(_), Method::ChannelOpen { .. }) => {
                Err(channel_error("second 'channel.open' seen"))
            }
            (None | Some(Slot::Opening), _) => Err(channel_error("expected 'channel.open'")),
            (Some(Slot::Closing), Method::ChannelCloseOk {}) => {
                self.channels.remove(&number);
                Ok(())
            }
            (Some(Slot::Closing), Method::ChannelClose { .. }) => {
                say(&Method::ChannelCloseOk {}, number, out);
                Ok(())
            }
            (Some(Slot::Closing), _) => Ok(()),
            (Some(Slot::Open(_)), Method::ChannelClose { .. }) => {
                let ended = self.take_channel(number, Slot::Closing);
                self.shared.busy = Some(Answerer::Service);
                self.shared
                    .actions
                    .push(Action::CloseChannel(number, ended));
                Ok(())
            }
            (Some(Slot::Open(channel)), method) => {
                touch(&mut self.touched, number);
                channel.method(method, &mut self.shared, out)
            }
        }
    }

    fn open_channel(&mut self, number: u16) -> Result<(), Exception> {
        let (max, opened) = (self.channel_max, self.channels.len());
        let beyond = if max > 0 && opened >= usize::from(max) {
            Some(format!(
                "number of channels opened ({opened}) has reached the negotiated channel_max ({max})"
            ))
        } else if max > 0 && number > max {
            Some(format!(
                "channel number {number} is beyond the negotiated channel_max ({max})"
            ))
        } else {
            None
        };
        if let Some(text) = beyond {
            return Err(Exception::new(ReplyCode::NotAllowed, text));
        }
        self.channels.insert(number, Slot::Opening);
        self.shared.busy = Some(Answerer::Service);
        self.shared.actions.push(Action::OpenChannel(number));
        Ok(())
    }

    /// The number that a new channel is told apart by from earlier ones.
    pub(crate) fn next_incarnation(&mut self) -> u32 {
        self.incarnations += 1;
        self.incarnations
    }

    /// A channel is attached to the shards; `false`: it is not wanted any more.
    pub(crate) fn channel_opened(
        &mut self,
        number: u16,
        incarnation: u32,
        sessions: &[(ShardId, SessionId)],
        out: &mut Out,
    ) -> bool {
        self.shared.answered();
        if !matches!(self.channels.get(&number), Some(Slot::Opening)) {
            return false;
        }
        let channel = Channel::new(number, incarnation, sessions);
        self.channels.insert(number, Slot::Open(Box::new(channel)));
        say(&Method::ChannelOpenOk { reserved_1: b"" }, number, out);
        true
    }

    /// What shards answer to a channel goes here when it has ended.
    pub(crate) fn follow(&mut self, number: u16, unheard: &[Arc<Unheard>]) {
        if let Some(Slot::Open(channel)) = self.channels.get_mut(&number) {
            for (way, unheard) in channel.ways.iter_mut().zip(unheard) {
                way.set_unheard(unheard);
            }
        }
    }

    /// There is no room for another channel. `Some`: that ends the connection.
    pub(crate) fn channel_refused(
        &mut self,
        number: u16,
        exception: &Exception,
        out: &mut Out,
    ) -> Option<CloseReason> {
        self.shared.answered();
        self.channels.remove(&number);
        self.fail(0, exception, out)
    }

    /// A channel that its client has closed is detached from the shards.
    pub(crate) fn channel_closed(&mut self, number: u16, out: &mut Out) {
        self.shared.answered();
        self.channels.remove(&number);
        say(&Method::ChannelCloseOk {}, number, out);
    }

    /// Ends a channel; what is to be detached.
    pub(super) fn take_channel(&mut self, number: u16, instead: Slot) -> Ended {
        match self.channels.insert(number, instead) {
            Some(Slot::Open(channel)) => channel.end(&mut self.shared),
            _ => Ended::new(),
        }
    }

    /// Everything ends; what is to be detached, and which queues have lost their last consumer.
    pub(crate) fn end(&mut self) -> (Ended, Vec<Arc<Queue>>) {
        self.phase = Phase::Over;
        let mut ended = Ended::new();
        let channels = std::mem::take(&mut self.channels);
        for slot in channels.into_values() {
            if let Slot::Open(channel) = slot {
                ended.extend(channel.end(&mut self.shared));
            }
        }
        let mut unused = Vec::new();
        for action in std::mem::take(&mut self.shared.actions) {
            match action {
                Action::DeleteUnused(queue) => unused.push(queue),
                Action::Detach(more)
                | Action::DetachReader(more)
                | Action::CloseChannel(_, more)
                | Action::Goodbye(more) => {
                    ended.extend(more);
                }
                // What was published goes its way.
                Action::Reply(..) | Action::Share(_) | Action::Lay(_) => {
                    self.shared.actions.push(action);
                }
                _ => {}
            }
        }
        (ended, unused)
    }
}
