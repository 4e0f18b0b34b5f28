//! Where the objects of a custom endpoint come from: the definition, and how stored bytes become what is shown.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use sampan_api::{
    custom::{Definition, Kind},
    kinds::Resource,
    status::Status,
};
use sampan_store::{Error, KeyValue, Revision, Watch, WatchBatch};
use serde_json::Value;

use super::{Stored, convert::Converter};
use crate::{core::Core, encode, endpoint::Endpoint, endpoint::head, mirror::Mirror};

/// What a custom endpoint knows of its definition.
pub(crate) struct Origin {
    definition: Arc<Definition>,
    /// Objects that were written later in this version have the form of today's schema.
    since: Revision,
    key: Bytes,
    mirror: Arc<Mirror<Stored>>,
    converter: Converter,
}

impl Origin {
    pub(super) fn new(
        definition: Arc<Definition>,
        since: Revision,
        key: Bytes,
        mirror: Arc<Mirror<Stored>>,
        core: &Arc<Core>,
    ) -> Self {
        let converter = Converter::new(&definition, core);
        Self { definition, since, key, mirror, converter }
    }

    /// Refuses what a definition that goes or is gone does not take any more.
    pub(crate) async fn admits(&self, verb: &str, resource: &Resource) -> Result<(), Status> {
        self.mirror.settle().await;
        match self.mirror.get(&self.key) {
            None => Err(Status::no_such_resource()),
            Some(stored) if stored.leaving && verb == "create" => {
                let mut status = Status::method_not_supported(resource, verb);
                status.message =
                    "create not allowed while custom resource definition is terminating".to_owned();
                Err(status)
            }
            Some(_) => Ok(()),
        }
    }
}

impl Endpoint {
    /// Whether what was read from the store lies there in another version than the one to store.
    pub(crate) fn is_stale(&self, stored: &[u8]) -> bool {
        let Some(origin) = &self.origin else { return false };
        let storage = origin.definition.storage().map(|version| head(version.kind.resource()));
        storage.is_some_and(|head| !stored.starts_with(head.as_bytes()))
    }

    /// Turns stored objects into those of this endpoint's version and schema. Nothing happens to built-in ones, nor to
    /// those that were written in this form.
    pub(crate) async fn present(&self, kvs: &mut [KeyValue]) -> Result<(), Status> {
        let (Some(origin), Some(kind)) = (&self.origin, &self.custom) else { return Ok(()) };
        let is_old = |kv: &KeyValue| {
            !kv.value.is_empty()
                && (kv.mod_revision <= origin.since || !kv.value.starts_with(self.head.as_bytes()))
        };
        if !kvs.iter().any(is_old) {
            return Ok(());
        }
        let mut old: Vec<&mut KeyValue> = kvs.iter_mut().filter(|kv| is_old(kv)).collect();
        let mut objects = Vec::with_capacity(old.len());
        for kv in &old {
            objects.push(encode::parse(self, &kv.value, kv.mod_revision)?);
        }
        let objects = self.converted(origin, kind, objects).await?;
        for (kv, object) in old.iter_mut().zip(objects) {
            kv.value = encode::canonical(self, &object)?;
        }
        Ok(())
    }

    async fn converted(
        &self,
        origin: &Origin,
        kind: &Kind,
        objects: Vec<Value>,
    ) -> Result<Vec<Value>, Status> {
        // The schema of the version that an object was written in counts first.
        let mut objects = objects;
        for object in &mut objects {
            let version =
                object["apiVersion"].as_str().and_then(|v| v.rsplit('/').next()).unwrap_or_default();
            if let Some(written) = origin.definition.version(version) {
                written.kind.refresh(object);
            }
        }
        let mut objects = origin.converter.convert(objects, kind.resource()).await?;
        objects.iter_mut().for_each(|object| kind.refresh(object));
        Ok(objects)
    }

    /// The bytes to store of an object of this endpoint's version.
    pub(crate) async fn stored(&self, object: &Value) -> Result<Bytes, Status> {
        let storage = self.origin.as_ref().and_then(|origin| {
            let storage = origin.definition.storage()?;
            (storage.kind.resource().version != self.resource.version).then_some((origin, storage))
        });
        let Some((origin, storage)) = storage else { return encode::canonical(self, object) };
        let resource = storage.kind.resource();
        let mut objects = origin.converter.convert(vec![object.clone()], resource).await?;
        let mut object = objects.pop().unwrap_or_default();
        storage.kind.refresh(&mut object);
        encode::canonical_as(&head(resource), &object)
    }

    /// A store watch whose objects are those of this endpoint.
    pub(crate) fn present_watch(self: &Arc<Self>, watch: Watch) -> Watch {
        if self.origin.is_none() {
            return watch;
        }
        let endpoint = self.clone();
        Box::pin(watch.then(move |batch| {
            let endpoint = endpoint.clone();
            async move {
                let batch = batch?;
                if batch.events.is_empty() {
                    return Ok(batch);
                }
                let mut events = batch.events.to_vec();
                let mut kvs: Vec<KeyValue> = events.iter().map(|event| event.kv.clone()).collect();
                kvs.extend(events.iter().filter_map(|event| event.prev.clone()));
                let failed = |status: Status| Error::Unavailable(status.message);
                endpoint.present(&mut kvs).await.map_err(failed)?;
                let mut shown = kvs.into_iter();
                for event in &mut events {
                    event.kv = shown.next().unwrap_or_else(|| event.kv.clone());
                }
                for event in events.iter_mut().filter(|event| event.prev.is_some()) {
                    event.prev = shown.next();
                }
                Ok(WatchBatch { revision: batch.revision, events: events.into() })
            }
        }))
    }
}
