//! Federation: exchanges and queues of this broker that are joined with those of others, upstream.
//!
//! ```text
//! parameters (upstreams, sets) ─┐
//! policies ─────────────────────┼─▶ watch ─▶ links: exchange, queue ─▶ transfer
//! topology (what is declared) ──┘
//! ```
//!
//! A policy says which exchanges and queues are federated with which upstreams; each such pair is a link. While there
//! are upstreams, `watch` looks whenever something that is declared, a policy or a parameter has changed: links come and
//! go, bindings are mirrored. Whether somebody waits at a queue nobody tells: while there are links of queues, it looks
//! at these a few times a second. `config` has what parameters say, `trail` what messages and bindings carry
//! so that none goes in a circle.

mod config;
mod exchange;
mod queue;
mod trail;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use longtail_engine::StreamName;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::watch;

pub(crate) use config::{Upstream, parse_set};
use exchange::{Bindings, ExchangeLink};
use queue::QueueLink;
use trail::Place;

use crate::codec::Table;
use crate::graph::Graph;
use crate::link::{LinkError, Reach};
use crate::parameter::{Parameters, UPSTREAM};
use crate::policy::Subject;
use crate::queue::QueueType;
use crate::topology::Topology;
use crate::transfer::{self, Job, Snapshot, Status, Thread};

/// Time between two looks at whether somebody waits at a queue.
const LOOK: Duration = Duration::from_millis(200);

/// Changes come in bursts: how long after the first of them.
const AFTER: Duration = Duration::from_millis(50);

/// What a link is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Exchange,
    Queue,
}

impl Kind {
    /// As RabbitMQ calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Exchange => "exchange",
            Kind::Queue => "queue",
        }
    }
}

/// What a link is called among those of its vhost.
fn id(kind: Kind, name: &str, upstream: &str) -> String {
    format!("{}/{name}/{upstream}", kind.name())
}

/// Space, what it is of, and the name of the upstream.
type Key = (Arc<str>, Kind, String, String);

/// What a link is made from: another one is another link.
#[derive(Clone, Debug, PartialEq)]
enum Spec {
    Exchange(exchange::Declared, Arc<Upstream>),
    Queue(queue::Declared, Arc<Upstream>),
}

impl Spec {
    fn upstream(&self) -> &Arc<Upstream> {
        match self {
            Spec::Exchange(_, upstream) | Spec::Queue(_, upstream) => upstream,
        }
    }

    /// What it is called upstream.
    fn theirs(&self) -> &str {
        match self {
            Spec::Exchange(own, upstream) => upstream.exchange_of(&own.name),
            Spec::Queue(own, upstream) => upstream.queue_of(&own.name),
        }
    }
}

/// What a link is told while it runs.
enum Wishes {
    Bindings(watch::Sender<Arc<Bindings>>),
    Pulls(watch::Sender<bool>),
}

struct Running {
    spec: Spec,
    status: Arc<Status>,
    job: Job,
    /// Whether what it has made upstream goes when it ends.
    cleans_up: watch::Sender<bool>,
    wishes: Wishes,
}

/// A link as an operator sees it.
pub(crate) struct Shown {
    pub(crate) space: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) upstream: String,
    pub(crate) theirs: String,
    pub(crate) now: Snapshot,
}

impl Shown {
    /// What it is called among those of its vhost.
    pub(crate) fn id(&self) -> String {
        id(self.kind, &self.name, &self.upstream)
    }
}

/// All links.
pub(crate) struct Federation {
    reach: Arc<Reach>,
    parameters: Arc<Parameters>,
    thread: Arc<Thread>,
    running: Mutex<BTreeMap<Key, Running>>,
    /// Links that were told to end: another one by the same key begins when they have.
    ending: Mutex<BTreeMap<Key, Vec<Job>>>,
    /// What each space looked like when its links were last put right.
    seen: Mutex<HashMap<Arc<str>, Stamp>>,
    watches: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Moves when links may have to.
type Stamp = (u64, u64, u64);

impl Federation {
    pub(crate) fn new(
        reach: Arc<Reach>,
        parameters: Arc<Parameters>,
        thread: Arc<Thread>,
    ) -> Arc<Self> {
        Arc::new(Federation {
            reach,
            parameters,
            thread,
            running: Mutex::default(),
            ending: Mutex::default(),
            seen: Mutex::default(),
            watches: Mutex::default(),
        })
    }

    /// A parameter has changed.
    pub(crate) fn look_again(&self) {
        self.reach.tenant.changed().notify_one();
    }

    /// Looks from now on, if there is an upstream; once more, if it looks already.
    pub(crate) fn start(self: &Arc<Self>, cluster: &str) {
        self.look_again();
        let mut watches = self.watches.lock();
        if watches.is_some() || self.parameters.list(UPSTREAM, None).is_empty() {
            return;
        }
        let (federation, cluster) = (Arc::downgrade(self), cluster.to_owned());
        match self.thread.spawn(watch_all(federation, cluster)) {
            Ok(task) => *watches = Some(task),
            Err(error) => tracing::error!(%error, "federation cannot be started"),
        }
    }

    /// Ends all links; what they have made upstream stays.
    pub(crate) fn stop_all(&self) {
        if let Some(task) = self.watches.lock().take() {
            task.abort();
        }
        for running in self.running.lock().values() {
            running.job.stop();
        }
    }

    /// Whether all links have ended.
    pub(crate) fn are_ended(&self) -> bool {
        let ended = |running: &Running| running.job.is_ended();
        self.running.lock().values().all(ended)
            && self.ending.lock().values().flatten().all(Job::is_ended)
    }

    /// The links of a space, or all.
    pub(crate) fn list(&self, space: Option<&str>) -> Vec<Shown> {
        let running = self.running.lock();
        let wanted = running
            .iter()
            .filter(|((of, ..), _)| space.is_none_or(|space| **of == *space));
        let shown = wanted.map(|((space, kind, name, upstream), running)| Shown {
            space: Arc::clone(space),
            kind: *kind,
            name: name.clone(),
            upstream: upstream.clone(),
            theirs: running.spec.theirs().to_owned(),
            now: running.status.now(),
        });
        shown.collect()
    }

    /// Ends a link, and begins it anew. `false`: there is none that is called so.
    pub(crate) fn restart(&self, space: &str, wanted: &str) -> bool {
        let mut running = self.running.lock();
        let called = |(of, kind, name, upstream): &&Key| {
            **of == *space && id(*kind, name, upstream) == wanted
        };
        let Some(key) = running.keys().find(called).cloned() else {
            return false;
        };
        if let Some(known) = running.remove(&key) {
            known.job.stop();
            let mut ending = self.ending.lock();
            ending.entry(key).or_default().push(known.job);
        }
        drop(running);
        self.seen.lock().remove(space);
        self.look_again();
        true
    }

    /// Whether any link is one of a queue.
    fn has_queues(&self) -> bool {
        self.running
            .lock()
            .keys()
            .any(|(_, kind, ..)| *kind == Kind::Queue)
    }

    /// One look.
    async fn look(self: &Arc<Self>, cluster: &str) {
        let tenant = &self.reach.tenant;
        let mut spaces: Vec<Arc<str>> = self
            .parameters
            .list(UPSTREAM, None)
            .iter()
            .map(|parameter| Arc::from(parameter.space.as_str()))
            .collect();
        spaces.extend(self.seen.lock().keys().cloned());
        spaces.sort();
        spaces.dedup();
        for space in spaces {
            if self.reach.roster.directory().space(&space).is_none() {
                self.seen.lock().remove(&space);
                self.keep(&space, &BTreeMap::new());
                continue;
            }
            let topology = match tenant.topology(&space).await {
                Ok(topology) => topology,
                Err(error) => {
                    tracing::error!(%space, %error, "a space cannot be federated");
                    continue;
                }
            };
            let (policies, parameters) = (tenant.policies().version(), self.parameters.version());
            let stamp = (topology.generation(), policies, parameters);
            if self.seen.lock().get(&space) != Some(&stamp) {
                self.put_right(&topology, cluster);
                self.seen.lock().insert(Arc::clone(&space), stamp);
            }
            self.pull(&topology).await;
        }
    }

    /// Starts and ends links of a space, and tells those of exchanges which bindings there are.
    fn put_right(self: &Arc<Self>, topology: &Topology, cluster: &str) {
        let space = topology.space();
        let vhost = self.reach.tenant.vhost_of(space);
        let wanted = self.wanted(&topology.graph(), space, &vhost);
        self.keep(space, &wanted);
        let here = Place {
            cluster: cluster.to_owned(),
            vhost: vhost.to_string(),
        };
        let mut running = self.running.lock();
        for (key, (spec, bindings)) in wanted {
            match running.get(&key).map(|known| &known.wishes) {
                Some(Wishes::Bindings(told)) => {
                    told.send_if_modified(|known| {
                        let changed = **known != bindings;
                        if changed {
                            *known = Arc::new(bindings);
                        }
                        changed
                    });
                }
                Some(Wishes::Pulls(_)) => {}
                None => match self.begin(&key, spec, bindings, &here) {
                    Ok(started) => drop(running.insert(key, started)),
                    Err(error) => tracing::error!(%error, "a link cannot be started"),
                },
            }
        }
    }

    /// Ends the links of a space that are not wanted so any more.
    fn keep(&self, space: &Arc<str>, wanted: &BTreeMap<Key, (Spec, Bindings)>) {
        let mut running = self.running.lock();
        let mut ending = self.ending.lock();
        ending.retain(|_, jobs| {
            jobs.retain(|job| !job.is_ended());
            !jobs.is_empty()
        });
        let stays = |key: &Key, known: &Running| {
            key.0 != *space || wanted.get(key).is_some_and(|(spec, _)| *spec == known.spec)
        };
        let ended: Vec<Key> = (running.iter())
            .filter(|(key, known)| !stays(key, known))
            .map(|(key, _)| key.clone())
            .collect();
        for key in ended {
            let Some(known) = running.remove(&key) else {
                continue;
            };
            // One that is wanted otherwise goes on with what there is upstream.
            let gone = !wanted.contains_key(&key) && known.spec.upstream().cleans_up;
            let _ = known.cleans_up.send(gone);
            known.job.stop();
            ending.entry(key).or_default().push(known.job);
        }
    }

    /// All links of a space that there should be, with the bindings of those of exchanges.
    fn wanted(
        &self,
        graph: &Graph,
        space: &Arc<str>,
        vhost: &str,
    ) -> BTreeMap<Key, (Spec, Bindings)> {
        let mut wanted = BTreeMap::new();
        let policies = self.reach.tenant.policies();
        let chosen = |definition: &Map<String, Value>| {
            config::chosen(&self.parameters, space, vhost, definition)
        };
        for (name, known) in graph.exchanges() {
            if known.config.internal {
                continue;
            }
            for upstream in chosen(&policies.effective(space, Subject::Exchange(name))) {
                let own = exchange::Declared {
                    name: name.to_string(),
                    kind: known.config.type_name().to_owned(),
                    durable: known.config.durable,
                    auto_delete: known.config.auto_delete,
                    arguments: Arc::clone(&known.config.arguments),
                };
                let bindings = known.bindings();
                let bindings = bindings
                    .map(|(key, binding)| (Arc::clone(key), Arc::clone(&binding.arguments)));
                let key = key(space, Kind::Exchange, name, &upstream);
                wanted.insert(key, (Spec::Exchange(own, upstream), bindings.collect()));
            }
        }
        for known in graph.queues() {
            let kind = known.config.parsed.kind;
            if known.config.owner.is_some()
                || !matches!(kind, QueueType::Classic | QueueType::Quorum)
            {
                continue;
            }
            for upstream in
                chosen(&policies.effective(space, Subject::Queue(&known.name, kind.name())))
            {
                let own = queue::Declared {
                    name: known.name.to_string(),
                    durable: known.config.durable,
                    auto_delete: known.config.auto_delete,
                    arguments: Arc::clone(&known.config.arguments),
                };
                let key = key(space, Kind::Queue, &known.name, &upstream);
                wanted.insert(key, (Spec::Queue(own, upstream), Bindings::new()));
            }
        }
        wanted
    }

    fn begin(
        self: &Arc<Self>,
        key: &Key,
        spec: Spec,
        bindings: Bindings,
        here: &Place,
    ) -> std::io::Result<Running> {
        let status = Arc::new(Status::default());
        let (stop, stopped) = watch::channel(false);
        let (cleans_up, cleaning) = watch::channel(false);
        let clock = Arc::clone(self.reach.door.clock());
        // Two of a kind would take each other's messages, or what the other has made upstream.
        let before = self.ending.lock().remove(key).unwrap_or_default();
        let nowhere = || Place {
            cluster: String::new(),
            vhost: String::new(),
        };
        let (reach, of, here) = (Arc::clone(&self.reach), Arc::clone(&status), here.clone());
        let (wishes, task) = match &spec {
            Spec::Exchange(own, upstream) => {
                let (told, wished) = watch::channel(Arc::new(bindings));
                let link = || ExchangeLink {
                    reach: Arc::clone(&reach),
                    status: Arc::clone(&of),
                    upstream: Arc::clone(upstream),
                    exchange: own.clone(),
                    here: here.clone(),
                    attempts: 0,
                    plain: false,
                    bound: Bindings::new(),
                    inner: String::new(),
                    there: nowhere(),
                    uri: String::new(),
                };
                let (runs, mut cleans) = (link(), link());
                let task = self.thread.spawn(async move {
                    ended(before).await;
                    transfer::run(runs, clock, of, wished, stopped).await;
                    if *cleaning.borrow() {
                        tidied(cleans.clean_up().await);
                    }
                })?;
                (Wishes::Bindings(told), task)
            }
            Spec::Queue(own, upstream) => {
                let (told, wished) = watch::channel(false);
                let link = QueueLink {
                    reach,
                    status: Arc::clone(&of),
                    upstream: Arc::clone(upstream),
                    queue: own.clone(),
                    here,
                    attempts: 0,
                    pulls: false,
                    there: nowhere(),
                    uri: String::new(),
                };
                let task = self.thread.spawn(async move {
                    ended(before).await;
                    transfer::run(link, clock, of, wished, stopped).await;
                })?;
                (Wishes::Pulls(told), task)
            }
        };
        Ok(Running {
            spec,
            status,
            job: Job::new(stop, task),
            cleans_up,
            wishes,
        })
    }

    /// Tells the links of queues whether anybody waits here.
    async fn pull(&self, topology: &Topology) {
        let queues: Vec<Key> = {
            let running = self.running.lock();
            let of_space = running.keys().filter(|key| key.0 == *topology.space());
            of_space
                .filter(|key| key.1 == Kind::Queue)
                .cloned()
                .collect()
        };
        for key in queues {
            let queue = topology.graph().queue(&key.2).cloned();
            let consumers = queue.is_some_and(|queue| queue.local_consumers() > 0);
            let pulls = consumers && {
                let stream = StreamName::new(Arc::clone(&key.0), key.2.as_str());
                let found = self.reach.tenant.broker().find(&stream).await;
                found.is_ok_and(|found| {
                    found.is_some_and(|(_, info)| info.ready == 0 && info.waiting > 0)
                })
            };
            if let Some(Wishes::Pulls(told)) =
                self.running.lock().get(&key).map(|known| &known.wishes)
            {
                told.send_if_modified(|known| std::mem::replace(known, pulls) != pulls);
            }
        }
    }
}

fn key(space: &Arc<str>, kind: Kind, name: &str, upstream: &Upstream) -> Key {
    (
        Arc::clone(space),
        kind,
        name.to_owned(),
        upstream.name.clone(),
    )
}

fn tidied(outcome: Result<(), LinkError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "what a link has made upstream stays there");
    }
}

/// Until these have ended.
async fn ended(before: Vec<Job>) {
    for job in before {
        job.end().await;
    }
}

async fn watch_all(federation: Weak<Federation>, cluster: String) {
    let Some(changed) = federation
        .upgrade()
        .map(|known| Arc::clone(known.reach.tenant.changed()))
    else {
        return;
    };
    loop {
        let Some(known) = federation.upgrade() else {
            return;
        };
        known.look(&cluster).await;
        let polls = known.has_queues();
        drop(known);
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(AFTER).await,
            () = tokio::time::sleep(LOOK), if polls => {}
        }
    }
}

/// Whether a consumer with these arguments is a link of somebody's federation.
pub(crate) fn is_link(arguments: &Table<'_>) -> bool {
    let purpose = arguments.get("x-internal-purpose");
    purpose.and_then(|value| value.as_str()) == Some("federation")
}
