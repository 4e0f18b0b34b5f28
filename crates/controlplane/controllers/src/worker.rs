//! The loop that every reconciler runs in.

use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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
                running.push(one(name, reconciler, Working { queue: reconciler.queue(), key }));
            }
        }
    }
}

/// A key being worked on; whatever happens to the work, the key is given back.
struct Working<'a, K: Hash + Eq + Clone> {
    queue: &'a Queue<K>,
    key: K,
}

impl<K: Hash + Eq + Clone> Drop for Working<'_, K> {
    fn drop(&mut self) {
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

async fn one<R: Reconciler>(name: &'static str, reconciler: &R, working: Working<'_, R::Key>) {
    let (queue, key) = (working.queue, working.key.clone());
    let (result, took) = Metered::new(reconciler.reconcile(&key)).await;
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
