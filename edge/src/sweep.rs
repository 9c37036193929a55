//! The sweep: a few times a second, timeouts and the memory budget are looked at, for all connections together. That
//! costs an idle connection no timer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::close::CloseReason;
use crate::shared::Shared;
use crate::table::Sweep;

/// Sweeps for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(Duration::from_millis(shared.config.sweep_ms.max(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tls_due_ms = shared.config.tls_poll_ms;
    loop {
        interval.tick().await;
        let now_ms = shared.clock.update();
        sweep(&shared, now_ms);
        if now_ms >= tls_due_ms {
            tls_due_ms = now_ms.saturating_add(shared.config.tls_poll_ms);
            for listener in shared.listeners.lock().iter() {
                if let Some(tls) = &listener.tls {
                    tls.reload_if_changed(&listener.address);
                }
            }
        }
    }
}

fn sweep(shared: &Shared, now_ms: u64) {
    let over_budget = shared.memory.is_exceeded();
    let sweep = Sweep {
        now_ms,
        memory_is_free: !over_budget,
    };
    let mut most: Option<(usize, crate::ConnectionId)> = None;
    shared.table.for_each(|entry| {
        entry.sweep(&sweep);
        if over_budget {
            let (held, moved_ms) = entry.held();
            let stuck = now_ms.saturating_sub(moved_ms) >= shared.config.stall_ms;
            if stuck && most.is_none_or(|(largest, _)| held > largest) {
                most = Some((held, entry.id()));
            }
        }
    });
    // One at a time: the next sweep sees whether that was enough.
    if let Some((held, id)) = most.filter(|(held, _)| *held > 0)
        && let Some(entry) = shared.table.get(id)
    {
        entry.cut(CloseReason::Stalled { held });
        entry.count_stalled();
    }
}
