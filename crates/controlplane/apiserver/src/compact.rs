//! History is forgotten a while after it happened: long enough for lists in pages and for watchers that come back.

use std::{convert::Infallible, sync::Arc};

use sampan_daemon::{Backoff, Policy};
use sampan_store::Revision;
use std::time::Duration;

use crate::{core::Core, verbs::list};

/// Starts the task: at every interval it compacts to where the store was one interval ago.
pub(crate) fn start(core: &Arc<Core>) {
    let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let task = core.clone();
    core.supervisor.supervise("compaction", Policy::Restart(backoff), move || {
        let core = task.clone();
        async move { run(&core).await }
    });
}

async fn run(core: &Arc<Core>) -> Result<(), Infallible> {
    let mut before: Option<Revision> = None;
    loop {
        tokio::time::sleep(core.options.limits.history).await;
        match step(core, before).await {
            Ok(now) => before = Some(now),
            Err(why) => tracing::warn!("history was not compacted, trying again later: {why}"),
        }
    }
}

async fn step(core: &Core, before: Option<Revision>) -> Result<Revision, String> {
    let endpoint = core.endpoint("", "v1", "namespaces").map_err(|status| status.message)?;
    let now = list::current(core, &endpoint).await.map_err(|status| status.message)?;
    match before {
        Some(revision) if revision > 1 => match core.store().compact(revision).await {
            // Another server was faster.
            Ok(()) | Err(sampan_store::Error::Compacted(_)) => Ok(now),
            Err(error) => Err(error.to_string()),
        },
        _ => Ok(now),
    }
}
