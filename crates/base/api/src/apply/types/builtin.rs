//! The built-in kinds, out of the generated facts.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::{Elements, Field, Key, List, Map, Node, Ref, Root, Scalar, Types, Untyped};
use crate::schema::{self, ListType, Schema, Shape, TypeId};

/// Which members stand even when JSON leaves them out.
const EMBEDDED: &str = include_str!("../../../schema/embedded.txt");

/// Lists with a key that has no default, by type and member, with the key.
const NO_DEFAULT: [(&str, &str, &str); 4] = [
    ("core.v1.ServiceAccount", "secrets", "name"),
    ("resource.v1.ResourceClaimStatus", "devices", "shareID"),
    ("flowcontrol.v1.FlowSchemaStatus", "conditions", "type"),
    ("flowcontrol.v1.PriorityLevelConfigurationStatus", "conditions", "type"),
];

struct All {
    types: Arc<Types>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), Ref>,
}

pub(super) fn root(group: &str, version: &str, kind: &str) -> Option<Root> {
    static ALL: OnceLock<All> = OnceLock::new();
    let all = ALL.get_or_init(compile);
    // HashMap wants the key's own lifetime, so look the kind up in the schema's map through its facts.
    let at = all.by_kind.iter().find(|((g, v, k), _)| *k == kind && *g == group && *v == version)?.1;
    Some(Root { types: all.types.clone(), at: *at })
}

fn compile() -> All {
    let schema = schema::get();
    let mut builder = Builder::new(schema);
    let mut by_kind = HashMap::new();
    for (id, kind) in schema.types().filter(|(_, t)| !t.kinds.is_empty()) {
        let at = builder.object(id);
        by_kind.extend(kind.kinds.iter().map(|k| ((k.group, k.version, k.kind), at)));
    }
    All { types: Arc::new(builder.types), by_kind }
}

/// Copies facts into a graph, each type once.
pub(super) struct Builder {
    pub(super) types: Types,
    pub(super) untyped: Untyped,
    schema: &'static Schema,
    done: HashMap<(TypeId, bool), Ref>,
    embedded: HashMap<&'static str, Vec<&'static str>>,
}

impl Builder {
    pub(super) fn new(schema: &'static Schema) -> Self {
        let mut types = Types::default();
        let untyped = types.add_untyped();
        let embedded = EMBEDDED.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let mut words = line.split(' ');
            (words.next().unwrap_or_default(), words.collect())
        });
        Builder { types, untyped, schema, done: HashMap::new(), embedded: embedded.collect() }
    }

    /// The graph's node of the metadata of objects.
    pub(super) fn metadata(&mut self) -> Ref {
        match self.schema.by_name("~apis.meta.v1.ObjectMeta") {
            Some(id) => self.object(id),
            None => self.untyped.deduced,
        }
    }

    pub(super) fn object(&mut self, id: TypeId) -> Ref {
        let atomic = self.schema.type_of(id).atomic;
        self.object_as(id, atomic)
    }

    fn object_as(&mut self, id: TypeId, atomic: bool) -> Ref {
        if let Some(done) = self.done.get(&(id, atomic)) {
            return *done;
        }
        let at = self.types.add(Node::default());
        self.done.insert((id, atomic), at);
        let facts = self.schema.type_of(id);
        let embedded = self.embedded.get(plain(facts.name)).cloned().unwrap_or_default();
        let mut fields = Vec::with_capacity(facts.fields().len());
        for field in facts.fields() {
            let node = self.member(facts.name, field);
            let standing = field.required || embedded.contains(&field.name);
            fields.push(Field { name: field.name.into(), node, standing });
        }
        let free = fields.is_empty();
        let element = free.then_some(self.untyped.deduced);
        let map = Some(Map { fields, element, atomic, deduced: free });
        self.types.set(at, Node { map, ..Node::default() });
        at
    }

    fn member(&mut self, owner: &'static str, field: &schema::Field) -> Ref {
        match &field.shape {
            Shape::Object(id) if field.atomic => self.object_as(*id, true),
            Shape::Object(id) if field.granular => self.object_as(*id, false),
            Shape::List(inner) => {
                let element = self.shape(inner);
                let how = self.elements(owner, field, inner);
                self.types.add(Node { list: Some(List { element, how }), ..Node::default() })
            }
            Shape::Map(inner) => {
                let element = Some(self.shape(inner));
                let map = Map { fields: Vec::new(), element, atomic: field.atomic, deduced: false };
                self.types.add(Node { map: Some(map), ..Node::default() })
            }
            other => self.shape(other),
        }
    }

    /// Strategic merge's lists tell their elements apart too, where no list type is said.
    fn elements(&self, owner: &'static str, field: &schema::Field, inner: &Shape) -> Elements {
        match &field.list {
            ListType::Atomic => Elements::Atomic,
            ListType::Set => Elements::Set,
            ListType::Map(names) => self.keys(owner, field.name, names, inner),
            ListType::Unset if !field.patch_merge => Elements::Atomic,
            ListType::Unset => match field.merge_key {
                Some(key) => self.keys(owner, field.name, &[key], inner),
                None => Elements::Set,
            },
        }
    }

    fn keys(&self, owner: &'static str, list: &str, names: &[&'static str], inner: &Shape) -> Elements {
        let key = |name: &&'static str| {
            let without = NO_DEFAULT.contains(&(plain(owner), list, name));
            let default = if without { None } else { self.key_default(inner, name) };
            Key { name: (*name).into(), default }
        };
        Elements::Keyed(names.iter().map(key).collect())
    }

    /// A key that is left out has Go's zero value; a protocol that is left out is TCP.
    fn key_default(&self, inner: &Shape, name: &str) -> Option<Value> {
        let Shape::Object(id) = inner else { return None };
        match self.schema.type_of(*id).field(name)?.shape {
            Shape::String if name == "protocol" => Some("TCP".into()),
            Shape::String => Some("".into()),
            Shape::Int32 | Shape::Int64 => Some(0.into()),
            _ => None,
        }
    }

    fn shape(&mut self, shape: &Shape) -> Ref {
        let scalar = match shape {
            Shape::String | Shape::Bytes => Scalar::String,
            Shape::Int32 | Shape::Int64 | Shape::Number => Scalar::Numeric,
            Shape::Bool => Scalar::Boolean,
            Shape::Time | Shape::MicroTime | Shape::Quantity | Shape::IntOrString => Scalar::Untyped,
            Shape::Any => return self.untyped.atomic,
            Shape::Object(id) => return self.object(*id),
            Shape::List(inner) => {
                let list = List { element: self.shape(inner), how: Elements::Atomic };
                return self.types.add(Node { list: Some(list), ..Node::default() });
            }
            Shape::Map(inner) => {
                let element = Some(self.shape(inner));
                let map = Map { fields: Vec::new(), element, atomic: false, deduced: false };
                return self.types.add(Node { map: Some(map), ..Node::default() });
            }
        };
        self.types.scalar(scalar)
    }
}

/// The last three parts of a type's name: group, version, type.
fn plain(name: &'static str) -> &'static str {
    name.rmatch_indices('.').nth(2).map_or(name, |(at, _)| &name[at + 1..])
}
