//! The loop that every reconciler runs in.

use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use sampan_daemon::{Backoff, Policy, Supervisor};

use crate::error::Result;
use crate::queue::Queue;

/// Something that brings the world closer to what one object says.
pub(crate) trait Reconciler: Send + Sync + 'static {
    /// What names one piece of work.
    type Key: Hash + Eq + Clone + std::fmt::Display + Send + Sync + 'static;

    /// A key whose work took long rests before it is worked on again, at most this long ([`Queue::rest`]). What writes
    /// many objects in bursts should not lose much by it.
    const LONGEST_REST: Duration = Duration::from_millis(100);

    /// What waits to be worked on.
    fn queue(&self) -> &Queue<Self::Key>;

    /// Works on one key; a duration asks for another look after it.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Option<Duration>>> + Send;
}

/// Runs a reconciler under supervision, on several keys at once.
pub(crate) fn run<R: Reconciler>(
    supervisor: &Supervisor,
    name: &'static str,
    at_once: usize,
    reconciler: Arc<R>,
) {
    let policy = Policy::Restart(Backoff::default());
    supervisor.supervise(name, policy, move || {
        let reconciler = reconciler.clone();
        async move {
            work(name, at_once, &*reconciler).await;
            Ok::<(), std::convert::Infallible>(())
        }
    });
}

async fn work<R: Reconciler>(name: &'static str, at_once: usize, reconciler: &R) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = running.next(), if !running.is_empty() => {}
            key = reconciler.queue().next(), if running.len() < at_once => {
                running.push(one(name, reconciler, Working { queue: reconciler.queue(), key, ended: false }));
            }
        }
    }
}

/// A key being worked on; whatever happens to the work, the key is given back, and tried again if the work did not end.
struct Working<'a, K: Hash + Eq + Clone> {
    queue: &'a Queue<K>,
    key: K,
    ended: bool,
}

impl<K: Hash + Eq + Clone> Drop for Working<'_, K> {
    fn drop(&mut self) {
        if !self.ended {
            self.queue.retry(self.key.clone());
        }
        self.queue.done(&self.key);
    }
}

/// A future with the time that it was not waiting.
struct Metered<F> {
    future: Pin<Box<F>>,
    took: Duration,
}

impl<F: Future> Metered<F> {
    fn new(future: F) -> Self {
        Self { future: Box::pin(future), took: Duration::ZERO }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = (F::Output, Duration);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let began = Instant::now();
        let polled = self.future.as_mut().poll(cx);
        self.took += began.elapsed();
        polled.map(|output| (output, self.took))
    }
}

async fn one<R: Reconciler>(name: &'static str, reconciler: &R, mut working: Working<'_, R::Key>) {
    let (queue, key) = (working.queue, working.key.clone());
    // One object that nobody thought of must not keep all others from being looked at.
    let work = AssertUnwindSafe(Metered::new(reconciler.reconcile(&key))).catch_unwind();
    let Ok((result, took)) = work.await else {
        return tracing::error!(controller = name, %key, "panicked, will retry");
    };
    working.ended = true;
    queue.rest(&key, took, R::LONGEST_REST);
    match result {
        Ok(again) => {
            queue.forget(&key);
            if let Some(delay) = again {
                queue.add_after(key, delay);
            }
        }
        Err(error) => {
            if error.is_race() || error.is_end_of_namespace() {
                tracing::debug!(controller = name, %key, "will retry: {error}");
            } else {
                tracing::warn!(controller = name, %key, "will retry: {error}");
            }
            queue.retry(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Panics at the first look at `bad`, and never comes back from `slow`, but for a look after that.
    #[derive(Default)]
    struct Fragile {
        queue: Queue<&'static str>,
        seen: Mutex<Vec<&'static str>>,
    }

    impl Reconciler for Fragile {
        type Key = &'static str;

        fn queue(&self) -> &Queue<&'static str> {
            &self.queue
        }

        async fn reconcile(&self, key: &&'static str) -> Result<Option<Duration>> {
            let times = {
                let mut seen = self.seen.lock().unwrap();
                seen.push(*key);
                seen.iter().filter(|seen| *seen == key).count()
            };
            match (*key, times) {
                ("bad", 1) => panic!("not thought of"),
                ("slow", 1) => std::future::pending().await,
                _ => Ok(None),
            }
        }
    }

    async fn sees(fragile: &Fragile, key: &str, times: usize) {
        while fragile.seen.lock().unwrap().iter().filter(|seen| **seen == key).count() < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_panic_stops_nobody_else_and_no_work_is_lost() {
        let fragile = Arc::new(Fragile::default());
        let supervisor = Supervisor::new();
        run(&supervisor, "fragile", 3, fragile.clone());
        let bound = Duration::from_secs(30);
        fragile.queue.add("slow");
        sees(&fragile, "slow", 1).await;
        fragile.queue.add("bad");
        fragile.queue.add("good");
        tokio::time::timeout(bound, sees(&fragile, "good", 1)).await.unwrap();
        tokio::time::timeout(bound, sees(&fragile, "bad", 2)).await.expect("it is tried again");
        assert_eq!(
            fragile.seen.lock().unwrap().iter().filter(|key| **key == "slow").count(),
            1,
            "still at it"
        );
        // Cut off in the middle, it is there for whoever works next.
        supervisor.shutdown(Duration::from_secs(5)).await;
        let next = Supervisor::new();
        run(&next, "fragile", 3, fragile.clone());
        tokio::time::timeout(bound, sees(&fragile, "slow", 2)).await.expect("it is not lost");
        next.cancel();
    }
}
