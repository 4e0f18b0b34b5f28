//! What nodes and pods use, for those who decide by it. While nobody does, nothing is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use sampan_daemon::{Backoff, Policy, Supervisor, clock};
use sampan_planner::pods;
use sampan_planner::usage::{Ledger, Measured, NodeUsage, PodUsage};

use crate::cache::Caches;
use crate::error::{Context, Error, Result};
use crate::informer::Key;

/// The longest that one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One look, in the terms of decisions.
pub(crate) struct Look {
    /// By the name of the node.
    pub nodes: BTreeMap<String, NodeUsage>,
    /// By the uid of the pod.
    pub pods: HashMap<Box<str>, PodUsage>,
    /// As it was said.
    pub measured: Measured,
}

type Reader = Box<dyn Fn(&Arc<Look>) + Send + Sync>;

/// Asks `metrics.k8s.io` in a rhythm and tells readers.
pub(crate) struct Usage {
    client: Client,
    caches: Arc<Caches>,
    every: Duration,
    readers: Mutex<Vec<Reader>>,
    ledger: Mutex<Ledger>,
}

impl Usage {
    pub fn new(client: Client, caches: Arc<Caches>, every: Duration) -> Arc<Self> {
        Arc::new(Self { client, caches, every, readers: Mutex::default(), ledger: Mutex::default() })
    }

    /// Whom to tell. Only before it runs.
    pub fn on(&self, reader: impl Fn(&Arc<Look>) + Send + Sync + 'static) {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(reader));
    }

    /// Starts to ask, when anybody wants to know.
    pub fn run(self: &Arc<Self>, supervisor: &Supervisor) {
        if self.readers.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return;
        }
        let own = self.clone();
        supervisor.supervise("usage", Policy::Restart(Backoff::default()), move || {
            let own = own.clone();
            async move {
                own.follow().await;
                Ok::<(), std::convert::Infallible>(())
            }
        });
    }

    async fn follow(&self) {
        let mut timer = tokio::time::interval(self.every);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            timer.tick().await;
            let measured = match tokio::time::timeout(PATIENCE, self.ask()).await {
                Ok(Ok(measured)) => {
                    failing = false;
                    measured
                }
                problem => {
                    // Said once: what was known before holds for some minutes.
                    if !std::mem::replace(&mut failing, true) {
                        let why = match problem {
                            Ok(Err(error)) => error.to_string(),
                            _ => format!("no answer in {PATIENCE:?}"),
                        };
                        tracing::warn!("what nodes use is not known: {why}");
                    }
                    Measured::default()
                }
            };
            let look = Arc::new(self.look(measured));
            self.readers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|tell| tell(&look));
        }
    }

    async fn ask(&self) -> Result<Measured> {
        let get = async |path: &str| {
            let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError);
            let asking = || format!("reading {path}");
            self.client.request_text(request.during(asking)?).await.during(asking)
        };
        let nodes = get("/apis/metrics.k8s.io/v1beta1/nodes").await?;
        let pods = get("/apis/metrics.k8s.io/v1beta1/pods").await?;
        Measured::parse(nodes.as_bytes(), pods.as_bytes())
            .map_err(|problem| Error::Object { object: "metrics.k8s.io".to_owned(), problem })
    }

    fn look(&self, measured: Measured) -> Look {
        let nodes = self.caches.nodes.all();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let of_node = |name: &str| measured.nodes.get(name).copied();
        let nodes = ledger.take(nodes.iter().map(|node| &**node), of_node, clock::now());
        let of_pod = |(namespace, name): &(String, String)| {
            let pod = self.caches.pods.get(&Key::new(namespace, name))?;
            Some((pods::uid(&pod.metadata).into(), measured.of_pod(&pod)?))
        };
        Look { nodes, pods: measured.pods.keys().filter_map(of_pod).collect(), measured }
    }
}
