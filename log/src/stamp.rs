//! The file that says in which format a directory is, for whoever opens it next.

use std::io;
use std::path::Path;

use longtail_model::Lsn;

use crate::disk::{Disk, read_full};
use crate::error::{Damage, OpenError};
use crate::segment::FORMAT;

/// Its name.
pub(crate) const STAMP: &str = "format";
/// Its name while it is written.
pub(crate) const TEMPORARY: &str = "format.tmp";
const PREFIX: &str = "longtail log format ";

/// Reads the stamp; `None` when there is none.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<u32>, OpenError> {
    let path = dir.join(STAMP);
    let file = match disk.open(&path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io("open", path, error)),
    };
    let mut bytes = [0; 64];
    let len = read_full(file.as_ref(), &mut bytes, 0)
        .map_err(|error| OpenError::io("read", &path, error))?;
    let version = std::str::from_utf8(bytes.get(..len).unwrap_or_default())
        .ok()
        .and_then(|text| text.strip_prefix(PREFIX)?.trim_end().parse().ok());
    match version {
        Some(version) if version > FORMAT => Err(OpenError::Newer {
            file: path,
            found: version,
            ours: FORMAT,
        }),
        Some(version) => Ok(Some(version)),
        None => Err(OpenError::Damaged(Damage {
            file: path,
            offset: 0,
            lsn: Lsn::ZERO,
            what: "it does not say which format the directory has".to_owned(),
        })),
    }
}

/// Writes the stamp of this release.
pub(crate) fn write(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    let (temporary, path) = (dir.join(TEMPORARY), dir.join(STAMP));
    let steps = || {
        let file = disk.create(&temporary)?;
        file.write_at(format!("{PREFIX}{FORMAT}\n").as_bytes(), 0)?;
        file.sync_all()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(dir)
    };
    steps().map_err(|error| OpenError::io("write", &path, error))
}
