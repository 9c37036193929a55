//! What the edge keeps for one connection: the bytes, the session, and the session's way to its streams.

use std::sync::{Arc, Weak};

use longtail_edge::Out;
use longtail_model::SessionId;

use crate::access::Exchange;
use crate::codec::Decoder;
use crate::config::Shares;
use crate::durable::Durable;
use crate::durable::link;
use crate::durable::records::SessionRecord;
use crate::seat::{Conn, Membership};
use crate::session::feed::Share;
use crate::session::kept::Write;
use crate::session::{Action, Cx, Held, Left, Session, State, Subscribing};
use crate::timers::TimerKey;

/// What the edge keeps for one connection, in this order: a message to the client needs the first.
#[repr(C)]
pub struct Client {
    pub(crate) session: Option<Box<Session>>,
    pub(crate) decoder: Decoder,
    pub(crate) actions: Vec<Action>,
    /// Which session it is, once the client has it.
    pub(crate) seat: Option<(u64, Membership)>,
    /// Its way to the shard, if its MQTT session needs one.
    pub(crate) link: Link,
    /// The connection, where there is a link.
    conn: Weak<Conn>,
    /// What is written of the session is durable.
    is_recorded: bool,
    /// What waits for the shard: a SUBSCRIBE of the client, and what an operator or a program has subscribed it to.
    joining: Vec<Subscribing>,
    /// An exchange in which it is the client's turn.
    pub(crate) exchange: Option<Box<dyn Exchange>>,
    /// What ends the connection at some time; most have none of it.
    pub(crate) ends: Option<Box<Ends>>,
}

/// A session at the shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Link {
    #[default]
    None,
    /// That of the connection which had the MQTT session before. Whoever takes the session over from a client that has
    /// this one still has to detach it before it asks for what waits: what is held there is not found by its marks.
    Earlier(SessionId),
    /// Its own. That of the connection before is detached.
    Own(SessionId),
}

impl Link {
    /// Its own.
    pub(crate) fn own(self) -> Option<SessionId> {
        match self {
            Link::Own(session) => Some(session),
            Link::None | Link::Earlier(_) => None,
        }
    }

    /// Whose ever it is.
    pub(crate) fn session(self) -> Option<SessionId> {
        match self {
            Link::Own(session) | Link::Earlier(session) => Some(session),
            Link::None => None,
        }
    }
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

/// The session that a client gets.
pub(crate) struct Seating {
    pub(crate) epoch: u64,
    pub(crate) membership: Membership,
    /// The session at the shard of the connection that had it until now, if that is not detached.
    pub(crate) earlier: Option<SessionId>,
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

/// What the shard has answered, and the filters that failed.
pub(crate) type Joined = (Vec<Subscribing>, Vec<Arc<str>>);

impl Client {
    pub(crate) fn new(decoder: Decoder) -> Self {
        Client {
            decoder,
            session: None,
            actions: Vec::new(),
            seat: None,
            link: Link::None,
            conn: Weak::new(),
            is_recorded: false,
            joining: Vec::new(),
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
        seating: Seating,
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
        let lost = session.take_in(resumed.take(), fresh, durable.stores(), cx);
        self.seat = Some((seating.epoch, seating.membership));
        if let Some(earlier) = seating.earlier {
            self.link = Link::Earlier(earlier);
        }
        cx.counters.client_came(session.account());
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

    /// Another connection takes the session, and what is to be detached before it asks for what waits.
    pub(crate) fn take_over(
        &mut self,
        durable: &Durable,
        out: &mut Out,
    ) -> Option<(Left, Option<SessionId>)> {
        self.queue(durable);
        let left = self.session.as_mut()?.take_over(out);
        Some((left, std::mem::take(&mut self.link).session()))
    }

    /// The session's way to its streams is there: it asks for what waits. `false`: it has gone.
    pub(crate) fn begin(
        &mut self,
        conn: &Arc<Conn>,
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
        self.link = Link::Own(link);
        self.conn = Arc::downgrade(conn);
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
                feed.resume(text, name, Share::of(share.as_deref(), &cx.limits.shares));
            }
        }
        session.resumed(cx, out);
        if let Some(feed) = session.feed_mut() {
            // If so, whoever has called this sees to it.
            feed.may_go_on();
        }
        self.queue(durable);
        true
    }

    /// A session that ends with its connection gets a way to the streams. `false`: it has gone, or has one.
    pub(crate) fn equip(&mut self, link: SessionId, durable: &Durable) -> bool {
        let Some(session) = self.session.as_mut().filter(|session| session.is_open()) else {
            return false;
        };
        if self.link.own().is_some() {
            return false;
        }
        session.equip(durable.stores());
        self.link = Link::Own(link);
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
            && self.link.own().is_some()
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
        let (Some(link), Some(session)) = (self.link.own(), &mut self.session) else {
            return false;
        };
        let number = session.state().number;
        let Some(feed) = session.feed_mut() else {
            return false;
        };
        let writes = feed.take_writes();
        let duties = feed.take_duties();
        let has_records = !writes.is_empty() || !duties.is_empty();
        for write in writes {
            match write {
                Write::Forget(id) => durable.forget_in_flight(number, id),
                Write::Keep { flight, release } => {
                    let (conn, id) = (Weak::clone(&self.conn), flight.id);
                    let done = Box::new(move |outcome| {
                        if let Some(conn) = conn.upgrade().filter(|_| release) {
                            link::kept(&conn, id, &outcome);
                        }
                    });
                    durable.record_in_flight(number, &flight, done);
                }
            }
        }
        for change in &duties {
            durable.record_duty(number, change);
        }
        let commands = feed.commands();
        if commands.is_empty() {
            return has_records;
        }
        durable.enqueue(link, commands);
        true
    }

    /// Opens the streams that a SUBSCRIBE needs; gives it back if it needs none.
    pub(crate) fn join(
        &mut self,
        subscribing: Subscribing,
        durable: &Durable,
        shares: &Shares,
    ) -> Option<Subscribing> {
        let link = self.link.own()?;
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
                feed.join(&text, name, Share::of(share, shares));
                durable.enqueue(link, feed.commands());
            });
        }
        if waits {
            self.joining.push(subscribing);
            return None;
        }
        Some(subscribing)
    }

    /// What has come from the shard and is not for the session alone: routes to the streams that were opened, and gives
    /// a SUBSCRIBE that is answered to whoever carries it on.
    ///
    /// Several threads may ask at once. The routes are made here, with the connection's lock held, so that whoever gets
    /// the SUBSCRIBE has all of them behind it, also those that another thread came for.
    pub(crate) fn take_news(&mut self, durable: &Durable) -> Option<Joined> {
        let session = self.session.as_mut()?;
        let feed = session.feed_mut()?;
        let opened = feed.take_opened();
        let has_joined = feed.has_joined() && !self.joining.is_empty();
        let joined = has_joined.then(|| (std::mem::take(&mut self.joining), feed.take_failed()));
        for (text, stream) in opened {
            if let Some(held) = session.state().subscriptions.get(&text) {
                durable.opened(&held.filter, stream);
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use longtail_broker::auth::Grants;
    use longtail_broker::message::Origin;
    use longtail_broker::retained::{RetainedLimits, RetainedStore};
    use longtail_broker::{Broker, BrokerConfig};
    use longtail_engine::Reply;
    use longtail_model::{Filter, GroupId, StreamId, Timestamp};

    use super::*;
    use crate::access::AdmitAll;
    use crate::codec::{
        Connect, ConnectProperties, Packet, PacketId, PacketLimits, Qos, RetainHandling, Subscribe,
        SubscribeProperties, Subscription, SubscriptionOptions, Version,
    };
    use crate::config::{Config, Limits};
    use crate::counters::Counters;
    use crate::tenant::Tenant;

    const NOW: Timestamp = Timestamp(1);

    /// The session of a client that has proved who it is.
    fn session(expiry_s: u32, limits: &Limits) -> Session {
        let connect = Connect {
            version: Version::V5,
            bridge: false,
            clean_start: true,
            keep_alive_s: 60,
            client_id: "c",
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_s: Some(expiry_s),
                ..ConnectProperties::default()
            },
        };
        let (mut session, _) = Session::greet(&connect, String::new, limits, NOW).unwrap();
        let grants = Arc::new(Grants::full());
        (session.authorize(grants, None, Origin(7), limits)).unwrap();
        session
    }

    /// A client that is in, and a SUBSCRIBE for a share of it that awaits the shard.
    fn joining(durable: &Durable, cx: &Cx<'_>, out: &mut Out) -> Client {
        let mut session = session(0, cx.limits);
        session.take_in(None, 0, durable.stores(), cx);
        session.welcome(cx, out);
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id: PacketId::MIN,
            properties: SubscribeProperties::default(),
            subscriptions: vec![Subscription {
                filter: "$share/g/f",
                options: SubscriptionOptions {
                    qos: Qos::AtLeastOnce,
                    no_local: false,
                    retain_as_published: false,
                    retain_handling: RetainHandling::Always,
                },
            }],
        });
        let mut actions = Vec::new();
        session.input(&subscribe, cx, &mut actions, out);
        let Some(Action::Subscribe(subscribing)) = actions.pop() else {
            panic!("no SUBSCRIBE");
        };
        let mut client = Client::new(Decoder::for_server(PacketLimits::default()));
        client.session = Some(Box::new(session));
        assert!(client.equip(SessionId(1_000), durable));
        assert!(
            client
                .join(*subscribing, durable, &cx.limits.shares)
                .is_none(),
            "it waits"
        );
        client
    }

    #[test]
    fn whoever_gets_a_subscribe_that_is_answered_has_its_routes_behind_it() {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        let space = broker.space("").unwrap();
        let (durable, _) = Durable::open(&broker, &space).unwrap();
        let (limits, counters) = (Limits::default(), Counters::default());
        let retained = RetainedStore::new(RetainedLimits::default());
        let exclusive = crate::exclusive::Exclusive::default();
        let cx = Cx {
            limits: &limits,
            now: NOW,
            retained: &retained,
            sys: &retained,
            exclusive: &exclusive,
            counters: &counters,
            rights: None,
        };
        let filter = Filter::parse_mqtt("f").unwrap();
        let mut out = Out::new(1 << 20);
        let mut client = joining(&durable, &cx, &mut out);
        let mut answer = |client: &mut Client, token, reply: &Reply| {
            let session = client.session_mut().unwrap();
            session.answered(token, reply, None, durable.recent(), &cx, &mut out);
        };
        // One thread sees the stream opened, and another, before the first does anything about it, the rest.
        answer(
            &mut client,
            1,
            &Reply::Opened {
                stream: StreamId(5),
            },
        );
        assert!(client.take_news(&durable).is_none());
        let marked = Reply::Marked {
            group: GroupId(6),
            messages: Vec::new(),
        };
        for (token, reply) in [(2, &Reply::Done), (3, &marked), (4, &Reply::Done)] {
            answer(&mut client, token, reply);
        }
        let (subscribing, failed) = client.take_news(&durable).unwrap();
        assert_eq!((subscribing.len(), failed.len()), (1, 0));
        assert_eq!(subscribing[0].wanted.len(), 1);
        assert!(durable.is_routed(&filter));
        assert!(client.take_news(&durable).is_none(), "once");
    }

    #[test]
    fn whoever_takes_a_session_over_twice_detaches_what_the_first_connection_held() {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        let tenant = Tenant::start(Config::default(), &broker, Arc::new(AdmitAll)).unwrap();
        let cx = tenant.cx();
        let mut out = Out::new(1 << 20);
        let membership = Membership::away(Arc::clone(&tenant), Origin(7), State::default());
        let mut come = |epoch, earlier, state: Option<State>| {
            let mut client = Client::new(Decoder::for_server(PacketLimits::default()));
            client.session = Some(Box::new(session(3600, cx.limits)));
            let seating = Seating {
                epoch,
                membership: membership.clone(),
                earlier,
            };
            let mut state = state;
            let accepted = client.accept(seating, &mut state, tenant.durable(), &cx, &mut out);
            assert!(matches!(accepted, Some(Accepted::Lasting(..))));
            client
        };
        let mut first = come(1, None, None);
        first.link = Link::Own(SessionId(11));
        let (left, link) = first
            .take_over(tenant.durable(), &mut Out::new(1 << 20))
            .unwrap();
        // The second client has its session, and whoever brought it has not come to detach the first yet.
        let mut second = come(2, link, Some(left.state));
        assert_eq!(second.link.own(), None, "it asks for nothing before");
        let (left, link) = second
            .take_over(tenant.durable(), &mut Out::new(1 << 20))
            .unwrap();
        assert_eq!(link, Some(SessionId(11)));
        let third = come(3, link, Some(left.state));
        assert_eq!(third.link.session(), Some(SessionId(11)));
        tenant.stop();
    }
}
