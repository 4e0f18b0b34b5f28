//! Objects as lists and watches carry them, read in one way.
//!
//! serde reads the object of a watch's event in three ways: as it comes, or, since an event might tell its type last, out
//! of two kinds of buffers. Each is a reader of its own for every kind, with all that a pod's spec may hold. Here an
//! object is first found as text, whatever carries it, and then read from that: one reader a kind.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object of a list or a watch.
#[derive(Clone, Debug)]
pub(crate) struct Whole<K>(pub K);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Whole<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?;
        serde_json::from_str(text.get()).map(Self).map_err(D::Error::custom)
    }
}

impl<K: Resource> Resource for Whole<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::WatchEvent;
    use kube::core::ObjectList;

    use super::*;

    #[test]
    fn events_and_lists_are_read() {
        let object = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"7"},"data":{"k":"\u00e4"}}"#;
        let event = format!(r#"{{"type":"ADDED","object":{object}}}"#);
        let Ok(WatchEvent::Added(Whole::<ConfigMap>(map))) = serde_json::from_str(&event) else {
            panic!("no event")
        };
        assert_eq!(map.data.unwrap()["k"], "ä");
        let list = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMapList","metadata":{{}},"items":[{object},{object}]}}"#
        );
        let list: ObjectList<Whole<ConfigMap>> = serde_json::from_str(&list).unwrap();
        assert_eq!(list.items.len(), 2);
        assert_eq!(list.items[1].meta().resource_version.as_deref(), Some("7"));
        let wrong =
            r#"{"type":"ADDED","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":7}}}"#;
        assert!(serde_json::from_str::<WatchEvent<Whole<ConfigMap>>>(wrong).is_err());
    }
}
