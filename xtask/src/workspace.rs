//! Where things are.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Where cargo builds into.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// What the tooling installs for itself.
pub(crate) fn cache() -> PathBuf {
    root().join(".cache")
}

/// The release build of the server.
pub(crate) fn longtail() -> PathBuf {
    target().join("release").join("longtail")
}
