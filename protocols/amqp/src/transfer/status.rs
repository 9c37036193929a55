//! What a transfer says of itself.

use std::time::SystemTime;

use parking_lot::Mutex;

/// Where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It connects.
    #[default]
    Starting,
    /// It carries messages.
    Running,
    /// It has failed, and tries again later.
    Failed,
    /// It is over.
    Terminated,
}

/// What is known at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) state: State,
    /// Since when.
    pub(crate) since: SystemTime,
    /// Why it has failed last.
    pub(crate) error: Option<String>,
    /// The addresses in use, without passwords.
    pub(crate) source: String,
    pub(crate) target: String,
    /// Messages carried since it was started.
    pub(crate) forwarded: u64,
    /// Messages on their way.
    pub(crate) pending: u64,
    /// Messages that are still to be taken, where that is known.
    pub(crate) left: Option<u64>,
    /// The other side takes nothing at present.
    pub(crate) blocked: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Status(Mutex<Snapshot>);

impl Default for Status {
    fn default() -> Self {
        Status(Mutex::new(Snapshot {
            state: State::default(),
            since: SystemTime::now(),
            error: None,
            source: String::new(),
            target: String::new(),
            forwarded: 0,
            pending: 0,
            left: None,
            blocked: false,
        }))
    }
}

impl Status {
    pub(crate) fn now(&self) -> Snapshot {
        self.0.lock().clone()
    }

    pub(super) fn set(&self, state: State) {
        self.change(|known| {
            known.state = state;
            known.since = SystemTime::now();
            if state == State::Running {
                known.error = None;
            }
        });
    }

    pub(super) fn fail(&self, why: String) {
        self.set(State::Failed);
        self.change(|known| {
            known.error = Some(why);
            known.pending = 0;
            known.blocked = false;
        });
    }

    /// It is tried between these now.
    pub(crate) fn between(&self, source: String, target: String) {
        self.change(|known| (known.source, known.target) = (source, target));
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock());
    }
}
