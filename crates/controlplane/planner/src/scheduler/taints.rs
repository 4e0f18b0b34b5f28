//! Taints and tolerations.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// The taint that `kubectl cordon` stands for.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// One taint, compact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NodeTaint {
    key: Box<str>,
    value: Box<str>,
    effect: Box<str>,
}

/// Everything about a node that tolerations speak to; interned, since many nodes have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct TaintSet {
    pub unschedulable: bool,
    taints: Vec<NodeTaint>,
}

/// What a pod makes of the taints of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Welcome {
    /// It may go there; that many soft taints speak against it.
    Yes(u16),
    Cordoned,
    Untolerated,
}

impl TaintSet {
    pub fn new(unschedulable: bool, taints: &[Taint]) -> Self {
        let compact = |t: &Taint| NodeTaint {
            key: t.key.as_str().into(),
            value: t.value.as_deref().unwrap_or_default().into(),
            effect: t.effect.as_str().into(),
        };
        Self { unschedulable, taints: taints.iter().map(compact).collect() }
    }

    /// What a pod with these tolerations makes of it.
    pub fn welcome(&self, tolerations: &[Tolerates]) -> Welcome {
        let tolerated = |t: &NodeTaint| tolerations.iter().any(|tol| tol.covers(&t.key, &t.value, &t.effect));
        if self.unschedulable && !tolerations.iter().any(|t| t.covers(UNSCHEDULABLE_TAINT, "", "NoSchedule"))
        {
            return Welcome::Cordoned;
        }
        if !self.hard_tolerated(tolerations) {
            return Welcome::Untolerated;
        }
        let soft = self.taints.iter().filter(|t| &*t.effect == "PreferNoSchedule");
        Welcome::Yes(u16::try_from(soft.filter(|t| !tolerated(t)).count()).unwrap_or(u16::MAX))
    }

    /// The same for who does not mind cordons.
    pub fn without_cordon(&self) -> Self {
        Self { unschedulable: false, taints: self.taints.clone() }
    }

    /// The same for who does not mind hard taints.
    pub fn soft_only(&self) -> Self {
        let soft = self.taints.iter().filter(|t| &*t.effect == "PreferNoSchedule");
        Self { unschedulable: false, taints: soft.cloned().collect() }
    }

    /// Whether every taint that keeps pods away is tolerated.
    pub fn hard_tolerated(&self, tolerations: &[Tolerates]) -> bool {
        let hard = self.taints.iter().filter(|t| matches!(&*t.effect, "NoSchedule" | "NoExecute"));
        hard.into_iter().all(|t| tolerations.iter().any(|tol| tol.covers(&t.key, &t.value, &t.effect)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operator {
    Equal,
    Exists,
    Greater,
    Less,
    Never,
}

/// A toleration, compact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Tolerates {
    key: Box<str>,
    operator: Operator,
    value: Box<str>,
    effect: Box<str>,
}

impl Tolerates {
    pub fn new(toleration: &Toleration) -> Self {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        let operator = match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => Operator::Equal,
            "Exists" => Operator::Exists,
            "Gt" => Operator::Greater,
            "Lt" => Operator::Less,
            _ => Operator::Never,
        };
        Self {
            key: text(&toleration.key),
            operator,
            value: text(&toleration.value),
            effect: text(&toleration.effect),
        }
    }

    fn covers(&self, key: &str, value: &str, effect: &str) -> bool {
        if !self.effect.is_empty() && *self.effect != *effect {
            return false;
        }
        if self.key.is_empty() {
            return self.operator == Operator::Exists;
        }
        let numbers = || Some((value.parse::<i64>().ok()?, self.value.parse::<i64>().ok()?));
        *self.key == *key
            && match self.operator {
                Operator::Equal => *self.value == *value,
                Operator::Exists => true,
                Operator::Greater => numbers().is_some_and(|(a, b)| a > b),
                Operator::Less => numbers().is_some_and(|(a, b)| a < b),
                Operator::Never => false,
            }
    }
}

/// Whether one toleration covers the taint.
pub fn tolerates_taint(toleration: &Toleration, taint: &Taint) -> bool {
    let value = taint.value.as_deref().unwrap_or_default();
    Tolerates::new(toleration).covers(&taint.key, value, &taint.effect)
}

/// So many seconds who has these tolerations may stay beside that taint, for ever if nothing; `untolerated` when none of them
/// covers it.
pub fn patience(tolerations: &[Toleration], taint: &Taint, untolerated: u64) -> Option<u64> {
    let mut tolerating = tolerations.iter().filter(|t| tolerates_taint(t, taint)).peekable();
    if tolerating.peek().is_none() {
        return Some(untolerated);
    }
    let seconds = tolerating.filter_map(|t| t.toleration_seconds).min()?;
    Some(u64::try_from(seconds).unwrap_or(0))
}
