//! Leader election by `coordination.k8s.io` Lease: of several servers one runs the controllers, one the scheduler.
//!
//! What leads runs under a supervisor of its own, a *term*. It ends, with everything in it, when the lease could not be
//! renewed for [`Terms::renew`], when somebody else has it, or when the server stops; only then is the lease given back.
//! The rules are in [`sampan_planner::election`].

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use sampan_daemon::{Supervisor, clock};
use sampan_planner::election::{self, Candidate, Record, Step, Terms};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::apis;
use crate::error::{Context, Error, Result};

/// Where the leases are.
const NAMESPACE: &str = "kube-system";
/// How long a term's tasks may take to end. What is still under way then is cut off by its own bounds.
const END: Duration = Duration::from_secs(3);

/// One election.
#[derive(Clone)]
pub(crate) struct Election {
    pub client: Client,
    /// Name of the Lease.
    pub name: &'static str,
    /// Who stands; no two processes have the same, ever.
    pub identity: String,
    pub terms: Terms,
}

/// A candidacy that goes on until [`Leadership::leave`] or the supervisor's end.
#[derive(Debug)]
pub struct Leadership {
    leaving: CancellationToken,
    leading: watch::Receiver<bool>,
}

impl Leadership {
    /// Whether this process leads, and every change of that. It closes when the candidacy is over.
    #[must_use]
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.clone()
    }

    /// Ends the term, gives the lease back, so that another may lead at once, and stands no more.
    pub async fn leave(mut self) {
        self.leaving.cancel();
        while self.leading.changed().await.is_ok() {}
    }
}

/// Stands for election, and runs what `start` starts for as long as it is won.
pub(crate) fn stand(
    election: Election,
    supervisor: &Supervisor,
    start: impl Fn(&Supervisor) + Send + Sync + 'static,
) -> Leadership {
    let (told, leading) = watch::channel(false);
    let leaving = CancellationToken::new();
    let left = leaving.clone();
    supervisor.spawn(format!("election/{}", election.name), async move {
        let base = Instant::now();
        let mut standing = Standing { election, base, held: None };
        while let Some(renewed) = left.run_until_cancelled(standing.win()).await {
            tracing::info!(lease = standing.election.name, "leading");
            let term = Term(Supervisor::new());
            start(&term.0);
            told.send_replace(true);
            let lost = left.run_until_cancelled(standing.hold(renewed)).await;
            let late = term.0.shutdown(END).await;
            if !late.is_empty() {
                tracing::warn!("did not end with their term: {}", late.join(", "));
            }
            told.send_replace(false);
            match lost {
                Some(why) => tracing::warn!(lease = standing.election.name, "leads no more: {why}"),
                None => standing.give_back().await,
            }
        }
    });
    Leadership { leaving, leading }
}

/// Whatever ends the candidacy ends the term.
struct Term(Supervisor);

impl Drop for Term {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Standing {
    election: Election,
    base: Instant,
    /// The lease as we wrote it last.
    held: Option<Lease>,
}

impl Standing {
    fn now(&self) -> Duration {
        self.base.elapsed()
    }

    fn api(&self) -> Api<Lease> {
        apis::namespaced(&self.election.client, NAMESPACE)
    }

    /// Tries until the lease is ours. Gives the moment at which the write that made it so was sent.
    async fn win(&mut self) -> Duration {
        let terms = self.election.terms;
        let mut candidate = Candidate::new(self.election.identity.clone(), terms);
        loop {
            // A server that does not answer must not make this candidate deaf.
            let tried = tokio::time::timeout(terms.renew, self.attempt(&mut candidate)).await;
            match tried {
                Ok(Ok(Ok(sent))) => return sent,
                Ok(Ok(Err(wait))) => tokio::time::sleep(wait).await,
                Ok(Err(error)) => {
                    tracing::debug!(lease = self.election.name, "not won: {error}");
                    tokio::time::sleep(terms.retry).await;
                }
                Err(_) => {}
            }
        }
    }

    /// One try: won, with the moment it was sent; or how long to wait.
    async fn attempt(&mut self, candidate: &mut Candidate) -> Result<Result<Duration, Duration>> {
        let name = self.election.name;
        let found = self.api().get_opt(name).await.during(|| format!("reading Lease {name}"))?;
        let step = candidate.look(self.now(), found.as_ref().map(record));
        let sent = self.now();
        match step {
            Step::Wait(wait) => return Ok(Err(wait)),
            Step::Create => {
                let metadata = ObjectMeta {
                    name: Some(name.to_owned()),
                    namespace: Some(NAMESPACE.to_owned()),
                    ..ObjectMeta::default()
                };
                let lease = Lease { metadata, spec: Some(self.spec(0, true)) };
                let made = self.api().create(&PostParams::default(), &lease).await;
                self.held = Some(made.during(|| format!("creating Lease {name}"))?);
            }
            Step::Take { transitions } => {
                let mut lease = found.unwrap_or_default();
                lease.spec = Some(self.spec(transitions, true));
                self.held = Some(self.write(&lease).await?);
            }
        }
        Ok(Ok(sent))
    }

    /// Renews until that is no longer possible; says why.
    async fn hold(&mut self, mut renewed: Duration) -> String {
        let terms = self.election.terms;
        let mut jumps = clock::jumps();
        loop {
            let wait = terms.retry.min(election::left(&terms, renewed, self.now()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // The machine may have slept, which our own clock did not see: ask before going on.
                _ = jumps.changed() => {}
            }
            let left = election::left(&terms, renewed, self.now());
            if left.is_zero() {
                return format!("the lease could not be renewed for {} s", terms.renew.as_secs());
            }
            let sent = self.now();
            match tokio::time::timeout(left, self.renew()).await {
                Ok(Ok(None)) => renewed = sent,
                Ok(Ok(Some(other))) => return format!("{other} has the lease"),
                Ok(Err(error)) => tracing::debug!(lease = self.election.name, "not renewed: {error}"),
                Err(_) => {}
            }
        }
    }

    /// Renews; or tells who has the lease.
    async fn renew(&mut self) -> Result<Option<String>> {
        let mut lease = self.held.clone().unwrap_or_default();
        let acquired = lease.spec.as_ref().and_then(|spec| spec.acquire_time.clone());
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
        lease.spec = Some(LeaseSpec { acquire_time: acquired, ..self.spec(transitions, false) });
        match self.write(&lease).await {
            Ok(written) => self.held = Some(written),
            Err(error) if error.is_race() => {
                let name = self.election.name;
                let found = self.api().get_opt(name).await.during(|| format!("reading Lease {name}"))?;
                let Some(found) = found else { return Ok(Some("nobody".to_owned())) };
                let holder = record(&found).holder;
                if holder != self.election.identity {
                    return Ok(Some(if holder.is_empty() { "nobody".to_owned() } else { holder }));
                }
                // A write of ours whose answer was lost, or somebody changed a label.
                self.held = Some(found);
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// So that another may lead at once. Who cannot be told waits for the lease's end.
    async fn give_back(&mut self) {
        let Some(mut lease) = self.held.take() else { return };
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
        let spec = self.spec(transitions, true);
        lease.spec =
            Some(LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..spec });
        let given = tokio::time::timeout(END, self.write(&lease)).await;
        if !matches!(given, Ok(Ok(_))) {
            tracing::debug!(lease = self.election.name, "could not be given back");
        }
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, Error> {
        let name = self.election.name;
        let written = self.api().replace(name, &PostParams::default(), lease).await;
        written.during(|| format!("writing Lease {name}"))
    }

    fn spec(&self, transitions: i32, acquired: bool) -> LeaseSpec {
        let now = MicroTime(clock::now());
        LeaseSpec {
            holder_identity: Some(self.election.identity.clone()),
            lease_duration_seconds: i32::try_from(self.election.terms.lease.as_secs()).ok(),
            lease_transitions: Some(transitions),
            acquire_time: acquired.then(|| now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(seconds.unwrap_or_default()),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
