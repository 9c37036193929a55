//! A session and its feed: what the shard answers and pushes, and what becomes of that at the client.

use std::sync::Arc;

use longtail_broker::auth::Action as Right;
use longtail_broker::ephemeral::DropReason;
use longtail_broker::message::SharedMessage;
use longtail_broker::stored::Stored;
use longtail_engine::{Command, Delivery, Message, Refusal, Reply, Settle, Target, Token};
use longtail_model::{Seq, SubjectRef};

use super::{Asked, Duty, DutyChange, Feed, Mark, Source, Stores, Unwanted, Way};
use crate::codec::{Ack, Packet, PacketId, Qos};
use crate::durable::recent::Recent;
use crate::hooks::Points;
use crate::session::kept::{Origin, Write, origin_of};
use crate::session::outbound::{Copy, Stage};
use crate::session::sending::wanted;
use crate::session::{Cx, Outbox, Session, Tag};

impl Session {
    /// Its way to the streams, if it is a session that outlives its connection.
    pub(crate) fn feed_mut(&mut self) -> Option<&mut Feed> {
        self.feed.as_deref_mut()
    }

    /// Whether messages wait for it in streams.
    pub(crate) fn is_lasting(&self) -> bool {
        self.state.number != 0
    }

    /// Whether it still takes up what was under way when it was last connected. The client is heard when that is done:
    /// what it says may be about that.
    pub(crate) fn is_resuming(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| !feed.is_ready)
    }

    /// A session that ends with its connection becomes a member of a share: it needs a way to the streams as well.
    pub(crate) fn equip(&mut self, stores: Stores) {
        self.feed
            .get_or_insert_with(|| Box::new(Feed::passing(stores)));
    }

    /// An answer of the shard.
    pub(crate) fn answered(
        &mut self,
        token: Token,
        reply: &Reply,
        message: Option<&Message<'_>>,
        recent: &Recent,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) {
        let Some(feed) = self.feed.as_deref_mut() else {
            return;
        };
        let Some(asked) = feed.asked.remove(&token) else {
            return;
        };
        let refused = matches!(reply, Reply::Refused(_) | Reply::NotFound);
        if let Reply::Refused(refusal) = reply {
            tracing::warn!(client = %self.hello.client_id, %refusal, "a shard refuses a session");
        }
        let way = match asked {
            Asked::Open(text, way) => {
                match reply {
                    Reply::Opened { stream } => {
                        feed.opened.push((text, *stream));
                        feed.has_news = true;
                    }
                    _ => feed.failed.push(text),
                }
                way
            }
            Asked::Join(text, way) => {
                if refused {
                    feed.failed.push(text);
                }
                way
            }
            Asked::Marked(drawn, way) => {
                if let Reply::Marked { group, messages } = reply {
                    if way == Way::Resume {
                        feed.find(*group, &drawn, messages);
                    }
                    feed.groups.insert(*group, drawn);
                } else {
                    feed.failed.push(drawn.text);
                }
                way
            }
            Asked::Left(group) => {
                feed.groups.remove(&group);
                return;
            }
            Asked::Taken(mark) => {
                if let (Reply::Delivered(delivery), Some(message)) = (reply, message) {
                    self.revive(delivery, mark, message, recent);
                }
                Way::Resume
            }
            Asked::Chosen => {
                if let (Reply::Delivered(delivery), Some(message)) = (reply, message) {
                    self.chosen(delivery, message, recent, cx, out);
                }
                return;
            }
            Asked::Publish(id) => {
                feed.publishing = feed.publishing.saturating_sub(1);
                // Without a mark nothing is promised: it is sent when the session comes back.
                if !refused {
                    self.publish_marked(id, cx, out);
                }
                return;
            }
            Asked::Release(id) => {
                // Where the group has gone with its subscription, nobody else can have it either.
                let is_gone = matches!(reply, Reply::NotFound | Reply::Refused(Refusal::Gone));
                if (is_gone || !refused) && self.is_open() {
                    self.say(&Packet::Pubrel(Ack::success(id)), out);
                }
                return;
            }
        };
        let Some(feed) = self.feed.as_deref_mut() else {
            return;
        };
        match way {
            Way::Resume => {
                feed.resuming = feed.resuming.saturating_sub(1);
                self.resumed(cx, out);
            }
            Way::Join => {
                feed.joining = feed.joining.saturating_sub(1);
                if feed.joining == 0 {
                    feed.has_news = true;
                    self.give_credit();
                }
            }
        }
    }

    /// Goes on with what was under way when the session was last connected, or begins with what is new.
    pub(crate) fn resumed(&mut self, cx: &Cx<'_>, out: &mut impl Outbox) {
        let Some(feed) = self.feed.as_deref_mut() else {
            return;
        };
        if feed.resuming > 0 || feed.is_ready {
            return;
        }
        if !feed.found.is_empty() {
            let mut found = std::mem::take(&mut feed.found);
            // Those of shares last: an id that something else goes by is not theirs.
            found.sort_unstable_by_key(|(mark, source)| (source.is_shared, *mark));
            feed.resuming = found.len();
            for (mark, source) in found {
                let take = Command::TakeOne {
                    message: source.handle(),
                };
                feed.ask(Asked::Taken(mark), take);
            }
            return;
        }
        feed.is_ready = true;
        feed.may_go_on = true;
        self.state.outbound.resume();
        self.give_credit();
        self.pump(cx, out);
    }

    /// Asks for messages, once everything that was under way is taken up and the client has its CONNACK.
    pub(in crate::session) fn give_credit(&mut self) {
        let window = u32::from(self.window);
        let is_open = self.is_open();
        if let Some(feed) = self.feed.as_deref_mut()
            && is_open
            && feed.is_ready
            && feed.credit.is_none()
            && !feed.groups.is_empty()
        {
            feed.credit = Some(window);
            feed.say_credit();
        }
    }

    /// A message that was under way on an earlier connection.
    fn revive(&mut self, delivery: &Delivery, mark: Mark, message: &Message<'_>, recent: &Recent) {
        let source = self.source(delivery);
        if self.state.outbound.is_in_use(mark.id) {
            if self.is_kept(mark, source) {
                // A crash came before the group had heard of it.
                self.done_with(source);
            } else if source.is_shared {
                // Not under an id that something else goes by.
                self.refuse(source);
            } else if let Some(feed) = self.feed.as_deref_mut() {
                // Nor this: it comes as a new one.
                feed.give_back(source);
            }
            return;
        }
        let copy = match self.copy_of(delivery, message, recent, None) {
            Ok(copy) => Some(Copy {
                qos: mark.qos,
                ..copy
            }),
            Err(_) if mark.stage == Stage::Released => None,
            Err(Unwanted::ForMe) => return self.refuse(source),
            Err(Unwanted::ForAll) => return self.done_with(source),
        };
        self.state.outbound.revive(mark, copy, source);
    }

    /// Whether a marked message is one that is on record as well.
    fn is_kept(&self, mark: Mark, source: Source) -> bool {
        let origin = self.origin(source);
        self.state.outbound.is_kept(mark, origin.as_ref())
    }

    /// The place of a share's message.
    fn origin(&self, source: Source) -> Option<Origin> {
        let drawn = self.feed.as_ref()?.groups.get(&source.group)?;
        origin_of(&drawn.text, source)
    }

    fn source(&self, delivery: &Delivery) -> Source {
        let drawn = (self.feed.as_ref()).and_then(|feed| feed.groups.get(&delivery.group));
        Source {
            group: delivery.group,
            seq: delivery.seq,
            is_shared: drawn.is_some_and(|drawn| drawn.share.is_some()),
            redeliveries: delivery.redeliveries,
        }
    }

    /// The client cannot have a message, which is done with; a share's is for another member, if there is one who can.
    pub(in crate::session) fn refuse(&mut self, source: Source) {
        match self.feed.as_deref_mut() {
            Some(feed) if source.is_given_back() => feed.give_back(source),
            _ => self.done_with(source),
        }
    }

    /// The message for the client, if its subscription wants it. Without `cx`, it was sent before, and the client has
    /// only to be allowed it.
    fn copy_of(
        &mut self,
        delivery: &Delivery,
        message: &Message<'_>,
        recent: &Recent,
        cx: Option<&Cx<'_>>,
    ) -> Result<Copy, Unwanted> {
        let drawn = (self.feed.as_ref()).and_then(|feed| feed.groups.get(&delivery.group));
        let held = drawn.and_then(|drawn| self.state.subscriptions.get(&drawn.text));
        let options = held.ok_or(Unwanted::ForMe)?.options;
        let tag = Tag::unpack(options.tag);
        let whole = recent.get_or_read(delivery.stream, delivery.seq, || {
            let payload = message.share();
            let stored = Stored::of(message);
            let whole = stored.to_message(payload, message.created, message.expires);
            whole.map(Arc::new)
        });
        if cx.is_some() && options.no_local && Stored::of(message).origin == self.origin {
            return Err(Unwanted::ForMe);
        }
        let Ok(whole) = whole else {
            if let Some(cx) = cx {
                self.state.drop_messages(cx, DropReason::TooLarge, 1);
            }
            return Err(Unwanted::ForAll);
        };
        let subject = SubjectRef::from(&whole.subject);
        if tag.screened && !self.grants.allows_in(Right::Consume, subject, tag.manner()) {
            if let Some(cx) = cx
                && !self.source(delivery).is_given_back()
            {
                self.lose(&whole, DropReason::Denied, cx);
            }
            return Err(Unwanted::ForMe);
        }
        if let Some(cx) = cx
            && whole.is_expired(cx.now)
        {
            self.lose(&whole, DropReason::Expired, cx);
            return Err(Unwanted::ForAll);
        }
        let wanted = wanted(&whole, tag);
        Ok(Copy {
            message: whole,
            qos: wanted.qos,
            retain: wanted.retain,
            ids: wanted.ids,
            source: Some(self.source(delivery)),
        })
    }

    /// A message from a stream is not for the client after all.
    pub(in crate::session) fn lose(
        &mut self,
        message: &SharedMessage,
        reason: DropReason,
        cx: &Cx<'_>,
    ) {
        self.state.drop_messages(cx, reason, 1);
        self.tell_dropped(message, reason);
    }

    /// A message from one of its streams.
    pub(crate) fn pushed(
        &mut self,
        delivery: &Delivery,
        message: Option<&Message<'_>>,
        recent: &Recent,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) {
        let source = self.source(delivery);
        let Some(message) = message else {
            // The shard has reported it; it stays held until the connection ends.
            return;
        };
        if !self.is_open() {
            return;
        }
        let copy = match self.copy_of(delivery, message, recent, Some(cx)) {
            Ok(copy) => copy,
            Err(Unwanted::ForMe) => return self.refuse(source),
            Err(Unwanted::ForAll) => return self.done_with(source),
        };
        if source.is_shared && self.hooked.wants(Points::SELECT).is_some() {
            if let Some(feed) = self.feed.as_deref_mut() {
                feed.unselected.push(copy);
            }
            return;
        }
        self.take(copy, source, cx, out);
    }

    /// A message that is for the client.
    fn take(&mut self, copy: Copy, source: Source, cx: &Cx<'_>, out: &mut impl Outbox) {
        if copy.qos == Qos::AtMostOnce {
            let put = if out.is_full() {
                Err(DropReason::OutboxFull)
            } else {
                self.put_plain(&copy, cx, out)
            };
            if put.is_err() && source.is_given_back() {
                return self.refuse(source);
            }
            if let Err(reason) = put {
                self.lose(&copy.message, reason, cx);
            }
            self.done_with(source);
            return;
        }
        let outbound = &self.state.outbound;
        if outbound.is_clear(self.window) && (!out.is_full() || outbound.is_idle()) {
            if let Err((reason, message)) = self.send_assured(copy, cx, out)
                && !source.is_given_back()
            {
                self.lose(&message, reason, cx);
            }
        } else {
            // As many as there is credit for.
            self.state.outbound.wait(copy);
        }
    }

    /// A message of a share that hooks have chosen this member for, or have left to it.
    pub(crate) fn take_selected(&mut self, copy: Copy, cx: &Cx<'_>, out: &mut impl Outbox) {
        if let Some(source) = copy.source.filter(|_| self.is_open()) {
            self.take(copy, source, cx, out);
        }
    }

    /// A message of a share that this member has asked for by its number has come.
    fn chosen(
        &mut self,
        delivery: &Delivery,
        message: &Message<'_>,
        recent: &Recent,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) {
        let source = self.source(delivery);
        if !self.is_open() {
            return;
        }
        match self.copy_of(delivery, message, recent, Some(cx)) {
            Ok(copy) => self.take(copy, source, cx, out),
            Err(Unwanted::ForMe) => self.refuse(source),
            Err(Unwanted::ForAll) => self.done_with(source),
        }
    }

    /// Removes a QoS 2 message that awaited its PUBREL.
    pub(in crate::session) fn forget_incoming(&mut self, seq: Seq) {
        if let Some(feed) = self.feed.as_deref_mut() {
            let stream = Target::Stream(feed.stores.incoming);
            feed.tell(Command::Remove { stream, seq });
        }
    }

    /// The message is done with.
    pub(in crate::session) fn done_with(&mut self, source: Source) {
        if let Some(feed) = self.feed.as_deref_mut() {
            feed.ack(source);
        }
    }

    /// What the window let go.
    pub(in crate::session) fn settle_landed(&mut self) {
        while let Some(source) = self.state.outbound.take_landed() {
            self.done_with(source);
        }
        while let Some(id) = self.state.outbound.take_forgotten() {
            if let Some(feed) = self.feed.as_deref_mut() {
                feed.write(Write::Forget(id));
            }
        }
        while let Some(id) = self.state.outbound.take_fulfilled() {
            if let Some(feed) = self.feed.as_deref_mut() {
                feed.duties.push(DutyChange::Done(id));
            }
        }
    }

    /// The message under `id` cannot be sent on this connection.
    pub(in crate::session) fn give_up(&mut self, id: PacketId) {
        if let Some(source) = self.state.outbound.give_up(id) {
            self.refuse(source);
        }
        self.settle_landed();
    }

    /// Whether a message of this QoS has to wait for its mark: at QoS 2 it has to be durable, and at QoS 1 messages do
    /// not overtake those.
    pub(in crate::session) fn waits_for_mark(&self, qos: Qos) -> bool {
        let feed = self.feed.as_ref().filter(|_| self.is_lasting());
        feed.is_some_and(|feed| qos == Qos::ExactlyOnce || feed.publishing > 0)
    }

    /// Leaves a mark on a message that was given `id`; with `waits`, the PUBLISH waits for it.
    pub(in crate::session) fn mark_sent(
        &mut self,
        id: PacketId,
        source: Source,
        qos: Qos,
        waits: bool,
    ) {
        if !self.is_lasting() {
            // Nobody comes back to it.
            return;
        }
        let send = self.state.outbound.sends();
        let mark = Mark {
            send,
            stage: Stage::Sent,
            qos,
            id,
        };
        if let Some(feed) = self.feed.as_deref_mut() {
            let asked = waits.then_some(Asked::Publish(id));
            feed.publishing += usize::from(waits);
            let noted = qos != Qos::ExactlyOnce;
            feed.mark(source, mark, noted, asked);
        }
    }

    /// PUBREC has come: PUBREL follows when that is durable. `false`: nothing is to be durable of it.
    pub(in crate::session) fn mark_released(&mut self, id: PacketId) -> bool {
        let Some((source, send)) = self.state.outbound.source(id) else {
            if self.keep_released(id) {
                return true;
            }
            // Said once more: PUBREL is on its way already.
            let due = |asked: &Asked| matches!(asked, Asked::Release(due) if *due == id);
            let feed = self.feed.as_ref();
            return feed.is_some_and(|feed| feed.asked.values().any(due));
        };
        if source.is_shared {
            return self.finish_share(id, source, send);
        }
        let mark = Mark {
            send,
            stage: Stage::Released,
            qos: Qos::ExactlyOnce,
            id,
        };
        match self.feed.as_deref_mut() {
            Some(feed) => {
                feed.mark(source, mark, false, Some(Asked::Release(id)));
                true
            }
            None => false,
        }
    }

    /// A share's message is this member's from now on: when that is known to the log, and the share is done with it,
    /// PUBREL follows. The log has both in this order, and nothing durable has gaps.
    fn finish_share(&mut self, id: PacketId, source: Source, send: u64) -> bool {
        let is_lasting = self.is_lasting();
        self.state.outbound.own(id, is_lasting);
        let Some(feed) = self.feed.as_deref_mut() else {
            return false;
        };
        if is_lasting {
            feed.duties.push(DutyChange::Taken(Duty {
                id,
                send,
                group: source.group,
                seq: source.seq,
            }));
        }
        let settle = Command::Settle {
            message: source.handle(),
            how: Settle::Ack,
        };
        feed.ask(Asked::Release(id), settle);
        true
    }

    /// The mark of a message at QoS 2 is durable.
    fn publish_marked(&mut self, id: PacketId, cx: &Cx<'_>, out: &mut impl Outbox) {
        if !self.is_open() {
            return;
        }
        let Some(copy) = self.state.outbound.copy(id) else {
            return;
        };
        if let Err(reason) = self.put_copy(&copy, id, false, cx, out) {
            if !copy.source.is_some_and(Source::is_given_back) {
                self.lose(&copy.message, reason, cx);
            }
            self.give_up(id);
            self.pump(cx, out);
        }
    }
}
