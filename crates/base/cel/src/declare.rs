//! Declared types: types with the sizes that a schema allows, which bound what an expression may cost, and with what
//! is needed to read JSON as such a type.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use crate::{escape::escape, limits::MAX_REQUEST_BYTES, types::Type};

/// How deep a schema is followed; below, everything is dynamic.
const MAX_SCHEMA_DEPTH: usize = 64;

/// A declared type.
#[derive(Debug, Clone)]
pub struct Declared {
    /// What it is.
    pub shape: Shape,
    /// Elements, properties or bytes that a value has at most; nothing when nothing is known.
    pub max_elements: Option<u64>,
    /// Bytes that the smallest value has in JSON.
    pub min_size: u64,
    /// Whether null is a value.
    pub nullable: bool,
}

/// What a declared type is made of.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Neither of the others: dynamic JSON, scalars, types of the library.
    Simple(Type),
    /// `x-kubernetes-int-or-string`
    IntOrString,
    /// An array.
    List(Arc<Declared>, ListType),
    /// An object with arbitrary keys.
    Map(Arc<Declared>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
}

/// `x-kubernetes-list-type`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Without order; each value once.
    Set,
    /// Without order; each combination of these keys once.
    Map(Vec<String>),
}

/// An object type with a name and declared fields.
#[derive(Debug, Default)]
pub struct ObjectType {
    /// The name, by which types are told apart.
    pub name: String,
    /// The fields, by the identifier that expressions use (see [`crate::escape()`]).
    pub fields: BTreeMap<String, Field>,
}

/// A field of an object type.
#[derive(Debug, Clone)]
pub struct Field {
    /// The name in JSON.
    pub json: String,
    /// What it holds.
    pub declared: Declared,
}

impl Declared {
    /// A type about whose size nothing is known.
    pub fn simple(ty: Type) -> Declared {
        let min_size = match ty {
            Type::Bool => 4,
            Type::String | Type::Bytes => 2,
            _ => 1,
        };
        Declared { shape: Shape::Simple(ty), max_elements: None, min_size, nullable: false }
    }

    /// JSON of which nothing is known.
    pub fn dynamic() -> Declared {
        Declared { nullable: true, ..Declared::simple(Type::Dyn) }
    }

    /// An array, atomic, of any length.
    pub fn list(items: Declared) -> Declared {
        Declared::of(Shape::List(Arc::new(items), ListType::Atomic), None, 2)
    }

    /// An object with arbitrary keys.
    pub fn map(values: Declared) -> Declared {
        Declared::of(Shape::Map(Arc::new(values)), None, 2)
    }

    /// An object with these fields, which expressions call as JSON does: nothing is escaped.
    pub fn object(name: impl Into<String>, fields: impl IntoIterator<Item = (String, Declared)>) -> Declared {
        let fields = fields.into_iter().map(|(json, declared)| (json.clone(), Field { json, declared }));
        let object = ObjectType { name: name.into(), fields: fields.collect() };
        Declared::of(Shape::Object(Arc::new(object)), None, 2)
    }

    fn of(shape: Shape, max_elements: Option<u64>, min_size: u64) -> Declared {
        Declared { shape, max_elements, min_size, nullable: false }
    }

    /// Reads an OpenAPI v3 schema, structural ones of CustomResourceDefinitions in particular. `name` names the
    /// object type; types below are named after it. With `root`, apiVersion, kind, metadata.name and
    /// metadata.generateName are there even when the schema does not say so. Nothing when expressions cannot see
    /// such a value (an array without items, preserved unknown fields that are no object).
    pub fn from_schema(name: &str, schema: &Json, root: bool) -> Option<Declared> {
        Declared::resolve(name, schema, root, &|_| None)
    }

    /// [`Declared::from_schema`] that follows `$ref` (and a single `allOf`) with `find`; where the same reference
    /// comes again below itself the value is dynamic.
    pub fn resolve<'s>(
        name: &str,
        schema: &'s Json,
        root: bool,
        find: &dyn Fn(&str) -> Option<&'s Json>,
    ) -> Option<Declared> {
        Reader { find, open: Vec::new() }.read(name, schema, root)
    }

    /// The type that expressions see.
    pub fn ty(&self) -> Type {
        match &self.shape {
            Shape::Simple(ty) => ty.clone(),
            Shape::IntOrString => Type::Dyn,
            Shape::List(items, _) => Type::list(items.ty()),
            Shape::Map(values) => Type::map(Type::String, values.ty()),
            Shape::Object(object) => Type::Object(object.clone()),
        }
    }

    /// What lies below: a field, `@items`, `@values` or `@keys` of upstream's paths.
    pub(crate) fn child(&self, step: &str) -> Option<&Declared> {
        match (&self.shape, step) {
            (Shape::List(items, _), "@items") => Some(items),
            (Shape::Map(values), "@values") => Some(values),
            (Shape::Object(object), step) => object.fields.get(step).map(|field| &field.declared),
            _ => None,
        }
    }
}

struct Reader<'s, 'f> {
    find: &'f dyn Fn(&str) -> Option<&'s Json>,
    /// References being followed.
    open: Vec<&'s str>,
}

impl<'s> Reader<'s, '_> {
    fn read(&mut self, name: &str, schema: &'s Json, root: bool) -> Option<Declared> {
        let reference = schema.get("$ref").or_else(|| match schema.get("allOf")?.as_array()?.as_slice() {
            [only] => only.get("$ref"),
            _ => None,
        });
        let mut declared = match reference.and_then(Json::as_str) {
            Some(reference) if self.open.contains(&reference) || self.open.len() > MAX_SCHEMA_DEPTH => {
                Some(Declared::dynamic())
            }
            Some(reference) => {
                let target = (self.find)(reference)?;
                self.open.push(reference);
                let declared = self.read(name, target, root);
                self.open.pop();
                declared
            }
            None => self.inline(name, schema, root),
        }?;
        declared.nullable |= flag(schema, "nullable");
        Some(declared)
    }

    fn inline(&mut self, name: &str, schema: &'s Json, root: bool) -> Option<Declared> {
        if flag(schema, "x-kubernetes-int-or-string") || text(schema, "format") == "int-or-string" {
            let max = max_length(schema).unwrap_or(MAX_REQUEST_BYTES - 2);
            return Some(Declared::of(Shape::IntOrString, Some(max), 1));
        }
        match text(schema, "type") {
            "array" => self.array(name, schema),
            "object" => self.object(name, schema, root),
            "string" => Some(string(schema)),
            "boolean" => Some(Declared::of(Shape::Simple(Type::Bool), None, 4)),
            "number" => Some(Declared::of(Shape::Simple(Type::Double), None, 1)),
            "integer" => Some(Declared::of(Shape::Simple(Type::Int), None, 1)),
            _ => None,
        }
    }

    fn array(&mut self, name: &str, schema: &'s Json) -> Option<Declared> {
        let items = schema.get("items")?;
        let items =
            self.read(&format!("{name}.@idx"), items, flag(items, "x-kubernetes-embedded-resource"))?;
        let list_type = match text(schema, "x-kubernetes-list-type") {
            "set" => ListType::Set,
            "map" => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
                let keys = keys.into_iter().flatten().filter_map(Json::as_str).map(str::to_owned);
                ListType::Map(keys.collect())
            }
            _ => ListType::Atomic,
        };
        let max = bound(schema, "maxItems").unwrap_or((MAX_REQUEST_BYTES - 2) / (items.min_size + 1));
        Some(Declared::of(Shape::List(Arc::new(items), list_type), Some(max), 2))
    }

    fn object(&mut self, name: &str, schema: &'s Json, root: bool) -> Option<Declared> {
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            let embedded = flag(values, "x-kubernetes-embedded-resource");
            let values = self.read(&format!("{name}.@elem"), values, embedded)?;
            let max =
                bound(schema, "maxProperties").unwrap_or((MAX_REQUEST_BYTES - 2) / (values.min_size + 6));
            return Some(Declared::of(Shape::Map(Arc::new(values)), Some(max), 2));
        }
        let required = schema.get("required").and_then(Json::as_array);
        let required: Vec<&str> = required.into_iter().flatten().filter_map(Json::as_str).collect();
        let mut fields = BTreeMap::new();
        let mut min_size = 2;
        for (property, schema) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            let embedded = flag(schema, "x-kubernetes-embedded-resource");
            let Some(declared) = self.read(&format!("{name}.{property}"), schema, embedded) else { continue };
            if required.contains(&property.as_str()) && schema.get("default").is_none() {
                min_size += property.len() as u64 + declared.min_size + 4;
            }
            if let Some(identifier) = escape(property) {
                fields.insert(identifier, Field { json: property.clone(), declared });
            }
        }
        if root {
            add_meta(name, &mut fields);
        }
        let object = ObjectType { name: name.to_owned(), fields };
        Some(Declared::of(Shape::Object(Arc::new(object)), None, min_size))
    }
}

/// What every object has; other metadata is hidden, as upstream hides it, unless the schema declares it.
fn add_meta(name: &str, fields: &mut BTreeMap<String, Field>) {
    let string = || Declared::of(Shape::Simple(Type::String), Some(MAX_REQUEST_BYTES - 2), 2);
    let field = |json: &str, declared| (json.to_owned(), Field { json: json.to_owned(), declared });
    let complete = fields.get("metadata").is_some_and(|metadata| match &metadata.declared.shape {
        Shape::Object(object) => {
            object.fields.contains_key("name") && object.fields.contains_key("generateName")
        }
        _ => false,
    });
    fields.extend([field("apiVersion", string()), field("kind", string())]);
    if !complete {
        let meta = [("name".to_owned(), string()), ("generateName".to_owned(), string())];
        fields.extend([field("metadata", Declared::object(format!("{name}.metadata"), meta))]);
    }
}

fn string(schema: &Json) -> Declared {
    let of = |ty, max, min| Declared::of(Shape::Simple(ty), Some(max), min);
    match text(schema, "format") {
        "byte" => of(Type::Bytes, bound(schema, "maxLength").unwrap_or(MAX_REQUEST_BYTES - 2), 2),
        "duration" => of(Type::Duration, 32, 3),
        "date" => of(Type::Timestamp, 12, 12),
        "date-time" => of(Type::Timestamp, 32, 21),
        _ => {
            let longest = || {
                let values = schema.get("enum")?.as_array().filter(|values| !values.is_empty())?;
                Some(values.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as u64)
            };
            let max = max_length(schema).or_else(longest).unwrap_or(MAX_REQUEST_BYTES - 2);
            of(Type::String, max, 2)
        }
    }
}

/// In bytes: a character has at most four.
fn max_length(schema: &Json) -> Option<u64> {
    Some(bound(schema, "maxLength")?.saturating_mul(4))
}

fn bound(schema: &Json, name: &str) -> Option<u64> {
    let value = schema.get(name)?;
    value.as_u64().or_else(|| value.as_i64().map(|_| 0))
}

fn text<'s>(schema: &'s Json, name: &str) -> &'s str {
    schema.get(name).and_then(Json::as_str).unwrap_or("")
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool).unwrap_or(false)
}
