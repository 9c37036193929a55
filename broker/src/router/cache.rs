//! A publisher's own memory of recent look-ups.

use longtail_model::SubjectRef;

use super::{Router, Routes, TargetKey};

/// How much one [`RouteCache`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Subjects, rounded up to a power of two. Default 256, about 30 KiB with short answers.
    pub subjects_max: usize,
    /// Targets in all answers together. Default 16,384. An answer that does not fit is looked up every time, which
    /// costs little beside delivering to so many.
    pub targets_max: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        CacheLimits {
            subjects_max: 256,
            targets_max: 16_384,
        }
    }
}

/// Remembers what a publisher's recent look-ups found, for as long as the router does not change under them.
///
/// A subject is admitted when it is looked up a second time while still remembered as seen: one-off subjects (reply
/// inboxes, ids) push nothing out. An unused cache takes no memory. Not shared: one for each connection or, better,
/// for each thread that publishes. Answers keep the options of their targets alive until they are replaced, also
/// after an unsubscribe.
pub struct RouteCache<K, O> {
    limits: CacheLimits,
    /// The router the contents are from.
    router: u64,
    /// The hash of the subject in each slot, 0 if there is none. A subject may be in any slot of its set of [`WAYS`];
    /// the hashes of a set share a cache line.
    tags: Vec<u64>,
    slots: Vec<Option<Slot<K, O>>>,
    /// Hashes of subjects that were looked up lately, in sets, the latest first.
    seen: Vec<[u32; WAYS]>,
    targets: usize,
    scratch: Routes<K, O>,
}

struct Slot<K, O> {
    subject: Box<str>,
    bucket: usize,
    generation: u64,
    routes: Routes<K, O>,
}

/// Slots of a set: enough that a handful of hot subjects hardly ever crowd each other out.
const WAYS: usize = 4;

/// Room a scratch answer may keep between look-ups, in targets.
const SCRATCH_KEPT: usize = 1_024;

impl<K, O> Default for RouteCache<K, O> {
    fn default() -> Self {
        RouteCache::new(CacheLimits::default())
    }
}

impl<K, O> RouteCache<K, O> {
    /// An empty cache.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        RouteCache {
            limits,
            router: 0,
            tags: Vec::new(),
            slots: Vec::new(),
            seen: Vec::new(),
            targets: 0,
            scratch: Routes::default(),
        }
    }

    /// Forgets everything, and so lets go of every target.
    pub fn clear(&mut self) {
        self.tags.clear();
        self.slots.clear();
        self.seen.clear();
        self.targets = 0;
        self.scratch.clear();
    }

    /// Subjects in the cache, out-of-date ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Whether nothing is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: TargetKey, O: Clone> RouteCache<K, O> {
    /// Everything in `router` that wants `subject`.
    pub fn lookup(&mut self, router: &Router<K, O>, subject: SubjectRef<'_>) -> &Routes<K, O> {
        if self.router != router.id {
            self.clear();
            self.router = router.id;
        }
        let hash = router.hash(subject.as_str());
        let Some(at) = self.find(hash, subject) else {
            return self.miss(router, subject, hash);
        };
        let date = self.slots[at]
            .as_ref()
            .map(|slot| (slot.generation, router.generation(slot.bucket)));
        let good = match date {
            Some((then, now)) if then == now => true,
            Some((_, now)) => self.refresh(router, subject, at, now),
            None => false,
        };
        match &self.slots[at] {
            Some(slot) if good => &slot.routes,
            _ => &self.scratch,
        }
    }

    fn find(&self, hash: u64, subject: SubjectRef<'_>) -> Option<usize> {
        let set = self.set(hash);
        let tags = self.tags.get(set..set + WAYS)?;
        tags.iter().zip(set..).find_map(|(tag, at)| {
            let same = *tag == hash | 1
                && self.slots[at]
                    .as_ref()
                    .is_some_and(|slot| *slot.subject == *subject.as_str());
            same.then_some(at)
        })
    }

    /// The first slot of the set for this hash.
    fn set(&self, hash: u64) -> usize {
        (hash >> 8) as usize & self.tags.len().wrapping_sub(1) & !(WAYS - 1)
    }

    /// Looks an out-of-date slot up again. Afterwards the answer is in the slot (`true`), or in the scratch (`false`)
    /// because it has become too wide.
    fn refresh(
        &mut self,
        router: &Router<K, O>,
        subject: SubjectRef<'_>,
        at: usize,
        generation: u64,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(at).and_then(Option::as_mut) else {
            return false;
        };
        self.targets -= slot.routes.len();
        router.routes(subject, &mut slot.routes);
        slot.generation = generation;
        if self.targets + slot.routes.len() <= self.limits.targets_max {
            self.targets += slot.routes.len();
            return true;
        }
        self.tags[at] = 0;
        if let Some(slot) = self.slots[at].take() {
            self.scratch = slot.routes;
        }
        false
    }

    fn miss(&mut self, router: &Router<K, O>, subject: SubjectRef<'_>, hash: u64) -> &Routes<K, O> {
        self.scratch.shrink(SCRATCH_KEPT);
        let bucket = router.bucket(subject.first_token());
        let generation = router.generation(bucket);
        router.routes_hashed(subject, hash, &mut self.scratch);
        if !self.seen_before(hash) {
            return &self.scratch;
        }
        let at = self.victim(router, hash);
        let freed = self.slots[at].as_ref().map_or(0, |slot| slot.routes.len());
        if self.targets - freed + self.scratch.len() > self.limits.targets_max {
            return &self.scratch;
        }
        self.targets = self.targets - freed + self.scratch.len();
        let routes = std::mem::take(&mut self.scratch);
        self.tags[at] = hash | 1;
        let slot = Slot {
            subject: subject.as_str().into(),
            bucket,
            generation,
            routes,
        };
        &self.slots[at].insert(slot).routes
    }

    /// Whether `hash` was looked up lately; remembers it if not, in place of the oldest of its set.
    fn seen_before(&mut self, hash: u64) -> bool {
        if self.seen.is_empty() {
            self.seen.resize(self.capacity() / WAYS, [0; WAYS]);
        }
        // The upper half, as the lower chooses the set; 0 is nothing.
        let mark = (hash >> 32) as u32 | 1;
        let at = hash as usize & (self.seen.len() - 1);
        let marks = &mut self.seen[at];
        if marks.contains(&mark) {
            return true;
        }
        marks.rotate_right(1);
        marks[0] = mark;
        false
    }

    /// The slot to give to a new subject: an empty or out-of-date one of its set, else one that its hash chooses.
    fn victim(&mut self, router: &Router<K, O>, hash: u64) -> usize {
        if self.slots.is_empty() {
            let capacity = self.capacity();
            self.tags.resize(capacity, 0);
            self.slots.resize_with(capacity, || None);
        }
        let set = self.set(hash);
        let idle = |at: &usize| match &self.slots[*at] {
            None => true,
            Some(slot) => router.generation(slot.bucket) != slot.generation,
        };
        (set..set + WAYS)
            .find(idle)
            .unwrap_or(set + hash as usize % WAYS)
    }

    fn capacity(&self) -> usize {
        self.limits.subjects_max.next_power_of_two().max(WAYS)
    }
}
