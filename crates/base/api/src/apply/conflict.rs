//! Fields that somebody else owns, and how the applier is told.

use super::managed::Manager;
use super::set::{Path, Set};
use crate::status::{Cause, Status, go_quote};

/// What the appliers' causes are called.
const REASON: &str = "FieldManagerConflict";

/// A field that another manager owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conflict {
    pub(super) manager: Manager,
    pub(super) path: Path,
}

/// The conflicts with each manager, in the managers' order.
pub(super) fn of(mut sets: Vec<(Manager, Set)>) -> Vec<Conflict> {
    sets.sort_by_cached_key(|(manager, _)| manager.identifier());
    let conflicts = |(manager, set): (Manager, Set)| {
        set.paths().into_iter().map(move |path| Conflict { manager: manager.clone(), path })
    };
    sets.into_iter().flat_map(conflicts).collect()
}

fn named(manager: &Manager) -> String {
    let mut out = go_quote(&manager.name);
    if !manager.subresource.is_empty() {
        out.push_str(&format!(" with subresource {}", go_quote(&manager.subresource)));
    }
    if !manager.applies {
        out.push_str(&format!(" using {}", manager.api_version));
    }
    out
}

/// 409 with a cause for each field.
pub(super) fn status(conflicts: &[Conflict]) -> Status {
    let cause = |c: &Conflict| Cause {
        reason: REASON.to_owned(),
        message: format!("conflict with {}", named(&c.manager)),
        field: c.path.to_string(),
    };
    let message = if let [one] = conflicts {
        format!("Apply failed with 1 conflict: conflict with {}: {}", named(&one.manager), one.path)
    } else {
        let mut lines = Vec::new();
        let mut last = None;
        for conflict in conflicts {
            if last != Some(&conflict.manager) {
                lines.push(format!("conflicts with {}:", named(&conflict.manager)));
                last = Some(&conflict.manager);
            }
            lines.push(format!("- {}", conflict.path));
        }
        format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
    };
    Status::apply_conflict(conflicts.iter().map(cause).collect(), message)
}
