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
        serde_json::from_str(&without_managers(text.get())).map(Self).map_err(D::Error::custom)
    }
}

/// An object's text without its managed fields: a third of it or more, a tree for each manager, and read by nobody here.
fn without_managers(text: &str) -> Cow<'_, str> {
    const KEY: &str = "\"managedFields\":[";
    let Some(key) = text.find(KEY) else { return text.into() };
    // The name of a member, and one of a member of the object: inside of a text quotes are escaped.
    let before = text[..key].bytes().next_back();
    if !matches!(before, Some(b'{' | b',')) || depth(text[..key].bytes()) != 2 {
        return text.into();
    }
    let list = key + KEY.len() - 1;
    let Some(length) = closed(text[list..].bytes()) else { return text.into() };
    let (mut from, mut to) = (key, list + length);
    match (before, text[to..].bytes().next()) {
        (Some(b','), _) => from -= 1,
        (_, Some(b',')) => to += 1,
        _ => {}
    }
    [&text[..from], &text[to..]].concat().into()
}

/// How each byte of JSON changes the depth; in texts none does.
fn steps(bytes: impl Iterator<Item = u8>) -> impl Iterator<Item = i32> {
    let (mut quoted, mut escaped) = (false, false);
    bytes.map(move |byte| {
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            return 0;
        }
        match byte {
            b'"' => {
                quoted = true;
                0
            }
            b'{' | b'[' => 1,
            b'}' | b']' => -1,
            _ => 0,
        }
    })
}

/// In how many objects and lists that is which follows.
fn depth(bytes: impl Iterator<Item = u8>) -> i32 {
    steps(bytes).sum()
}

/// How long the list or object is that begins there; none when it does not end.
fn closed(bytes: impl Iterator<Item = u8>) -> Option<usize> {
    let mut depth = 0;
    let ends = |step: i32| {
        depth += step;
        step < 0 && depth == 0
    };
    steps(bytes).position(ends).map(|last| last + 1)
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
    fn managers_are_left_out_and_nothing_else() {
        let managers = r#""managedFields":[{"manager":"a]\"","fieldsV1":{"f:x":{"k:{\"a\":\"]\"}":{}}}},{"manager":"\\"}]"#;
        for (with, without) in [
            (r#"{"metadata":{"name":"a",@},"data":{}}"#, r#"{"metadata":{"name":"a"},"data":{}}"#),
            (r#"{"metadata":{@,"name":"a"}}"#, r#"{"metadata":{"name":"a"}}"#),
            (r#"{"metadata":{@}}"#, r#"{"metadata":{}}"#),
            (r#"{"metadata":{"a\"":"}{][,",@,"b":1}}"#, r#"{"metadata":{"a\"":"}{][,","b":1}}"#),
        ] {
            assert_eq!(without_managers(&with.replace('@', managers)), without);
        }
        // Deeper ones are somebody's data, and so is what only looks like them.
        for data in [
            r#"{"spec":{"a":{"managedFields":[1]}}}"#,
            r#"{"managedFields":[1]}"#,
            r#"{"data":{"a":",\"managedFields\":[1]"}}"#,
            r#"{"data":{"x\"managedFields":[1]}}"#,
            r#"{"metadata":{"managedFields":[1"#,
            r#"{"metadata":{"managedFields":null}}"#,
        ] {
            assert_eq!(without_managers(data), data);
        }
    }

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
