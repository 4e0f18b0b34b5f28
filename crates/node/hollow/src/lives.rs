//! The lives of pods: each starts, runs, perhaps ends, and is removed once it was deleted.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    net::Ipv4Addr,
    ops::Range,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Method;
use sampan_daemon::clock;
use tokio::time::Instant;

use crate::{
    chance,
    fleet::Fleet,
    heart::until,
    link::{Ask, Failure, JSON, STRATEGIC},
    pod::{Behaviour, Seen, Shape},
    stream::{self, Told},
    texts::{self, About, Look},
};

/// Between an attempt that failed and the next, doubled each time up to [`LAST`].
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(10);
/// A pod of a silent node is looked at again.
const SILENT: Duration = Duration::from_secs(1);
/// What ends by itself ends after this long, where nothing else is said.
const RUNS: Duration = Duration::from_secs(1);

/// What is to be done about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Start,
    End,
    Remove,
}

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    Ended,
    Removing,
}

struct Pod {
    namespace: Box<str>,
    name: Box<str>,
    node: u32,
    generation: i64,
    state: State,
    behaviour: Behaviour,
    seconds: Option<u32>,
    address: Ipv4Addr,
    /// The address is one of the node's, to be given back.
    owns_address: bool,
    /// It was reported at least once, and not as ended.
    told: bool,
    started: Box<str>,
    shape: Arc<Shape>,
    tries: u32,
}

impl Pod {
    /// How it shows itself when it has started.
    fn look(&self) -> Look {
        match self.behaviour {
            Behaviour::Hang => Look::Running { ready: false },
            Behaviour::Fail if !self.shape.never_again => Look::Crashing,
            _ => Look::Running { ready: true },
        }
    }

    /// The code with which it ends by itself.
    fn ends(&self) -> Option<u8> {
        match self.behaviour {
            Behaviour::Succeed if self.shape.ends => Some(0),
            Behaviour::Fail if self.shape.never_again => Some(1),
            _ => None,
        }
    }
}

type Uid = Arc<str>;
type Done = (Uid, Step, Result<(), Failure>);

/// The lives of the pods of some nodes.
pub(crate) struct Lives {
    fleet: Arc<Fleet>,
    nodes: Range<usize>,
    pods: HashMap<Uid, Pod>,
    due: BinaryHeap<Reverse<(Instant, Step, Uid)>>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// While the pods are listed: those that were in the list so far.
    listed: HashSet<Uid>,
}

impl Lives {
    pub(crate) fn new(fleet: Arc<Fleet>, nodes: Range<usize>) -> Self {
        Self {
            fleet,
            nodes,
            pods: HashMap::new(),
            due: BinaryHeap::new(),
            running: FuturesUnordered::new(),
            listed: HashSet::new(),
        }
    }

    /// Lives for ever.
    pub(crate) async fn live(mut self) {
        let fleet = self.fleet.clone();
        let one = (self.nodes.len() == 1).then_some(self.nodes.start);
        // A node is known before it asks for its pods.
        let _ = fleet.registered.subscribe().wait_for(|count| *count > 0).await;
        let mut told = pin!(stream::pods(fleet.clone(), one));
        let most = fleet.options.at_once;
        loop {
            let next = self.due.peek().map(|Reverse((at, ..))| *at).filter(|_| self.running.len() < most);
            tokio::select! {
                Some(told) = told.next() => self.hear(told),
                Some(done) = self.running.next(), if !self.running.is_empty() => self.done(done),
                () = until(next) => self.begin(most),
            }
        }
    }

    fn hear(&mut self, told: Told) {
        let counts = &self.fleet.counts;
        match told {
            Told::Page { pods, first, last } => {
                if first {
                    self.listed.clear();
                }
                for seen in pods {
                    self.listed.insert(seen.uid.clone());
                    self.observe(seen);
                }
                if last {
                    let listed = std::mem::take(&mut self.listed);
                    let gone: Vec<Uid> =
                        self.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                    gone.iter().for_each(|uid| self.gone(uid));
                }
            }
            Told::Pod(seen) => {
                counts.events.fetch_add(1, Ordering::Relaxed);
                self.observe(seen);
            }
            Told::Gone(uid) => {
                counts.events.fetch_add(1, Ordering::Relaxed);
                self.gone(&uid);
            }
            Told::Failed => {
                counts.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn gone(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        if pod.owns_address {
            self.fleet.nodes[pod.node as usize].give(pod.address);
        }
        self.fleet.counts.known.fetch_sub(1, Ordering::Relaxed);
        if pod.state == State::Removing {
            self.fleet.counts.removed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn observe(&mut self, seen: Seen) {
        let Some(node) = self.fleet.index(&seen.node).filter(|node| self.nodes.contains(node)) else {
            return;
        };
        let now = Instant::now();
        let uid = seen.uid.clone();
        if !self.pods.contains_key(&uid) {
            let pod = self.adopt(&seen, node);
            if pod.state == State::Starting {
                self.due.push(Reverse((now + self.delay(&seen), Step::Start, uid.clone())));
            } else if pod.state == State::Running && pod.ends().is_some() {
                self.due.push(Reverse((now + runs(&pod), Step::End, uid.clone())));
            }
            self.fleet.counts.known.fetch_add(1, Ordering::Relaxed);
            self.pods.insert(uid.clone(), pod);
        }
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        pod.generation = seen.generation;
        if seen.deleting {
            if pod.state != State::Removing && pod.behaviour != Behaviour::Stay {
                pod.state = State::Removing;
                self.due.push(Reverse((now, Step::Remove, uid)));
            }
        } else if pod.state == State::Running
            && seen.running
            && !seen.ready
            && pod.look() == (Look::Running { ready: true })
        {
            // Somebody took the node for lost.
            self.due.push(Reverse((now, Step::Start, uid)));
        }
    }

    fn adopt(&self, seen: &Seen, node: usize) -> Pod {
        let usual = if seen.shape.ends { Behaviour::Succeed } else { Behaviour::Run };
        let chance = chance::hash(self.fleet.options.seed, &["fails", &seen.namespace, &seen.name]);
        let usual = if chance::happens(self.fleet.options.failing, chance) { Behaviour::Fail } else { usual };
        let host = &self.fleet.nodes[node];
        let (address, owns_address) = match seen.address {
            _ if seen.shape.host_network => (host.address, false),
            Some(known) => (known, host.claim(known)),
            None => (host.take(), true),
        };
        let state = match (seen.finished, seen.running) {
            (true, _) => State::Ended,
            (_, true) => State::Running,
            _ => State::Starting,
        };
        Pod {
            namespace: seen.namespace.clone(),
            name: seen.name.clone(),
            node: u32::try_from(node).unwrap_or(u32::MAX),
            generation: seen.generation,
            state,
            behaviour: seen.behaviour.unwrap_or(usual),
            seconds: seen.seconds,
            address,
            owns_address,
            told: seen.running,
            started: clock::rfc3339(clock::now()).into(),
            shape: seen.shape.clone(),
            tries: 0,
        }
    }

    /// How long a pod takes to start.
    fn delay(&self, seen: &Seen) -> Duration {
        let options = &self.fleet.options;
        let hash = |what| chance::hash(options.seed, &[what, &seen.namespace, &seen.name]);
        let late =
            if chance::happens(options.late.0, hash("late")) { options.late.1 } else { Duration::ZERO };
        chance::between(options.start, hash("starts")) + late
    }

    fn begin(&mut self, most: usize) {
        let now = Instant::now();
        while self.running.len() < most && self.due.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, step, uid))) = self.due.pop() else { return };
            let Some(pod) = self.pods.get(&uid) else { continue };
            let is_stale = step != Step::Remove && pod.state == State::Removing;
            if is_stale {
                continue;
            }
            if self.fleet.nodes[pod.node as usize].is_silent() {
                self.due.push(Reverse((now + SILENT, step, uid)));
                continue;
            }
            let work = self.work(&uid, pod, step);
            self.running.push(Box::pin(async move {
                let result = work.run().await;
                (uid, step, result)
            }));
        }
    }

    fn work(&self, uid: &Uid, pod: &Pod, step: Step) -> Work {
        let index = pod.node as usize;
        let node = &self.fleet.nodes[index];
        let status = |look| {
            let about = About {
                uid,
                generation: pod.generation,
                host: node.address,
                address: pod.address,
                shape: &pod.shape,
                look,
                started: &pod.started,
            };
            Some(texts::pod_status(&about))
        };
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        let mut work = Work {
            fleet: self.fleet.clone(),
            node: index,
            path,
            events: Vec::new(),
            status: None,
            delete: None,
        };
        match step {
            Step::Start => {
                work.status = status(pod.look());
                if self.fleet.options.events && !pod.told {
                    work.events = events(&node.name, uid, pod);
                }
            }
            Step::End => work.status = status(Look::Ended { code: pod.ends().unwrap_or(0) }),
            Step::Remove => {
                // A pod that was never reported has nothing that could have ended.
                work.status = pod.told.then(|| status(Look::Ended { code: 0 })).flatten();
                work.delete = Some(format!(
                    r#"{{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{{"uid":"{uid}"}}}}"#
                ));
            }
        }
        work
    }

    fn done(&mut self, (uid, step, result): Done) {
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        if let Err(failure) = result {
            self.fleet.counts.failures.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(pod = %pod.name, namespace = %pod.namespace, ?step, "{failure}");
            // Gone, or another of its name: the watch will say so.
            if !matches!(failure.code(), 404 | 409) {
                let delay = FIRST.saturating_mul(1 << pod.tries.min(10)).min(LAST);
                pod.tries += 1;
                self.due.push(Reverse((Instant::now() + delay, step, uid)));
            }
            return;
        }
        pod.tries = 0;
        match step {
            Step::Start => {
                if !pod.told {
                    self.fleet.counts.started.fetch_add(1, Ordering::Relaxed);
                }
                pod.told = true;
                if pod.state == State::Starting {
                    pod.state = State::Running;
                    if pod.ends().is_some() {
                        self.due.push(Reverse((Instant::now() + runs(pod), Step::End, uid)));
                    }
                }
            }
            Step::End => {
                pod.told = false;
                if pod.state == State::Running {
                    pod.state = State::Ended;
                }
            }
            Step::Remove => {}
        }
    }
}

fn runs(pod: &Pod) -> Duration {
    pod.seconds.map_or(RUNS, |seconds| Duration::from_secs(seconds.into()))
}

fn events(node: &str, uid: &str, pod: &Pod) -> Vec<Vec<u8>> {
    let Some(container) = pod.shape.containers.last() else { return Vec::new() };
    let about = |at: u64| texts::Told {
        namespace: &pod.namespace,
        name: &pod.name,
        uid,
        node,
        serial: chance::hash(at, &[uid]),
    };
    let (name, image) = (&container.name, &container.image);
    vec![
        texts::event(&about(1), "Pulled", &format!("Container image \"{image}\" already present on machine")),
        texts::event(&about(2), "Created", &format!("Container created: {name}")),
        texts::event(&about(3), "Started", "Container started"),
    ]
}

/// Requests about a pod, one after the other.
struct Work {
    fleet: Arc<Fleet>,
    node: usize,
    /// Of the pod.
    path: String,
    events: Vec<Vec<u8>>,
    status: Option<Vec<u8>>,
    delete: Option<String>,
}

impl Work {
    async fn run(self) -> Result<(), Failure> {
        let (link, node) = (self.fleet.link(self.node), self.fleet.nodes[self.node].name.as_str());
        if let Some(body) = self.status {
            let path = format!("{}/status", self.path);
            let told =
                link.send(Ask { method: Method::PATCH, path: &path, kind: STRATEGIC, body, node }).await;
            match told {
                // It cannot be told any more, and is still to be removed.
                Err(failure) if self.delete.is_some() && matches!(failure.code(), 404 | 409 | 422) => {}
                other => drop(other?),
            }
        }
        if let Some(body) = self.delete {
            let body = body.into_bytes();
            link.send(Ask { method: Method::DELETE, path: &self.path, kind: JSON, body, node }).await?;
        }
        let namespace = self.path.rsplit_once("/pods/").map_or("", |(namespace, _)| namespace);
        let path = format!("{namespace}/events");
        for body in self.events {
            // Events are told once, and not missed.
            let _ = link.send(Ask { method: Method::POST, path: &path, kind: JSON, body, node }).await;
        }
        Ok(())
    }
}
