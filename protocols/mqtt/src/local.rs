//! A client in this process: it publishes and follows topics without sockets and without bytes.
//!
//! ```text
//! LocalClient::publish ──▶ hooks, rights ──▶ publish ──▶ subscribers, retained values, streams ──▶ reason code
//! LocalClient::follow ◀── queue or callback ◀── rights ◀── router
//! ```
//!
//! It has no session: what is published while it does not follow is not kept for it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use longtail_broker::auth::{Action as Right, Grants, Manner, Principal, Verdict};
use longtail_broker::ephemeral::{
    Burst, Delivery, DropReason, LiveHandle, LiveOptions, Subscriber,
};
use longtail_broker::message::{Origin, SharedMessage};
use longtail_broker::retained::RetainedCursor;
use longtail_broker::router::{GroupScope, GroupSpec, Subscription};
use longtail_model::{DollarRule, Filter, Subject};
use tokio::sync::{mpsc, oneshot};

use crate::codec::{MessageProperties, Qos, ReasonCode, TopicFilter, UserPropertiesBuf, Version};
use crate::control::is_control;
use crate::hooks::{Access, ClientInfo, Hooked, Outcome, Permission, Points, is_inside};
use crate::message::{Published, incoming, set_source};
use crate::publish::{Outgoing, Whom, publish};
use crate::session::judged;
use crate::tenant::Tenant;

/// The listener that local clients are said to come from, for hooks.
pub(crate) const LISTENER: &str = "local";

/// Retained messages that are looked at in one go.
const REPLAY_STEP: usize = 64;

/// Why a local client's wish is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// No topic that can be published to.
    #[error("{0:?} is no topic name")]
    Topic(String),
    /// No topic filter.
    #[error("{0:?} is no topic filter")]
    Filter(String),
    /// A property is longer than a packet can carry.
    #[error("a property of {0} bytes: at most 65535 fit")]
    Property(usize),
    /// There is no such account, or it may not do anything.
    #[error("there is no account {0:?}")]
    Account(String),
    /// Refused, by its rights, a hook or a limit.
    #[error("refused: {0:?}")]
    Refused(ReasonCode),
    /// It was called from a hook that is being called, and would wait for itself.
    #[error("a hook must not call the broker: hand the work to a task")]
    InsideHook,
    /// The broker went down before the message was safe.
    #[error("the broker has stopped")]
    Stopped,
}

/// A message to be published.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// QoS: what subscribers get at most.
    pub qos: Qos,
    /// Whether it is kept as its topic's last value; with an empty payload, that is forgotten.
    pub retain: bool,
    /// Seconds that it is worth something; `None`: for ever.
    pub expiry_s: Option<u32>,
    /// Whether the payload says that it is text; `None`: it says nothing.
    pub payload_is_utf8: Option<bool>,
    /// Content type.
    pub content_type: Option<String>,
    /// Topic for an answer.
    pub response_topic: Option<String>,
    /// Correlation data.
    pub correlation_data: Option<Bytes>,
    /// User properties, in their order.
    pub user: Vec<(String, String)>,
}

impl Publication {
    /// A message of QoS 0 without properties.
    #[must_use]
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Publication {
            topic: topic.into(),
            payload: payload.into(),
            ..Publication::default()
        }
    }

    /// The same with another QoS.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// The same, retained.
    #[must_use]
    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// The same with one more user property.
    #[must_use]
    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.user.push((key.into(), value.into()));
        self
    }
}

/// A client in this process. Cloning shares it.
#[derive(Clone)]
pub struct LocalClient {
    tenant: Arc<Tenant>,
    info: Arc<ClientInfo>,
    hooked: Hooked,
    origin: Origin,
    /// `None`: everything.
    grants: Option<Arc<Grants>>,
}

impl LocalClient {
    pub(crate) fn new(tenant: Arc<Tenant>, client_id: &str) -> Self {
        let origin = Tenant::origin(client_id);
        let (tenant, info) = (tenant, client_id.into());
        Self::with(tenant, info, None, origin, None)
    }

    /// One that may do what `grants` say, in the name of an account.
    pub(crate) fn of(
        tenant: &Arc<Tenant>,
        client_id: &str,
        account: Option<Arc<str>>,
        grants: Arc<Grants>,
    ) -> Self {
        let (tenant, origin) = (Arc::clone(tenant), Tenant::origin(client_id));
        Self::with(tenant, client_id.into(), account, origin, Some(grants))
    }

    fn with(
        tenant: Arc<Tenant>,
        id: Arc<str>,
        account: Option<Arc<str>>,
        origin: Origin,
        grants: Option<Arc<Grants>>,
    ) -> Self {
        let chain = tenant.hooks().chain(&LISTENER.into());
        let info = ClientInfo::new(id, account, None, Version::V5, tenant.now(), chain);
        LocalClient {
            hooked: Hooked::new(Arc::clone(&info)),
            tenant,
            info,
            origin,
            grants,
        }
    }

    /// The same with the rights that an account has now.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn as_account(&self, account: &str) -> Result<Self, LocalError> {
        let principal = Principal::named(account);
        let grants = self.tenant.rights().now(&principal, &self.info.id, None);
        let grants = grants.ok_or_else(|| LocalError::Account(account.to_owned()))?;
        let (tenant, id) = (Arc::clone(&self.tenant), Arc::clone(&self.info.id));
        let account = Some(account.into());
        Ok(Self::with(tenant, id, account, self.origin, Some(grants)))
    }

    /// The same with these rights.
    #[must_use]
    pub fn with_grants(&self, grants: Arc<Grants>) -> Self {
        LocalClient {
            grants: Some(grants),
            ..self.clone()
        }
    }

    /// Its identifier.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.info.id
    }

    /// Publishes, and waits until the message is as safe as a PUBACK would say: shown to subscribers, and durable
    /// where it is retained or stored. `Success` or `NoMatchingSubscribers`. A client that may do everything may also
    /// publish below `$SYS`.
    ///
    /// # Errors
    /// When it is not published, or not safe.
    pub async fn publish(&self, publication: Publication) -> Result<ReasonCode, LocalError> {
        let answer = self.begin(&publication)?;
        match answer {
            Ok(reason) => told(reason),
            Err(later) => told(later.await.map_err(|_| LocalError::Stopped)?),
        }
    }

    /// As [`LocalClient::publish`], without waiting until it is durable.
    ///
    /// # Errors
    /// When it is not published.
    pub fn publish_now(&self, publication: &Publication) -> Result<(), LocalError> {
        match self.begin(publication)? {
            Ok(reason) => told(reason).map(|_| ()),
            Err(_later) => Ok(()),
        }
    }

    /// Publishes; the answer is here, or comes.
    fn begin(
        &self,
        publication: &Publication,
    ) -> Result<Result<ReasonCode, oneshot::Receiver<ReasonCode>>, LocalError> {
        if is_inside() {
            return Err(LocalError::InsideHook);
        }
        let mut message = self.message(publication)?;
        self.may_publish(&message)?;
        if let Some(client) = self.hooked.wants(Points::PUBLISH) {
            match client.publish(&message) {
                Outcome::AsItWas => {}
                Outcome::Changed(new) => message = new,
                Outcome::Ignored => return Ok(Ok(ReasonCode::Success)),
                Outcome::Rejected(reason) | Outcome::Disconnected(reason) => {
                    return Err(LocalError::Refused(reason));
                }
            }
        }
        let tenant = &self.tenant;
        let (sender, answer) = oneshot::channel();
        let sender = Cell::new(Some(sender));
        let mut outgoing = Outgoing::new();
        let reason = {
            let space = tenant.space();
            let mut burst = Burst::new(&space.counters);
            let whom = Some(Whom::Caller(&sender));
            let now = message.published;
            publish(tenant, &mut burst, &message, now, whom, &mut outgoing)
        };
        tenant.streams().send(&mut outgoing);
        tenant.streams().run();
        let chain = self.info.chain();
        chain.tell_published(Some(&self.info), &message, reason);
        Ok(reason.ok_or(answer))
    }

    fn message(&self, publication: &Publication) -> Result<SharedMessage, LocalError> {
        let topic = || LocalError::Topic(publication.topic.clone());
        let subject = Subject::parse_mqtt(&publication.topic).map_err(|_| topic())?;
        if publication.topic.starts_with("$share/") || is_control(&publication.topic) {
            return Err(topic());
        }
        let mut user = UserPropertiesBuf::new();
        for (key, value) in &publication.user {
            let long = |_| LocalError::Property(key.len().max(value.len()));
            user.push(key, value).map_err(long)?;
        }
        let properties = MessageProperties {
            payload_is_utf8: publication.payload_is_utf8,
            expiry_s: publication.expiry_s,
            content_type: publication.content_type.as_deref(),
            response_topic: publication.response_topic.as_deref(),
            correlation_data: publication.correlation_data.as_deref(),
            user: user.as_properties(),
            ..MessageProperties::default()
        };
        let published = Published {
            qos: publication.qos,
            retain: publication.retain,
            origin: self.origin,
            now: self.tenant.now(),
        };
        let payload = publication.payload.clone();
        let mut message = incoming(subject, payload, &properties, published);
        if message.retain
            && self.tenant.limits().retain_source_checked
            && let Some(account) = &self.info.account
        {
            set_source(
                &mut message,
                &Principal::named(Arc::clone(account)),
                &self.info.id,
            );
        }
        Ok(Arc::new(message))
    }

    fn may_publish(&self, message: &SharedMessage) -> Result<(), LocalError> {
        let permission = self.hooked.authorize(|| Access::Publish {
            topic: message.subject.as_str(),
            payload: &message.payload,
            qos: crate::message::qos(message.quality),
            retain: message.retain,
        });
        let may = match (permission, &self.grants) {
            (Permission::Next, None) | (Permission::Allow, _) => true,
            (Permission::Next, Some(grants)) => {
                let aim = judged(&message.subject);
                let manner = Manner::of_publish(message.quality, message.retain);
                grants.allows_in(Right::Publish, aim, manner) && !aim.as_str().starts_with("$SYS/")
            }
            (Permission::Deny, _) => false,
        };
        if may {
            return Ok(());
        }
        Err(LocalError::Refused(ReasonCode::NotAuthorized))
    }

    /// Follows the topics that match a filter, `$share/{group}/` allowed, as a stream: first the retained messages
    /// (not for a share), then what is published from now on. At most `capacity` messages wait to be fetched; what
    /// does not fit is dropped and counted, or given to another member of the share.
    ///
    /// # Errors
    /// When the filter is none, is not allowed, or a limit is reached.
    pub fn follow(&self, filter: &str, capacity: usize) -> Result<Following, LocalError> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let sink = Take::Queue(sender);
        let mut following = self.subscribe(filter, sink)?;
        following.receiver = Some(receiver);
        Ok(following)
    }

    /// As [`LocalClient::follow`], with a function that is called for each message: by the publisher's thread, so that
    /// it must not wait. One that panics is logged, and the message counts as dropped. Retained messages come before
    /// this returns.
    ///
    /// # Errors
    /// As [`LocalClient::follow`].
    pub fn on_message(
        &self,
        filter: &str,
        call: impl Fn(&SharedMessage) + Send + Sync + 'static,
    ) -> Result<Following, LocalError> {
        let mut following = self.subscribe(filter, Take::Call(Box::new(call)))?;
        while let Some(message) = following.next_retained() {
            // What becomes of it is counted.
            let _counted = following.sink.take(&message);
        }
        Ok(following)
    }

    fn subscribe(&self, text: &str, take: Take) -> Result<Following, LocalError> {
        if is_inside() {
            return Err(LocalError::InsideHook);
        }
        let bad = || LocalError::Filter(text.to_owned());
        let parsed = TopicFilter::parse(text).map_err(|_| bad())?;
        if parsed.exclusive {
            // That is for sessions, and a client in the process has none.
            return Err(bad());
        }
        let filter = Filter::parse_mqtt(parsed.filter).map_err(|_| bad())?;
        let group: Option<Arc<str>> = parsed.group.map(Arc::from);
        let permission = self.hooked.authorize(|| Access::Subscribe {
            filter: parsed.filter,
            qos: Qos::ExactlyOnce,
        });
        let verdict = match (permission, &self.grants) {
            (Permission::Next, None) | (Permission::Allow, _) => Verdict::Allowed,
            (Permission::Next, Some(grants)) => grants.judge(Right::Consume, &filter),
            (Permission::Deny, _) => Verdict::Denied,
        };
        if verdict == Verdict::Denied {
            return Err(LocalError::Refused(ReasonCode::NotAuthorized));
        }
        let screen = self.grants.clone();
        let sink = Arc::new(Sink {
            take,
            hooked: self.hooked.clone(),
            screen: screen.filter(|_| verdict == Verdict::Screened),
            dropped: AtomicU64::new(0),
        });
        let handle = LiveHandle::new(self.origin, Shared(Arc::clone(&sink)));
        let subscription = Subscription {
            options: handle.options(LiveOptions::default()),
            dollar: DollarRule::Hide,
            group: group.as_ref().map(|name| GroupSpec {
                name: Arc::clone(name),
                scope: GroupScope::Filter,
                strategy: self.tenant.limits().shares.strategy_of(name).of_router(),
            }),
        };
        let router = &self.tenant.space().router;
        router
            .subscribe(&filter, handle.target(), subscription)
            .map_err(|_| LocalError::Refused(ReasonCode::QuotaExceeded))?;
        let cursor = RetainedCursor::new(filter.clone(), DollarRule::Hide);
        Ok(Following {
            tenant: Arc::clone(&self.tenant),
            cursor: group.is_none().then_some(cursor),
            retained: VecDeque::new(),
            filter,
            group,
            handle,
            sink,
            receiver: None,
        })
    }
}

fn told(reason: ReasonCode) -> Result<ReasonCode, LocalError> {
    if reason.is_error() {
        return Err(LocalError::Refused(reason));
    }
    Ok(reason)
}

/// Where the messages go.
enum Take {
    Queue(mpsc::Sender<SharedMessage>),
    Call(Box<dyn Fn(&SharedMessage) + Send + Sync>),
}

struct Sink {
    take: Take,
    hooked: Hooked,
    /// Asked about every message.
    screen: Option<Arc<Grants>>,
    dropped: AtomicU64,
}

impl Sink {
    fn take(&self, message: &SharedMessage) -> Delivery {
        let delivery = self.try_take(message);
        if delivery != Delivery::Delivered {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        delivery
    }

    fn try_take(&self, message: &SharedMessage) -> Delivery {
        let screen = self.screen.as_ref();
        if screen.is_some_and(|grants| !grants.allows(Right::Consume, message.subject.as_ref())) {
            return Delivery::Dropped(DropReason::Denied);
        }
        let changed;
        let mut message = message;
        if let Some(client) = self.hooked.wants(crate::hooks::COPYING) {
            match client.copy(message) {
                Ok(None) => {}
                Ok(Some(new)) => {
                    changed = new;
                    message = &changed;
                }
                Err(()) => return Delivery::Dropped(DropReason::Denied),
            }
        }
        match &self.take {
            Take::Queue(sender) => match sender.try_send(Arc::clone(message)) {
                Ok(()) => Delivery::Delivered,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    Delivery::Dropped(DropReason::OutboxFull)
                }
                Err(mpsc::error::TrySendError::Closed(_)) => Delivery::Dropped(DropReason::Closed),
            },
            Take::Call(call) => {
                let called = crate::hooks::isolate(|| call(message));
                if called.is_none() {
                    tracing::error!(topic = %message.subject, "a callback for messages panicked");
                    return Delivery::Dropped(DropReason::Closed);
                }
                Delivery::Delivered
            }
        }
    }
}

struct Shared(Arc<Sink>);

impl Subscriber for Shared {
    fn deliver(&self, message: &SharedMessage, _options: &[LiveOptions]) -> Delivery {
        self.0.take(message)
    }

    fn flush(&self) {}
}

/// What a [`LocalClient`] follows. Ends when dropped.
pub struct Following {
    tenant: Arc<Tenant>,
    filter: Filter,
    group: Option<Arc<str>>,
    handle: LiveHandle,
    sink: Arc<Sink>,
    receiver: Option<mpsc::Receiver<SharedMessage>>,
    /// Where the retained messages are.
    cursor: Option<RetainedCursor>,
    retained: VecDeque<SharedMessage>,
}

impl Following {
    /// The next message; waits for it. `None` for one that calls a function. Needs no particular runtime, and may be
    /// given up and called again.
    pub async fn recv(&mut self) -> Option<SharedMessage> {
        if let Some(message) = self.take_retained() {
            return Some(message);
        }
        self.receiver.as_mut()?.recv().await
    }

    /// The next message that is there.
    pub fn try_recv(&mut self) -> Option<SharedMessage> {
        if let Some(message) = self.take_retained() {
            return Some(message);
        }
        self.receiver.as_mut()?.try_recv().ok()
    }

    /// Messages that did not fit, or were not allowed, since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        self.sink.dropped.swap(0, Ordering::Relaxed)
    }

    fn take_retained(&mut self) -> Option<SharedMessage> {
        while let Some(message) = self.next_retained() {
            let screen = self.sink.screen.as_ref();
            let subject = message.subject.as_ref();
            if screen.is_none_or(|grants| grants.allows(Right::Consume, subject)) {
                return Some(message);
            }
        }
        None
    }

    fn next_retained(&mut self) -> Option<SharedMessage> {
        while self.retained.is_empty() {
            let cursor = self.cursor.as_mut()?;
            let mut found = Vec::new();
            let store = &self.tenant.space().retained;
            let more = cursor.step(store, self.tenant.now(), REPLAY_STEP, &mut found);
            self.retained = found.into();
            if !more {
                self.cursor = None;
            }
        }
        self.retained.pop_front()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let router = &self.tenant.space().router;
        router.unsubscribe(&self.filter, self.handle.target(), self.group.as_deref());
    }
}
