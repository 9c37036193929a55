//! Where the router delivers the messages of a session: its connection, or the session itself while it has none.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longtail_broker::ephemeral::{
    Deliveries, Delivery, DropReason, Live, LiveHandle, LiveOptions, Run, Subscriber, Target,
};
use longtail_broker::message::{Origin, SharedMessage};
use longtail_broker::router::SubscribeError;
use longtail_edge::{CloseReason, Connection, Out};
use longtail_model::Filter;
use parking_lot::Mutex;

use crate::client::Client;
use crate::service::Mqtt;
use crate::session::{Session, State, Wanted, routed};
use crate::tenant::Tenant;

/// A connection of this service.
pub(crate) type Conn = Connection<Mqtt>;

/// A session's place in the router.
#[derive(Clone)]
pub(crate) struct Membership(Arc<Live<Seat>>);

/// Where the session is.
struct Seat {
    /// Always there: a session that ends with its connection.
    bound: Option<Arc<Conn>>,
    place: Mutex<Place>,
    tenant: Arc<Tenant>,
    /// Nothing of it is to stay in the router.
    gone: AtomicBool,
    /// One at a time brings the router up to date.
    routing: Mutex<()>,
}

/// Where a session that outlives its connections is.
enum Place {
    /// It ends with its connection, see [`Seat::bound`].
    Bound,
    /// At a connection. What comes between the end of that and the news of it is kept.
    Connected(Arc<Conn>, Option<Box<State>>),
    Away(Box<State>),
}

impl Membership {
    /// For a session that ends with its connection.
    pub(crate) fn bound(tenant: Arc<Tenant>, origin: Origin, conn: Arc<Conn>) -> Self {
        Self::new(tenant, origin, Some(conn), Place::Bound)
    }

    /// For a session that may outlive its connection.
    pub(crate) fn lasting(tenant: Arc<Tenant>, origin: Origin, conn: Arc<Conn>) -> Self {
        Self::new(tenant, origin, None, Place::Connected(conn, None))
    }

    /// For a session whose client is not there.
    pub(crate) fn away(tenant: Arc<Tenant>, origin: Origin, state: State) -> Self {
        Self::new(tenant, origin, None, Place::Away(Box::new(state)))
    }

    /// Brings the router up to date with a session that came or went: without a connection it has no live subscriptions,
    /// so that thousands of them cost a publisher nothing. No lock may be held.
    pub(crate) fn route(&self) {
        let _one = self.seat().routing.lock();
        let listed = |state: &State| -> Vec<(Filter, Option<Arc<str>>, LiveOptions)> {
            let held = state.subscriptions.values();
            held.map(|held| (held.filter.clone(), held.group.clone(), held.options))
                .collect()
        };
        let conn = match &*self.seat().place.lock() {
            Place::Connected(conn, _) => Ok(Arc::clone(conn)),
            Place::Bound => match &self.seat().bound {
                Some(conn) => Ok(Arc::clone(conn)),
                None => return,
            },
            Place::Away(state) => Err(listed(state)),
        };
        let (gone, here) = match conn {
            Ok(conn) => {
                let here = conn
                    .with(|client, _| client.session_mut().map(|session| listed(session.state())));
                (Vec::new(), here.flatten().unwrap_or_default())
            }
            Err(gone) => (gone, Vec::new()),
        };
        let target = self.target();
        let shares = &self.seat().tenant.limits().shares;
        let over = self.seat().gone.load(Ordering::Acquire);
        self.seat().tenant.space().router.update(|router| {
            for (filter, group, _) in &gone {
                router.unsubscribe(filter, target, group.as_deref());
            }
            for (filter, group, options) in &here {
                if over {
                    router.unsubscribe(filter, target, group.as_deref());
                    continue;
                }
                let subscription =
                    routed(group.as_ref(), shares, self.0.handle().options(*options));
                if let Err(error) = router.subscribe(filter, target, subscription) {
                    tracing::warn!(%error, "a subscription is not restored");
                }
            }
        });
    }

    fn new(tenant: Arc<Tenant>, origin: Origin, bound: Option<Arc<Conn>>, place: Place) -> Self {
        let seat = Seat {
            bound,
            place: Mutex::new(place),
            tenant,
            gone: AtomicBool::new(false),
            routing: Mutex::new(()),
        };
        Membership(Live::new(origin, seat))
    }

    fn seat(&self) -> &Seat {
        self.0.sink()
    }

    /// Adds a subscription to the router.
    pub(crate) fn subscribe(&self, wanted: &Wanted) -> Result<(), SubscribeError> {
        let router = &self.seat().tenant.space().router;
        let shares = &self.seat().tenant.limits().shares;
        let options = self.0.handle().options(wanted.options);
        let subscription = wanted.subscription(shares, options);
        router.subscribe(&wanted.filter, self.0.target(), subscription)?;
        if self.seat().gone.load(Ordering::Acquire) {
            // The session ended meanwhile, and whoever ended it may have been here before.
            router.unsubscribe(&wanted.filter, self.target(), wanted.group.as_deref());
        }
        Ok(())
    }

    /// Takes back what was refused, a subscription that it was to replace included: the session has none of it.
    pub(crate) fn withdraw(&self, refused: &[Wanted]) {
        if refused.is_empty() {
            return;
        }
        self.seat().tenant.space().router.update(|router| {
            for wanted in refused {
                router.unsubscribe(&wanted.filter, self.target(), wanted.group.as_deref());
            }
        });
    }

    pub(crate) fn target(&self) -> Target {
        self.0.target()
    }

    /// The session is over: nothing of it stays in the router.
    pub(crate) fn discard(&self, state: &State) {
        self.seat().gone.store(true, Ordering::Release);
        if state.subscriptions.is_empty() {
            return;
        }
        self.seat().tenant.space().router.update(|router| {
            for held in state.subscriptions.values() {
                router.unsubscribe(&held.filter, self.target(), held.group.as_deref());
            }
        });
    }

    /// The session stays while its client is away. `state` is what its connection left; what has come since is added.
    pub(crate) fn put_away(&self, state: State) {
        let mut place = self.seat().place.lock();
        let mut state = Box::new(state);
        if let Place::Connected(_, Some(missed)) = &mut *place {
            state.append(std::mem::take(&mut **missed));
        }
        *place = Place::Away(state);
    }

    /// Lets `seated` bring the session to `conn`, while nothing is delivered. It is given the state, if the session was
    /// away, and says whether the connection has taken it; gives back what it has not.
    pub(crate) fn move_to(
        &self,
        conn: &Arc<Conn>,
        left: Option<State>,
        seated: impl FnOnce(State) -> Option<State>,
    ) -> bool {
        let mut place = self.seat().place.lock();
        let state = match (&mut *place, left) {
            (Place::Connected(_, missed), left) => {
                let mut state = left.unwrap_or_default();
                if let Some(missed) = missed {
                    state.append(std::mem::take(&mut **missed));
                }
                state
            }
            (Place::Bound, left) => left.unwrap_or_default(),
            (Place::Away(away), None) => std::mem::take(&mut **away),
            (Place::Away(away), Some(mut state)) => {
                state.append(std::mem::take(&mut **away));
                state
            }
        };
        match seated(state) {
            None => {
                *place = Place::Connected(Arc::clone(conn), None);
                true
            }
            Some(state) => {
                *place = Place::Away(Box::new(state));
                false
            }
        }
    }

    /// The number of the session that is away.
    pub(crate) fn number(&self) -> u64 {
        self.look(|state| state.number)
    }

    /// Looks at the session while it is away, or at what has come since its connection ended.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        match &*self.seat().place.lock() {
            Place::Connected(_, Some(state)) | Place::Away(state) => look(state),
            Place::Connected(_, None) | Place::Bound => look(&State::default()),
        }
    }

    /// What is away.
    pub(crate) fn take_away(&self) -> State {
        match &mut *self.seat().place.lock() {
            Place::Connected(_, Some(state)) | Place::Away(state) => std::mem::take(&mut **state),
            Place::Connected(_, None) | Place::Bound => State::default(),
        }
    }
}

/// Whether more follows for a connection before it is written to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    More,
    Flush,
}

/// Has `work` deliver something. `None`: the connection has ended, or its session was taken from it.
fn deliver_to<R>(
    conn: &Arc<Conn>,
    then: Then,
    work: impl FnOnce(&mut Session, &mut Out) -> R,
) -> Option<R> {
    let work = |client: &mut Client, out: &mut Out| {
        let session = client.session_mut().filter(|session| session.is_open())?;
        let result = work(session, out);
        let expelled = session.take_expelled();
        if let Some(reason) = expelled {
            session.expel(reason, out);
        }
        Some((result, expelled.is_some()))
    };
    let (result, expelled) = match then {
        Then::More => conn.with(work),
        Then::Flush => conn.with_last(work),
    }??;
    if expelled {
        conn.close(CloseReason::Refused("its queue is full".into()));
    }
    Some(result)
}

/// The connection of a subscriber that the router knows, if it is a session of this service with a client.
pub(crate) fn connection_of(handle: &LiveHandle) -> Option<Arc<Conn>> {
    let seat = handle.as_any()?.downcast_ref::<Seat>()?;
    match &*seat.place.lock() {
        Place::Connected(conn, _) => Some(Arc::clone(conn)),
        Place::Bound => seat.bound.clone(),
        Place::Away(_) => None,
    }
}

impl Seat {
    fn deliver_then(
        &self,
        then: Then,
        message: &SharedMessage,
        options: &[LiveOptions],
    ) -> Delivery {
        let cx = self.tenant.cx_at(message.published);
        let deliver =
            |session: &mut Session, out: &mut Out| session.deliver(message, options, &cx, out);
        if let Some(conn) = &self.bound {
            let closed = Delivery::Dropped(DropReason::Closed);
            return deliver_to(conn, then, deliver).unwrap_or(closed);
        }
        match &mut *self.place.lock() {
            Place::Connected(conn, missed) => deliver_to(conn, then, deliver)
                .unwrap_or_else(|| missed.get_or_insert_default().keep(message, options, &cx)),
            Place::Away(state) => state.keep(message, options, &cx),
            Place::Bound => Delivery::Dropped(DropReason::Closed),
        }
    }
}

impl Subscriber for Seat {
    fn deliver(&self, message: &SharedMessage, options: &[LiveOptions]) -> Delivery {
        self.deliver_then(Then::More, message, options)
    }

    fn deliver_last(&self, message: &SharedMessage, options: &[LiveOptions]) -> Delivery {
        self.deliver_then(Then::Flush, message, options)
    }

    fn deliver_run(&self, run: &Run<'_>, options: &[LiveOptions], deliveries: &mut Deliveries) {
        let [.., last] = run.messages() else { return };
        let cx = self.tenant.cx_at(last.published);
        let mut deliver = |conn: &Arc<Conn>| {
            deliver_to(conn, Then::More, |session, out| {
                session.deliver_run(run, options, &cx, out, deliveries);
            })
        };
        if let Some(conn) = &self.bound {
            if deliver(conn).is_none() {
                let closed = Delivery::Dropped(DropReason::Closed);
                deliveries.add(closed, run.messages().len() as u64);
            }
            return;
        }
        let place = &mut *self.place.lock();
        let state = match place {
            Place::Connected(conn, missed) => {
                if deliver(conn).is_some() {
                    return;
                }
                missed.get_or_insert_default()
            }
            Place::Away(state) => state,
            Place::Bound => return,
        };
        for message in run.messages() {
            deliveries.add(state.keep(message, options, &cx), 1);
        }
    }

    fn approach(&self) {
        if let Some(conn) = &self.bound {
            conn.approach();
        }
    }

    fn flush(&self) {
        if let Some(conn) = &self.bound {
            conn.flush_last();
            return;
        }
        let conn = match &*self.place.lock() {
            Place::Connected(conn, _) => Arc::clone(conn),
            Place::Bound | Place::Away(_) => return,
        };
        conn.flush_last();
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
