//! The work of one connection in one tick: what its session has asked for, in order, with no lock held.

use std::cell::Cell;
use std::sync::Arc;

use longtail_broker::ephemeral::{Burst, Run};
use longtail_broker::message::SharedMessage;
use longtail_edge::Connection;

use super::Mqtt;
use crate::codec::ReasonCode;
use crate::control::{self, is_control};
use crate::durable::link;
use crate::hooks;
use crate::publish::{Outgoing, Released, Waiter, Whom, publish, publish_run, release};
use crate::seat::Membership;
use crate::session::{Action, Release, Subscribing, Ticket, Unsubscribing};

thread_local! {
    /// Those of a turn that has ended.
    static LISTS: Cell<Lists> = const { Cell::new(Lists::new()) };
}

/// Room in each of the lists that a thread keeps.
const LIST_CAPACITY_MAX: usize = 4096;

/// Subscribers whose sockets are written before the acknowledgement is.
const FEW: usize = 4;

/// The work of one connection in one tick.
pub(super) struct Turn<'t> {
    service: &'t Mqtt,
    conn: &'t Arc<Connection<Mqtt>>,
    burst: Burst<'t>,
    lists: Lists,
}

/// What a turn gathers.
#[derive(Default)]
struct Lists {
    /// What is to be published together, see [`Run`].
    run: Vec<SharedMessage>,
    /// Theirs, one each.
    tickets: Vec<Option<Ticket>>,
    /// What was published and is to be acknowledged.
    published: Vec<(Ticket, ReasonCode)>,
    /// What streams are to keep.
    outgoing: Outgoing,
}

impl Lists {
    const fn new() -> Self {
        Lists {
            run: Vec::new(),
            tickets: Vec::new(),
            published: Vec::new(),
            outgoing: Outgoing::new(),
        }
    }

    /// Keeps their memory for the next turn of this thread.
    fn keep(&mut self) {
        let mut lists = std::mem::take(self);
        lists.run.clear();
        lists.tickets.clear();
        lists.published.clear();
        lists.outgoing.clear();
        if lists.run.capacity().max(lists.published.capacity()) <= LIST_CAPACITY_MAX {
            LISTS.set(lists);
        }
    }
}

impl<'t> Turn<'t> {
    pub(super) fn new(service: &'t Mqtt, conn: &'t Arc<Connection<Mqtt>>) -> Self {
        Turn {
            service,
            conn,
            burst: Burst::new(&service.tenant.space().counters),
            lists: LISTS.take(),
        }
    }

    /// Publishes and acknowledges what is left.
    pub(super) fn end(mut self) {
        self.burst_ends();
        self.publish();
        self.tell();
        if self.burst.pending() > FEW {
            // Before that many others.
            self.conn.flush();
        }
        self.store();
        self.lists.keep();
    }

    /// Does what the session cannot do itself.
    pub(super) fn carry_out(&mut self, action: Action) {
        if !matches!(action, Action::Publish { .. }) {
            self.publish();
        }
        match action {
            Action::Publish { message, ticket } if is_control(message.subject.as_str()) => {
                self.publish();
                self.tell();
                control::take(self.conn, &self.service.tenant, &message, ticket);
            }
            Action::Publish { message, ticket } => self.gather(message, ticket),
            Action::Store {
                message,
                entry,
                ticket,
            } => {
                let tenant = &self.service.tenant;
                let waiter = Waiter::new(Whom::Client(self.conn, ticket));
                let incoming = tenant.durable().incoming();
                incoming.store(&entry, &message, tenant.now(), waiter);
            }
            Action::Release {
                message,
                release: Release { seq, again },
                ticket,
            } => {
                let tenant = &self.service.tenant;
                let released = Released {
                    conn: self.conn,
                    ticket,
                    home: tenant.durable().home(),
                    stream: tenant.durable().incoming().stream(),
                    seq,
                    again,
                };
                let outgoing = &mut self.lists.outgoing;
                release(tenant, &mut self.burst, &message, &released, outgoing);
                if !again {
                    self.announce(&message, None);
                }
            }
            Action::Subscribe(subscribing) => {
                self.tell();
                subscribe(self.service, self.conn, *subscribing);
            }
            Action::Unsubscribe(unsubscribing) => {
                self.tell();
                unsubscribe(self.service, self.conn, *unsubscribing);
            }
            Action::Ping => {
                self.tell();
                self.conn.with(|client, out| {
                    if let Some(session) = &client.session {
                        session.pong(out);
                    }
                });
            }
            Action::Login(demand) => {
                let user = demand.username.as_deref();
                if !self.service.keeps_out(self.conn, user) {
                    hooks::login(self.service, self.conn, *demand);
                }
            }
            Action::Prove(proof) => self.service.prove(self.conn, &proof, None),
        }
    }

    /// Tells hooks of a message that was published.
    fn announce(&self, message: &SharedMessage, reason: Option<ReasonCode>) {
        let chain = &self.service.chain;
        if chain.wants(hooks::PUBLISHING) {
            let client = self.conn.with(|client, _| {
                let session = client.session.as_ref()?;
                session.hooked().client().cloned()
            });
            chain.tell_published(client.flatten().as_ref(), message, reason);
        }
    }

    /// Keeps a message back until it is known whether the next can be published with it.
    fn gather(&mut self, message: SharedMessage, ticket: Option<Ticket>) {
        let first = self.lists.run.first();
        if first.is_some_and(|first| !Run::may_follow(first, &message)) {
            self.publish();
        }
        self.lists.run.push(message);
        self.lists.tickets.push(ticket);
    }

    /// What was gathered is the last that is published. What is to be acknowledged is not written to many before the
    /// acknowledgement: that would wait for a thousand writes.
    fn burst_ends(&mut self) {
        match self.lists.tickets[..] {
            [None, ..] => self.burst.is_last(usize::MAX),
            [Some(_), ..] => self.burst.is_last(FEW),
            [] => {}
        }
    }

    /// Publishes what was gathered.
    fn publish(&mut self) {
        let tenant = &*self.service.tenant;
        let space = tenant.space();
        let lists = &mut self.lists;
        let told = self.service.chain.wants(hooks::PUBLISHING);
        let mut announced = Vec::new();
        let reason = Run::new(&lists.run).and_then(|run| publish_run(space, &mut self.burst, &run));
        for (message, ticket) in lists.run.drain(..).zip(lists.tickets.drain(..)) {
            let reason = reason.or_else(|| {
                let whom = ticket.map(|ticket| Whom::Client(self.conn, ticket));
                let now = message.published;
                publish(
                    tenant,
                    &mut self.burst,
                    &message,
                    now,
                    whom,
                    &mut lists.outgoing,
                )
            });
            if let (Some(ticket), Some(reason)) = (ticket, reason) {
                lists.published.push((ticket, reason));
            }
            if told {
                announced.push((message, reason));
            }
        }
        for (message, reason) in announced {
            self.announce(&message, reason);
        }
    }

    /// Acknowledges what was published.
    fn tell(&mut self) {
        if self.lists.published.is_empty() {
            return;
        }
        let must_go = self.conn.with(|client, out| {
            if let Some(session) = &mut client.session {
                for (ticket, reason) in self.lists.published.drain(..) {
                    session.complete(ticket, reason, out);
                }
            }
            client.must_go(out)
        });
        if must_go == Some(true) {
            self.conn.close(link::NOT_DONE);
        }
    }

    /// Queues what streams are to keep; the edge's tick has it carried out.
    fn store(&mut self) {
        if !self.lists.outgoing.is_empty() {
            let outgoing = &mut self.lists.outgoing;
            self.service.tenant.streams().send(outgoing);
        }
    }
}

fn membership(conn: &Connection<Mqtt>) -> Option<Membership> {
    conn.with(|client, _| client.membership()).flatten()
}

/// A client may have been let in just now: brings it what it is subscribed to without asking. No lock may be held.
pub(crate) fn welcomed(conn: &Arc<Connection<Mqtt>>) {
    let service = &**conn.protocol();
    if service.limits.auto_subscriptions.is_empty() {
        return;
    }
    let own = conn.with(|client, _| {
        let session = client.session_mut()?;
        session.subscribe_by_itself(&service.cx())
    });
    if let Some(own) = own.flatten() {
        subscribe(service, conn, own);
        link::run(service.tenant.durable());
        conn.flush_soon();
    }
}

/// Brings subscriptions to the router and to the streams. No lock may be held.
pub(crate) fn subscribe(
    service: &Mqtt,
    conn: &Arc<Connection<Mqtt>>,
    mut subscribing: Subscribing,
) {
    if subscribing.shares() && !has_link(conn) {
        link::equip(conn, &service.tenant);
    }
    if has_link(conn) {
        link::subscribe(conn, &service.tenant, subscribing);
        return;
    }
    let Some(membership) = membership(conn) else {
        return;
    };
    let mut refused = Vec::new();
    for wanted in &mut subscribing.wanted {
        let Ok(subscription) = wanted else { continue };
        if let Err(error) = membership.subscribe(subscription) {
            tracing::warn!(%error, "a subscription is refused");
            if let Ok(subscription) = std::mem::replace(wanted, Err(ReasonCode::QuotaExceeded)) {
                refused.push(subscription);
            }
        }
    }
    subscribing.withdraw(&refused);
    membership.withdraw(&refused);
    let cx = service.cx();
    conn.with(|client, out| {
        if let Some(session) = &mut client.session {
            for wanted in &refused {
                session.was_refused(wanted, &cx);
            }
            session.subscribed(subscribing, &cx, out);
        }
    });
    conn.resume();
}

/// Takes subscriptions from the router and from the streams. No lock may be held.
pub(crate) fn unsubscribe(
    service: &Mqtt,
    conn: &Arc<Connection<Mqtt>>,
    unsubscribing: Unsubscribing,
) {
    let Some(membership) = membership(conn) else {
        return;
    };
    if has_link(conn) {
        link::unsubscribe(conn, &service.tenant, &membership, unsubscribing);
        return;
    }
    let router = &service.tenant.space().router;
    for (_, held) in &unsubscribing.ended {
        router.unsubscribe(&held.filter, membership.target(), held.group.as_deref());
    }
    conn.with(|client, out| {
        if let Some(session) = &mut client.session {
            session.unsubscribed(unsubscribing, out);
        }
    });
    conn.resume();
}

/// Whether its session has a way to the streams.
fn has_link(conn: &Connection<Mqtt>) -> bool {
    let link = conn.with(|client, _| client.link.own());
    link.flatten().is_some()
}
