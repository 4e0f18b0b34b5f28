//! InstanceType: a pod that asks for a shape gets it into its spec.

use std::sync::Arc;

use sampan_api::{
    instancetype::{self, Shape},
    status::Status,
};
use sampan_store::{KeyValue, Range};
use serde_json::Value;

use super::{Operation, Review};
use crate::{core::Core, storage::store_error};

/// Where the types lie. Their kind is defined while the server runs; what it says holds from the first object on.
pub(crate) const PREFIX: &str = "/registry/sampan.io/instancetypes/";

/// One that makes no sense is as good as none.
pub(crate) fn parse(kv: &KeyValue) -> Option<Shape> {
    let object: Value = serde_json::from_slice(&kv.value).ok()?;
    Shape::read(&object).ok()
}

/// Puts the type that a new pod asks for into its spec.
pub(crate) async fn complete(core: &Core, review: &mut Review<'_>) -> Result<(), Status> {
    let concerns = review.operation == Operation::Create && review.subresource.is_empty();
    let Some(state) = core.admission.get().filter(|_| concerns && instancetype::asks(&review.object)) else {
        return Ok(());
    };
    state.instance_types.settle().await;
    let mut types: Vec<Arc<Shape>> = state.instance_types.objects().values().cloned().collect();
    if let Some(name) = instancetype::asks_for_shape(&review.object)
        && !types.iter().any(|shape| shape.name == name)
    {
        // Another server may have made it a moment ago.
        let range = Range { start: format!("{PREFIX}{name}").into(), ..Range::default() };
        let made = core.options.store.range(range).await.map_err(|error| store_error(&error))?;
        types.extend(made.kvs.first().and_then(parse).map(Arc::new));
    }
    let types: Vec<&Shape> = types.iter().map(|shape| &**shape).collect();
    match instancetype::apply(&mut review.object, &types) {
        Ok(_) => Ok(()),
        Err(why) => Err(review.forbidden(why)),
    }
}
