//! One pod's state machine: `select` an event, apply it synchronously, decide what to start next.
//!
//! Everything slow is an operation in [`Worker::ops`], polled by the worker's own task; its result comes back as
//! [`Done`]. So state changes in one place only, and nothing here waits.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use sampan_container::{ContainerState, ContainerStatus, Exit, ExitReason, PodSandbox};
use sampan_daemon::{Backoff, clock};
use sampan_planner::numa::{CpuSet, Holding};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Entry, View};
use crate::events::Subject;
use crate::objects::References;
use crate::pod::record::{ContainerRecord, PodRecord, Run, Termination};
use crate::pod::spec::{self, Role};
use crate::volumes::{Ready, TokenKey};

mod confine;
mod decide;
mod image;
mod probe;
mod publish;
mod resize;
mod sandbox;
mod start;
mod stop;

use probe::{ProbeDone, Probes};
use publish::Publisher;

/// Messages waiting for a worker.
const INBOX: usize = 64;

/// What a worker is told.
#[derive(Debug)]
pub enum Message {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The API no longer has it.
    Gone,
    /// A container ended.
    Exited(String, Exit),
    /// The pod's shim died.
    SandboxLost,
    /// The CPUs that are shared became more or fewer.
    SharedCpus,
    /// There is more room on the node.
    RoomFreed,
    /// Events were missed: look at the containers again.
    Resync,
}

/// An operation's result.
enum Done {
    Sandbox(Result<sandbox::Made, String>),
    Volumes(Result<sandbox::Volumes, String>),
    Started(String, Box<Result<start::Started, start::Failed>>),
    PostStart(String, String, Result<(), String>),
    Stopped(String),
    Resized(Box<resize::Resized>),
    Confined(Vec<confine::Confined>),
    Published(Box<Result<Option<Pod>, kube::Error>>),
    TornDown(Result<(), String>),
    Deleted(Result<(), kube::Error>),
    Containers(Result<Vec<ContainerStatus>, sampan_container::Error>),
}

/// What is being done with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    Starting,
    PostStart,
    Stopping,
}

/// What is being done with something that is made once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Todo,
    Doing,
    Done,
}

/// Retries of something that failed.
struct Retry {
    backoff: Backoff,
    at: Option<Timestamp>,
}

impl Retry {
    fn new(max: Duration) -> Self {
        Self { backoff: Backoff::new(Duration::from_millis(500), max), at: None }
    }

    fn fail(&mut self, now: Timestamp) {
        self.at = Some(now + self.backoff.next_delay());
    }

    /// Whether to try now; otherwise when.
    fn due(&self, now: Timestamp) -> Result<(), Timestamp> {
        self.at.filter(|at| *at > now).map_or(Ok(()), Err)
    }
}

/// Carries one pod out.
pub struct Worker {
    ctx: Arc<Context>,
    inbox: mpsc::Receiver<Message>,
    view: watch::Sender<View>,
    pod: Arc<Pod>,
    gone: bool,
    record: PodRecord,
    saved: PodRecord,
    sandbox: Option<PodSandbox>,
    sandbox_stage: Stage,
    sandbox_retry: Retry,
    volume_stage: Stage,
    volume_retry: Retry,
    volumes_stale: bool,
    volumes: Arc<BTreeMap<String, Ready>>,
    tokens: HashMap<TokenKey, sandbox::Token>,
    references: Option<References>,
    busy: HashMap<String, Busy>,
    early_exits: HashMap<String, Exit>,
    retries: HashMap<String, Timestamp>,
    pull_retries: HashMap<String, decide::PullRetry>,
    ops: FuturesUnordered<BoxFuture<'static, Done>>,
    probes: Probes,
    resize_stage: Stage,
    resize_retry: Retry,
    confine_stage: Stage,
    confine_retry: Retry,
    publisher: Publisher,
    events: Subject,
    cancel: CancellationToken,
    stop_by: Option<watch::Sender<Timestamp>>,
    teardown: Stage,
    delete: Stage,
    delete_retry: Retry,
    wake: Option<Timestamp>,
}

/// What is known of a pod from before this process.
#[derive(Default)]
pub struct Adopted {
    /// Its sandbox, when a shim (or what is left of it) was found.
    pub sandbox: Option<PodSandbox>,
    /// Its record, when one was found.
    pub record: Option<PodRecord>,
}

impl Worker {
    /// Start a worker for a pod that has none.
    pub fn start(ctx: &Arc<Context>, pod: Arc<Pod>, adopted: Adopted) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let uid = spec::uid(&pod).to_owned();
        let record = adopted.record.unwrap_or_else(|| new_record(&pod));
        let (view, shown) = watch::channel(View { pod: Arc::clone(&pod), record: Arc::new(record.clone()) });
        ctx.pods.insert(Entry { uid, inbox: sender, view: shown, gone: false });
        let name = format!("pod-{}_{}", spec::namespace(&pod), spec::name(&pod));
        let worker = Self {
            events: ctx.recorder.pod(&pod),
            publisher: Publisher::new(&pod),
            ctx: Arc::clone(ctx),
            inbox,
            view,
            gone: false,
            saved: PodRecord::default(),
            record,
            sandbox: adopted.sandbox,
            sandbox_stage: Stage::Todo,
            sandbox_retry: Retry::new(Duration::from_secs(30)),
            volume_stage: Stage::Todo,
            volume_retry: Retry::new(Duration::from_secs(120)),
            volumes_stale: false,
            volumes: Arc::default(),
            tokens: HashMap::new(),
            references: None,
            busy: HashMap::new(),
            early_exits: HashMap::new(),
            retries: HashMap::new(),
            pull_retries: HashMap::new(),
            ops: FuturesUnordered::new(),
            probes: Probes::default(),
            resize_stage: Stage::Todo,
            resize_retry: Retry::new(Duration::from_secs(60)),
            confine_stage: Stage::Todo,
            confine_retry: Retry::new(Duration::from_secs(60)),
            cancel: CancellationToken::new(),
            stop_by: None,
            teardown: Stage::Todo,
            delete: Stage::Todo,
            delete_retry: Retry::new(Duration::from_secs(10)),
            wake: None,
            pod,
        };
        let token = ctx.supervisor.token();
        ctx.supervisor.spawn(name, async move {
            // A shutdown of the agent leaves the pod running; the next agent adopts it.
            tokio::select! {
                () = worker.run() => {}
                () = token.cancelled() => {}
            }
        });
    }

    async fn run(mut self) {
        self.adopt().await;
        loop {
            self.step();
            if self.gone && self.teardown == Stage::Done {
                break;
            }
            let next = self.next().await;
            self.apply(next);
            // Whatever else is ready belongs to the same burst.
            while let Ok(message) = self.inbox.try_recv() {
                self.apply(Next::Message(Some(message)));
            }
        }
        self.forget().await;
    }

    /// Decide, save and show: everything that follows from the state as it is.
    fn step(&mut self) {
        let now = clock::now();
        self.wake = None;
        let settled = self.publisher.is_settled();
        self.decide(now);
        self.publish(now);
        if !settled && self.publisher.is_settled() && self.pod.metadata.deletion_timestamp.is_some() {
            // The final delete waits until the API server knows everything, and nothing else would wake it now.
            self.decide(now);
        }
        if self.record.finished && !self.saved.finished {
            self.give_back();
        }
        if self.record != self.saved {
            save(&self.ctx, &self.record);
            self.saved = self.record.clone();
        }
    }

    /// What the pod had is free for others.
    fn give_back(&mut self) {
        self.ctx.zones.release(&self.record.uid);
        self.record.zones = Holding::default();
        self.show_record();
        let mut waiting = self.ctx.resizes.lock().unwrap_or_else(PoisonError::into_inner);
        self.ctx.room_freed(&mut waiting);
    }

    async fn next(&mut self) -> Next {
        let until_wake = self.wake.map(|wake| {
            let span = wake.as_nanosecond() - clock::now().as_nanosecond();
            Duration::from_nanos(u64::try_from(span.max(0)).unwrap_or(u64::MAX))
        });
        let references = self.references.as_mut();
        tokio::select! {
            message = self.inbox.recv() => Next::Message(message),
            Some(done) = self.ops.next(), if !self.ops.is_empty() => Next::Done(done),
            Some(probed) = self.probes.next(), if !self.probes.is_empty() => Next::Probed(probed),
            () = changed(references) => Next::References,
            () = tokio::time::sleep(until_wake.unwrap_or_default()), if until_wake.is_some() => Next::Timer,
        }
    }

    fn apply(&mut self, next: Next) {
        match next {
            Next::Message(Some(message)) => self.apply_message(message),
            Next::Message(None) => self.gone = true,
            Next::Done(done) => self.apply_done(done),
            Next::Probed(done) => self.apply_probe(done),
            Next::References => {
                self.volumes_stale = true;
                self.volume_retry = Retry::new(Duration::from_secs(120));
                self.retries.clear();
            }
            Next::Timer => {}
        }
    }

    fn apply_message(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => {
                if pod.metadata.labels != self.pod.metadata.labels
                    || pod.metadata.annotations != self.pod.metadata.annotations
                {
                    self.volumes_stale = true;
                }
                let ephemerals =
                    |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone());
                if ephemerals(&pod) != ephemerals(&self.pod) {
                    // They may refer to objects that nothing of the pod did before.
                    self.volumes_stale = true;
                }
                self.publisher.observe(&pod);
                self.pod = pod;
            }
            Message::Gone => self.gone = true,
            Message::Exited(id, exit) => self.apply_exit(&id, exit),
            Message::SandboxLost => self.lose_sandbox(),
            // The next decision looks at them.
            Message::SharedCpus | Message::RoomFreed => {}
            Message::Resync => {
                if let Some(sandbox) = self.sandbox.clone() {
                    self.ops.push(Box::pin(async move { Done::Containers(sandbox.containers().await) }));
                }
            }
        }
    }

    fn apply_done(&mut self, done: Done) {
        let now = clock::now();
        match done {
            Done::Sandbox(result) => self.sandbox_made(result, now),
            Done::Volumes(result) => self.volumes_made(result, now),
            Done::Started(name, result) => self.container_started(&name, *result, now),
            Done::PostStart(name, id, result) => self.post_started(&name, &id, result),
            Done::Stopped(name) => {
                self.busy.remove(&name);
            }
            Done::Resized(resized) => self.resized(*resized, now),
            Done::Confined(confined) => self.confined(confined, now),
            Done::Published(result) => self.publisher.done(*result, now),
            Done::TornDown(Ok(())) => {
                self.teardown = Stage::Done;
                self.sandbox = None;
                self.record.sandbox_ready = false;
            }
            Done::TornDown(Err(error)) => {
                tracing::warn!(pod = spec::display(&self.pod), error, "cleaning up failed; trying again");
                self.teardown = Stage::Todo;
                self.delete_retry.fail(now);
            }
            Done::Deleted(Ok(())) => self.delete = Stage::Done,
            Done::Deleted(Err(error)) => {
                tracing::debug!(pod = spec::display(&self.pod), %error, "pod not deleted yet");
                self.delete = Stage::Todo;
                self.delete_retry.fail(now);
            }
            Done::Containers(Ok(statuses)) => self.reconcile(&statuses),
            Done::Containers(Err(_)) => self.lose_sandbox(),
        }
    }

    /// Learn what an earlier process left running.
    async fn adopt(&mut self) {
        let Some(sandbox) = self.sandbox.clone() else {
            self.lose_runs();
            return;
        };
        let statuses = sandbox.containers().await.unwrap_or_default();
        if sandbox.is_lost() {
            self.reconcile(&statuses);
            self.lose_sandbox();
            return;
        }
        self.reconcile(&statuses);
        self.adopt_unrecorded(&sandbox, &statuses).await;
        let ready = self.record.sandbox_ready;
        self.sandbox_stage = if ready { Stage::Done } else { Stage::Todo };
        for (role, container) in spec::containers(&self.pod.spec.clone().unwrap_or_default()) {
            self.watch_probes(role, container);
        }
    }

    /// Containers that an earlier process made and had no time to write down: one that runs is the next run of its
    /// name, whatever else there is goes.
    async fn adopt_unrecorded(&mut self, sandbox: &PodSandbox, statuses: &[ContainerStatus]) {
        for status in statuses {
            let label = |name: &str| status.labels.get(name).cloned().unwrap_or_default();
            let seen = self.record.containers.entry(label("name")).or_default();
            if start::ids(seen).contains(&status.id) {
                continue;
            }
            let at = status.started_at.and_then(|at| Timestamp::from_nanosecond(at.into()).ok());
            let next = label("run").parse() == Ok(seen.runs + 1) && !seen.is_running();
            match at {
                Some(at) if next => {
                    if let Run::Exited(ended) = std::mem::take(&mut seen.run) {
                        seen.last = Some(ended);
                    }
                    seen.runs += 1;
                    seen.waiting = None;
                    (seen.image, seen.image_id) = (label("image"), label("image-id"));
                    seen.run = Run::Running { id: status.id.clone(), at };
                    if self.ctx.zones.shared().is_some() {
                        // To be found out by setting them.
                        seen.cpus = Some(CpuSet::default());
                    }
                    if let Some(exit) = status.exit.clone() {
                        self.apply_exit(&status.id, exit);
                    }
                }
                _ => {
                    // What cannot be removed now goes with the sandbox.
                    let _ = sandbox.remove_container(&status.id).await;
                }
            }
        }
        self.record.containers.remove("");
    }

    /// Bring the record in line with what the shim says.
    fn reconcile(&mut self, statuses: &[ContainerStatus]) {
        let by_id: HashMap<&str, &ContainerStatus> = statuses.iter().map(|s| (s.id.as_str(), s)).collect();
        let mut exits = Vec::new();
        for (name, container) in &mut self.record.containers {
            match &container.run {
                Run::Running { id, .. } => match by_id.get(id.as_str()) {
                    Some(status) if status.state == ContainerState::Running => {}
                    Some(status) => exits.extend(status.exit.clone().map(|exit| (id.clone(), exit))),
                    None => exits.push((id.clone(), lost())),
                },
                Run::Starting if !self.busy.contains_key(name) => {
                    let found = statuses.iter().find(|status| {
                        status.labels.get("name") == Some(name) && status.state == ContainerState::Running
                    });
                    match found {
                        Some(status) => {
                            let at =
                                status.started_at.and_then(|at| Timestamp::from_nanosecond(at.into()).ok());
                            container.run =
                                Run::Running { id: status.id.clone(), at: at.unwrap_or_else(clock::now) };
                            container.runs = container.runs.max(1);
                        }
                        None => container.run = container.last.take().map_or(Run::None, Run::Exited),
                    }
                }
                _ => {}
            }
        }
        for (id, exit) in exits {
            self.apply_exit(&id, exit);
        }
    }

    fn lose_runs(&mut self) {
        self.reconcile(&[]);
        self.record.sandbox_ready = false;
    }

    fn apply_exit(&mut self, id: &str, exit: Exit) {
        let running = |record: &ContainerRecord| matches!(&record.run, Run::Running { id: running, .. } if running == id);
        let Some(name) =
            self.record.containers.iter().find(|(_, seen)| running(seen)).map(|(name, _)| name.clone())
        else {
            if self.busy.values().any(|busy| *busy == Busy::Starting) {
                self.early_exits.insert(id.to_owned(), exit);
            }
            return;
        };
        self.probes.forget(&name);
        let message = self.termination_message(&name, &exit);
        let Some(seen) = self.record.containers.get_mut(&name) else { return };
        let Run::Running { at, .. } = seen.run else { return };
        seen.run = Run::Exited(Termination {
            id: id.to_owned(),
            exit_code: exit.code,
            signal: None,
            reason: exit.reason.as_str().to_owned(),
            message,
            started_at: Some(at),
            finished_at: Timestamp::from_nanosecond(exit.finished_at.into()).unwrap_or_else(|_| clock::now()),
        });
        seen.waiting = None;
        seen.ready = false;
        seen.started = false;
    }

    /// The record of the worker is no longer needed.
    async fn forget(self) {
        let (ctx, pod) = (self.ctx, self.pod);
        let uid = spec::uid(&pod).to_owned();
        let logs = ctx.log_dir(spec::namespace(&pod), spec::name(&pod), &uid);
        let record = ctx.record_path(&uid);
        ctx.pods.remove(&uid);
        ctx.supervisor
            .blocking(move || {
                // Both may be absent: a pod that never started has neither.
                let _ = std::fs::remove_dir_all(logs);
                let _ = std::fs::remove_file(record);
            })
            .await;
    }

    fn role(&self, name: &str) -> Role {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec::any_container(spec, name)).map_or(Role::Main, |(role, _)| role)
    }

    fn container_events(&self, name: &str) -> Subject {
        self.events.container(self.role(name), name)
    }

    /// Look at the pod again at this time, or earlier.
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

enum Next {
    Message(Option<Message>),
    Done(Done),
    Probed(ProbeDone),
    References,
    Timer,
}

async fn changed(references: Option<&mut References>) {
    match references {
        Some(references) => references.changed().await,
        None => std::future::pending().await,
    }
}

fn lost() -> Exit {
    Exit {
        code: 137,
        signal: None,
        reason: ExitReason::Lost,
        message: "The container could not be located when the pod was terminated".to_owned(),
        finished_at: i64::try_from(clock::now().as_nanosecond()).unwrap_or(i64::MAX),
    }
}

/// A record for a pod that this node sees for the first time, or after losing its memory: restart counts and last ends
/// continue from the status that the API has.
fn new_record(pod: &Pod) -> PodRecord {
    let mut record = PodRecord {
        uid: spec::uid(pod).to_owned(),
        namespace: spec::namespace(pod).to_owned(),
        name: spec::name(pod).to_owned(),
        start_time: Some(clock::now()),
        ..Default::default()
    };
    let Some(status) = &pod.status else { return record };
    if let Some(at) = &status.start_time {
        record.start_time = Some(at.0);
    }
    record.finished = spec::is_terminal(pod);
    let all = status.init_container_statuses.iter().chain(status.container_statuses.iter()).flatten();
    for container in all.filter(|container| container.container_id.is_some()) {
        let mut seen = ContainerRecord {
            runs: u32::try_from(container.restart_count).unwrap_or(0) + 1,
            image: container.image.clone(),
            image_id: container.image_id.clone(),
            ..Default::default()
        };
        let state = container.state.as_ref();
        let id =
            container.container_id.as_deref().and_then(|id| id.split_once("://")).map_or("", |(_, id)| id);
        if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
            seen.run = Run::Exited(Termination {
                id: id.to_owned(),
                exit_code: ended.exit_code,
                signal: ended.signal,
                reason: ended.reason.clone().unwrap_or_default(),
                message: ended.message.clone().unwrap_or_default(),
                started_at: ended.started_at.as_ref().map(|at| at.0),
                finished_at: ended.finished_at.as_ref().map_or_else(clock::now, |at| at.0),
            });
        } else if let Some(running) = state.and_then(|state| state.running.as_ref()) {
            let at = running.started_at.as_ref().map_or_else(clock::now, |at| at.0);
            seen.run = Run::Running { id: id.to_owned(), at };
        }
        record.containers.insert(container.name.clone(), seen);
    }
    record
}

fn save(ctx: &Context, record: &PodRecord) {
    let path = ctx.record_path(&record.uid);
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        std::fs::write(&temporary, serde_json::to_vec(record)?)?;
        std::fs::rename(&temporary, &path)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "pod record not saved; a restart of the agent may recount");
    }
}
