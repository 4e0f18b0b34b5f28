//! Lists that merge: of objects by their key, of scalars as a set.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::error::{PatchError, go_list};
use super::{DIRECTIVE, Merge, Rule, clean, order};

/// What a patch says of the elements of a list.
type Changes = Vec<Map<String, Value>>;

impl<'s> Merge<'s> {
    /// Merges a patch into a list.
    pub(super) fn lists(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        rule: Rule<'s>,
    ) -> Result<Vec<Value>, PatchError> {
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        if !are_objects(&original, &patch)? {
            let (wanted, server) = (patch.clone(), original.clone());
            return order::arrange(distinct(original.into_iter().chain(patch)), &wanted, &server, None);
        }
        let key = rule.key.ok_or(PatchError::NoMergeKey)?;
        let (original, changes) = directives(original, patch, key)?;
        let server_order = order::identities(&original, Some(key));
        let wanted: Vec<Value> = changes.iter().filter_map(|c| c.get(key).cloned()).collect();
        let merged = self.elements(original, changes, key, rule)?;
        order::arrange(merged, &wanted, &server_order, Some(key))
    }

    /// Merges each change into the element of the same key, or adds it.
    fn elements(
        &self,
        mut original: Vec<Value>,
        changes: Changes,
        key: &str,
        rule: Rule<'s>,
    ) -> Result<Vec<Value>, PatchError> {
        let mut places: HashMap<String, usize> = HashMap::new();
        for (place, element) in original.iter().enumerate() {
            if let Some(value) = element.get(key) {
                places.entry(value.to_string()).or_insert(place);
            }
        }
        for change in changes {
            let Some(value) = change.get(key) else {
                return Err(PatchError::no_key(&Value::Object(change), key));
            };
            let value = value.to_string();
            match places.get(&value).and_then(|place| original.get_mut(*place)) {
                Some(Value::Object(element)) => {
                    *element = self.objects(std::mem::take(element), change, rule.at)?;
                }
                _ => {
                    places.insert(value, original.len());
                    original.push(Value::Object(clean::members(change)));
                }
            }
        }
        Ok(original)
    }

    /// Takes scalars out of a list.
    pub(super) fn delete_from(
        &self,
        original: Vec<Value>,
        unwanted: Vec<Value>,
        rule: Rule<'s>,
    ) -> Result<Vec<Value>, PatchError> {
        if original.is_empty() || unwanted.is_empty() {
            return Ok(original);
        }
        if are_objects(&original, &unwanted)? {
            return self.lists(original, unwanted, rule);
        }
        let unwanted: HashSet<String> = unwanted.iter().map(Value::to_string).collect();
        Ok(original.into_iter().filter(|item| !unwanted.contains(&item.to_string())).collect())
    }
}

/// Carries out the elements that are directives: the rest of both lists.
fn directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Changes), PatchError> {
    let (mut changes, mut gone, mut replace) = (Vec::new(), HashSet::new(), false);
    for element in patch {
        let Value::Object(element) = element else { return Err(PatchError::Mixed(String::new())) };
        match element.get(DIRECTIVE).map(|d| d.as_str()) {
            None => changes.push(element),
            Some(Some("delete")) => match element.get(key) {
                Some(value) => {
                    gone.insert(value.to_string());
                }
                None => return Err(PatchError::no_key(&Value::Object(element), key)),
            },
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => return Err(PatchError::MergeInList),
            Some(_) => {
                return Err(PatchError::bad_directive(
                    element.get(DIRECTIVE).unwrap_or(&Value::Null),
                    &element,
                ));
            }
        }
    }
    if replace {
        let all = changes.into_iter().map(|c| Value::Object(clean::members(c)));
        return Ok((all.collect(), Vec::new()));
    }
    original.retain(|item| !item.get(key).is_some_and(|value| gone.contains(&value.to_string())));
    Ok((original, changes))
}

/// Whether the lists are of objects; refuses lists of lists and of mixed types.
fn are_objects(one: &[Value], other: &[Value]) -> Result<bool, PatchError> {
    let mut kinds = one.iter().chain(other).map(std::mem::discriminant);
    let first = kinds.next();
    if kinds.any(|kind| Some(kind) != first) {
        let all: Vec<Value> = one.iter().chain(other).take(16).cloned().collect();
        return Err(PatchError::Mixed(go_list(&all)));
    }
    match one.first().or(other.first()) {
        Some(Value::Array(_)) => Err(PatchError::ListOfLists),
        Some(Value::Object(_)) => Ok(true),
        _ => Ok(false),
    }
}

/// Each value once, at its first place.
fn distinct(items: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut seen = HashSet::new();
    items.filter(|item| seen.insert(item.to_string())).collect()
}
