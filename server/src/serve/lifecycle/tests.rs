use std::cell::{Cell, RefCell};
use std::future::pending;

use super::*;

/// A server that drains when told to and writes down what happens to it.
#[derive(Default)]
struct Fake {
    drains: bool,
    fails: Cell<Option<&'static str>>,
    breaks_on_stop: bool,
    seen: RefCell<Vec<&'static str>>,
}

impl Running for Fake {
    fn listening(&self) -> &[Listening] {
        &[]
    }

    async fn drain(&self) {
        self.seen.borrow_mut().push("drain");
        if !self.drains {
            pending::<()>().await;
        }
    }

    async fn stop(&self) -> io::Result<()> {
        self.seen.borrow_mut().push("stop");
        if self.breaks_on_stop {
            Err(io::Error::other("disk gone"))
        } else {
            Ok(())
        }
    }

    async fn failed(&self) -> String {
        match self.fails.get() {
            Some(why) => why.to_owned(),
            None => pending().await,
        }
    }

    fn refuse_new_jobs(&self) {
        self.seen.borrow_mut().push("refuse");
    }

    fn reload_certificates(&self) -> io::Result<usize> {
        self.seen.borrow_mut().push("reload");
        Ok(0)
    }

    fn reload_accounts(&self) -> Result<(), String> {
        self.seen.borrow_mut().push("accounts");
        Ok(())
    }
}

/// Runs `fake` with these signals already waiting, on a clock that jumps.
fn run(fake: &Fake, signals: &[Signal]) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (sender, receiver) = mpsc::channel(8);
        for signal in signals {
            sender.send(*signal).await.unwrap();
        }
        let exit = supervise(fake, receiver, Duration::from_secs(10)).await;
        drop(sender);
        exit
    })
}

#[test]
fn a_signal_drains_and_stops() {
    let fake = Fake {
        drains: true,
        ..Fake::default()
    };
    assert_eq!(run(&fake, &[Signal::Terminate]), Exit::Ok);
    assert_eq!(*fake.seen.borrow(), ["drain", "stop"]);
}

#[test]
fn the_deadline_cuts_a_drain_that_does_not_end() {
    let fake = Fake::default();
    assert_eq!(run(&fake, &[Signal::Terminate]), Exit::DrainCut);
    assert_eq!(*fake.seen.borrow(), ["drain", "stop"]);
}

#[test]
fn a_second_signal_hurries() {
    let fake = Fake::default();
    assert_eq!(
        run(
            &fake,
            &[Signal::Terminate, Signal::Reload, Signal::Terminate]
        ),
        Exit::DrainCut
    );
    assert_eq!(
        *fake.seen.borrow(),
        ["drain", "reload", "accounts", "stop"],
        "other signals still work while draining"
    );
}

#[test]
fn other_signals_do_not_stop_it() {
    let fake = Fake {
        drains: true,
        ..Fake::default()
    };
    assert_eq!(
        run(
            &fake,
            &[Signal::RefuseJobs, Signal::Reload, Signal::Terminate]
        ),
        Exit::Ok
    );
    assert_eq!(
        *fake.seen.borrow(),
        ["refuse", "reload", "accounts", "drain", "stop"]
    );
}

#[test]
fn a_failure_stops_at_once_and_is_one() {
    let fake = Fake {
        fails: Cell::new(Some("fdatasync: EIO")),
        ..Fake::default()
    };
    assert_eq!(run(&fake, &[]), Exit::Failure);
    assert_eq!(*fake.seen.borrow(), ["stop"]);
}

#[test]
fn a_log_that_does_not_close_is_a_failure() {
    let fake = Fake {
        drains: true,
        breaks_on_stop: true,
        ..Fake::default()
    };
    assert_eq!(run(&fake, &[Signal::Terminate]), Exit::Failure);
}
