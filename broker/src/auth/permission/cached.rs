//! Grants that remember what they have decided.

use std::hash::BuildHasher;
use std::sync::Arc;

use longtail_model::SubjectRef;

use super::{Action, Grants};
use crate::auth::ordered::Manner;

/// One connection's grants with a memory of recent decisions, for publishers that send to the same subjects again and
/// again. At most [`CachedGrants::SLOTS`] subjects are remembered; none if the grants need no looking up.
#[derive(Debug)]
pub struct CachedGrants {
    grants: Arc<Grants>,
    /// Most clients need none.
    memory: Option<Box<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    hasher: foldhash::fast::RandomState,
    slots: [Decision; CachedGrants::SLOTS],
}

#[derive(Clone, Debug, Default)]
struct Decision {
    subject: String,
    action: Option<Action>,
    allowed: bool,
}

impl CachedGrants {
    /// Decisions remembered.
    pub const SLOTS: usize = 32;
    /// Subjects longer than this are not remembered, in bytes.
    pub(crate) const SUBJECT_BYTES_MAX: usize = 256;

    /// Nothing remembered yet.
    #[must_use]
    pub fn new(grants: Arc<Grants>) -> Self {
        CachedGrants {
            grants,
            memory: None,
        }
    }

    /// The grants.
    #[must_use]
    pub fn grants(&self) -> &Arc<Grants> {
        &self.grants
    }

    /// As [`Grants::allows_in`].
    pub fn allows_in(&mut self, action: Action, subject: SubjectRef<'_>, manner: Manner) -> bool {
        let ordered = self.grants.ordered.as_ref();
        if ordered.is_some_and(|ordered| ordered.depends()) {
            return self.grants.allows_in(action, subject, manner);
        }
        self.allows(action, subject)
    }

    /// As [`Grants::allows`].
    pub fn allows(&mut self, action: Action, subject: SubjectRef<'_>) -> bool {
        let text = subject.as_str();
        if self.grants.is_trivial(action) || text.len() > Self::SUBJECT_BYTES_MAX {
            return self.grants.allows(action, subject);
        }
        let grants = Arc::clone(&self.grants);
        self.remembered(action, text, || grants.allows(action, subject))
    }

    /// As [`Grants::allows_name`].
    pub fn allows_name(&mut self, action: Action, name: &str) -> bool {
        if self.grants.is_trivial(action) || name.len() > Self::SUBJECT_BYTES_MAX {
            return self.grants.allows_name(action, name);
        }
        let grants = Arc::clone(&self.grants);
        self.remembered(action, name, || grants.allows_name(action, name))
    }

    fn remembered(&mut self, action: Action, text: &str, ask: impl FnOnce() -> bool) -> bool {
        let Memory { hasher, slots } = &mut **self.memory.get_or_insert_default();
        let hash = hasher.hash_one((action, text));
        let slot = &mut slots[hash as usize % Self::SLOTS];
        if slot.action != Some(action) || slot.subject != text {
            slot.allowed = ask();
            slot.action = Some(action);
            slot.subject.clear();
            slot.subject.push_str(text);
        }
        slot.allowed
    }
}
