//! What selectors can see of a stored object, read without the rest of it.

use std::fmt;

use sampan_api::kinds::SelectableField;
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// Which fields are read beside the names and the labels.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    /// Plain ones down to so many objects in objects; lists are left out.
    Deep(usize),
    /// Those that a kind offers to selectors.
    Offered(&'static [SelectableField]),
}

/// The names, the labels and the fields that are wanted.
pub(super) fn read(stored: &[u8], wanted: Wanted) -> Option<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(stored);
    let part = match wanted {
        Wanted::Deep(depth) => Part { depth, place: Place::Object },
        Wanted::Offered(fields) => Part { depth: usize::MAX, place: Place::Offered(fields, "") },
    };
    part.deserialize(&mut deserializer).ok()?.filter(Value::is_object)
}

/// Where in the object a part lies.
#[derive(Clone, Copy)]
enum Place {
    Object,
    Metadata,
    Below,
    /// On the way to some of these fields: under this path, which is empty at the top.
    Offered(&'static [SelectableField], &'static str),
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
        let place = match (self.place, key) {
            (Place::Object | Place::Offered(_, ""), "metadata") => Place::Metadata,
            (Place::Metadata, "labels") => return Some(Self { depth: 1, place: Place::Below }),
            (Place::Metadata, "name" | "namespace") | (Place::Object | Place::Below, _) => Place::Below,
            (Place::Metadata, _) => return None,
            (Place::Offered(fields, above), _) => on_the_way(fields, above, key)?,
        };
        Some(Self { depth, place })
    }
}

/// The place of a key on the way to fields.
fn on_the_way(fields: &'static [SelectableField], above: &str, key: &str) -> Option<Place> {
    fields.iter().flat_map(|field| field.paths).find_map(|path| {
        let rest = if above.is_empty() { path } else { path.strip_prefix(above)?.strip_prefix('.')? };
        let rest = rest.strip_prefix(key)?;
        match rest.is_empty() {
            true => Some(Place::Below),
            false if rest.starts_with('.') => Some(Place::Offered(fields, &path[..path.len() - rest.len()])),
            false => None,
        }
    })
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
    use sampan_api::kinds::by_path;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_selectors_see_is_kept() {
        let pod = json!({
            "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"x": "y"}, "uid": "u"},
            "spec": {"nodeName": "n", "hostname": "h", "containers": [{"name": "c"}], "deep": {"a": {"b": 1}}},
            "status": {"phase": "Running"}, "list": [1],
        });
        let seen = json!({
            "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {"nodeName": "n"}, "status": {"phase": "Running"},
        });
        let pods = Wanted::Offered(by_path("", "v1", "pods").unwrap().fields);
        assert_eq!(read(pod.to_string().as_bytes(), pods), Some(seen));
        let deep = read(pod.to_string().as_bytes(), Wanted::Deep(9)).unwrap();
        assert_eq!(deep["spec"], json!({"nodeName": "n", "hostname": "h", "deep": {"a": {"b": 1}}}));
        for wanted in [pods, Wanted::Deep(2)] {
            assert_eq!(read(b"[1]", wanted), None);
            assert_eq!(read(b"{\"a\":", wanted), None);
        }
        // Fields at the top, and such as lie in one of several places.
        let events = Wanted::Offered(by_path("", "v1", "events").unwrap().fields);
        let event = json!({"metadata": {"name": "e"}, "reason": "r", "note": "n", "source": {"component": "c", "host": "h"},
            "involvedObject": {"kind": "Pod", "name": "p", "more": {"a": 1}}, "reportingComponent": "k"});
        let seen = json!({"metadata": {"name": "e"}, "reason": "r", "source": {"component": "c"},
            "involvedObject": {"kind": "Pod", "name": "p"}, "reportingComponent": "k"});
        assert_eq!(read(event.to_string().as_bytes(), events), Some(seen));
    }
}
