//! Defaults of `rbac.authorization.k8s.io` and `flowcontrol.apiserver.k8s.io`.

use super::edit::{self, Object};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn binding(object: &mut Object) {
    if let Some(reference) = edit::ensure(object, "roleRef") {
        edit::set_text(reference, "apiGroup", RBAC);
    }
    edit::each(object, "subjects", |subject| {
        if matches!(edit::text(subject, "kind"), "User" | "Group") {
            edit::set_text(subject, "apiGroup", RBAC);
        }
    });
}

pub(super) fn flow_schema(object: &mut Object) {
    if let Some(spec) = edit::ensure(object, "spec") {
        edit::set_number(spec, "matchingPrecedence", 1000);
    }
}

pub(super) fn priority_level(object: &mut Object) {
    let Some(spec) = edit::ensure(object, "spec") else { return };
    if let Some(exempt) = edit::child(spec, "exempt") {
        edit::set(exempt, "nominalConcurrencyShares", 0);
        edit::set(exempt, "lendablePercent", 0);
    }
    let Some(limited) = edit::child(spec, "limited") else { return };
    edit::set(limited, "nominalConcurrencyShares", 30);
    edit::set(limited, "lendablePercent", 0);
    let queuing = edit::child(limited, "limitResponse").and_then(|response| edit::child(response, "queuing"));
    if let Some(queuing) = queuing {
        edit::set_number(queuing, "queues", 64);
        edit::set_number(queuing, "handSize", 8);
        edit::set_number(queuing, "queueLengthLimit", 50);
    }
}
