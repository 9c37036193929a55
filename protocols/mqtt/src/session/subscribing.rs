//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! The session knows its subscriptions from the moment that the client asks for them, the router a moment later, and
//! only then the client is answered.

use std::num::NonZeroU32;
use std::sync::Arc;

use longtail_broker::auth::{Action as Right, Manner, Verdict};
use longtail_broker::ephemeral::{LiveOptions, TargetOptions};
use longtail_broker::router::{GroupScope, GroupSpec, Subscription as Routed};
use longtail_engine::config::GroupName;
use longtail_model::{DollarRule, Filter};

use super::feed::group_of;
use super::hooked::{Asked, BY_A_HOOK};
use super::sending::Replay;
use super::{Action, Broken, Cx, Outbox, Session, Tag};
use crate::codec::{
    AckProperties, Packet, PacketId, Qos, ReasonCode, RetainHandling, Suback, Subscribe,
    Subscription, SubscriptionOptions, TopicFilter, Unsuback, Unsubscribe, Version,
};
use crate::config::Shares;
use crate::hooks::{Access, Event, Outcome, Permission, Points, Wish};
use crate::message::quality;
use crate::usage::Share;

/// A subscription of a session.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// What it matches.
    pub(crate) filter: Filter,
    /// The share it is a member of.
    pub(crate) group: Option<Arc<str>>,
    /// How it is served.
    pub(crate) options: LiveOptions,
    /// Whether nobody else may have one like it.
    pub(crate) is_exclusive: bool,
    /// Whether it is counted among those that its filter's stream is for. Between a packet and what it asks for, a
    /// connection may lose its session: only what was counted is to be released.
    pub(crate) is_counted: bool,
}

impl Held {
    /// Whether messages wait for it in a stream.
    pub(crate) fn has_stream(&self) -> bool {
        self.options.not_assured
    }

    /// The group in that stream that the session with this number draws from.
    pub(crate) fn stream_group(&self, number: u64) -> GroupName {
        group_of(number, self.group.as_deref())
    }
}

/// A SUBSCRIBE on its way through the router.
#[derive(Debug)]
pub struct Subscribing {
    /// `None`: the client has not asked for it, and is not answered.
    packet_id: Option<PacketId>,
    /// What is wanted, in the order of the packet.
    pub wanted: Vec<Result<Wanted, ReasonCode>>,
    /// What a client of 3.1, which knows no failure, is answered.
    asked: Vec<Qos>,
}

impl Subscribing {
    /// Whether something of it is a member of a share.
    pub(crate) fn shares(&self) -> bool {
        let mut wanted = self.wanted.iter().flatten();
        wanted.any(|wanted| wanted.group.is_some())
    }

    /// What is in force for a filter that the packet names more than once is the last of it, and what is `refused` was
    /// taken from the session: no entry for such a filter is granted.
    pub(crate) fn withdraw(&mut self, refused: &[Wanted]) {
        if refused.is_empty() {
            return;
        }
        for wanted in &mut self.wanted {
            if let Ok(entry) = wanted
                && refused.iter().any(|refused| refused.text == entry.text)
            {
                *wanted = Err(ReasonCode::QuotaExceeded);
            }
        }
    }
}

/// One subscription.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub(crate) text: Box<str>,
    /// What it matches.
    pub filter: Filter,
    /// The share that it joins.
    pub group: Option<Arc<str>>,
    /// Whether nobody else may have one like it.
    pub(crate) is_exclusive: bool,
    /// How it is served.
    pub options: LiveOptions,
    granted: Qos,
    replays: bool,
    /// Whether messages waited for it in a stream before.
    pub(crate) had_stream: bool,
}

impl Wanted {
    /// As the router takes it.
    #[must_use]
    pub fn subscription(&self, shares: &Shares, options: TargetOptions) -> Routed<TargetOptions> {
        routed(self.group.as_ref(), shares, options)
    }
}

/// A subscription, of a member of `group` if there is one, as the router takes it.
pub(crate) fn routed(
    group: Option<&Arc<str>>,
    shares: &Shares,
    options: TargetOptions,
) -> Routed<TargetOptions> {
    Routed {
        options,
        dollar: DollarRule::Hide,
        group: group.map(|name| GroupSpec {
            name: Arc::clone(name),
            scope: GroupScope::Filter,
            strategy: shares.strategy_of(name).of_router(),
        }),
    }
}

/// An UNSUBSCRIBE on its way through the router.
#[derive(Debug)]
pub struct Unsubscribing {
    /// `None`: the client has not asked for it, and is not answered.
    packet_id: Option<PacketId>,
    /// What ends, by its text.
    pub(crate) ended: Vec<(Box<str>, Held)>,
    reasons: Vec<ReasonCode>,
}

impl Unsubscribing {
    /// What becomes of each filter.
    pub(crate) fn reasons(&self) -> &[ReasonCode] {
        &self.reasons
    }
}

impl Session {
    pub(super) fn subscribe(
        &mut self,
        subscribe: &Subscribe<'_>,
        cx: &Cx<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Broken> {
        let id = subscribe.properties.subscription_id;
        let decided = self.ask_about(subscribe)?.into_iter();
        let asked = &subscribe.subscriptions;
        let packet_id = Some(subscribe.packet_id);
        let subscribing = self.subscribing(packet_id, id, asked, decided, cx);
        let is_denied =
            |wanted: &Result<Wanted, _>| matches!(wanted, Err(ReasonCode::NotAuthorized));
        let denied = subscribing.wanted.iter().any(is_denied);
        actions.push(Action::Subscribe(Box::new(subscribing)));
        if denied && cx.limits.denied_disconnects {
            return Err(Broken(
                ReasonCode::NotAuthorized,
                "a subscription that is not allowed",
            ));
        }
        Ok(())
    }

    /// What the client is subscribed to without asking for it; nothing, but when it has just been let in. What is not
    /// allowed is left out.
    pub(crate) fn subscribe_by_itself(&mut self, cx: &Cx<'_>) -> Option<Subscribing> {
        let own = self.take_own(cx.limits)?;
        let asked: Vec<_> = own
            .iter()
            .map(|(filter, options)| Subscription {
                filter,
                options: *options,
            })
            .collect();
        let subscribing = self.subscribing(None, None, &asked, std::iter::empty(), cx);
        for (wanted, (filter, _)) in subscribing.wanted.iter().zip(&own) {
            if let Err(reason) = wanted {
                tracing::warn!(client = %self.hello.client_id, filter, ?reason, "not subscribed to");
            }
        }
        Some(subscribing)
    }

    fn subscribing(
        &mut self,
        packet_id: Option<PacketId>,
        id: Option<NonZeroU32>,
        asked: &[Subscription<'_>],
        mut decided: impl Iterator<Item = Asked>,
        cx: &Cx<'_>,
    ) -> Subscribing {
        self.count_share();
        let wanted = asked.iter().map(|asked| {
            let changed = decided.next().unwrap_or(Ok(None))?;
            let subscription = &match &changed {
                Some(new) => Subscription {
                    filter: &new.filter,
                    options: new.options,
                },
                None => *asked,
            };
            if id.is_some() && !cx.limits.subscription_ids_available {
                return Err(ReasonCode::SubscriptionIdentifiersNotSupported);
            }
            let (mut wanted, handling) = self.want(subscription, cx)?;
            if changed.is_some() {
                // The client goes on to know it as it named it.
                wanted.text = asked.filter.into();
            }
            let mut tag = Tag::unpack(wanted.options.tag);
            tag.id = id;
            wanted.options.tag = tag.pack();
            wanted.options.not_assured =
                wanted.group.is_some() || self.is_lasting() && tag.qos != Qos::AtMostOnce;
            let held = Held {
                filter: wanted.filter.clone(),
                group: wanted.group.clone(),
                options: wanted.options,
                is_exclusive: wanted.is_exclusive,
                is_counted: false,
            };
            let old = self.state.subscriptions.insert(wanted.text.clone(), held);
            wanted.had_stream = old.as_ref().is_some_and(|old| old.is_counted);
            if wanted.had_stream {
                self.count(&wanted.text);
            }
            let is_new = old.is_none();
            self.count_share();
            wanted.replays = wanted.group.is_none()
                && match handling {
                    RetainHandling::Always => true,
                    RetainHandling::IfNew => is_new,
                    RetainHandling::Never => false,
                };
            Ok(wanted)
        });
        let wanted = wanted.collect();
        Subscribing {
            packet_id,
            wanted,
            asked: asked.iter().map(|asked| asked.options.qos).collect(),
        }
    }

    /// The client's subscriptions count among those of its account.
    pub(crate) fn set_share(&mut self, share: Share) {
        self.share = Some(Box::new(share));
    }

    /// Brings the account's count up to date.
    fn count_share(&mut self) {
        if let Some(share) = &mut self.share {
            share.has(self.state.subscriptions.len());
        }
    }

    /// Checks one subscription.
    fn want(
        &self,
        subscription: &Subscription<'_>,
        cx: &Cx<'_>,
    ) -> Result<(Wanted, RetainHandling), ReasonCode> {
        let limits = cx.limits;
        let text = subscription.filter;
        let parsed = TopicFilter::parse(text).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        if parsed.group.is_some() && !limits.shared_available {
            return Err(ReasonCode::SharedSubscriptionsNotSupported);
        }
        if parsed.has_wildcards() && !limits.wildcards_available {
            return Err(ReasonCode::WildcardSubscriptionsNotSupported);
        }
        let placed = self.place_filter(parsed.filter, limits);
        let filter = Filter::parse_mqtt(&placed).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        if filter.tokens().count() > limits.topic_levels_max {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let mut permission = self.permitted(|| Wish {
            publish: false,
            topic: parsed.filter.into(),
            qos: subscription.options.qos,
            retain: false,
        });
        if permission == Permission::Next {
            permission = self.hooked.authorize(|| Access::Subscribe {
                filter: &placed,
                qos: subscription.options.qos,
            });
        }
        let verdict = match permission {
            Permission::Next => {
                let qos = subscription.options.qos.min(limits.qos_max);
                let manner = Manner::of_subscription(quality(qos));
                self.grants().judge_in(Right::Consume, &filter, manner)
            }
            Permission::Allow => Verdict::Allowed,
            Permission::Deny => Verdict::Denied,
        };
        if verdict == Verdict::Denied {
            return Err(ReasonCode::NotAuthorized);
        }
        let subscriptions = &self.state.subscriptions;
        let is_full = subscriptions.len() >= limits.subscriptions_max
            || self.share.as_ref().is_some_and(|share| !share.has_room());
        if is_full && !subscriptions.contains_key(text) {
            return Err(ReasonCode::QuotaExceeded);
        }
        if parsed.exclusive && !cx.exclusive.claim(filter.as_str(), self.client_id()) {
            return Err(ReasonCode::QuotaExceeded);
        }
        let options = self.options(subscription.options);
        let granted = options.qos.min(limits.qos_max);
        let tag = Tag {
            qos: granted,
            retain_as_published: options.retain_as_published,
            screened: verdict == Verdict::Screened,
            upgraded: limits.upgrade_qos,
            id: None,
        };
        let wanted = Wanted {
            text: text.into(),
            filter,
            group: parsed.group.map(Arc::from),
            is_exclusive: parsed.exclusive,
            options: LiveOptions {
                tag: tag.pack(),
                no_local: options.no_local,
                not_assured: false,
                only_now: false,
            },
            granted,
            replays: false,
            had_stream: false,
        };
        Ok((wanted, options.retain_handling))
    }

    /// The options in force: a bridge before 5.0 cannot say what it wants, and wants this.
    fn options(&self, options: SubscriptionOptions) -> SubscriptionOptions {
        if self.hello().bridge {
            SubscriptionOptions {
                no_local: true,
                retain_as_published: true,
                ..options
            }
        } else {
            options
        }
    }

    /// The router knows the subscriptions; those that it refused are errors now. Answers the client, and begins to send
    /// it the retained messages.
    pub fn subscribed(&mut self, subscribing: Subscribing, cx: &Cx<'_>, out: &mut impl Outbox) {
        if !self.is_open() {
            return;
        }
        let silent = self.version() == Version::V31;
        let reasons = subscribing
            .wanted
            .iter()
            .zip(&subscribing.asked)
            .map(|(wanted, asked)| match wanted {
                Ok(wanted) => wanted.granted.into(),
                Err(_) if silent => (*asked).into(),
                Err(reason) => *reason,
            });
        let reasons: Vec<ReasonCode> = reasons.collect();
        let Some(packet_id) = subscribing.packet_id else {
            // It has not asked: nobody waits for an answer.
            self.has_its_own();
            self.begin_replays(subscribing, cx, out);
            return;
        };
        self.hooked.tell(Points::SUBSCRIBED, |client| {
            let text =
                |wanted: &Result<Wanted, _>| Some(wanted.as_ref().ok()?.text.as_ref().into());
            let texts = subscribing.wanted.iter().map(text);
            Event::Subscribed {
                client,
                subscriptions: texts.zip(reasons.iter().copied()).collect(),
            }
        });
        let suback = Packet::Suback(Suback {
            packet_id,
            properties: AckProperties::default(),
            reasons,
        });
        self.say(&suback, out);
        self.begin_replays(subscribing, cx, out);
    }

    fn begin_replays(&mut self, subscribing: Subscribing, cx: &Cx<'_>, out: &mut impl Outbox) {
        for wanted in subscribing.wanted.into_iter().flatten() {
            if wanted.replays {
                let tag = Tag::unpack(wanted.options.tag);
                self.replays
                    .push_back(Replay::new(wanted.text, wanted.filter, tag));
            }
        }
        self.pump(cx, out);
    }

    /// The stream of a subscription's filter is there for it too; `false` if it was already, or the subscription is gone.
    pub(crate) fn count(&mut self, text: &str) -> bool {
        let held = self.state.subscriptions.get_mut(text);
        held.is_some_and(|held| !std::mem::replace(&mut held.is_counted, true))
    }

    /// It is not any more; whether it was.
    pub(crate) fn uncount(&mut self, text: &str) -> bool {
        let held = self.state.subscriptions.get_mut(text);
        held.is_some_and(|held| std::mem::take(&mut held.is_counted))
    }

    /// The router has refused a subscription after all.
    pub fn was_refused(&mut self, wanted: &Wanted, cx: &Cx<'_>) {
        self.state.subscriptions.remove(&wanted.text);
        if wanted.is_exclusive {
            let filter = wanted.filter.as_str();
            cx.exclusive.release(filter, &self.hello.client_id);
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        unsubscribe: &Unsubscribe<'_>,
        cx: &Cx<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Broken> {
        let packet_id = Some(unsubscribe.packet_id);
        let (unsubscribing, expelled) = self.unsubscribing(packet_id, &unsubscribe.filters, cx);
        // Behind those that have ended already.
        actions.push(Action::Unsubscribe(Box::new(unsubscribing)));
        match expelled {
            Some(reason) => Err(Broken(reason, BY_A_HOOK)),
            None => Ok(()),
        }
    }

    /// An operator subscribes the client, as it could itself. `None`: it is not in, or still waits for what it is
    /// subscribed to by itself.
    pub(crate) fn subscribe_for(
        &mut self,
        asked: &[Subscription<'_>],
        cx: &Cx<'_>,
    ) -> Option<Subscribing> {
        if !self.is_open() || self.awaits_its_own() {
            return None;
        }
        Some(self.subscribing(None, None, asked, std::iter::empty(), cx))
    }

    /// An operator ends subscriptions of the client. `None`: it is not in.
    pub(crate) fn unsubscribe_for(
        &mut self,
        filters: &[&str],
        cx: &Cx<'_>,
    ) -> Option<Unsubscribing> {
        if !self.is_open() {
            return None;
        }
        Some(self.unsubscribing(None, filters, cx).0)
    }

    /// What ends, and the reason for which a hook wants the client to go.
    fn unsubscribing(
        &mut self,
        packet_id: Option<PacketId>,
        filters: &[&str],
        cx: &Cx<'_>,
    ) -> (Unsubscribing, Option<ReasonCode>) {
        let mut ended = Vec::new();
        let mut expelled = None;
        let reasons = filters.iter().map(|text| {
            let mut text: &str = text;
            let changed;
            if let Some(client) = self.hooked.wants(Points::UNSUBSCRIBE) {
                match client.unsubscribe(text) {
                    Outcome::AsItWas => {}
                    Outcome::Changed(new) => {
                        changed = new;
                        text = &changed;
                    }
                    Outcome::Rejected(reason) => return reason,
                    Outcome::Ignored => return ReasonCode::Success,
                    Outcome::Disconnected(reason) => {
                        expelled = Some(reason);
                        return reason;
                    }
                }
            }
            let held = self.state.subscriptions.get(text);
            if held.is_some_and(|held| !self.grants.grants().may_unsubscribe(&held.filter)) {
                return ReasonCode::NotAuthorized;
            }
            if self.replays.is_there() {
                self.replays.retain(|replay| !replay.is_of(text));
            }
            match self.state.subscriptions.remove(text) {
                Some(held) => {
                    if held.is_exclusive {
                        let filter = held.filter.as_str();
                        cx.exclusive.release(filter, &self.hello.client_id);
                    }
                    self.hooked
                        .tell(Points::UNSUBSCRIBED, |client| Event::Unsubscribed {
                            client,
                            filter: text.into(),
                        });
                    ended.push((text.into(), held));
                    ReasonCode::Success
                }
                None => ReasonCode::NoSubscriptionExisted,
            }
        });
        let reasons = reasons.collect();
        self.count_share();
        let unsubscribing = Unsubscribing {
            packet_id,
            ended,
            reasons,
        };
        (unsubscribing, expelled)
    }

    /// The router has forgotten the subscriptions.
    pub fn unsubscribed(&mut self, unsubscribing: Unsubscribing, out: &mut impl Outbox) {
        let Some(packet_id) = unsubscribing.packet_id.filter(|_| self.is_open()) else {
            return;
        };
        let unsuback = Packet::Unsuback(Unsuback {
            packet_id,
            properties: AckProperties::default(),
            reasons: unsubscribing.reasons,
        });
        self.say(&unsuback, out);
    }
}
