//! What selectors can see of a stored object, read without the rest of it.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// The names, the labels, and plain fields down to a depth of objects in objects; lists are left out.
pub(super) fn read(stored: &[u8], depth: usize) -> Option<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(stored);
    Part { depth, place: Place::Object }.deserialize(&mut deserializer).ok()?.filter(Value::is_object)
}

/// Where in the object a part lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Object,
    Metadata,
    Below,
}

/// A value of which only plain fields are kept; nothing when nothing is.
struct Part {
    depth: usize,
    place: Place,
}

impl Part {
    /// The part under a key; none when it is of no use to selectors.
    fn inside(&self, key: &str) -> Option<Self> {
        let depth = self.depth - 1;
        match (self.place, key) {
            (Place::Object, "metadata") => Some(Self { depth, place: Place::Metadata }),
            (Place::Metadata, "labels") => Some(Self { depth: 1, place: Place::Below }),
            (Place::Metadata, "name" | "namespace") | (Place::Object | Place::Below, _) => {
                Some(Self { depth, place: Place::Below })
            }
            (Place::Metadata, _) => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Some(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        if self.depth == 0 {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(None);
        }
        let mut out = Map::new();
        while let Some(member) = map.next_key_seed(Key(&self))? {
            let Some((key, part)) = member else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if let Some(value) = map.next_value_seed(part)? {
                out.insert(key, value);
            }
        }
        Ok(Some(out.into()))
    }
}

/// The name of a member and what of it is read; nothing when it is of no use.
struct Key<'p>(&'p Part);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<(String, Part)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<(String, Part)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.inside(key).map(|part| (key.to_owned(), part)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_selectors_see_is_kept() {
        let pod = json!({
            "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"x": "y"}, "uid": "u"},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}], "deep": {"a": {"b": 1}}},
            "status": {"phase": "Running"}, "list": [1],
        });
        let seen = json!({
            "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {"nodeName": "n"}, "status": {"phase": "Running"},
        });
        assert_eq!(read(pod.to_string().as_bytes(), 2), Some(seen));
        let deep = read(pod.to_string().as_bytes(), 9).unwrap();
        assert_eq!(deep["spec"], json!({"nodeName": "n", "deep": {"a": {"b": 1}}}));
        assert_eq!(read(b"[1]", 2), None);
        assert_eq!(read(b"{\"a\":", 2), None);
    }
}
