//! The lines of a Mosquitto file: a keyword and the rest, comments and empty lines left out, `include_dir` followed.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::import::Place;

/// One option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) keyword: String,
    /// What follows the keyword, trimmed; may be empty.
    pub(super) value: String,
}

/// How deep include directories may be nested: one that includes itself ends here.
const DEPTH_MAX: usize = 8;

/// Reads a configuration file with everything it includes.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    collect(file, 0, &mut lines)?;
    Ok(lines)
}

fn collect(file: &Path, depth: usize, out: &mut Vec<Line>) -> anyhow::Result<()> {
    for line in parse(file, &text(file)?) {
        if line.keyword != "include_dir" {
            out.push(line);
            continue;
        }
        if depth == DEPTH_MAX {
            bail!("{}: include_dir is nested too deeply", line.place);
        }
        for included in configurations(Path::new(&line.value))
            .with_context(|| format!("{}: include_dir {}", line.place, line.value))?
        {
            collect(&included, depth + 1, out)?;
        }
    }
    Ok(())
}

/// The `.conf` files of a directory in the order in which Mosquitto reads them: by name, capitals first.
fn configurations(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A file's text; bytes that are not UTF-8 become marks, which no name or path survives unnoticed.
pub(super) fn text(file: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines of one file.
pub(super) fn parse(file: &Path, text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (keyword, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        lines.push(Line {
            place: Place {
                file: file.to_owned(),
                line: at + 1,
            },
            keyword: keyword.to_owned(),
            value: value.trim().to_owned(),
        });
    }
    lines
}
