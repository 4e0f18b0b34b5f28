//! What workloads do next: each function reads objects and returns what to change, with its reasons.

pub mod cron;
pub mod daemonset;
pub mod deployment;
pub mod hash;
pub mod indexes;
pub mod job;
pub mod replicaset;
pub mod statefulset;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Something worth an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Warning rather than Normal.
    pub warning: bool,
    /// CamelCase reason.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl Notice {
    /// A notice that all is well.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    /// A notice that something is wrong.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }
}

/// A number or a percentage of `total`; what cannot be read counts as 0.
pub fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool, default: &IntOrString) -> i32 {
    match value.unwrap_or(default) {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) else { return 0 };
            let product = percent * i64::from(total);
            let whole = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}
