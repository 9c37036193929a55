//! File descriptors: one a connection, and some for the server itself.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Kept for logs, listeners and the admin service, at most; of a low limit, a quarter. Connections must not take a
/// descriptor that a log needs for its next segment.
const RESERVED_MAX: u64 = 256;

/// Fewer connections than this are worth a word.
const FEW: usize = 1024;

/// Raises the limit of open files as far as the system lets a process do so itself, and returns how many connections
/// that has room for, `wanted` at most.
pub(super) fn raise(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        Err(error) => {
            warn!(%error, "cannot raise the limit of file descriptors");
            limit
        }
    };
    let room = limit.current.map_or(wanted, room).min(wanted);
    if room < FEW.min(wanted) {
        warn!(
            connections = room,
            wanted,
            file_descriptors = limit.current,
            "the limit of file descriptors is low: `ulimit -n` or LimitNOFILE of systemd raises it"
        );
    }
    room
}

/// Connections that so many descriptors have room for.
fn room(descriptors: u64) -> usize {
    let reserved = RESERVED_MAX.min(descriptors / 4);
    usize::try_from(descriptors - reserved).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_descriptors_is_the_servers_own() {
        assert_eq!(room(1_048_576), 1_048_320);
        assert_eq!(room(1024), 768);
        assert_eq!(room(100), 75);
        assert_eq!(room(0), 0);
    }

    #[test]
    fn the_limit_is_raised_to_what_the_process_may_have() {
        let most = getrlimit(Resource::Nofile).maximum;
        assert!(raise(10) <= 10);
        assert_eq!(getrlimit(Resource::Nofile).current, most);
    }
}
