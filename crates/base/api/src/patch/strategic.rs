//! Strategic merge patch: objects merge member by member, lists merge by key where the schema says so, and
//! directives in the patch (`$patch`, `$retainKeys`, `$setElementOrder/x`, `$deleteFromPrimitiveList/x`) say the rest.

mod clean;
mod error;
mod lists;
mod order;

use serde_json::{Map, Value};

use self::clean::clean;
use self::error::PatchError;
pub(crate) use self::error::go_value;
use crate::kinds::Gvk;
use crate::schema::{self, Field, Schema, Shape, Type};
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

pub(super) fn apply(kind: Gvk, object: &Value, patch: &Value) -> Result<Value, Status> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    let schema = schema::get();
    let at = schema.by_kind(&kind).map_or(At::Free, |id| At::Type(schema.type_of(id)));
    let merge = Merge { schema };
    let out = merge.objects(object.clone(), patch.clone(), at).map_err(PatchError::into_status)?;
    Ok(Value::Object(out))
}

/// What is known of the object that merges.
#[derive(Clone, Copy)]
enum At<'s> {
    /// An object of that type.
    Type(&'s Type),
    /// A map of such values.
    Map(&'s Shape),
    /// Anything: objects merge, lists are replaced.
    Free,
}

/// How a member merges.
#[derive(Clone, Copy)]
struct Rule<'s> {
    /// What its objects (or those in its list) are.
    at: At<'s>,
    /// Lists merge.
    merge: bool,
    /// Objects are replaced.
    replace: bool,
    /// The member that tells list elements apart.
    key: Option<&'static str>,
}

struct Merge<'s> {
    schema: &'s Schema,
}

impl<'s> Merge<'s> {
    fn at(&self, shape: &'s Shape) -> At<'s> {
        match shape {
            Shape::Object(id) => At::Type(self.schema.type_of(*id)),
            Shape::Map(inner) => At::Map(inner),
            Shape::List(inner) => self.at(inner),
            _ => At::Free,
        }
    }

    fn rule(&self, at: At<'s>, name: &str) -> Rule<'s> {
        let free = |at| Rule { at, merge: false, replace: false, key: None };
        match at {
            At::Free => free(At::Free),
            At::Map(inner) => free(self.at(inner)),
            At::Type(kind) => kind.field(name).map_or(free(At::Free), |field| self.field_rule(field)),
        }
    }

    fn field_rule(&self, field: &'s Field) -> Rule<'s> {
        Rule {
            at: self.at(&field.shape),
            merge: field.patch_merge,
            replace: field.patch_replace,
            key: field.merge_key,
        }
    }

    /// Merges a patch into an object.
    fn objects(
        &self,
        mut original: Map<String, Value>,
        mut patch: Map<String, Value>,
        at: At<'s>,
    ) -> Result<Map<String, Value>, PatchError> {
        if let Some(directive) = patch.get(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => {
                    patch.shift_remove(DIRECTIVE);
                    Ok(clean::members(patch))
                }
                Some("delete") => Ok(Map::new()),
                _ => Err(PatchError::bad_directive(directive, &patch)),
            };
        }
        retain_keys(&mut original, &mut patch)?;
        self.set_orders(&mut original, &mut patch, at)?;
        self.delete_lists(&mut original, &mut patch, at)?;
        for (name, change) in patch {
            if change.is_null() {
                original.shift_remove(&name);
                continue;
            }
            let rule = self.rule(at, &name);
            match (original.get_mut(&name), change) {
                (Some(Value::Object(old)), Value::Object(new)) if !rule.replace => {
                    *old = self.objects(std::mem::take(old), new, rule.at)?;
                }
                (Some(Value::Array(old)), Value::Array(new)) if rule.merge => {
                    *old = self.lists(std::mem::take(old), new, rule)?;
                }
                (Some(old), new) => {
                    if let Some(new) = clean(new) {
                        *old = new;
                    }
                }
                (None, new) => {
                    if let Some(new) = clean(new) {
                        original.insert(name, new);
                    }
                }
            }
        }
        Ok(original)
    }

    /// Carries out every `$setElementOrder/x`, together with the patch of the list that it is about.
    fn set_orders(
        &self,
        original: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
        at: At<'s>,
    ) -> Result<(), PatchError> {
        let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
        for directive in directives {
            let Some(wanted) = patch.shift_remove(&directive) else { continue };
            let name = &directive[SET_ORDER.len()..];
            if name.is_empty() || name.contains('/') {
                return Err(PatchError::OrderFormat);
            }
            let Value::Array(wanted) = wanted else { return Err(PatchError::OrderFormat) };
            let rule = self.rule(at, name);
            let changes = match patch.shift_remove(name) {
                None => None,
                Some(Value::Array(changes)) => Some(changes),
                Some(other) => return Err(PatchError::not_a_list(&other)),
            };
            let old = match original.get_mut(name) {
                None => None,
                Some(Value::Array(old)) => Some(std::mem::take(old)),
                Some(other) => return Err(PatchError::not_a_list(other)),
            };
            order::check(changes.as_deref().unwrap_or_default(), &wanted, rule.key)?;
            let server_order: Vec<Value> = order::identities(old.as_deref().unwrap_or_default(), rule.key);
            let merged = match (old, changes) {
                (None, None) => continue,
                (Some(old), None) => old,
                (None, Some(changes)) => clean::items(changes),
                (Some(old), Some(changes)) if rule.merge => self.lists(old, changes, rule)?,
                (Some(_), Some(changes)) => clean::items(changes),
            };
            let wanted = order::identities(&wanted, rule.key);
            original.insert(
                name.to_owned(),
                Value::Array(order::arrange(merged, &wanted, &server_order, rule.key)?),
            );
        }
        Ok(())
    }

    /// Carries out every `$deleteFromPrimitiveList/x`.
    fn delete_lists(
        &self,
        original: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
        at: At<'s>,
    ) -> Result<(), PatchError> {
        let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(DELETE_FROM)).cloned().collect();
        for directive in directives {
            let Some(unwanted) = patch.shift_remove(&directive) else { continue };
            let name = &directive[DELETE_FROM.len()..];
            if name.is_empty() || name.contains('/') {
                return Err(PatchError::PrimitiveListFormat);
            }
            match (original.get_mut(name), unwanted) {
                (Some(Value::Array(old)), Value::Array(unwanted)) => {
                    *old = self.delete_from(std::mem::take(old), unwanted, self.rule(at, name))?;
                }
                (_, Value::Array(_) | Value::Null) => {}
                _ => return Err(PatchError::PrimitiveListFormat),
            }
        }
        Ok(())
    }
}

/// Carries out `$retainKeys`: every member that it does not name goes; the patch may set no other.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(kept) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(kept) = kept else { return Err(PatchError::RetainKeysFormat) };
    let kept: std::collections::HashSet<&str> = kept.iter().filter_map(Value::as_str).collect();
    let foreign = patch.iter().any(|(name, change)| {
        let directive = name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER);
        !change.is_null() && !directive && !kept.contains(name.as_str())
    });
    if foreign {
        return Err(PatchError::RetainKeysFormat);
    }
    original.retain(|name, _| kept.contains(name.as_str()));
    Ok(())
}

#[cfg(test)]
mod tests;
