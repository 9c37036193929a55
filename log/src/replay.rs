//! Handing the log after the last checkpoint to its owner.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use longtail_model::Lsn;

use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::scan::{Advance, Frame, Order, Scanner};

/// A stretch of one segment.
pub(crate) struct Stretch {
    pub(crate) path: PathBuf,
    pub(crate) nonce: u32,
    pub(crate) offset: u64,
    pub(crate) lsn: u64,
    pub(crate) limit: u64,
}

/// The frames from the checkpoint to the end of the log. Everything was checked when the log was opened; it is read
/// again here, piece by piece, so that a long replay needs little memory.
pub struct Replay {
    disk: Arc<dyn Disk>,
    stretches: std::vec::IntoIter<Stretch>,
    current: Option<(PathBuf, Scanner)>,
    end: Lsn,
}

impl Replay {
    pub(crate) fn new(disk: Arc<dyn Disk>, stretches: Vec<Stretch>, end: u64) -> Self {
        Replay {
            disk,
            stretches: stretches.into_iter(),
            current: None,
            end: Lsn(end),
        }
    }

    /// Where the log ends.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// The next frame; `None` after the last one.
    ///
    /// # Errors
    /// When the disk refuses, or no longer holds what it held when the log was opened.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, OpenError> {
        loop {
            let Some((path, mut scanner)) = self.current.take() else {
                let Some(stretch) = self.stretches.next() else {
                    return Ok(None);
                };
                let file = self
                    .disk
                    .open(&stretch.path, false)
                    .map_err(|error| OpenError::io("open", &stretch.path, error))?;
                let scanner = Scanner::new(
                    file,
                    stretch.nonce,
                    Order::Contiguous,
                    stretch.offset,
                    stretch.lsn,
                    stretch.limit,
                );
                self.current = Some((stretch.path, scanner.without_checksums()));
                continue;
            };
            match scanner
                .advance()
                .map_err(|error: io::Error| OpenError::io("read", &path, error))?
            {
                Advance::Frame => {
                    let (_, scanner) = self.current.insert((path, scanner));
                    return Ok(Some(scanner.frame()));
                }
                Advance::End => {}
                Advance::Bad(bad) => {
                    return Err(OpenError::Damaged(Damage {
                        file: path,
                        offset: bad.offset,
                        lsn: Lsn(bad.lsn),
                        what: bad.what.to_owned(),
                    }));
                }
            }
        }
    }
}
