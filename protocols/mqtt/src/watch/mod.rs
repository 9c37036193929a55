//! What an operator can watch while clients go on: single clients, topics or addresses line by line ([`trace`]), the
//! subscriptions that are slowest to acknowledge ([`slow`]), how much goes over single topics ([`topics`]), and which
//! messages were dropped of late ([`drops`]).
//!
//! Each of the first three is a hook that is there only while somebody wants it: what is not watched costs the load and the branch
//! that every point of the hooks costs. What they keep is in memory, bounded, and gone with the process.

pub mod drops;
pub mod slow;
pub mod topics;
pub mod trace;

use std::sync::Arc;

use longtail_engine::runtime::Clock;
use parking_lot::Mutex;

use crate::hooks::{Hook, HookId, Hooks, Scope};

pub use drops::RecentDrops;
pub use slow::Slow;
pub use topics::TopicMetrics;
pub use trace::Traces;

/// Where watchers stand among the hooks: last, so that they see what the others have made of things.
const PRIORITY: i32 = i32::MAX;

/// Everything that can be watched of a tenant.
pub struct Watch {
    /// Lines of what single clients do.
    pub traces: Traces,
    /// The slowest subscriptions.
    pub slow: Slow,
    /// What goes over single topics.
    pub topics: TopicMetrics,
    /// The messages that were dropped of late.
    pub drops: RecentDrops,
}

impl Watch {
    pub(crate) fn new(hooks: &Arc<Hooks>, clock: &Arc<dyn Clock>) -> Self {
        Watch {
            traces: Traces::new(Arc::clone(hooks), Arc::clone(clock)),
            slow: Slow::new(Arc::clone(hooks), Arc::clone(clock)),
            topics: TopicMetrics::new(Arc::clone(hooks), Arc::clone(clock)),
            drops: RecentDrops::new(hooks, Arc::clone(clock)),
        }
    }
}

/// A hook that is there or not.
struct Switch {
    hooks: Arc<Hooks>,
    id: Mutex<Option<HookId>>,
}

impl Switch {
    fn new(hooks: Arc<Hooks>) -> Self {
        Switch {
            hooks,
            id: Mutex::new(None),
        }
    }

    /// Has the hook there, or not. Not from within it.
    fn set<H: Hook>(&self, wanted: bool, hook: impl FnOnce() -> Arc<H>) {
        let mut id = self.id.lock();
        match (wanted, *id) {
            (true, None) => *id = Some(self.hooks.add(hook(), PRIORITY, Scope::Everywhere)),
            (false, Some(old)) => {
                *id = None;
                self.hooks.remove(old);
            }
            _ => {}
        }
    }
}
