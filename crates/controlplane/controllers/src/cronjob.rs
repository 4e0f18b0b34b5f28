//! CronJobs: a Job at each time of a schedule.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::PostParams;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::rollout::cron::Schedule;
use sampan_planner::rollout::job::finished_at;

use crate::apis;
use crate::cache::{Caches, owned_by};
use crate::claim::{controller_reference, owner_key};
use crate::error::{Context, Result, code};
use crate::events::{Recorder, reference};
use crate::informer::Key;
use crate::queue::Queue;
use crate::replicaset::until;
use crate::worker::Reconciler;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this and something is wrong with a clock.
const MISSED: usize = 100;

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
        this.caches.cron_jobs.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.jobs.on(move |change| {
            if let Some(owner) = owner_key::<CronJob>(&change.object().metadata) {
                own.queue.add(owner);
            }
        });
        this
    }

    /// Deletes the oldest of the finished Jobs beyond the limit.
    async fn clean(&self, jobs: &[Arc<Job>], kind: &str, limit: i32) -> Result<()> {
        let mut ended: Vec<&Arc<Job>> = jobs.iter().filter(|job| ended_as(job) == Some(kind)).collect();
        ended.sort_by_key(|job| pods::created(&job.metadata));
        let excess = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in ended.into_iter().take(excess) {
            apis::delete(&self.client, &**job).await?;
        }
        Ok(())
    }

    /// Starts the Job of one scheduled time, unless the policy forbids it. Returns a reference to it.
    async fn start(
        &self,
        key: &Key,
        cron: &CronJob,
        at: Timestamp,
        active: &[Arc<Job>],
    ) -> Result<Option<ObjectReference>> {
        match cron.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let text =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.events.normal(cron, "JobAlreadyActive", text.to_owned());
                return Ok(None);
            }
            Some("Replace") => {
                for job in active {
                    apis::delete(&self.client, &**job).await?;
                    let text = format!("Deleted job {}", pods::name(&job.metadata));
                    self.events.normal(cron, "SuccessfulDelete", text);
                }
            }
            _ => {}
        }
        let job = job(cron, key, at);
        let name = pods::name(&job.metadata).to_owned();
        let api = apis::namespaced::<Job>(&self.client, &key.namespace);
        match api.create(&PostParams::default(), &job).await {
            Ok(job) => {
                self.events.normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                Ok(Some(reference(&job)))
            }
            // Started already, and the status not written: so be it now.
            Err(error) if code(&error) == 409 => Ok(None),
            Err(error) => {
                self.events.warning(cron, "FailedCreate", format!("Error creating job: {error}"));
                Err(error).during(|| format!("creating job {}/{name}", key.namespace))
            }
        }
    }

    async fn write(&self, cron: &CronJob, status: CronJobStatus) -> Result<()> {
        if cron.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut updated = cron.clone();
        updated.status = Some(status);
        apis::replace_status(&self.client, &self.caches.cron_jobs, &updated).await
    }
}

/// `Complete` or `Failed`, when the Job is over.
fn ended_as(job: &Job) -> Option<&str> {
    finished_at(job)?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end =
        conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True");
    end.map(|c| c.type_.as_str())
}

/// The Job of one scheduled time; its name makes sure that there is only one.
fn job(cron: &CronJob, key: &Key, at: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), clock::rfc3339(at));
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", key.name, at.as_second() / 60)),
            namespace: Some(key.namespace.clone()),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// From when on times count that have passed.
fn earliest(cron: &CronJob, now: Timestamp) -> Timestamp {
    let last = cron.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map(|t| t.0);
    let since = last.unwrap_or_else(|| pods::created(&cron.metadata));
    let deadline = cron.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let oldest = deadline.and_then(|d| now.checked_sub(d).ok());
    oldest.map_or(since, |oldest| oldest.max(since))
}

impl Reconciler for CronJobs {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(cron) = self.caches.cron_jobs.get(key) else { return Ok(None) };
        if cron.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let jobs = self.caches.jobs.indexed(&owned_by(pods::uid(&cron.metadata)));
        self.clean(&jobs, "Complete", cron.spec.successful_jobs_history_limit.unwrap_or(3)).await?;
        self.clean(&jobs, "Failed", cron.spec.failed_jobs_history_limit.unwrap_or(1)).await?;

        let mut status = cron.status.clone().unwrap_or_default();
        let active: Vec<Arc<Job>> = jobs.iter().filter(|job| finished_at(job).is_none()).cloned().collect();
        let mut references: Vec<ObjectReference> = active.iter().map(|job| reference(&**job)).collect();
        let completed = jobs.iter().filter_map(|job| job.status.as_ref()?.completion_time.clone());
        status.last_successful_time = completed.chain(status.last_successful_time.take()).max_by_key(|t| t.0);

        let now = clock::now();
        let zone = cron.spec.time_zone.as_deref().unwrap_or_default();
        let parsed = Schedule::parse(&cron.spec.schedule).and_then(|s| Ok((s, self.zones.get(zone)?)));
        let (schedule, zone) = match parsed {
            Ok(parsed) => parsed,
            Err(problem) => {
                let text = format!("unparseable schedule: {} : {problem}", cron.spec.schedule);
                self.events.warning(&*cron, "UnparseableSchedule", text);
                return Ok(None);
            }
        };
        let due = schedule.latest(earliest(&cron, now), now, &zone);
        if let Some((at, missed)) = due.filter(|_| cron.spec.suspend != Some(true)) {
            if missed > MISSED {
                let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                self.events.warning(&*cron, "TooManyMissedTimes", text.to_owned());
            }
            let started = self.start(key, &cron, at, &active).await?;
            let forbidden = started.is_none()
                && cron.spec.concurrency_policy.as_deref() == Some("Forbid")
                && !active.is_empty();
            if started.is_some() && cron.spec.concurrency_policy.as_deref() == Some("Replace") {
                references.clear();
            }
            references.extend(started);
            if !forbidden {
                status.last_schedule_time = Some(Time(at));
            }
        }
        status.active = (!references.is_empty()).then_some(references);
        self.write(&cron, status).await?;
        let next = schedule.next(now, &zone).filter(|_| cron.spec.suspend != Some(true));
        Ok(next.map(until))
    }
}

#[cfg(test)]
mod tests {
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
