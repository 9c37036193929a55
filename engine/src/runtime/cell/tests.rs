use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use longtail_model::{SessionId, Timestamp};

use super::{Cell, Work};
use crate::command::Command;
use crate::effect::Effect;
use crate::message::Message;
use crate::open::MemoryLimits;
use crate::runtime::{Clock, Sink};
use crate::shard::{Shard, ShardConfig};

/// How often a thread is let go on before it counts as one that waits.
const YIELDS: usize = 10_000;

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(1)
    }
}

#[derive(Default)]
struct Counting(AtomicUsize);

impl Sink for Counting {
    fn deliver(&self, _: &Effect, _: &[Option<Message<'_>>]) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn flush(&self) {}
}

fn cell() -> (Cell, Arc<Counting>, SessionId) {
    let shard = Shard::in_memory(
        MemoryLimits::default(),
        ShardConfig::default(),
        Timestamp(1),
    );
    let cell = Cell::new(shard, Arc::new(Still), Arc::default());
    let sink = Arc::new(Counting::default());
    let session = cell.attach(sink.clone());
    (cell, sink, session)
}

#[test]
fn work_that_comes_during_housekeeping_is_done() {
    let (cell, sink, session) = cell();
    let housekeeping = cell.core.lock();
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            cell.enqueue([Work::Command(session, 0, Command::DescribeShard)]);
            cell.run();
        });
        for _ in 0..YIELDS {
            if running.is_finished() {
                break;
            }
            thread::yield_now();
        }
        drop(housekeeping);
    });
    assert_eq!(sink.0.load(Ordering::SeqCst), 1);
}

#[test]
fn work_that_comes_while_the_shard_runs_is_left_to_whoever_runs_it() {
    let (cell, sink, session) = cell();
    let running = cell.core.lock();
    cell.running.store(true, Ordering::SeqCst);
    cell.enqueue([Work::Command(session, 0, Command::DescribeShard)]);
    cell.run();
    assert_eq!(sink.0.load(Ordering::SeqCst), 0);
    cell.running.store(false, Ordering::SeqCst);
    drop(running);
    cell.run();
    assert_eq!(sink.0.load(Ordering::SeqCst), 1);
}

/// Counts answers, also those that come when its session is detached.
#[derive(Default)]
struct Last(AtomicUsize);

impl Sink for Last {
    fn deliver(&self, effect: &Effect, _: &[Option<Message<'_>>]) {
        assert!(matches!(effect, Effect::Reply(..)));
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn flush(&self) {}

    fn takes_last_answers(&self) -> bool {
        true
    }
}

#[test]
fn what_was_asked_before_a_detach_is_answered_to_whoever_wants_to_know() {
    let (cell, others, other) = cell();
    let sink = Arc::new(Last::default());
    let session = cell.attach(sink.clone());
    for session in [other, session] {
        cell.enqueue([
            Work::Command(session, 0, Command::DescribeShard),
            Work::Detach(session),
        ]);
    }
    cell.run();
    assert_eq!(others.0.load(Ordering::SeqCst), 0);
    assert_eq!(sink.0.load(Ordering::SeqCst), 1);
    assert!(cell.core.lock().outlets.is_empty(), "nothing of it stays");
}

/// Runs a shard when it is dropped, as a broker does that says goodbye.
struct LastWork(Cell, SessionId);

impl Drop for LastWork {
    fn drop(&mut self) {
        self.0
            .enqueue([Work::Command(self.1, 0, Command::DescribeShard)]);
        self.0.run();
        self.0.tick();
        self.0.keep_house();
        self.0.close();
    }
}

#[test]
fn a_panic_elsewhere_that_unwinds_through_a_shard_ends_only_its_thread() {
    let (cell, sink, session) = cell();
    let unwound = thread::spawn(move || {
        let _last = LastWork(cell, session);
        panic!("of a test that fails");
    })
    .join();
    assert!(unwound.is_err(), "the panic goes on");
    assert_eq!(sink.0.load(Ordering::SeqCst), 1, "the shard did its work");
}
