//! One client of the load: puts, reserves and everything one does with a reserved job, until the server is gone.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::ledger::{Ledger, Place, body_of};
use super::{PATIENCE, TUBES};
use crate::beanstalk::Wire;
use crate::random::Random;

/// Above so many jobs the clients delete more than they put.
const JOBS_ENOUGH: usize = 3000;

/// Puts sent together at most.
const BATCH_MAX: u64 = 8;

/// Longer than any run, so that no reservation ends by itself. Seconds.
const TTR: u32 = 100_000;

/// A client that has its part of the load.
pub(super) struct Client<'a> {
    pub(super) number: usize,
    pub(super) wire: Wire,
    pub(super) random: Random,
    pub(super) ledger: &'a Mutex<Ledger>,
}

impl Client<'_> {
    /// Works until the connection breaks, which is how every run ends.
    ///
    /// # Errors
    /// What broke the connection.
    pub(super) fn work(&mut self) -> Result<()> {
        for tube in TUBES {
            self.ask(&format!("watch {tube}"))?;
        }
        loop {
            let jobs = self.ledger().len();
            match self.random.below(100) {
                0 => self.kick()?,
                1..6 => self.kick_job()?,
                6..50 if jobs < JOBS_ENOUGH => self.put()?,
                _ => self.reserve()?,
            }
        }
    }

    fn put(&mut self) -> Result<()> {
        let tube = *self.random.pick(TUBES);
        let mut bytes = format!("use {tube}\r\n").into_bytes();
        let mut tokens = Vec::new();
        for _ in 0..1 + self.random.below(BATCH_MAX) {
            let priority = self.priority();
            let delay = self.delay();
            let token = self.ledger().putting(priority, place_after(delay));
            let body = body_of(token);
            bytes.extend_from_slice(
                format!("put {priority} {delay} {TTR} {}\r\n", body.len()).as_bytes(),
            );
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(b"\r\n");
            tokens.push(token);
        }
        self.wire.send(&bytes)?;
        self.wire.expect(PATIENCE)?;
        for token in tokens {
            let reply = self.wire.expect(PATIENCE)?;
            match reply.number_after("INSERTED") {
                Some(id) => self.ledger().put(token, id),
                None => anyhow::bail!("a put was answered with {:?}", reply.line),
            }
        }
        Ok(())
    }

    fn reserve(&mut self) -> Result<()> {
        self.wire.send(b"reserve-with-timeout 0\r\n")?;
        let reply = self.wire.expect(PATIENCE)?;
        let (Some(id), Some(body)) = (reply.number_after("RESERVED"), &reply.body) else {
            return Ok(());
        };
        self.ledger().delivered(self.number, id, body);
        match self.random.below(100) {
            0..3 => Ok(()), // keeps it until the crash
            3..20 => {
                let (priority, delay) = (self.priority(), self.delay());
                let place = place_after(delay);
                self.give_back(
                    id,
                    &format!("release {id} {priority} {delay}"),
                    "RELEASED",
                    place,
                    priority,
                )
            }
            20..30 => {
                let priority = self.priority();
                self.give_back(
                    id,
                    &format!("bury {id} {priority}"),
                    "BURIED",
                    Place::Buried,
                    priority,
                )
            }
            chance => {
                if chance < 40 {
                    let reply = self.ask(&format!("touch {id}"))?;
                    if reply != "TOUCHED" {
                        self.ledger().refused(id, "touch", &reply);
                    }
                }
                self.ledger().deleting(id);
                let reply = self.ask(&format!("delete {id}"))?;
                if reply == "DELETED" {
                    self.ledger().deleted(id);
                } else {
                    self.ledger().refused(id, "delete", &reply);
                }
                Ok(())
            }
        }
    }

    fn give_back(
        &mut self,
        id: u64,
        line: &str,
        done: &str,
        place: Place,
        priority: u32,
    ) -> Result<()> {
        let move_ = self.ledger().moving(id, Some(priority));
        let reply = self.ask(line)?;
        if reply != done {
            self.ledger().refused(id, line, &reply);
        } else if let Some(move_) = move_ {
            self.ledger().moved(move_, place);
        }
        Ok(())
    }

    fn kick_job(&mut self) -> Result<()> {
        let Some(id) = self
            .ledger
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .parked(&mut self.random)
        else {
            return Ok(());
        };
        let move_ = self.ledger().moving(id, None);
        // NOT_FOUND when another client kicked it first.
        if self.ask(&format!("kick-job {id}"))? == "KICKED"
            && let Some(move_) = move_
        {
            self.ledger().moved(move_, Place::Ready);
        }
        Ok(())
    }

    fn kick(&mut self) -> Result<()> {
        self.ledger().kicking();
        self.ask("kick 20")?;
        self.ledger().kicked();
        Ok(())
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.wire.send(format!("{line}\r\n").as_bytes())?;
        Ok(self.wire.expect(PATIENCE)?.line)
    }

    fn priority(&mut self) -> u32 {
        *self.random.pick(&[0, 7, 1023, 1024, u32::MAX])
    }

    fn delay(&mut self) -> u32 {
        match self.random.below(12) {
            0 => 1,
            1 => 50_000,
            _ => 0,
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A client that panicked has been reported; the account itself is consistent after every call.
        self.ledger
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn place_after(delay: u32) -> Place {
    match delay {
        0 => Place::Ready,
        seconds => Place::Delayed(Instant::now() + Duration::from_secs(seconds.into())),
    }
}
