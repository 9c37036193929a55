//! The data directory: made if absent, recognised by a marker, held by one server at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Names the directory as ours and says which layout it has.
const MARKER: &str = "FORMAT";

/// Locked for as long as a server runs; holds its process id for people.
const LOCK: &str = "LOCK";

/// First word of the marker.
const MAGIC: &str = "longtail";

/// The newest layout this build reads.
const VERSION: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// Another process has it.
    #[error("{} is in use by another server (process {pid})", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Its process id as it wrote it down.
        pid: String,
    },
    /// It was written by a newer version.
    #[error("{} has format {found}, and this build reads up to {VERSION}: start a newer version", path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// There are files in it, and they are not ours.
    #[error("{} is not empty and not a Longtail data directory: name another one with --data", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The marker makes no sense.
    #[error("{} is damaged: it should read `{MAGIC} {VERSION}`", path.display())]
    Marker {
        /// The marker.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot use the data directory {}: {source}", path.display())]
    Io {
        /// The directory or a file in it.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    /// Closing it gives the lock back, even by `kill -9`.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be and takes it.
    ///
    /// # Errors
    /// When another server holds it, it is not ours or too new, or the system refuses.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let at = |file: &Path| {
            let path = file.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        fs::create_dir_all(path).map_err(at(path))?;
        let marker = path.join(MARKER);
        let known = match fs::read_to_string(&marker) {
            Ok(text) => {
                check_marker(path, &marker, &text)?;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refuse_foreign(path)?;
                false
            }
            Err(error) => return Err(at(&marker)(error)),
        };
        let lock = take_lock(path)?;
        if !known {
            write_marker(path).map_err(at(&marker))?;
        }
        Ok(DataDir { _lock: lock })
    }
}

fn check_marker(path: &Path, marker: &Path, text: &str) -> Result<(), DataDirError> {
    let version = text.trim().strip_prefix(MAGIC).and_then(|rest| rest.trim().parse::<u32>().ok());
    match version {
        Some(found) if found > VERSION => Err(DataDirError::Newer { path: path.to_owned(), found }),
        Some(found) if found > 0 => Ok(()),
        _ => Err(DataDirError::Marker { path: marker.to_owned() }),
    }
}

/// An empty directory is taken, and one that a first start left half made.
fn refuse_foreign(path: &Path) -> Result<(), DataDirError> {
    let at = |source| DataDirError::Io { path: path.to_owned(), source };
    for entry in fs::read_dir(path).map_err(at)? {
        let name = entry.map_err(at)?.file_name();
        // A file system of its own has a lost+found.
        if name != LOCK && name != "lost+found" && name != MARKER_NEW {
            return Err(DataDirError::Foreign { path: path.to_owned() });
        }
    }
    Ok(())
}

fn take_lock(path: &Path) -> Result<File, DataDirError> {
    let file = path.join(LOCK);
    let at = |source| DataDirError::Io { path: file.clone(), source };
    let mut lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file).map_err(at)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message; the lock is what counts.
            let _ = lock.take(32).read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(DataDirError::Locked { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(at(error)),
    }
    lock.set_len(0).map_err(at)?;
    writeln!(lock, "{}", std::process::id()).map_err(at)?;
    Ok(lock)
}

/// The marker while it is written.
const MARKER_NEW: &str = "FORMAT.new";

fn write_marker(path: &Path) -> io::Result<()> {
    let new = path.join(MARKER_NEW);
    let mut file = File::create(&new)?;
    writeln!(file, "{MAGIC} {VERSION}")?;
    file.sync_all()?;
    fs::rename(&new, path.join(MARKER))?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_locked_and_found_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let held = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(
            matches!(&error, DataDirError::Locked { pid, .. } if *pid == std::process::id().to_string()),
            "{error}"
        );
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn foreign_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::Foreign { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was added");
    }

    #[test]
    fn newer_and_damaged_formats_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARKER), "longtail 2\n").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::Newer { found: 2, .. })));
        fs::write(dir.path().join(MARKER), "longt").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::Marker { .. })));
    }

    #[test]
    fn a_first_start_cut_short_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK), "1\n").unwrap();
        fs::write(dir.path().join(MARKER_NEW), "lo").unwrap();
        DataDir::open(dir.path()).unwrap();
    }
}
