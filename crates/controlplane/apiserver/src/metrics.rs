//! Counts and durations of requests, in Prometheus' text form.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Upper bounds of the duration histogram, in seconds.
const BOUNDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

/// Series kept at most; further label sets are counted under `other`.
const MOST: usize = 2000;

/// Verb, resource (or path class) and status code.
type Labels = (&'static str, Cow<'static, str>, u16);

/// The server's own measurements.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<Labels, Series>>,
    refused: AtomicU64,
    hooks: Mutex<BTreeMap<HookLabels, (u64, f64)>>,
}

/// Name, type, operation, code, kind of error (empty for none), and whether the failure was let pass.
type HookLabels = (String, &'static str, &'static str, u16, &'static str, bool);

/// What became of a call to a webhook.
pub(crate) struct Hooked {
    pub(crate) name: String,
    /// `admit` or `validating`.
    pub(crate) kind: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) code: u16,
    pub(crate) error: &'static str,
    /// It failed, and the request passes all the same.
    pub(crate) open: bool,
    pub(crate) took: Duration,
}

#[derive(Default, Clone)]
struct Series {
    count: u64,
    seconds: f64,
    buckets: [u64; BOUNDS.len()],
}

impl Metrics {
    /// Counts a request.
    pub(crate) fn record(&self, verb: &'static str, resource: Cow<'static, str>, code: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = (verb, resource, code);
        if requests.len() >= MOST && !requests.contains_key(&labels) {
            labels.1 = "other".into();
        }
        let series = requests.entry(labels).or_default();
        let seconds = took.as_secs_f64();
        series.count += 1;
        series.seconds += seconds;
        for (bucket, bound) in series.buckets.iter_mut().zip(BOUNDS) {
            if seconds <= bound {
                *bucket += 1;
            }
        }
    }

    /// Counts a call to a webhook.
    pub(crate) fn hooked(&self, call: Hooked) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = (call.name, call.kind, call.operation, call.code, call.error, call.open);
        if hooks.len() >= MOST && !hooks.contains_key(&labels) {
            "other".clone_into(&mut labels.0);
        }
        let (count, seconds) = hooks.entry(labels).or_default();
        *count += 1;
        *seconds += call.took.as_secs_f64();
    }

    /// The exposition of calls to webhooks.
    fn hooks_text(&self, out: &mut String) {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let head = "apiserver_admission_webhook";
        for ((name, kind, operation, code, error, open), (count, seconds)) in &hooks {
            let labels = format!("name=\"{name}\",type=\"{kind}\",operation=\"{operation}\"");
            let rejected = !error.is_empty() && !open;
            let result = format!("{labels},code=\"{code}\",rejected=\"{rejected}\"");
            let _ = writeln!(out, "{head}_request_total{{{result}}} {count}");
            let _ = writeln!(out, "{head}_admission_duration_seconds_sum{{{result}}} {seconds}");
            let _ = writeln!(out, "{head}_admission_duration_seconds_count{{{result}}} {count}");
            if rejected {
                let why = format!("{labels},error_type=\"{error}\",rejection_code=\"{code}\"");
                let _ = writeln!(out, "{head}_rejection_count{{{why}}} {count}");
            }
            if *open {
                let _ = writeln!(out, "{head}_fail_open_count{{name=\"{name}\",type=\"{kind}\"}} {count}");
            }
        }
    }

    /// Counts a request that was refused for load.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The exposition.
    pub(crate) fn text(&self, in_flight: usize, long_running: usize) -> String {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut out = String::new();
        let _ = writeln!(out, "# TYPE apiserver_request_total counter");
        for ((verb, resource, code), series) in &requests {
            let _ = writeln!(
                out,
                "apiserver_request_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"}} {}",
                series.count
            );
        }
        let _ = writeln!(out, "# TYPE apiserver_request_duration_seconds histogram");
        for ((verb, resource, code), series) in &requests {
            let labels = format!("verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"");
            let name = "apiserver_request_duration_seconds";
            for (bucket, bound) in series.buckets.iter().zip(BOUNDS) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {bucket}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", series.count);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", series.seconds);
            let _ = writeln!(out, "{name}_count{{{labels}}} {}", series.count);
        }
        let _ = writeln!(out, "# TYPE apiserver_current_inflight_requests gauge");
        let _ = writeln!(out, "apiserver_current_inflight_requests {in_flight}");
        let _ = writeln!(out, "# TYPE apiserver_longrunning_requests gauge");
        let _ = writeln!(out, "apiserver_longrunning_requests {long_running}");
        let _ = writeln!(out, "# TYPE apiserver_rejected_requests_total counter");
        let _ = writeln!(out, "apiserver_rejected_requests_total {}", self.refused.load(Ordering::Relaxed));
        self.hooks_text(&mut out);
        out
    }
}
