//! Supervised tasks: each has a name, ends when its supervisor is cancelled, and has a policy for failure.
//!
//! Supervisors nest: a child is cancelled with its parent or alone. Shutdown waits for every task, up to a bound,
//! and names those that did not end. This is the only place that spawns.

use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Backoff;

/// What to do when a supervised task fails or panics.
#[derive(Clone, Debug)]
pub enum Policy {
    /// Start it again after a delay. A run of more than a minute resets the delay.
    Restart(Backoff),
    /// Shut everything down: the process is useless without this task.
    Shutdown,
}

/// Owns tasks. Cheap to clone; all clones own the same tasks.
#[derive(Clone, Debug)]
pub struct Supervisor {
    root: Arc<Root>,
    token: CancellationToken,
    prefix: Arc<str>,
}

#[derive(Debug, Default)]
struct Root {
    token: CancellationToken,
    tracker: TaskTracker,
    names: Mutex<BTreeMap<u64, String>>,
    next: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// A running task. Dropping the handle leaves the task running.
#[derive(Debug)]
pub struct TaskHandle {
    join: JoinHandle<()>,
    token: CancellationToken,
}

impl TaskHandle {
    /// Stop the task at its next await point.
    pub fn abort(&self) {
        self.token.cancel();
    }

    /// Wait for the end, however it came.
    pub async fn join(self) {
        // The task's own failure was logged where it happened; here only its end matters.
        let _ = self.join.await;
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor without tasks.
    #[must_use]
    pub fn new() -> Self {
        let root = Arc::new(Root::default());
        Self { token: root.token.clone(), root, prefix: Arc::from("") }
    }

    /// Cancelled at shutdown, and when this supervisor or an ancestor is cancelled.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// A supervisor whose tasks are named `name/…` and that can be cancelled alone.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self {
            root: self.root.clone(),
            token: self.token.child_token(),
            prefix: Arc::from(format!("{}{name}/", self.prefix)),
        }
    }

    /// Cancel the tasks of this supervisor and of its children.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Why the whole was shut down, when a [`Policy::Shutdown`] task failed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.root.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Run a task once. It is dropped at its next await point when cancelled; a panic is logged.
    pub fn spawn<F>(&self, name: impl Into<String>, fut: F) -> TaskHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.child_token();
        let name = format!("{}{}", self.prefix, name.into());
        let guard = self.root.clone().register(name.clone());
        let cancelled = token.clone();
        let join = self.root.tracker.spawn(async move {
            let _guard = guard;
            let run = AssertUnwindSafe(fut).catch_unwind();
            tokio::select! {
                biased;
                result = run => if let Err(panic) = result {
                    tracing::error!(task = name, "panicked: {}", panic_text(&*panic));
                },
                () = cancelled.cancelled() => {}
            }
        });
        TaskHandle { join, token }
    }

    /// Run a task that should not end by itself. `make` starts it; on an error or a panic `policy` decides.
    /// Returning `Ok` ends it for good.
    pub fn supervise<F, Fut, E>(&self, name: impl Into<String>, policy: Policy, mut make: F) -> TaskHandle
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let name = name.into();
        let root = self.root.clone();
        let full = format!("{}{name}", self.prefix);
        self.spawn(name, async move {
            let mut policy = policy;
            loop {
                let started = tokio::time::Instant::now();
                let run: Pin<Box<dyn Future<Output = Result<(), E>> + Send>> = Box::pin(make());
                let reason = match AssertUnwindSafe(run).catch_unwind().await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(panic) => format!("panicked: {}", panic_text(&*panic)),
                };
                match &mut policy {
                    Policy::Restart(backoff) => {
                        if started.elapsed() > Duration::from_secs(60) {
                            backoff.reset();
                        }
                        let delay = backoff.next_delay();
                        tracing::warn!(task = full, ?delay, "failed, will restart: {reason}");
                        tokio::time::sleep(delay).await;
                    }
                    Policy::Shutdown => {
                        tracing::error!(task = full, "failed, shutting down: {reason}");
                        root.failure
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(format!("{full}: {reason}"));
                        root.token.cancel();
                        return;
                    }
                }
            }
        })
    }

    /// Run blocking work off the event loop; its panic continues in the caller.
    pub async fn blocking<T, F>(&self, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        match self.root.tracker.spawn_blocking(work).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // A blocking task is only cancelled before it starts, when the runtime itself is going away.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Cancel everything (from whichever clone or child it is called) and wait up to `bound`.
    /// Returns the names of tasks that were still running then.
    pub async fn shutdown(&self, bound: Duration) -> Vec<String> {
        self.root.token.cancel();
        self.root.tracker.close();
        if tokio::time::timeout(bound, self.root.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        self.root.names.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Root {
    fn register(self: Arc<Self>, name: String) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(id, name);
        Registration { root: self, id }
    }
}

struct Registration {
    root: Arc<Root>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.root.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// A named operating-system thread, for work that blocks all its life. The owner joins it.
///
/// # Errors
/// The system has no room for another thread.
pub fn thread<T, F>(name: &str, work: F) -> std::io::Result<std::thread::JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_is_restarted_and_a_panic_counts_as_failure() {
        let supervisor = Supervisor::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let seen = runs.clone();
        supervisor
            .supervise("flaky", Policy::Restart(Backoff::default()), move || {
                let run = seen.fetch_add(1, Ordering::SeqCst);
                async move {
                    assert!(run != 1, "second run panics");
                    if run < 3 { Err("again") } else { Ok(()) }
                }
            })
            .join()
            .await;
        assert_eq!(runs.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn a_task_with_the_shutdown_policy_takes_the_rest_along() {
        let supervisor = Supervisor::new();
        let other = supervisor.child("part").spawn("waits", std::future::pending());
        supervisor.supervise("vital", Policy::Shutdown, || async { Err("disk gone") });
        other.join().await;
        assert_eq!(supervisor.failure().as_deref(), Some("vital: disk gone"));
        assert!(supervisor.shutdown(Duration::from_secs(5)).await.is_empty());
    }

    #[tokio::test]
    async fn a_child_is_cancelled_alone() {
        let supervisor = Supervisor::new();
        let child = supervisor.child("a");
        let one = child.spawn("one", std::future::pending());
        child.cancel();
        one.join().await;
        assert!(!supervisor.token().is_cancelled());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn shutdown_is_bounded_and_names_who_stays() {
        let supervisor = Supervisor::new();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (started, running) = tokio::sync::oneshot::channel();
        supervisor.child("node").spawn("stuck", async move {
            started.send(()).unwrap();
            // Blocks inside poll, so cancellation cannot reach it.
            tokio::task::block_in_place(move || blocked.recv().ok());
        });
        running.await.unwrap();
        assert_eq!(supervisor.shutdown(Duration::from_millis(50)).await, ["node/stuck"]);
        drop(release);
        assert!(supervisor.shutdown(Duration::from_secs(5)).await.is_empty());
    }
}
