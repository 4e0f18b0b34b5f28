//! Small steps to change a JSON object in place. A `null` counts as absent everywhere, as it does in Kubernetes.

use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// Whether the key is absent or `null`.
pub(crate) fn absent(object: &Object, key: &str) -> bool {
    object.get(key).is_none_or(Value::is_null)
}

/// The text at the key; empty when it is absent or no text.
pub(crate) fn text<'a>(object: &'a Object, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Sets the value where there is none (Go: a nil pointer).
pub(crate) fn set(object: &mut Object, key: &str, value: impl Into<Value>) {
    if absent(object, key) {
        object.insert(key.to_owned(), value.into());
    }
}

/// Sets the text where there is none or an empty one (Go: a plain string).
pub(crate) fn set_text(object: &mut Object, key: &str, value: &str) {
    if absent(object, key) || object.get(key).and_then(Value::as_str) == Some("") {
        object.insert(key.to_owned(), value.into());
    }
}

/// Sets the number where there is none or 0 (Go: a plain integer).
pub(crate) fn set_number(object: &mut Object, key: &str, value: i64) {
    if absent(object, key) || object.get(key).and_then(Value::as_i64) == Some(0) {
        object.insert(key.to_owned(), value.into());
    }
}

/// The object at the key.
pub(crate) fn child<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    object.get_mut(key).and_then(Value::as_object_mut)
}

/// The object at the key, made where nothing is; none when something else is there.
pub(crate) fn ensure<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    if absent(object, key) {
        object.insert(key.to_owned(), Value::Object(Object::new()));
    }
    child(object, key)
}

/// The object at the end of the keys, made where nothing is.
pub(crate) fn ensure_path<'a>(object: &'a mut Object, keys: &[&str]) -> Option<&'a mut Object> {
    keys.iter().try_fold(object, |at, key| ensure(at, key))
}

/// Calls the function for each object of the list at the key.
pub(crate) fn each(object: &mut Object, key: &str, mut f: impl FnMut(&mut Object)) {
    if let Some(items) = object.get_mut(key).and_then(Value::as_array_mut) {
        items.iter_mut().filter_map(Value::as_object_mut).for_each(&mut f);
    }
}

/// Writes the quantities of a resource list (`limits` and the like) in their canonical form, rounded up to a
/// thousandth as Kubernetes stores them. One that cannot be read stays for validation to name it.
pub(crate) fn canonical_quantities(object: &mut Object, key: &str) {
    let Some(list) = child(object, key) else { return };
    for value in list.values_mut() {
        canonical_quantity(value);
    }
}

/// Writes one quantity in its canonical form.
pub(crate) fn canonical_quantity(value: &mut Value) {
    let given = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Ok(quantity) = Quantity::parse(&given) {
        *value = Value::String(quantity.canonical());
    }
}
