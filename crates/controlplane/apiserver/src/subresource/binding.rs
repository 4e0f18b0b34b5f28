//! `pods/binding`: the scheduler's decision.

mod splice;

use std::sync::Arc;

use http::Response;
use sampan_api::{kinds::Gvk, status::Status, validation};
use sampan_store::{Compare, Op, Txn, TxnResponse};
use serde_json::Value;

use self::splice::{Refusal, Wanted};
use crate::{
    admission::{self, Operation, Review},
    body::Body,
    call::{self, Call, text},
    core::Core,
    subresource::done,
};

/// Rounds when somebody else changes the pod meanwhile.
const TRIES: usize = 8;

/// What refusals are about.
const BINDINGS: (&str, &str) = ("", "pods/binding");

const BINDING: Gvk = Gvk { group: "", version: "v1", kind: "Binding" };

/// Binds the pod in the path to a node.
pub(crate) async fn bind(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let (mut binding, _) = call.decode(BINDING)?;
    call::place(call, &mut binding)?;
    call::check_name(call, &mut binding)?;
    run(core, call, binding).await
}

/// Binds the pod that a `Binding` posted to `/bindings` names.
pub(crate) async fn bind_named(core: &Arc<Core>, call: &mut Call) -> Result<Response<Body>, Status> {
    let (mut binding, _) = call.decode(BINDING)?;
    call::place(call, &mut binding)?;
    call.target.name = Some(text(&binding, "/metadata/name").to_owned());
    call.endpoint = core.endpoint("", "v1", "pods")?;
    run(core, call, binding).await
}

async fn run(core: &Arc<Core>, call: &Call, binding: Value) -> Result<Response<Body>, Status> {
    let dry_run = call.query.dry_run()?;
    let mut review = Review::new(call, Operation::Create, binding, dry_run);
    (review.subresource, review.kind) = ("binding", BINDING);
    admission::mutate(core, &mut review).await?;
    let errors = validation::binding(&review.object);
    if !errors.is_empty() {
        return Err(Status::invalid(("", "Binding"), call.name(), &errors));
    }
    admission::validate(core, &mut review).await?;
    store(core, call, &review.object, dry_run).await?;
    Ok(done())
}

/// Puts the pod on its node, unless it is on one already or something else is in the way.
async fn store(core: &Arc<Core>, call: &Call, binding: &Value, dry_run: bool) -> Result<(), Status> {
    let resource = call.endpoint.resource;
    let version = text(binding, "/metadata/resourceVersion");
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let given = |key: &str| binding["metadata"].get(key).and_then(Value::as_object);
    let wanted = Wanted {
        uid: text(binding, "/metadata/uid"),
        node: text(binding, "/target/name"),
        annotations: given("annotations"),
        labels: given("labels"),
        now: &now,
    };
    for _ in 0..TRIES {
        let found = core.fetch(&call.endpoint, call.namespace(), call.name()).await?;
        let found = found.ok_or_else(|| Status::not_found(resource, call.name()))?;
        if !version.is_empty() && version != "0" && version != found.mod_revision.to_string() {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
                found.mod_revision
            );
            return Err(Status::conflict_because(BINDINGS, call.name(), why));
        }
        let bound = splice::bound(&found.value, &wanted).map_err(|why| refused(call, &wanted, why))?;
        if dry_run {
            return Ok(());
        }
        let put = Op::Put { key: found.key.clone(), value: bound.into_boxed_slice().into(), lease: 0 };
        let unchanged = Compare::ModRevision(found.key, found.mod_revision);
        let txn = Txn { compare: vec![unchanged], ops: vec![put] };
        if let TxnResponse::Committed(_) = core.commit(txn).await? {
            return Ok(());
        }
        // Somebody else changed the pod meanwhile: it is looked at again.
    }
    Err(Status::conflict(resource, call.name()))
}

fn refused(call: &Call, wanted: &Wanted<'_>, refusal: Refusal) -> Status {
    let name = call.name();
    let why = match refusal {
        Refusal::Another(uid) => return Status::uid_mismatch(BINDINGS, name, wanted.uid, &uid),
        Refusal::Damaged(why) => return Status::internal(format!("stored object is damaged: {why}")),
        Refusal::Terminating => format!("pod {name} is being deleted, cannot be assigned to a host"),
        Refusal::Assigned(node) => format!("pod {name} is already assigned to node \"{node}\""),
        Refusal::Gated => format!("pod {name} has non-empty .spec.schedulingGates"),
    };
    Status::conflict_because(BINDINGS, name, why)
}
