//! Reads the generated table. Its form is described in `schema/generate.py`.

use std::collections::HashMap;

use super::{Field, ListType, Schema, Shape, Type, TypeId};
use crate::kinds::Gvk;

/// Reads the whole table; `Err` names the first line that cannot be read.
pub(super) fn table(text: &'static str) -> Result<Schema, String> {
    let mut schema = Schema::default();
    let heads = text.lines().filter_map(|l| l.strip_prefix("T "));
    for (index, head) in heads.enumerate() {
        let id = TypeId(u16::try_from(index).map_err(|_| format!("too many types at {head}"))?);
        let parsed = type_line(head)?;
        schema.by_name.insert(parsed.name, id);
        schema.by_kind.extend(parsed.kinds.iter().map(|k| ((k.group, k.version, k.kind), id)));
        schema.types.push(parsed);
    }
    let mut current = None;
    for line in text.lines() {
        if line.starts_with("T ") {
            current = Some(current.map_or(0, |i: usize| i + 1));
        } else if let Some(line) = line.strip_prefix(' ') {
            let field = field_line(line, &schema.by_name)?;
            let index = current.ok_or_else(|| format!("a field before the first type: {line}"))?;
            schema.types[index].fields.push(field);
        }
    }
    Ok(schema)
}

fn type_line(head: &'static str) -> Result<Type, String> {
    let mut parts = head.split(' ');
    let name = parts.next().unwrap_or_default();
    let mut found = Type { name, kinds: Vec::new(), atomic: false, fields: Vec::new() };
    for part in parts {
        match part.split_once('=') {
            Some(("gvk", kind)) => found.kinds.push(gvk(kind).ok_or_else(|| format!("a bad kind: {head}"))?),
            Some(("map", how)) => found.atomic = how == "atomic",
            _ => return Err(format!("an unknown word in: {head}")),
        }
    }
    Ok(found)
}

fn gvk(text: &'static str) -> Option<Gvk> {
    let (group, rest) = text.split_once('/')?;
    let (version, kind) = rest.split_once('/')?;
    Some(Gvk { group, version, kind })
}

fn field_line(line: &'static str, names: &HashMap<&'static str, TypeId>) -> Result<Field, String> {
    let mut parts = line.split(' ');
    let name = parts.next().unwrap_or_default();
    let shape =
        shape(parts.next().unwrap_or_default(), names).ok_or_else(|| format!("a bad shape: {line}"))?;
    let mut field = Field {
        name,
        shape,
        required: false,
        list: ListType::Unset,
        atomic: false,
        granular: false,
        patch_merge: false,
        patch_retain_keys: false,
        patch_replace: false,
        merge_key: None,
    };
    for part in parts {
        match part.split_once('=') {
            None if part == "!" => field.required = true,
            Some(("list", "atomic")) => field.list = ListType::Atomic,
            Some(("list", "set")) => field.list = ListType::Set,
            Some(("list", how)) => {
                let keys = how.strip_prefix("map:").ok_or_else(|| format!("a bad list type: {line}"))?;
                field.list = ListType::Map(keys.split(',').collect());
            }
            Some(("map", how)) => {
                field.atomic = how == "atomic";
                field.granular = how == "granular";
            }
            Some(("patch", how)) => {
                field.patch_merge = how.split(',').any(|h| h == "merge");
                field.patch_retain_keys = how.split(',').any(|h| h == "retainKeys");
                field.patch_replace = how.split(',').any(|h| h == "replace");
            }
            Some(("key", key)) => field.merge_key = Some(key),
            _ => return Err(format!("an unknown word in: {line}")),
        }
    }
    Ok(field)
}

fn shape(text: &str, names: &HashMap<&'static str, TypeId>) -> Option<Shape> {
    if let Some(name) = text.strip_prefix('@') {
        return names.get(name).map(|id| Shape::Object(*id));
    }
    if let Some(inner) = text.strip_prefix('[') {
        return shape(inner, names).map(|s| Shape::List(Box::new(s)));
    }
    if let Some(inner) = text.strip_prefix('{') {
        return shape(inner, names).map(|s| Shape::Map(Box::new(s)));
    }
    Some(match text {
        "s" => Shape::String,
        "b" => Shape::Bytes,
        "i" => Shape::Int32,
        "l" => Shape::Int64,
        "d" => Shape::Number,
        "f" => Shape::Bool,
        "t" => Shape::Time,
        "u" => Shape::MicroTime,
        "q" => Shape::Quantity,
        "x" => Shape::IntOrString,
        "*" => Shape::Any,
        _ => return None,
    })
}
