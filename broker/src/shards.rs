//! Opening the shards of a data directory, all at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use longtail_engine::runtime::Clock;
use longtail_engine::{Budgets, MemoryLimits, OpenShardError, Recovered, Shard, ShardConfig};
use longtail_log::{FsDisk, Options};
use longtail_model::ShardId;
use serde::{Deserialize, Serialize};

use crate::config::BrokerConfig;

/// The layout of data directories that this release writes, and the latest that it reads.
const FORMAT: u32 = 1;

/// The file that says how a data directory is divided.
const LAYOUT_FILE: &str = "layout.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Layout {
    format: u32,
    shards: u16,
}

/// Why the data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory itself.
    #[error("cannot use {} as the data directory: {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The layout file is not what a release of Longtail writes.
    #[error("{} is damaged: {why}; it says how many shards the directory has: {{\"format\":1,\"shards\":N}}, one a shard-N directory", file.display())]
    Layout {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A later release wrote the directory.
    #[error("{} was written by a later release (layout {found}, this one knows {FORMAT}); use that release", dir.display())]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// A shard.
    #[error("shard {shard}: {source}")]
    Shard {
        /// Which.
        shard: ShardId,
        /// Why.
        source: OpenShardError,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl OpenError {
    /// Whether another process works on the directory.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(
            self,
            OpenError::Shard {
                source: OpenShardError::Log(longtail_log::OpenError::Locked { .. }),
                ..
            }
        )
    }
}

/// Shards, and what was found in each.
pub(crate) type Opened = Vec<(Shard, Recovered)>;

/// Opens every shard, or makes them anew.
pub(crate) fn open(
    config: &BrokerConfig,
    clock: &Arc<dyn Clock>,
) -> Result<(Opened, Arc<Budgets>), OpenError> {
    let shard_config = |number: u16, budgets: &Arc<Budgets>| ShardConfig {
        id: ShardId(number),
        durability: config.durability,
        max_streams: config.max_streams,
        index_memory: usize::try_from(config.index_bytes).unwrap_or(usize::MAX),
        budgets: Arc::clone(budgets),
        ..ShardConfig::default()
    };
    let count = config.shards.max(1);
    let memory = MemoryLimits {
        bytes: config.memory_bytes / u64::from(count),
        frame_bytes: config.max_message_bytes.saturating_add(FRAME_MARGIN),
    };
    let Some(dir) = config.directory() else {
        let budgets = Arc::new(Budgets::new(count));
        let shards = (0..count).map(|number| {
            (
                Shard::in_memory(memory, shard_config(number, &budgets), clock.now()),
                Recovered::default(),
            )
        });
        return Ok((shards.collect(), Arc::clone(&budgets)));
    };
    let layout = layout(dir, count)?;
    let budgets = &Arc::new(Budgets::new(layout.shards));
    let open_one = |number: u16| {
        let mut options = Options::new(ShardId(number));
        options.segment_bytes = config.segment_bytes;
        options.tail_bytes = config.tail_bytes;
        options.max_frame_bytes = config.max_message_bytes.saturating_add(FRAME_MARGIN);
        let path = dir.join(format!("shard-{number}"));
        Shard::open(
            Arc::new(FsDisk),
            &path,
            options,
            memory,
            shard_config(number, budgets),
            clock.now(),
        )
        .map_err(|source| OpenError::Shard {
            shard: ShardId(number),
            source,
        })
    };
    let shards = thread::scope(|scope| {
        let open_one = &open_one;
        let threads: Vec<_> = (0..layout.shards)
            .map(|number| {
                thread::Builder::new()
                    .name(format!("open-{number}"))
                    .spawn_scoped(scope, move || open_one(number))
                    .map_err(OpenError::Thread)
            })
            .collect::<Result<_, _>>()?;
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(OpenError::Thread(io::Error::other("it panicked"))))
            })
            .collect::<Result<Opened, OpenError>>()
    })?;
    Ok((shards, Arc::clone(budgets)))
}

/// What a frame may have beyond its largest message.
const FRAME_MARGIN: u64 = 1 << 20;

/// Reads how the directory is divided; writes it for a new one.
fn layout(dir: &Path, shards: u16) -> Result<Layout, OpenError> {
    let directory = |source| OpenError::Directory {
        dir: dir.to_owned(),
        source,
    };
    let file = dir.join(LAYOUT_FILE);
    match fs::read(&file) {
        Ok(bytes) => {
            let damaged = |why: String| OpenError::Layout {
                file: file.clone(),
                why,
            };
            let layout: Layout =
                serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
            if layout.format > FORMAT {
                return Err(OpenError::Newer {
                    dir: dir.to_owned(),
                    found: layout.format,
                });
            }
            if layout.shards == 0 {
                return Err(damaged("it has no shards".to_owned()));
            }
            Ok(layout)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(directory)?;
            let layout = Layout {
                format: FORMAT,
                shards,
            };
            let bytes = serde_json::to_vec(&layout).map_err(|error| directory(error.into()))?;
            let fresh = dir.join("layout.json.new");
            fs::write(&fresh, bytes).map_err(directory)?;
            fs::File::open(&fresh)
                .and_then(|file| file.sync_all())
                .map_err(directory)?;
            fs::rename(&fresh, &file).map_err(directory)?;
            fs::File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(directory)?;
            Ok(layout)
        }
        Err(source) => Err(directory(source)),
    }
}
