//! Ports for servers that are started by their number.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// Ports that the system does not give to clients: one of those could be taken by a client's own end, or a client that
/// asks too early could even connect to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The locks of the ports that this process has taken.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port that nobody listens on, this process's own until it ends, another one each time.
///
/// That nobody listens is not enough: two who look at the same time would start two servers on one port, and the one
/// whose server fails would talk to the other's. So a port is taken by locking a file named after it, as the suites in
/// Python do (`conformance/harness/ports.py`).
///
/// # Errors
/// When the directory of the locks cannot be written, or no port is left.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let spread = std::process::id().wrapping_mul(97);
    let taken = taken();
    std::fs::create_dir_all(&taken)
        .with_context(|| format!("cannot create {}", taken.display()))?;
    for _ in 0..PORTS.len() {
        let number = spread.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(number % PORTS.len() as u32)?;
        let path = taken.join(port.to_string());
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            HELD.lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push(lock);
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// Where the locks are.
fn taken() -> PathBuf {
    let user = std::env::var("USER").unwrap_or_default();
    std::env::temp_dir().join(format!("longtail-ports-{user}"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::free_port;

    #[test]
    fn threads_that_look_at_once_find_different_ports() {
        let found: Vec<u16> = std::thread::scope(|scope| {
            let looking: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..4).map(|_| free_port()).collect::<Vec<_>>()))
                .collect();
            let found = looking
                .into_iter()
                .flat_map(|thread| thread.join().expect("the thread does not panic"));
            found.map(|port| port.expect("ports are free")).collect()
        });
        assert_eq!(found.iter().collect::<HashSet<_>>().len(), 32);
    }
}
