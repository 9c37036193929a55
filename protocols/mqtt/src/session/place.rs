//! Where the topics of a client lie: rewritten by the settings' rules, then below the mount point of its listener, on
//! the way in; without the mount point on the way out. Everything else of the session knows subjects of the space only.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use longtail_model::{Subject, SubjectRef};

use super::Session;
use super::connect::Refused;
use crate::codec::{Connect, ReasonCode, SubscriptionOptions};
use crate::config::Limits;
use crate::delayed;
use crate::rewrite::{RewriteOn, rewrite};
use crate::template::Names;

/// The filter of a subscription that a client has by itself.
pub(super) type AutoFilter = (String, SubscriptionOptions);

/// What is known of a client at a listener that moves topics; elsewhere there is none of it.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The name it gave, or its account.
    user: Option<Arc<str>>,
    host: Option<IpAddr>,
    /// What is before its topics, filled in.
    mount: Box<str>,
    /// How far it is with what it is subscribed to without asking.
    own: Own,
}

/// The subscriptions that a client has by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Own {
    /// There are none, or they are in force.
    #[default]
    Done,
    /// They are made as soon as the client is in.
    Due,
    /// They are on their way through the router.
    UnderWay,
}

impl Place {
    /// For a client that says hello where topics are moved.
    pub(super) fn of(connect: &Connect<'_>, limits: &Limits) -> Option<Box<Self>> {
        let moves = limits.mount_point.is_some()
            || !limits.rewrites.is_empty()
            || !limits.auto_subscriptions.is_empty();
        moves.then(|| {
            Box::new(Place {
                user: connect.username.map(Arc::from),
                own: if limits.auto_subscriptions.is_empty() {
                    Own::Done
                } else {
                    Own::Due
                },
                ..Place::default()
            })
        })
    }
}

impl Session {
    /// The client is who it says: where its topics are.
    pub(super) fn settle_in(&mut self, limits: &Limits) -> Result<(), Refused> {
        let Some(mut place) = self.place.take() else {
            return Ok(());
        };
        if let Some(account) = self.account() {
            place.user = Some(Arc::clone(account));
        }
        let client = self.hooked.client();
        place.host = client
            .and_then(|client| client.remote.as_ref())
            .and_then(longtail_edge::Endpoint::ip);
        if let Some(mount_point) = &limits.mount_point {
            let names = names(&self.hello.client_id, &place);
            let mount = mount_point.fill(&names).map_err(|error| {
                tracing::info!(client = %self.hello.client_id, %error, "it has no place below the mount point");
                Refused::new(
                    ReasonCode::ClientIdentifierNotValid,
                    "its names do not fit the mount point",
                )
            })?;
            place.mount = mount.into();
        }
        self.place = Some(place);
        Ok(())
    }

    /// Whether topics of this client are other subjects.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.place.is_some()
    }

    /// Whether nothing more is to come from the client until it has the subscriptions that it has by itself.
    pub(crate) fn awaits_its_own(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(|place| place.own != Own::Done)
    }

    /// Their filters, once, when the client is in.
    pub(super) fn take_own(&mut self, limits: &Limits) -> Option<Vec<AutoFilter>> {
        if !self.is_open() {
            return None;
        }
        let place = self
            .place
            .as_deref_mut()
            .filter(|place| place.own == Own::Due)?;
        place.own = Own::UnderWay;
        let names = names(&self.hello.client_id, place);
        let filled = limits.auto_subscriptions.iter().filter_map(|auto| {
            match auto.filter.fill(&names) {
                Ok(filter) => Some((filter, auto.options)),
                Err(error) => {
                    tracing::warn!(client = names.client_id, filter = %auto.filter, %error, "not subscribed to");
                    None
                }
            }
        });
        Some(filled.collect())
    }

    /// They are in force.
    pub(super) fn has_its_own(&mut self) {
        if let Some(place) = &mut self.place {
            place.own = Own::Done;
        }
    }

    /// The subject that a topic of the client is. What begins with `$delayed/{seconds}/` goes on to.
    pub(super) fn place_topic<'t>(&self, topic: &'t str, limits: &Limits) -> Cow<'t, str> {
        let Some(place) = &self.place else {
            return Cow::Borrowed(topic);
        };
        let (delay, topic) = topic.split_at(topic.len() - delayed::aim(topic).len());
        let names = names(&self.hello.client_id, place);
        let topic = rewrite(&limits.rewrites, RewriteOn::Publish, topic, &names);
        if delay.is_empty() && place.mount.is_empty() {
            return topic;
        }
        Cow::Owned([delay, &place.mount, &topic].concat())
    }

    /// What a filter of the client matches.
    pub(super) fn place_filter<'t>(&self, filter: &'t str, limits: &Limits) -> Cow<'t, str> {
        let Some(place) = &self.place else {
            return Cow::Borrowed(filter);
        };
        let names = names(&self.hello.client_id, place);
        let filter = rewrite(&limits.rewrites, RewriteOn::Subscribe, filter, &names);
        if place.mount.is_empty() {
            return filter;
        }
        Cow::Owned([&place.mount, &*filter].concat())
    }

    /// How many bytes of a subject the client is not shown; `None`: it is not shown the message.
    pub(super) fn hidden(&self, subject: &Subject) -> Option<usize> {
        let Some(place) = &self.place else {
            return Some(0);
        };
        let is_below = subject.as_str().starts_with(&*place.mount);
        is_below.then_some(place.mount.len())
    }

    /// Whether everything that a filter matches lies where the client's topics are.
    pub(super) fn is_at_home(&self, filter: &str) -> bool {
        let mount = self.place.as_ref().map_or("", |place| &place.mount);
        filter.starts_with(mount)
    }
}

fn names<'a>(client_id: &'a str, place: &'a Place) -> Names<'a> {
    Names {
        client_id,
        user: place.user.as_deref(),
        host: place.host,
    }
}

/// What a right to publish is asked for: of a message that is delayed, where it goes then.
pub(crate) fn judged(subject: &Subject) -> SubjectRef<'_> {
    let whole = subject.as_ref();
    let aim = delayed::aim(whole.as_str());
    if aim.len() == whole.as_str().len() {
        return whole;
    }
    // A part of a subject, from a level on, is one.
    SubjectRef::new(aim).unwrap_or(whole)
}
