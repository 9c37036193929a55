//! Permissions that take a while: what hooks have said about what a client wants to do.
//!
//! ```text
//! PUBLISH ──▶ ask_first: is it known? ──yes──▶ the session
//!                       └─no──▶ pause ──▶ asked (a task) ──▶ Permits ──▶ resume: the same packet once more
//! ```
//!
//! The packet stays where it came, and is looked at again when the answers are there. So nothing overtakes it, and
//! whoever sends too much is held up by its socket.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use hashbrown::HashMap;
use longtail_edge::Connection;
use longtail_model::Timestamp;

use super::{Asking, Chain, Permission, Points, Wish};
use crate::codec::{Packet, TopicFilter};
use crate::service::Mqtt;
use crate::session::Session;

/// Answers that are remembered once what they were for is dealt with.
const REMEMBERED_MAX: usize = 64;

/// What hooks have said of one client.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    answers: HashMap<Wish, Answer>,
    /// What is to be asked before the client is heard again.
    open: Vec<Wish>,
    /// It is being asked.
    is_asking: bool,
}

#[derive(Debug)]
struct Answer {
    permission: Permission,
    until: Timestamp,
    /// What it was asked for has not been dealt with.
    is_new: bool,
}

impl Permits {
    /// What was said of this.
    pub(crate) fn of(&self, wish: &Wish) -> Permission {
        let answer = self.answers.get(wish);
        answer.map_or(Permission::Next, |answer| answer.permission)
    }

    fn knows(&self, wish: &Wish, now: Timestamp) -> bool {
        let answer = self.answers.get(wish);
        answer.is_some_and(|answer| answer.is_new || now < answer.until)
    }

    /// A packet was dealt with: forgets what is not to be remembered.
    pub(crate) fn dealt_with(&mut self, now: Timestamp) {
        self.answers.retain(|_, answer| {
            answer.is_new = false;
            now < answer.until
        });
        if self.answers.len() > REMEMBERED_MAX {
            self.answers.clear();
        }
    }

    /// What is to be asked now, once.
    pub(crate) fn take_open(&mut self) -> Option<Vec<Wish>> {
        if self.is_asking || self.open.is_empty() {
            return None;
        }
        self.is_asking = true;
        Some(std::mem::take(&mut self.open))
    }
}

/// What a packet is about. Nothing of a PUBLISH whose alias is not known: it is an error whoever sends it.
fn wishes(session: &Session, packet: &Packet<'_>) -> Vec<Wish> {
    match packet {
        Packet::Publish(publish) => {
            let topic = session.topic_said(publish);
            let wish = topic.map(|topic| Wish {
                publish: true,
                topic: topic.into(),
                qos: publish.qos,
                retain: publish.retain,
            });
            wish.into_iter().collect()
        }
        Packet::Subscribe(subscribe) => {
            let wishes = subscribe.subscriptions.iter().map(|wanted| {
                let parsed = TopicFilter::parse(wanted.filter);
                let filter = parsed.map_or(wanted.filter, |parsed| parsed.filter);
                Wish {
                    publish: false,
                    topic: filter.into(),
                    qos: wanted.options.qos,
                    retain: false,
                }
            });
            wishes.collect()
        }
        _ => Vec::new(),
    }
}

/// Whether hooks have to be asked before a packet can be dealt with; what, is noted.
pub(crate) fn ask_first(session: &mut Session, packet: &Packet<'_>, now: Timestamp) -> bool {
    let mut wishes = wishes(session, packet);
    let permits = session.permits();
    wishes.retain(|wish| !permits.knows(wish, now));
    permits.open = wishes;
    !permits.open.is_empty()
}

/// Asks hooks what a client may do, and has it heard again.
pub(crate) fn asked(service: &Mqtt, conn: &Arc<Connection<Mqtt>>, wishes: Vec<Wish>) {
    let known = conn.with(|client, _| {
        let session = client.session()?;
        let username = session.hello().username.clone();
        Some((Arc::clone(session.client_id()), username))
    });
    let Some((client_id, username)) = known.flatten() else {
        return;
    };
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        // Connections live on the edge's workers, which have one.
        tracing::error!("no runtime to wait for a hook's permission");
        return;
    };
    let (chain, tenant) = (Arc::clone(service.chain()), Arc::clone(service.tenant()));
    let conn = Arc::clone(conn);
    runtime.spawn(async move {
        let mut answers = Vec::with_capacity(wishes.len());
        for wish in wishes {
            let asking = Asking {
                client_id: Arc::clone(&client_id),
                username: username.clone(),
                remote: conn.peer().clone(),
                wish,
            };
            let (permission, holds_ms) = chain.permit(&asking).await;
            answers.push((asking.wish, permission, holds_ms));
        }
        let now = tenant.now();
        conn.with(|client, _| {
            let Some(session) = client.session_mut() else {
                return;
            };
            let permits = session.permits();
            permits.is_asking = false;
            for (wish, permission, holds_ms) in answers {
                let answer = Answer {
                    permission,
                    until: now.plus_millis(holds_ms),
                    is_new: true,
                };
                permits.answers.insert(wish, answer);
            }
        });
        conn.resume();
    });
}

impl Chain {
    /// What the first hook says that decides, and for how long that holds.
    pub(super) async fn permit(&self, asking: &Asking) -> (Permission, u64) {
        for entry in self.entries(Points::PERMIT) {
            let hook = &*entry.hook;
            // The call makes the future, and may panic as well as the future may.
            let answer = AssertUnwindSafe(async { hook.permit(asking).await }).catch_unwind();
            match tokio::time::timeout(hook.permit_within(), answer).await {
                Ok(Ok(Permission::Next)) => {}
                Ok(Ok(decided)) => return (decided, hook.permit_holds_ms()),
                Ok(Err(_panic)) => {
                    self.panicked(hook);
                    return (Permission::Deny, 0);
                }
                Err(_elapsed) => {
                    tracing::warn!(hook = hook.name(), client = %asking.client_id, "a hook took too long to permit something");
                    return (Permission::Deny, 0);
                }
            }
        }
        (Permission::Next, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Qos;

    fn wish(topic: &str) -> Wish {
        Wish {
            publish: true,
            topic: topic.into(),
            qos: Qos::AtMostOnce,
            retain: false,
        }
    }

    fn answer(until: u64) -> Answer {
        Answer {
            permission: Permission::Allow,
            until: Timestamp(until),
            is_new: true,
        }
    }

    #[test]
    fn an_answer_holds_for_what_it_was_asked_for_and_then_as_long_as_it_says() {
        let mut permits = Permits::default();
        permits.answers.insert(wish("once"), answer(10));
        permits.answers.insert(wish("longer"), answer(20));
        assert!(permits.knows(&wish("once"), Timestamp(15)), "it is new");
        assert!(!permits.knows(&wish("other"), Timestamp(15)));
        permits.dealt_with(Timestamp(15));
        assert!(!permits.knows(&wish("once"), Timestamp(15)));
        assert!(permits.knows(&wish("longer"), Timestamp(15)));
        assert!(!permits.knows(&wish("longer"), Timestamp(20)));
        assert_eq!(permits.of(&wish("once")), Permission::Next);
    }

    #[test]
    fn a_client_is_asked_about_once_at_a_time_and_remembers_a_few_answers() {
        let mut permits = Permits {
            open: vec![wish("a")],
            ..Permits::default()
        };
        assert!(permits.take_open().is_some() && permits.take_open().is_none());
        permits.open = vec![wish("b")];
        assert!(permits.take_open().is_none(), "it is being asked");
        for n in 0..=REMEMBERED_MAX {
            permits.answers.insert(wish(&n.to_string()), answer(99));
        }
        permits.dealt_with(Timestamp(1));
        assert!(permits.answers.is_empty());
    }
}
