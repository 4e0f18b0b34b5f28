//! Queues of tenants: what they say is taken over at once, how they stand is written at most once a second.

use std::sync::Arc;
use std::time::Duration;

use sampan_daemon::clock;
use sampan_planner::fairness::{QueueStatus, TenantQueue};
use sampan_planner::pods;
use sampan_planner::scheduler::Hints;

use super::Scheduler;
use crate::apis;
use crate::error::Result;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// What changes often is written together.
const REST: Duration = Duration::from_secs(1);
/// The one piece of work: all queues are looked at together.
const ALL: &str = "all";

/// Writes how queues stand.
pub(crate) struct Standings {
    scheduler: Arc<Scheduler>,
    queue: Arc<Queue<&'static str>>,
}

/// Asks for it.
pub(super) struct Asked(Arc<Queue<&'static str>>);

impl Default for Asked {
    fn default() -> Self {
        Self(Arc::new(Queue::new()))
    }
}

impl Asked {
    /// Something changed about what queues have.
    pub fn soon(&self) {
        self.0.add_after(ALL, REST);
    }
}

impl Scheduler {
    /// What writes how queues stand.
    pub fn standings(self: &Arc<Self>) -> Arc<Standings> {
        Arc::new(Standings { scheduler: self.clone(), queue: self.standing.0.clone() })
    }

    pub(super) fn queue_changed(&self, change: &Change<'_, TenantQueue>) {
        let queue = change.object();
        let name = pods::name(&queue.metadata);
        let gone = matches!(change, Change::Deleted(_));
        if change.old().is_some_and(|old| !gone && old.spec == queue.spec) {
            return;
        }
        let said = (!gone).then(|| (queue.spec.clone(), queue.remembered(clock::now())));
        self.change(|state, _| {
            state.cluster.set_queue(name, said);
            Hints::none()
        });
        self.standing.0.add(ALL);
    }
}

impl Reconciler for Standings {
    type Key = &'static str;

    const LONGEST_REST: Duration = REST;

    fn queue(&self) -> &Queue<&'static str> {
        &self.queue
    }

    async fn reconcile(&self, _: &&'static str) -> Result<Option<Duration>> {
        let scheduler = &self.scheduler;
        let standings = {
            let now = scheduler.now();
            let mut state = scheduler.lock();
            state.cluster.tend(now);
            state.cluster.standings(&state.queue)
        };
        let now = clock::now();
        for standing in standings {
            let key = Key::new("", &standing.name);
            let Some(queue) = scheduler.caches.tenant_queues.get(&key) else { continue };
            let Some(status) = queue.status_for(&standing, now) else { continue };
            self.tell(&queue, &status);
            let api = apis::cluster(&scheduler.queues_client);
            match apis::merge_status(&api, &scheduler.caches.tenant_queues, &queue.metadata, &status).await {
                // It is gone, or another one by now: the watch will tell.
                Err(error) if error.is_race() => {}
                other => other?,
            }
        }
        Ok(None)
    }
}

impl Standings {
    /// Says once what became wrong.
    fn tell(&self, queue: &TenantQueue, status: &QueueStatus) {
        let before = queue.status.iter().flat_map(|s| &s.conditions);
        let same = |kind: &str, reason: &str| before.clone().any(|c| c.kind == kind && c.reason == reason);
        for condition in status.conditions.iter().filter(|c| c.kind != "Starving" && !c.message.is_empty()) {
            if !same(&condition.kind, &condition.reason) {
                self.scheduler.events.warning(queue, &condition.reason, condition.message.clone());
            }
        }
    }
}
