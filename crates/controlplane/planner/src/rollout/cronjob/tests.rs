//! One look at a CronJob in many situations.

use serde_json::{Value, json};

use super::*;

/// The Job of ten o'clock is `c-29454360`.
const JUST_AFTER: &str = "2026-01-01T10:00:10Z";
const HALF_PAST: &str = "2026-01-01T10:30:00Z";

struct Case {
    spec: Value,
    status: Value,
    jobs: Vec<Value>,
    now: &'static str,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            spec: json!({}),
            status: json!({"lastScheduleTime": "2026-01-01T09:00:00Z"}),
            jobs: Vec::new(),
            now: JUST_AFTER,
        }
    }
}

fn job_named(name: &str, end: &str, started: &str) -> Value {
    let conditions = if end.is_empty() { json!([]) } else { json!([{"type": end, "status": "True"}]) };
    let mut status = json!({"startTime": started, "conditions": conditions});
    if end == "Complete" {
        status["completionTime"] = started.into();
    }
    json!({"metadata": {"name": name, "uid": name, "namespace": "ns"}, "status": status})
}

fn active(names: &[&str]) -> Value {
    json!(names.iter().map(|name| json!({"name": name, "uid": name})).collect::<Vec<_>>())
}

/// What came of it: words for deletions and the start, notices, and the status.
struct Outcome {
    words: String,
    reasons: Vec<&'static str>,
    status: CronJobStatus,
    again: Option<String>,
}

fn run(case: &Case) -> Outcome {
    let mut value = json!({
        "metadata": {"name": "c", "namespace": "ns", "uid": "c", "creationTimestamp": "2026-01-01T08:30:00Z"},
        "spec": {"schedule": "0 * * * *", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
            "concurrencyPolicy": "Allow",
            "jobTemplate": {"metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}}, "spec": {"template": {}}}},
        "status": case.status,
    });
    value["spec"].as_object_mut().unwrap().extend(case.spec.as_object().unwrap().clone());
    let cron: CronJob = serde_json::from_value(value).unwrap();
    let jobs: Vec<Job> = case.jobs.iter().map(|j| serde_json::from_value(j.clone()).unwrap()).collect();
    let schedule = Schedule::parse(&cron.spec.schedule).map_err(Problem::Schedule);
    let zone = match cron.spec.time_zone.as_deref() {
        None => Ok(TimeZone::UTC),
        Some("+2") => TimeZone::posix("XXX-2").map_err(|e| Problem::Zone(e.to_string())),
        Some(other) => Err(Problem::Zone(format!("unknown time zone {other}"))),
    };
    let schedule = zone.and_then(|zone| Ok((schedule?, zone)));
    let refs: Vec<&Job> = jobs.iter().collect();
    let plan = plan(Input { cron: &cron, jobs: &refs, schedule, now: case.now.parse().unwrap() });
    let mut words: Vec<String> =
        plan.delete.iter().map(|j| format!("-{}", pods::name(&j.metadata))).collect();
    words.extend(plan.start.iter().map(|j| format!("+{}", pods::name(&j.metadata))));
    assert_eq!(plan.start.is_some(), plan.scheduled.is_some());
    Outcome {
        words: words.join(" "),
        reasons: plan.notices.iter().map(|n| n.reason).collect(),
        status: plan.status,
        again: plan.again_at.map(|t| t.to_string()),
    }
}

fn check(cases: Vec<(&str, Case, &str, &[&str])>) {
    for (what, case, words, reasons) in cases {
        let outcome = run(&case);
        assert_eq!(outcome.words, words, "{what}");
        assert_eq!(outcome.reasons, reasons, "{what}");
    }
}

#[test]
fn when_a_job_starts_and_when_not() {
    const NOT_YET: &str = "2026-01-01T09:30:00Z";
    const NOON: &str = "2026-01-01T12:30:00Z";
    let started = "+c-29454360";
    check(vec![
        ("its time has come", Case::default(), started, &[]),
        ("its time has not come", Case { now: NOT_YET, ..Case::default() }, "", &[]),
        ("suspended", Case { spec: json!({"suspend": true}), ..Case::default() }, "", &[]),
        ("nothing noted: since creation", Case { status: json!({}), ..Case::default() }, started, &[]),
        (
            "started already",
            Case { status: json!({"lastScheduleTime": "2026-01-01T10:00:00Z"}), ..Case::default() },
            "",
            &[],
        ),
        (
            "started and the time not noted",
            Case {
                status: json!({"lastScheduleTime": "2026-01-01T09:00:00Z", "active": active(&["c-29454360"])}),
                jobs: vec![job_named("c-29454360", "", JUST_AFTER)],
                ..Case::default()
            },
            "",
            &[],
        ),
        ("several missed: the last", Case { now: NOON, ..Case::default() }, "+c-29454480", &[]),
        (
            "late, within the deadline",
            Case { spec: json!({"startingDeadlineSeconds": 3600}), now: HALF_PAST, ..Case::default() },
            started,
            &[],
        ),
        (
            "late, beyond the deadline",
            Case { spec: json!({"startingDeadlineSeconds": 600}), now: HALF_PAST, ..Case::default() },
            "",
            &[],
        ),
        (
            "far too many missed",
            Case { spec: json!({"schedule": "* * * * *"}), now: "2026-01-03T00:00:30Z", ..Case::default() },
            "+c-29456640",
            &["TooManyMissedTimes"],
        ),
        (
            "not a schedule",
            Case { spec: json!({"schedule": "x"}), ..Case::default() },
            "",
            &["UnparseableSchedule"],
        ),
        (
            "not a zone",
            Case { spec: json!({"timeZone": "Mars/Base"}), ..Case::default() },
            "",
            &["UnknownTimeZone"],
        ),
        (
            "never",
            Case { spec: json!({"schedule": "0 0 31 2 *"}), ..Case::default() },
            "",
            &["InvalidSchedule"],
        ),
    ]);
}

#[test]
fn what_others_that_run_mean() {
    let running = || vec![job_named("old", "", "2026-01-01T09:00:00Z")];
    let listed = || json!({"lastScheduleTime": "2026-01-01T09:00:00Z", "active": active(&["old"])});
    let started = "+c-29454360";
    check(vec![
        ("one runs, allowed", Case { jobs: running(), status: listed(), ..Case::default() }, started, &[]),
        (
            "one runs, forbidden",
            Case {
                spec: json!({"concurrencyPolicy": "Forbid"}),
                jobs: running(),
                status: listed(),
                ..Case::default()
            },
            "",
            &["JobAlreadyActive"],
        ),
        (
            "one runs, replaced",
            Case {
                spec: json!({"concurrencyPolicy": "Replace"}),
                jobs: running(),
                status: listed(),
                ..Case::default()
            },
            "-old +c-29454360",
            &[],
        ),
        (
            "one that nobody listed does not count",
            Case { spec: json!({"concurrencyPolicy": "Forbid"}), jobs: running(), ..Case::default() },
            started,
            &["UnexpectedJob"],
        ),
        (
            "one that ended does not count",
            Case {
                spec: json!({"concurrencyPolicy": "Forbid"}),
                jobs: vec![job_named("old", "Failed", "2026-01-01T09:00:00Z")],
                status: listed(),
                ..Case::default()
            },
            started,
            &["SawCompletedJob"],
        ),
        (
            "one that vanished does not count",
            Case { spec: json!({"concurrencyPolicy": "Forbid"}), status: listed(), ..Case::default() },
            started,
            &["MissingJob"],
        ),
    ]);
}

#[test]
fn when_it_looks_again() {
    let again = |case: Case| run(&case).again;
    assert_eq!(again(Case::default()).as_deref(), Some("2026-01-01T11:00:00.1Z"));
    for spec in [json!({"suspend": true}), json!({"schedule": "x"}), json!({"timeZone": "Mars/Base"})] {
        assert_eq!(
            again(Case { spec: spec.clone(), ..Case::default() }),
            None,
            "{spec}: nothing to wait for"
        );
    }
    let spec = json!({"schedule": "0 0 31 2 *"});
    assert_eq!(again(Case { spec, ..Case::default() }), None);
}

#[test]
fn the_history_is_kept_short() {
    let jobs = vec![
        job_named("a", "Complete", "2026-01-01T01:00:00Z"),
        job_named("e", "Complete", "2026-01-01T05:00:00Z"),
        job_named("c", "Complete", "2026-01-01T03:00:00Z"),
        job_named("b", "Failed", "2026-01-01T02:00:00Z"),
        job_named("d", "Failed", "2026-01-01T04:00:00Z"),
        job_named("r", "", "2026-01-01T00:00:00Z"),
    ];
    let case = |good: i32, bad: i32| Case {
        spec: json!({"suspend": true, "successfulJobsHistoryLimit": good, "failedJobsHistoryLimit": bad}),
        status: json!({"active": active(&["r", "d"])}),
        jobs: jobs.clone(),
        ..Case::default()
    };
    for (good, bad, words) in [(3, 1, "-b"), (1, 0, "-a -c -b -d"), (0, 5, "-a -c -e"), (9, 9, "")] {
        let outcome = run(&case(good, bad));
        assert_eq!(outcome.words, words);
        let names: Vec<_> = outcome.status.active.unwrap().into_iter().map(|a| a.name.unwrap()).collect();
        assert_eq!(names, ["r"]);
        let last = outcome.status.last_successful_time.unwrap().0.to_string();
        assert_eq!(last, "2026-01-01T05:00:00Z");
    }
}

#[test]
fn jobs_carry_their_time_in_the_zone() {
    for (zone, text) in [(json!(null), "2026-01-01T10:00:00Z"), (json!("+2"), "2026-01-01T12:00:00+02:00")] {
        let cron: CronJob = serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "ns"},
            "spec": {"schedule": "0 * * * *", "timeZone": zone,
                "jobTemplate": {"metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}}}}}))
        .unwrap();
        let tz = if zone.is_null() { TimeZone::UTC } else { TimeZone::posix("XXX-2").unwrap() };
        let job = job(&cron, "2026-01-01T10:00:00Z".parse().unwrap(), &tz);
        let annotations = job.metadata.annotations.unwrap();
        assert_eq!((annotations[SCHEDULED_AT].as_str(), annotations["x"].as_str()), (text, "y"));
        assert_eq!(job.metadata.labels.unwrap()["a"], "b");
    }
}
