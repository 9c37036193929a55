//! What becomes of a session when its client's rights are others than when it subscribed: at a resume, after a reload of
//! the accounts, after an authentication that was repeated.

use std::sync::Arc;

use longtail_broker::auth::Action as Right;
use longtail_broker::auth::{CachedGrants, Grants, Verdict};
use longtail_broker::ephemeral::DropReason;
use longtail_model::SubjectRef;

use super::subscribing::Held;
use super::{Cx, Session, Tag};
use crate::hooks::{Access, Permission};

/// What has changed.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// Subscriptions that the client may not have any more, by their texts. The session has forgotten them.
    pub(crate) ended: Vec<(Box<str>, Held)>,
    /// Whether others are to be served in another way.
    pub(crate) changed: bool,
}

impl Session {
    /// From now on the client may do this.
    pub(crate) fn set_grants(&mut self, grants: Arc<Grants>) {
        self.grants = CachedGrants::new(grants);
    }

    /// Looks at every subscription once more, and at what waits for the client in memory. What waits in streams is
    /// looked at when it is sent, and goes with its subscription.
    pub(crate) fn judge_again(&mut self, cx: &Cx<'_>) -> Judged {
        let mut judged = Judged::default();
        let mut ended = Vec::new();
        let mut screened = Vec::new();
        for (text, held) in self.state.subscriptions.iter() {
            let tag = Tag::unpack(held.options.tag);
            match self.verdict(held, tag) {
                Verdict::Denied => ended.push(text.clone()),
                verdict if tag.screened != (verdict == Verdict::Screened) => {
                    screened.push((text.clone(), !tag.screened));
                }
                _ => {}
            }
        }
        for (text, screened) in screened {
            if let Some(held) = self.state.subscriptions.get_mut(&text) {
                let mut tag = Tag::unpack(held.options.tag);
                tag.screened = screened;
                held.options.tag = tag.pack();
                judged.changed = true;
            }
        }
        for text in ended {
            if self.replays.is_there() {
                self.replays.retain(|replay| !replay.is_of(&text));
            }
            if let Some(held) = self.state.subscriptions.remove(&text) {
                tracing::info!(client = %self.hello.client_id, filter = &*text, "a subscription is not allowed any more");
                if held.is_exclusive {
                    let filter = held.filter.as_str();
                    cx.exclusive.release(filter, &self.hello.client_id);
                }
                judged.ended.push((text, held));
            }
        }
        if judged.changed || !judged.ended.is_empty() {
            self.drop_what_is_not_allowed(cx);
        }
        judged
    }

    fn verdict(&self, held: &Held, tag: Tag) -> Verdict {
        if !self.is_at_home(held.filter.as_str()) {
            return Verdict::Denied;
        }
        let permission = self.hooked.authorize(|| Access::Subscribe {
            filter: held.filter.as_str(),
            qos: tag.qos,
        });
        match permission {
            Permission::Next => {
                let manner = tag.manner();
                self.grants().judge_in(Right::Consume, &held.filter, manner)
            }
            Permission::Allow => Verdict::Allowed,
            Permission::Deny => Verdict::Denied,
        }
    }

    /// Drops what waits in memory, unless a subscription is left that would get it.
    fn drop_what_is_not_allowed(&mut self, cx: &Cx<'_>) {
        let subscriptions = &self.state.subscriptions;
        let grants = &mut self.grants;
        let dropped = self.state.outbound.sift(|message| {
            let subject = SubjectRef::from(&message.subject);
            subscriptions.values().any(|held| {
                let tag = Tag::unpack(held.options.tag);
                held.filter.matches(subject)
                    && (!tag.screened || grants.allows_in(Right::Consume, subject, tag.manner()))
            })
        });
        for copy in dropped {
            self.state.drop_messages(cx, DropReason::Denied, 1);
            self.tell_dropped(&copy.message, DropReason::Denied);
            if let Some(source) = copy.source {
                self.done_with(source);
            }
        }
    }
}
