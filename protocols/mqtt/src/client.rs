//! What the edge keeps for one connection: the bytes, the session, and the session's way to its streams.

use std::sync::Arc;

use longtail_edge::Out;
use longtail_model::{Filter, SessionId, StreamId};

use crate::access::Exchange;
use crate::codec::Decoder;
use crate::durable::Durable;
use crate::durable::records::SessionRecord;
use crate::seat::Membership;
use crate::session::{Action, Cx, Held, Left, Session, State, Subscribing};
use crate::timers::TimerKey;

/// What the edge keeps for one connection.
pub struct Client {
    pub(crate) decoder: Decoder,
    pub(crate) session: Option<Box<Session>>,
    pub(crate) actions: Vec<Action>,
    /// Which session it is, once the client has it.
    pub(crate) seat: Option<(u64, Membership)>,
    /// Its session at the shard, if its MQTT session outlives the connection.
    pub(crate) link: Option<SessionId>,
    /// What is written of the session is durable.
    is_recorded: bool,
    /// A SUBSCRIBE that waits for the shard.
    joining: Option<Box<Subscribing>>,
    /// An exchange in which it is the client's turn.
    pub(crate) exchange: Option<Box<dyn Exchange>>,
    /// What ends the connection at some time; most have none of it.
    pub(crate) ends: Option<Box<Ends>>,
}

/// When a connection ends.
#[derive(Default)]
pub(crate) struct Ends {
    /// What the client has shown ends.
    login: Option<TimerKey>,
    /// It has lasted as long as it may.
    life: Option<TimerKey>,
}

impl Ends {
    pub(crate) fn timers(&self) -> impl Iterator<Item = TimerKey> {
        [self.login, self.life].into_iter().flatten()
    }
}

/// How a client has got its session.
pub(crate) enum Accepted {
    /// It is in.
    In,
    /// It will be when this is written down and its streams are open.
    Lasting(Box<SessionRecord>, Lost),
}

/// Subscriptions that a session may not have any more.
pub(crate) struct Lost {
    /// The session's number.
    pub(crate) number: u64,
    /// By their texts.
    pub(crate) subscriptions: Vec<(Box<str>, Held)>,
}

/// Streams that were opened, and a SUBSCRIBE that the shard has answered with the filters that failed.
pub(crate) type News = (
    Vec<(Filter, StreamId)>,
    Option<(Subscribing, Vec<Arc<str>>)>,
);

impl Client {
    pub(crate) fn new(decoder: Decoder) -> Self {
        Client {
            decoder,
            session: None,
            actions: Vec::new(),
            seat: None,
            link: None,
            is_recorded: false,
            joining: None,
            exchange: None,
            ends: None,
        }
    }

    /// What the client has shown ends then; answers what was set before.
    pub(crate) fn login_ends(&mut self, timer: Option<TimerKey>) -> Option<TimerKey> {
        if timer.is_none() && self.ends.is_none() {
            return None;
        }
        std::mem::replace(&mut self.ends.get_or_insert_default().login, timer)
    }

    /// The connection may last until then.
    pub(crate) fn life_ends(&mut self, timer: TimerKey) {
        self.ends.get_or_insert_default().life = Some(timer);
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        self.session.as_deref_mut()
    }

    pub(crate) fn membership(&self) -> Option<Membership> {
        self.seat.as_ref().map(|(_, membership)| membership.clone())
    }

    /// The client has its session. `None`: it has gone, and `resumed` is left where it is.
    pub(crate) fn accept(
        &mut self,
        epoch: u64,
        membership: Membership,
        resumed: &mut Option<State>,
        durable: &Durable,
        cx: &Cx<'_>,
        out: &mut Out,
    ) -> Option<Accepted> {
        let session = self.session.as_mut()?;
        if !session.is_greeting() || self.seat.is_some() {
            return None;
        }
        let fresh = rand::random::<u64>() | 1;
        let lost = session.take_in(resumed.take(), fresh, durable.incoming(), cx);
        self.seat = Some((epoch, membership));
        cx.counters.client_came();
        if !session.is_lasting() {
            session.welcome(cx, out);
            return Some(Accepted::In);
        }
        let record = SessionRecord {
            number: session.state().number,
            expiry_s: session.hello().expiry_s,
            ended: None,
            will: session.will().cloned().map(Box::new),
        };
        let lost = Lost {
            number: record.number,
            subscriptions: lost,
        };
        Some(Accepted::Lasting(Box::new(record), lost))
    }

    /// Another connection takes the session, and the way to its streams.
    pub(crate) fn take_over(&mut self, out: &mut Out) -> Option<(Left, Option<SessionId>)> {
        let left = self.session.as_mut()?.take_over(out);
        Some((left, self.link.take()))
    }

    /// The session's way to its streams is there: it asks for what waits. `false`: it has gone.
    pub(crate) fn begin(
        &mut self,
        link: SessionId,
        durable: &Durable,
        cx: &Cx<'_>,
        out: &mut Out,
    ) -> bool {
        let Some(session) = self
            .session
            .as_mut()
            .filter(|session| session.is_greeting())
        else {
            return false;
        };
        self.link = Some(link);
        let held = session.state().subscriptions.iter();
        let filters: Vec<_> = held
            .filter(|(_, held)| held.has_stream())
            .map(|(text, held)| {
                let name = durable.stream_name(&held.filter);
                (Arc::from(&**text), name, held.group.clone())
            })
            .collect();
        if let Some(feed) = session.feed_mut() {
            for (text, name, share) in &filters {
                feed.resume(text, name, share.as_deref());
            }
        }
        session.resumed(cx, out);
        self.queue(durable);
        true
    }

    /// A session that ends with its connection gets a way to the streams. `false`: it has gone, or has one.
    pub(crate) fn equip(&mut self, link: SessionId, durable: &Durable) -> bool {
        let Some(session) = self.session.as_mut().filter(|session| session.is_open()) else {
            return false;
        };
        if self.link.is_some() {
            return false;
        }
        session.equip(durable.incoming());
        self.link = Some(link);
        true
    }

    /// What is written of the session is durable.
    pub(crate) fn is_recorded(&mut self) {
        self.is_recorded = true;
    }

    /// Lets the client in, if nothing is missing.
    pub(crate) fn try_welcome(&mut self, cx: &Cx<'_>, out: &mut Out) {
        if let Some(session) = &mut self.session
            && session.is_greeting()
            && self.is_recorded
            && self.link.is_some()
        {
            session.welcome(cx, out);
        }
    }

    /// Tells the client to go, if it has to; the connection is to be closed then.
    pub(crate) fn must_go(&mut self, out: &mut Out) -> bool {
        let Some(session) = &mut self.session else {
            return false;
        };
        let Some(reason) = session.take_expelled() else {
            return false;
        };
        session.expel(reason, out);
        true
    }

    /// Queues what the session asks of the shard; `true`: the shard is to be run.
    pub(crate) fn queue(&mut self, durable: &Durable) -> bool {
        let (Some(link), Some(session)) = (self.link, &mut self.session) else {
            return false;
        };
        let Some(feed) = session.feed_mut() else {
            return false;
        };
        let commands = feed.commands();
        if commands.is_empty() {
            return false;
        }
        durable.enqueue(link, commands);
        true
    }

    /// Opens the streams that a SUBSCRIBE needs; gives it back if it needs none.
    pub(crate) fn join(
        &mut self,
        subscribing: Subscribing,
        durable: &Durable,
    ) -> Option<Subscribing> {
        let link = self.link?;
        let session = self.session.as_mut()?;
        session.feed_mut()?;
        let mut waits = false;
        for wanted in subscribing.wanted.iter().flatten() {
            if !wanted.options.not_assured || wanted.had_stream {
                continue;
            }
            waits = true;
            let text: Arc<str> = Arc::from(&*wanted.text);
            let share = wanted.group.as_deref();
            if !session.count(&text) {
                // Twice in one packet.
                continue;
            }
            let feed = session.feed_mut()?;
            durable.acquire(&wanted.filter, share, |name| {
                feed.join(&text, name, share);
                durable.enqueue(link, feed.commands());
            });
        }
        if waits {
            self.joining = Some(Box::new(subscribing));
            return None;
        }
        Some(subscribing)
    }

    /// What has come from the shard and is not for the session alone.
    pub(crate) fn take_news(&mut self) -> Option<News> {
        let session = self.session.as_mut()?;
        let feed = session.feed_mut()?;
        let opened = feed.take_opened();
        let joined = if feed.has_joined() {
            let failed = feed.take_failed();
            self.joining.take().map(|joining| (*joining, failed))
        } else {
            None
        };
        let subscriptions = &session.state().subscriptions;
        let opened = opened.into_iter().filter_map(|(text, stream)| {
            let held = subscriptions.get(&*text)?;
            Some((held.filter.clone(), stream))
        });
        Some((opened.collect(), joined))
    }
}
