//! The few file operations the log needs, as a trait, so that the same code runs over the operating system
//! ([`FsDisk`]) and over a simulated disk that loses, tears and refuses ([`crate::sim::SimDisk`]).
//!
//! What the log relies on: bytes are safe after [`File::sync_data`]; a name (created, renamed, removed) is safe after
//! [`Disk::sync_dir`]; a rename is atomic. Nothing else is assumed about order.

mod fs;
mod sim;

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use fs::FsDisk;
pub use sim::{Failure, Operation, SimDisk};

/// An open file. All operations are positional, so one handle serves any number of threads.
pub trait File: Send + Sync {
    /// The file's length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn size(&self) -> io::Result<u64>;

    /// Reads some bytes at `offset`; 0 only at or past the end of the file.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The system's; any part may have been written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the file's contents, and the length needed to reach them, survive a power cut.
    ///
    /// # Errors
    /// The system's. What was written since the last success may be lost then, even if a later call succeeds.
    fn sync_data(&self) -> io::Result<()>;

    /// Like [`File::sync_data`], including all metadata.
    ///
    /// # Errors
    /// The system's.
    fn sync_all(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros that occupy no space.
    ///
    /// # Errors
    /// The system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for a range and extends the file to hold it. Bytes that are already there keep their value;
    /// new ones read as zero.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::StorageFull`] when there is no space.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process (or another handle) holds it.
    #[error("held by process {}", pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()))]
    Held {
        /// The holder, as far as the lock file says.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A held lock; dropping it lets go.
pub struct Lock(#[allow(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl Lock {
    /// Wraps whatever holds the lock until it is dropped.
    pub fn new(holder: impl Any + Send + Sync) -> Self {
        Lock(Box::new(holder))
    }
}

/// A tree of directories and files.
pub trait Disk: Send + Sync {
    /// Creates a directory and its parents; nothing happens if it exists.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Opens a new, empty file for reading and writing; an existing one is emptied.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading, and for writing if `write`.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name, replacing what has that name.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in no particular order. Names that are not UTF-8 are left out: none of ours is.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a directory survive a power cut.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file, creating it when missing, without waiting.
    ///
    /// # Errors
    /// When it is held, or the file cannot be used.
    fn lock(&self, path: &Path) -> Result<Lock, LockError>;
}

/// Reads until `buf` is full or the file ends; returns how much was read.
pub(crate) fn read_full(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Whether an error says that something ran out which may come back: space, or handles for files.
pub(crate) fn is_full(error: &io::Error) -> bool {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    full || is_out_of_files(error)
}

fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    code == Some(Errno::MFILE.raw_os_error()) || code == Some(Errno::NFILE.raw_os_error())
}

/// An operator's words for an error of the disk: what it means before what the system calls it.
pub(crate) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => format!("the disk is full ({error})"),
        io::ErrorKind::QuotaExceeded => format!("the disk quota is used up ({error})"),
        io::ErrorKind::ReadOnlyFilesystem => format!("the file system is read-only ({error})"),
        io::ErrorKind::PermissionDenied => format!("permission denied ({error})"),
        _ if is_out_of_files(error) => format!("too many files are open ({error})"),
        _ => format!("I/O error ({error})"),
    }
}
