//! Making sure that what was read is on the disk before it counts as durable.
//!
//! After a failed sync the system may keep what was written in its page cache and yet regard it as clean. A restart
//! reads it back, but syncing again does nothing for it, and a later power cut takes it away. So everything that is
//! not known to have been synced is written again, the same bytes in the same place, and then synced.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::check::Checked;
use super::find::FoundSegment;
use crate::disk::{Disk, File, read_full};
use crate::error::OpenError;
use crate::scan::{Advance, Order, Scanner};

/// Bytes written again at a time.
const CHUNK: u64 = 1 << 20;

/// Cuts the newest segment where its last whole frame ends, and makes it and all names in the directory durable.
/// Returns its file. Failing leaves a log that can be opened again: nothing vouches for more than before.
pub(super) fn persist_tail(
    disk: &dyn Disk,
    dir: &Path,
    newest: &FoundSegment,
    checked: &Checked,
) -> Result<Arc<dyn File>, OpenError> {
    let io = |what| move |error| OpenError::io(what, &newest.path, error);
    let file = disk.open(&newest.path, true).map_err(io("open"))?;
    if let Some(cut) = checked.cut {
        file.set_len(cut).map_err(io("cut"))?;
    }
    let from = newest.offset(checked.durable);
    let to = newest.offset(checked.end);
    write_again(file.as_ref(), from, to).map_err(io("write again"))?;
    // A page that was dropped from the cache since it was checked was read back as the disk has it, and so written.
    let scanner = Scanner::new(
        Arc::clone(&file),
        newest.header.nonce,
        Order::Contiguous,
        from,
        checked.durable,
        to,
    );
    read_back(scanner).map_err(io("read back"))?;
    file.sync_all().map_err(io("sync"))?;
    // An earlier start may have been stopped before it came to this.
    disk.sync_dir(dir)
        .and_then(|()| sync_parent(disk, dir))
        .map_err(|error| OpenError::io("sync", dir, error))?;
    Ok(file)
}

/// Makes the name of a directory safe.
pub(super) fn sync_parent(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => disk.sync_dir(parent),
        _ => Ok(()),
    }
}

fn write_again(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let mut buf = vec![0; CHUNK.min(to.saturating_sub(from)) as usize];
    let mut at = from;
    while at < to {
        let len = CHUNK.min(to - at) as usize;
        let part = buf.get_mut(..len).unwrap_or_default();
        if read_full(file, part, at)? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(part, at)?;
        at += len as u64;
    }
    Ok(())
}

/// Checks that the frames are still those that were found before.
fn read_back(mut scanner: Scanner) -> io::Result<()> {
    loop {
        match scanner.advance()? {
            Advance::Frame => {}
            Advance::End => return Ok(()),
            Advance::Bad(bad) => {
                return Err(io::Error::other(format!(
                    "the disk has other bytes than were read before: {} at offset {}",
                    bad.what, bad.offset
                )));
            }
        }
    }
}
