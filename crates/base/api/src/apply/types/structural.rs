//! Custom resources: the structural schema of a version, compiled when the definition changes.

use std::sync::Arc;

use serde_json::{Map as Members, Value};

use super::builtin::Builder;
use super::{Elements, Field, Key, List, Map, Node, Ref, Root, Scalar};
use crate::schema;

/// Schemas that nest deeper are taken as unknown below this; bodies cannot nest deeper either.
const MAX_DEPTH: usize = 128;

pub(super) fn root(schema: &Value, preserve: bool) -> Root {
    let mut builder = Builder::new(schema::get());
    let metadata = builder.metadata();
    let mut compiler = Compiler { builder, metadata };
    let empty = Members::new();
    let schema = schema.as_object().unwrap_or(&empty);
    let mut node = compiler.node(schema, preserve, 0);
    // An object's own members are there whatever the schema says of them.
    let map = node.map.get_or_insert_default();
    compiler.identify(map);
    let at = compiler.builder.types.add(node);
    Root { types: Arc::new(compiler.builder.types), at }
}

struct Compiler {
    builder: Builder,
    metadata: Ref,
}

impl Compiler {
    /// apiVersion, kind and metadata.
    fn identify(&mut self, map: &mut Map) {
        let text = self.builder.types.scalar(Scalar::String);
        map.fields.retain(|f| !matches!(&*f.name, "apiVersion" | "kind" | "metadata"));
        for (name, node) in [("apiVersion", text), ("kind", text), ("metadata", self.metadata)] {
            map.fields.push(Field { name: name.into(), node, standing: false });
        }
        map.fields.sort_by(|a, b| a.name.cmp(&b.name));
    }

    fn add(&mut self, schema: &Value, preserve: bool, depth: usize) -> Ref {
        let Some(schema) = schema.as_object().filter(|_| depth < MAX_DEPTH) else {
            return self.builder.untyped.deduced;
        };
        let node = self.node(schema, preserve, depth);
        self.builder.types.add(node)
    }

    fn node(&mut self, schema: &Members<String, Value>, preserve: bool, depth: usize) -> Node {
        let preserve = preserve || is_true(schema, "x-kubernetes-preserve-unknown-fields");
        let scalar = |kind| Node { scalar: Some(kind), ..Node::default() };
        match text(schema, "type") {
            "object" => Node { map: Some(self.map(schema, preserve, depth)), ..Node::default() },
            "array" => Node { list: Some(self.list(schema, preserve, depth)), ..Node::default() },
            "integer" | "number" => scalar(Scalar::Numeric),
            "boolean" => scalar(Scalar::Boolean),
            "string" if matches!(text(schema, "format"), "" | "byte") => scalar(Scalar::String),
            "string" => scalar(Scalar::Untyped),
            _ => Node {
                scalar: Some(Scalar::Untyped),
                list: Some(self.list(schema, preserve, depth)),
                map: Some(self.map(schema, preserve, depth)),
            },
        }
    }

    fn map(&mut self, schema: &Members<String, Value>, preserve: bool, depth: usize) -> Map {
        let mut fields = Vec::new();
        for (name, member) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let node = self.add(member, preserve, depth + 1);
            fields.push(Field { name: name.clone().into(), node, standing: false });
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let deduced = self.builder.untyped.deduced;
        let element = match schema.get("additionalProperties") {
            None | Some(Value::Null) => (preserve || fields.is_empty()).then_some(deduced),
            Some(Value::Bool(allowed)) => allowed.then_some(deduced),
            Some(inner) => Some(self.add(inner, preserve, depth + 1)),
        };
        let free = fields.is_empty() && element == Some(deduced);
        let atomic = text(schema, "x-kubernetes-map-type") == "atomic";
        let mut map = Map { fields, element, atomic, deduced: free };
        if is_true(schema, "x-kubernetes-embedded-resource") {
            self.identify(&mut map);
        }
        map
    }

    fn list(&mut self, schema: &Members<String, Value>, preserve: bool, depth: usize) -> List {
        let items = schema.get("items").and_then(Value::as_object);
        let element = match schema.get("items") {
            Some(inner) if items.is_some() => self.add(inner, preserve, depth + 1),
            _ => self.builder.untyped.atomic,
        };
        let how = match text(schema, "x-kubernetes-list-type") {
            "set" => Elements::Set,
            "map" => keys(schema, items),
            _ => Elements::Atomic,
        };
        List { element, how }
    }
}

fn keys(schema: &Members<String, Value>, items: Option<&Members<String, Value>>) -> Elements {
    let names = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
    let properties = items.and_then(|items| items.get("properties"));
    let key = |name: &Value| {
        let name = name.as_str()?.to_owned();
        let default = properties.and_then(|p| p.get(&name)?.get("default")).cloned();
        Some(Key { name: name.into(), default })
    };
    Elements::Keyed(names.filter_map(key).collect())
}

fn text<'a>(schema: &'a Members<String, Value>, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn is_true(schema: &Members<String, Value>, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool) == Some(true)
}
