//! In which order the elements of a merged list stand: those of the patch as the patch says, the others as they stood,
//! the two interleaved so that elements known to the server keep their places as far as the patch leaves them.

use std::collections::HashMap;

use serde_json::Value;

use super::DIRECTIVE;
use super::error::{PatchError, go_list};

/// What tells each element apart: its key, or itself. Elements without the key give null.
pub(super) fn identities(items: &[Value], key: Option<&str>) -> Vec<Value> {
    items.iter().map(|item| identity(item, key).cloned().unwrap_or_default()).collect()
}

fn identity<'a>(item: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        None => Some(item),
        Some(key) => item.get(key),
    }
}

/// Checks that the elements of the patch stand in the order that the patch asks for.
pub(super) fn check(patch: &[Value], wanted: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if let Some(key) = key
        && let Some(item) = wanted.iter().find(|item| item.get(key).is_none())
    {
        return Err(PatchError::no_key(item, key));
    }
    let mut left = wanted.iter();
    for item in patch {
        if key.is_some() && item.get(DIRECTIVE).is_some_and(|d| d == "delete" || d == "replace") {
            continue;
        }
        let Some(own) = identity(item, key) else {
            return Err(PatchError::no_key(item, key.unwrap_or_default()));
        };
        if !left.any(|other| identity(other, key) == Some(own)) {
            return Err(PatchError::Order(go_list(patch), go_list(wanted)));
        }
    }
    Ok(())
}

/// Puts merged elements in order. `wanted` and `server_order` hold identities.
pub(super) fn arrange(
    merged: Vec<Value>,
    wanted: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    let (wanted, server_order) = (places(wanted), places(server_order));
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let Some(name) = identity(&item, key).map(Value::to_string) else {
            return Err(PatchError::no_key(&item, key.unwrap_or_default()));
        };
        let server = server_order.get(&name).copied();
        match wanted.get(&name) {
            Some(place) => ours.push((*place, server, item)),
            None => others.push((server.unwrap_or(usize::MAX), server, item)),
        }
    }
    ours.sort_by_key(|(place, _, _)| *place);
    others.sort_by_key(|(place, _, _)| *place);
    let mut out = Vec::with_capacity(ours.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, server, item) in ours {
        // An element that only the server knows comes first where it stood before this one.
        while let (Some(server), Some((_, Some(other), _))) = (server, others.peek()) {
            if *other >= server {
                break;
            }
            out.extend(others.next().map(|(_, _, item)| item));
        }
        out.push(item);
    }
    out.extend(others.map(|(_, _, item)| item));
    Ok(out)
}

/// Where each identity stands first.
fn places(identities: &[Value]) -> HashMap<String, usize> {
    let mut out = HashMap::with_capacity(identities.len());
    for (place, identity) in identities.iter().enumerate() {
        out.entry(identity.to_string()).or_insert(place);
    }
    out
}
