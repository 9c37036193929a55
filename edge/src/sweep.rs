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
    let mut exceeded_since_ms = None;
    let mut tls_due_ms = shared.config.tls_poll_ms;
    loop {
        interval.tick().await;
        let now_ms = shared.clock.update();
        sweep(&shared, now_ms, &mut exceeded_since_ms);
        if now_ms >= tls_due_ms {
            tls_due_ms = now_ms.saturating_add(shared.config.tls_poll_ms);
            for listener in shared.listeners.lock().iter() {
                if let Some(tls) = &listener.tls {
                    tls.reload_if_changed(&listener.address);
                }
            }
            for (name, tls) in shared.certificates.lock().iter() {
                if let Some(tls) = tls.upgrade() {
                    tls.reload_if_changed(name);
                }
            }
        }
    }
}

/// Sweeps once; `exceeded_since_ms` says since when the memory budget is exceeded.
fn sweep(shared: &Shared, now_ms: u64, exceeded_since_ms: &mut Option<u64>) {
    let over_budget = shared.memory.is_exceeded();
    let sweep = Sweep {
        now_ms,
        // Who holds too much to go on waits again.
        memory_is_free: !shared.memory.is_exhausted(),
    };
    let stall_ms = shared.config.stall_ms;
    let (mut most, mut stuck) = (None, Vec::new());
    shared.table.for_each(|entry| {
        entry.sweep(&sweep);
        if over_budget {
            let (held, moved_ms) = entry.held();
            most = most.max(Some((held, entry.id())));
            if held > 0 && now_ms.saturating_sub(moved_ms) >= stall_ms {
                stuck.push((held, entry.id()));
            }
        }
    });
    if !over_budget {
        *exceeded_since_ms = None;
        return;
    }
    // While the budget is exceeded those that hold much are not read from, so this must come to an end: the largest of
    // those that do not move go at once, as many as it takes; and after a while the largest of all, however slowly it
    // moves. Of these one at a time: the next sweep sees whether that was enough.
    let since_ms = *exceeded_since_ms.get_or_insert(now_ms);
    if stuck.is_empty() && now_ms.saturating_sub(since_ms) >= stall_ms {
        stuck.extend(most.filter(|(held, _)| *held > 0));
    }
    stuck.sort_unstable_by(|a, b| b.cmp(a));
    let mut excess = shared.memory.excess();
    for (held, id) in stuck {
        if excess == 0 {
            break;
        }
        if let Some(entry) = shared.table.get(id) {
            excess = excess.saturating_sub(held);
            *exceeded_since_ms = None;
            entry.cut(CloseReason::Stalled { held });
            entry.count_stalled();
        }
    }
}
