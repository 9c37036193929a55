//! Who is asked, in which order; and what happens when somebody panics.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::verdict::{Outcome, Verdict};
use super::{Event, Events, Hook, Points, Selection, Sharing};

/// Names a hook that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HookId(u64);

/// For whose clients a hook is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those of all listeners.
    #[default]
    Everywhere,
    /// Those of the listener with this name.
    Listener(Arc<str>),
}

/// The hooks of one tenant.
pub struct Hooks {
    inner: Mutex<Inner>,
    /// For what has no listener.
    whole: Arc<Chain>,
    panics: Arc<AtomicU64>,
}

struct Inner {
    next: u64,
    entries: Vec<Entry>,
    chains: Vec<Arc<Chain>>,
}

#[derive(Clone)]
pub(super) struct Entry {
    id: HookId,
    priority: i32,
    points: Points,
    scope: Scope,
    pub(super) hook: Arc<dyn Hook>,
}

/// The hooks of one listener, in their order.
pub(crate) struct Chain {
    /// The points that any of them wants.
    points: AtomicU64,
    entries: ArcSwap<Vec<Entry>>,
    /// `None`: the hooks of all listeners.
    listener: Option<Arc<str>>,
    panics: Arc<AtomicU64>,
}

thread_local! {
    /// How deep this thread is in calls of hooks that may hold a connection's lock.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Whether a hook is being called on this thread.
pub(crate) fn is_inside() -> bool {
    DEPTH.get() > 0
}

/// Calls what others have written: `None` if it panicked.
pub(crate) fn isolate<R>(call: impl FnOnce() -> R) -> Option<R> {
    let _inside = Inside::enter();
    catch_unwind(AssertUnwindSafe(call)).ok()
}

struct Inside;

impl Inside {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

impl Default for Hooks {
    fn default() -> Self {
        let panics = Arc::new(AtomicU64::new(0));
        Hooks {
            inner: Mutex::new(Inner {
                next: 1,
                entries: Vec::new(),
                chains: Vec::new(),
            }),
            whole: Arc::new(Chain::new(None, Arc::clone(&panics))),
            panics,
        }
    }
}

impl Hooks {
    /// Adds a hook, for connections that are there as well. Hooks of a lower priority are asked first; among equals,
    /// those that were added first.
    pub fn add(&self, hook: Arc<dyn Hook>, priority: i32, scope: Scope) -> HookId {
        let points = hook.points();
        let mut inner = self.inner.lock();
        let id = HookId(inner.next);
        inner.next += 1;
        let at = inner
            .entries
            .partition_point(|entry| entry.priority <= priority);
        let entry = Entry {
            id,
            priority,
            points,
            scope,
            hook,
        };
        inner.entries.insert(at, entry);
        self.publish(&inner);
        id
    }

    /// Takes a hook away; `false` if there is none of this id. Calls of it that are under way end as they would have.
    pub fn remove(&self, id: HookId) -> bool {
        let mut inner = self.inner.lock();
        let Some(at) = inner.entries.iter().position(|entry| entry.id == id) else {
            return false;
        };
        let gone = inner.entries.remove(at);
        self.publish(&inner);
        // What it holds may come back here when it is dropped.
        drop(inner);
        drop(gone);
        true
    }

    /// Takes all of them away.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        let gone = std::mem::take(&mut inner.entries);
        self.publish(&inner);
        // What they hold may come back here when it is dropped.
        drop(inner);
        drop(gone);
    }

    /// Gives a hook another priority: behind those that have it already. `false` if there is none of this id.
    pub fn reorder(&self, id: HookId, priority: i32) -> bool {
        let mut inner = self.inner.lock();
        let Some(at) = inner.entries.iter().position(|entry| entry.id == id) else {
            return false;
        };
        let mut entry = inner.entries.remove(at);
        entry.priority = priority;
        let at = inner
            .entries
            .partition_point(|other| other.priority <= priority);
        inner.entries.insert(at, entry);
        self.publish(&inner);
        true
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls that panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// The events of `points` from now on. At most `capacity` wait to be fetched; what does not fit is dropped and
    /// counted.
    #[must_use]
    pub fn events(self: &Arc<Self>, points: Points, capacity: usize) -> Events {
        Events::open(self, points, capacity)
    }

    fn publish(&self, inner: &Inner) {
        for chain in inner.chains.iter().chain([&self.whole]) {
            chain.set(&inner.entries);
        }
    }

    /// The hooks of a listener, now and later.
    pub(crate) fn chain(&self, listener: &Arc<str>) -> Arc<Chain> {
        let mut inner = self.inner.lock();
        let known = |chain: &&Arc<Chain>| chain.listener.as_ref() == Some(listener);
        if let Some(chain) = inner.chains.iter().find(known) {
            return Arc::clone(chain);
        }
        let chain = Chain::new(Some(Arc::clone(listener)), Arc::clone(&self.panics));
        chain.set(&inner.entries);
        let chain = Arc::new(chain);
        inner.chains.push(Arc::clone(&chain));
        chain
    }

    /// All hooks, for what has no listener.
    pub(crate) fn whole(&self) -> &Arc<Chain> {
        &self.whole
    }
}

impl Chain {
    fn new(listener: Option<Arc<str>>, panics: Arc<AtomicU64>) -> Self {
        Chain {
            points: AtomicU64::new(0),
            entries: ArcSwap::default(),
            listener,
            panics,
        }
    }

    /// The listener's name; empty if it is the chain of all.
    pub(crate) fn listener(&self) -> Arc<str> {
        self.listener.clone().unwrap_or_default()
    }

    fn set(&self, all: &[Entry]) {
        let mine = |entry: &&Entry| match (&entry.scope, &self.listener) {
            (Scope::Everywhere, _) | (_, None) => true,
            (Scope::Listener(scope), Some(listener)) => scope == listener,
        };
        let entries: Vec<Entry> = all.iter().filter(mine).cloned().collect();
        let points = entries.iter().fold(Points::NONE, |all, e| all | e.points);
        self.entries.store(Arc::new(entries));
        self.points.store(points.bits(), Ordering::Relaxed);
    }

    /// Whether anybody wants one of these points.
    #[inline]
    pub(crate) fn wants(&self, points: Points) -> bool {
        Points::from_bits(self.points.load(Ordering::Relaxed)).meets(points)
    }

    pub(super) fn entries(&self, point: Points) -> Vec<Entry> {
        let entries = self.entries.load();
        let wanted = entries.iter().filter(|entry| entry.points.meets(point));
        wanted.cloned().collect()
    }

    /// Where hooks are called: `None` if it panicked.
    fn call<R>(&self, hook: &dyn Hook, call: impl FnOnce(&dyn Hook) -> R) -> Option<R> {
        let answer = isolate(|| call(hook));
        if answer.is_none() {
            self.panicked(hook);
        }
        answer
    }

    pub(super) fn panicked(&self, hook: &dyn Hook) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(hook = hook.name(), "a hook panicked");
    }

    /// Asks each in turn until one decides.
    pub(super) fn first<R>(
        &self,
        point: Points,
        if_panicked: fn() -> R,
        mut ask: impl FnMut(&dyn Hook) -> Option<R>,
    ) -> Option<R> {
        let entries = self.entries.load();
        entries
            .iter()
            .filter(|entry| entry.points.meets(point))
            .find_map(|entry| {
                self.call(&*entry.hook, &mut ask)
                    .unwrap_or_else(|| Some(if_panicked()))
            })
    }

    /// Who of a share's members gets a message, by their places; `Err`: nobody.
    pub(crate) fn select(&self, sharing: &Sharing<'_>) -> Result<Option<usize>, ()> {
        let decided = self.first(
            Points::SELECT,
            || Ok(None),
            |hook| match hook.select(sharing) {
                Selection::Next => None,
                Selection::Nobody => Some(Err(())),
                Selection::Only(id) => {
                    let mut members = sharing.members.iter();
                    let at = members.position(|member| member.id == id)?;
                    Some(Ok(Some(at)))
                }
            },
        );
        decided.unwrap_or(Ok(None))
    }

    /// Asks each in turn, showing it what those before have made of it. Who panics has said `if_panicked`.
    pub(crate) fn fold<T>(
        &self,
        point: Points,
        if_panicked: fn() -> Verdict<T>,
        mut ask: impl FnMut(&dyn Hook, Option<&T>) -> Verdict<T>,
    ) -> Outcome<T> {
        let mut changed = None;
        for entry in self.entries.load().iter() {
            if !entry.points.meets(point) {
                continue;
            }
            let verdict = self.call(&*entry.hook, |hook| ask(hook, changed.as_ref()));
            match verdict.unwrap_or_else(if_panicked) {
                Verdict::Continue => {}
                Verdict::Replace(new) => changed = Some(new),
                Verdict::Reject(reason) => return Outcome::Rejected(reason),
                Verdict::Ignore => return Outcome::Ignored,
                Verdict::Disconnect(reason) => return Outcome::Disconnected(reason),
            }
        }
        changed.map_or(Outcome::AsItWas, Outcome::Changed)
    }

    /// Calls each that wants the point.
    pub(super) fn each(&self, point: Points, mut call: impl FnMut(&dyn Hook)) {
        for entry in self.entries.load().iter() {
            if entry.points.meets(point) {
                self.call(&*entry.hook, &mut call);
            }
        }
    }

    /// Tells an event, if anybody wants to know.
    #[inline]
    pub(crate) fn tell(&self, point: Points, event: impl FnOnce() -> Event) {
        if self.wants(point) {
            self.tell_all(&event());
        }
    }

    #[cold]
    fn tell_all(&self, event: &Event) {
        self.each(event.point(), |hook| hook.notify(event));
    }
}
