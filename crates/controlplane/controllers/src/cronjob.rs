//! CronJobs: a Job at each time of a schedule.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::PostParams;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::rollout::cron::Schedule;
use sampan_planner::rollout::cronjob::{self as planner, Input, Plan, Problem};

use crate::apis;
use crate::cache::{Caches, owned_by};
use crate::claim::{controller_reference, owner_key};
use crate::error::{Context, Result, code, namespace_ends};
use crate::events::{Recorder, reference};
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::replicaset::{refs, until};
use crate::worker::Reconciler;

/// The controller.
pub(crate) struct CronJobs {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    zones: Zones,
    queue: Queue<Key>,
}

/// Time zones by name, read from the system's database once each.
struct Zones {
    dir: PathBuf,
    known: Mutex<HashMap<String, TimeZone>>,
}

impl Zones {
    fn get(&self, name: &str) -> Result<TimeZone, String> {
        if name.is_empty() || name == "UTC" || name == "Etc/UTC" {
            return Ok(TimeZone::UTC);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = known.get(name) {
            return Ok(zone.clone());
        }
        let part = |part: &str| {
            let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+');
            !part.is_empty() && part.chars().all(usual)
        };
        if !name.split('/').all(part) {
            return Err(format!("unknown time zone {name}"));
        }
        let path = self.dir.join(name);
        let data = std::fs::read(&path)
            .map_err(|error| format!("unknown time zone {name}: {}: {error}", path.display()))?;
        let zone = TimeZone::tzif(name, &data).map_err(|error| format!("time zone {name}: {error}"))?;
        known.insert(name.to_owned(), zone.clone());
        Ok(zone)
    }
}

impl CronJobs {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder, zoneinfo: PathBuf) -> Arc<Self> {
        let events = events.of("cronjob-controller");
        let zones = Zones { dir: zoneinfo, known: Mutex::new(HashMap::new()) };
        let this = Arc::new(Self { client, caches, events, zones, queue: Queue::new() });
        let own = this.clone();
        this.caches.cron_jobs.on(move |change| own.changed(change));
        let own = this.clone();
        this.caches.jobs.on(move |change| {
            if let Some(owner) = owner_key::<CronJob>(&change.object().metadata) {
                own.queue.add(owner);
            }
        });
        this
    }

    fn changed(&self, change: &Change<'_, CronJob>) {
        let key = Key::of(&change.object().metadata);
        let times = |cron: &CronJob| (cron.spec.schedule.clone(), cron.spec.time_zone.clone());
        if let Change::Updated { old, new } = change
            && times(old) != times(new)
            && let Ok((schedule, zone)) = self.schedule(new)
        {
            // Times that the new schedule would have had before it was there were not missed.
            if let Some(next) = schedule.next(clock::now(), &zone) {
                self.queue.add_after(key, until(next));
            }
            return;
        }
        self.queue.add(key);
    }

    fn schedule(&self, cron: &CronJob) -> Result<(Schedule, TimeZone), Problem> {
        let zone = self.zones.get(cron.spec.time_zone.as_deref().unwrap_or_default());
        let zone = zone.map_err(Problem::Zone)?;
        Ok((Schedule::parse(&cron.spec.schedule).map_err(Problem::Schedule)?, zone))
    }

    async fn carry_out(&self, key: &Key, cron: &CronJob, plan: Plan<'_>) -> Result<()> {
        for notice in plan.notices {
            self.events.notice(cron, notice);
        }
        for job in &plan.delete {
            let name = pods::name(&job.metadata);
            if let Err(error) = apis::delete(&self.client, *job).await {
                self.events.warning(cron, "FailedDelete", format!("Deleted job: {}", error.said()));
                return Err(error);
            }
            self.events.normal(cron, "SuccessfulDelete", format!("Deleted job {name}"));
        }
        let mut status = plan.status;
        let mut outcome = Ok(());
        if let Some((job, at)) = plan.start.zip(plan.scheduled) {
            match self.start(key, cron, *job).await {
                Ok(Some(reference)) => planner::started(&mut status, reference, at),
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        }
        if cron.status.clone().unwrap_or_default() != status {
            let mut updated = cron.clone();
            updated.status = Some(status);
            apis::replace_status(&self.client, &self.caches.cron_jobs, &updated).await?;
        }
        outcome
    }

    /// The Jobs of the CronJob, those included that it lists and that the cache does not know yet.
    async fn jobs_of(&self, key: &Key, cron: &CronJob) -> Result<Vec<Arc<Job>>> {
        let mut jobs = self.caches.jobs.indexed(&owned_by(pods::uid(&cron.metadata)));
        let listed = cron.status.iter().flat_map(|status| status.active.iter().flatten());
        let unknown: Vec<&ObjectReference> =
            listed.filter(|active| !jobs.iter().any(|job| job.metadata.uid == active.uid)).collect();
        let api = apis::namespaced::<Job>(&self.client, &key.namespace);
        for active in unknown {
            let Some(name) = active.name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let there = api.get_opt(name).await.during(|| format!("reading Job {}/{name}", key.namespace))?;
            jobs.extend(there.filter(|job| job.metadata.uid == active.uid).map(Arc::new));
        }
        Ok(jobs)
    }

    /// Starts a Job, or finds the one that was started already. Returns a reference to it, when it is ours.
    async fn start(&self, key: &Key, cron: &CronJob, mut job: Job) -> Result<Option<ObjectReference>> {
        job.metadata.owner_references = Some(vec![controller_reference(cron)]);
        let name = pods::name(&job.metadata).to_owned();
        let api = apis::namespaced::<Job>(&self.client, &key.namespace);
        match api.create(&PostParams::default(), &job).await {
            Ok(job) => {
                self.events.normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                Ok(Some(reference(&job)))
            }
            // Started before, and the status not written: so be it now.
            Err(error) if code(&error) == 409 => {
                let there =
                    api.get_opt(&name).await.during(|| format!("reading Job {}/{name}", key.namespace))?;
                let ours = there.filter(|job| {
                    pods::controller(&job.metadata)
                        .is_some_and(|owner| Some(&owner.uid) == cron.metadata.uid.as_ref())
                });
                Ok(ours.map(|job| reference(&job)))
            }
            Err(error) if namespace_ends(&error) => Ok(None),
            Err(error) => {
                let error = Err(error).during(|| format!("creating Job {}/{name}", key.namespace));
                if let Err(error) = &error {
                    let text = format!("Error creating job: {}", error.said());
                    self.events.warning(cron, "FailedCreate", text);
                }
                error
            }
        }
    }
}

impl Reconciler for CronJobs {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(cron) = self.caches.cron_jobs.get(key) else { return Ok(None) };
        let jobs = self.jobs_of(key, &cron).await?;
        let schedule = self.schedule(&cron);
        let plan = planner::plan(Input { cron: &cron, jobs: &refs(&jobs), schedule, now: clock::now() });
        let again = plan.again_at.map(until);
        self.carry_out(key, &cron, plan).await?;
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn zones_are_found_and_nothing_else_is_read() {
        let zones = Zones { dir: "/usr/share/zoneinfo".into(), known: Mutex::new(HashMap::new()) };
        assert_eq!(zones.get("").unwrap(), TimeZone::UTC);
        let noon: Timestamp = "2026-07-01T12:00:00Z".parse().unwrap();
        assert_eq!(zones.get("Europe/Berlin").unwrap().to_datetime(noon).hour(), 14);
        for name in ["../passwd", "/etc/passwd", "Europe//Berlin", "No/Where", "Europe/.."] {
            assert!(zones.get(name).unwrap_err().contains("unknown time zone"), "{name}");
        }
    }
}
