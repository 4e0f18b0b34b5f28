//! What a CronJob does next: which Job to start, which to end, which to forget.

#[cfg(test)]
mod tests;

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::Notice;
use super::cron::Schedule;
use super::job::ended_as;
use crate::pods;

/// The annotation of a Job with the time that it was scheduled for.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this and something is wrong with a clock.
const MISSED: usize = 100;
/// Clocks of several machines are this far apart at times.
const SKEW: SignedDuration = SignedDuration::from_millis(100);

/// Why there is nothing to go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The schedule is not one.
    Schedule(String),
    /// There is no such time zone.
    Zone(String),
}

/// What there is.
pub struct Input<'i, 'a> {
    /// The CronJob.
    pub cron: &'i CronJob,
    /// The Jobs that it controls.
    pub jobs: &'i [&'a Job],
    /// Its schedule and time zone, read.
    pub schedule: Result<(Schedule, TimeZone), Problem>,
    /// The time.
    pub now: Timestamp,
}

/// One step. It is carried out in the order of the fields.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Jobs to delete: those beyond the history and those to be replaced.
    pub delete: Vec<&'a Job>,
    /// The Job to start. Its name makes sure that there is only one for a time.
    pub start: Option<Box<Job>>,
    /// The status without the Job to start.
    pub status: CronJobStatus,
    /// The time to note as the last one once the Job is started.
    pub scheduled: Option<Timestamp>,
    /// Events to record.
    pub notices: Vec<Notice>,
    /// When the next time comes.
    pub again_at: Option<Timestamp>,
}

/// One step of the CronJob.
pub fn plan<'a>(input: Input<'_, 'a>) -> Plan<'a> {
    let status = input.cron.status.clone().unwrap_or_default();
    let mut work = Work { active: status.active.clone().unwrap_or_default(), input, plan: Plan::default() };
    work.plan.status = status;
    work.clean("Complete", work.input.cron.spec.successful_jobs_history_limit);
    work.clean("Failed", work.input.cron.spec.failed_jobs_history_limit);
    work.look_at_jobs();
    work.decide();
    work.plan.status.active = Some(work.active).filter(|active| !active.is_empty());
    work.plan
}

struct Work<'i, 'a> {
    input: Input<'i, 'a>,
    active: Vec<ObjectReference>,
    plan: Plan<'a>,
}

impl Work<'_, '_> {
    fn is_active(&self, job: &Job) -> bool {
        self.active.iter().any(|a| a.uid == job.metadata.uid)
    }

    /// Deletes the oldest of the finished Jobs beyond the limit.
    fn clean(&mut self, kind: &str, limit: Option<i32>) {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return };
        let mut ended: Vec<_> =
            self.input.jobs.iter().copied().filter(|job| ended_as(job) == Some(kind)).collect();
        let started = |job: &Job| job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        // What never started is the youngest.
        ended.sort_by_key(|job| (started(job).is_none(), started(job), pods::name(&job.metadata)));
        ended.truncate(ended.len().saturating_sub(limit));
        self.active.retain(|a| !ended.iter().any(|job| a.uid == job.metadata.uid));
        self.plan.delete.extend(ended.iter().filter(|job| job.metadata.deletion_timestamp.is_none()));
    }

    /// Takes from the list of active Jobs what has ended or vanished.
    fn look_at_jobs(&mut self) {
        for job in self.input.jobs {
            let name = pods::name(&job.metadata);
            let listed = self.is_active(job);
            match ended_as(job) {
                None if !listed => {
                    let text = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.plan.notices.push(Notice::warning("UnexpectedJob", text));
                }
                None => {}
                Some(end) => {
                    if listed {
                        self.active.retain(|a| a.uid != job.metadata.uid);
                        let text = format!("Saw completed job: {name}, condition: {end}");
                        self.plan.notices.push(Notice::normal("SawCompletedJob", text));
                    }
                    let completed = job.status.as_ref().and_then(|s| s.completion_time.clone());
                    let last = &mut self.plan.status.last_successful_time;
                    if end == "Complete" && completed.as_ref().map(|t| t.0) > last.as_ref().map(|t| t.0) {
                        *last = completed;
                    }
                }
            }
        }
        let jobs = self.input.jobs;
        let (there, missing): (Vec<_>, Vec<_>) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|a| jobs.iter().any(|job| job.metadata.uid == a.uid));
        self.active = there;
        for gone in missing {
            let text = format!("Active job went missing: {}", gone.name.unwrap_or_default());
            self.plan.notices.push(Notice::normal("MissingJob", text));
        }
    }

    fn warn(&mut self, reason: &'static str, text: String) {
        self.plan.notices.push(Notice::warning(reason, text));
    }

    fn decide(&mut self) {
        let cron = self.input.cron;
        if cron.metadata.deletion_timestamp.is_some() {
            return;
        }
        let schedule = std::mem::replace(&mut self.input.schedule, Err(Problem::Schedule(String::new())));
        let zone_problem = matches!(schedule, Err(Problem::Zone(_)));
        if cron.spec.suspend == Some(true) && !zone_problem {
            return;
        }
        let (schedule, zone) = match schedule {
            Ok(parsed) => parsed,
            Err(Problem::Zone(problem)) => {
                let name = cron.spec.time_zone.as_deref().unwrap_or_default();
                return self.warn("UnknownTimeZone", format!("invalid timeZone: {name:?}: {problem}"));
            }
            Err(Problem::Schedule(problem)) => {
                let text = format!("unparseable schedule: {:?} : {problem}", cron.spec.schedule);
                return self.warn("UnparseableSchedule", text);
            }
        };
        let now = self.input.now;
        let next = schedule.next(now, &zone);
        if next.is_none() {
            let text = format!("invalid schedule: {} : no time fits it", cron.spec.schedule);
            return self.warn("InvalidSchedule", text);
        }
        self.plan.again_at = next.and_then(|at| at.checked_add(SKEW).ok());
        let Some((at, missed)) = schedule.latest(earliest(cron, now), now, &zone) else { return };
        if missed > MISSED {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.warn("TooManyMissedTimes", text.to_owned());
        }
        self.start(at, &zone);
    }

    /// Starts the Job of one scheduled time, unless it was or the policy forbids it.
    fn start(&mut self, at: Timestamp, zone: &TimeZone) {
        let cron = self.input.cron;
        let job = job(cron, at, zone);
        let known = self.active.iter().any(|a| a.name == job.metadata.name);
        let noted = self.plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == at);
        if known || noted {
            return;
        }
        match cron.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !self.active.is_empty() => {
                let text =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.plan.notices.push(Notice::normal("JobAlreadyActive", text));
                return;
            }
            Some("Replace") => {
                let replaced = self.input.jobs.iter().copied().filter(|job| self.is_active(job));
                self.plan.delete.extend(replaced.collect::<Vec<_>>());
                self.active.clear();
            }
            _ => {}
        }
        self.plan.start = Some(Box::new(job));
        self.plan.scheduled = Some(at);
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

/// The Job of one scheduled time, without its owner.
fn job(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let format = if zone == &TimeZone::UTC { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    annotations.insert(SCHEDULED_AT.to_owned(), local.strftime(format).to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", pods::name(&cron.metadata), at.as_second().div_euclid(60))),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// Notes that the Job of the plan was started.
pub fn started(status: &mut CronJobStatus, reference: ObjectReference, at: Timestamp) {
    status.active.get_or_insert_default().push(reference);
    status.last_schedule_time = Some(Time(at));
}
