//! What this node, its pods and their containers use.
//!
//! Nothing is read while nobody asks. Each look reads the cgroups once; the looks of the last two minutes are kept, as
//! far as a rate needs them (see [`window`]). Whoever asks first after a pause waits a second, since a rate needs two
//! looks; who asks within a second gets what was just read.

mod read;
pub(crate) mod window;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::context::Context;
pub(crate) use read::{ContainerUsage, Interface, NODE, NodeUsage, PodUsage, Usage};
use window::{Rate, Window};

/// What was read is as good as new for so long.
const FRESH: Duration = Duration::from_secs(1);

/// Reads usage and remembers what rates need.
#[derive(Default)]
pub struct Meter {
    window: Mutex<Window>,
    /// Held while it is read: who comes meanwhile gets the same.
    last: tokio::sync::Mutex<Option<(Instant, Arc<Measured>)>>,
}

/// What was read.
pub(crate) struct Measured {
    pub usage: Usage,
    rates: std::collections::HashMap<String, Rate>,
}

impl Measured {
    /// How fast CPU time passes, by a key of [`read`]; `None` for what has just begun.
    pub fn rate(&self, key: &str) -> Option<Rate> {
        self.rates.get(key).copied()
    }
}

impl Meter {
    fn take(&self, usage: Usage) -> Measured {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let rates = window.rates(&usage.counters);
        window.keep(&usage.counters);
        Measured { usage, rates }
    }

    fn is_cold(&self, now: i64) -> bool {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).is_cold(now)
    }

    /// Looks. `rates`: rates are needed, and worth waiting for.
    pub(crate) async fn look(&self, ctx: &Arc<Context>, rates: bool) -> Arc<Measured> {
        let mut last = self.last.lock().await;
        let fresh = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        if let Some((_, measured)) = fresh
            && (!rates || !measured.rates.is_empty())
        {
            return measured.clone();
        }
        let mut usage = read(ctx).await;
        if rates && self.is_cold(usage.counters.at) {
            self.take(usage);
            // There is no rate without time.
            tokio::time::sleep(window::SHORTEST).await;
            usage = read(ctx).await;
        }
        let measured = Arc::new(self.take(usage));
        *last = Some((Instant::now(), measured.clone()));
        measured
    }
}

/// Each number is a small file of a cgroup: short, but many.
async fn read(ctx: &Arc<Context>) -> Usage {
    let work = Arc::clone(ctx);
    ctx.supervisor.blocking(move || read::all(&work)).await
}
