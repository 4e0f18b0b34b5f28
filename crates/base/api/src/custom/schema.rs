//! The schema of a custom kind, compiled: what `openAPIV3Schema` says, with patterns ready to match.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use super::formats::Format;

/// Schemas in one definition at most, wherever they nest. A definition with more is not accepted.
pub const MAX_NODES: usize = 100_000;

/// What one compiled pattern may take, in bytes.
const PATTERN_BYTES: usize = 256 << 10;

/// A JSON type, as a schema names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `object`.
    Object,
    /// `array`.
    Array,
    /// `string`.
    String,
    /// `integer`.
    Integer,
    /// `number`.
    Number,
    /// `boolean`.
    Boolean,
}

impl Type {
    pub(super) fn parse(text: &str) -> Option<Type> {
        Some(match text {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            _ => return None,
        })
    }

    /// The name in a schema.
    pub fn name(self) -> &'static str {
        match self {
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
        }
    }
}

/// What may stand under keys that are no named properties.
#[derive(Debug, Clone, Default)]
pub enum Additional {
    /// Nothing is said.
    #[default]
    Unset,
    /// Anything.
    Any,
    /// Nothing.
    Nothing,
    /// What this schema says.
    Schema(Box<Schema>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    /// Not said, or `atomic`.
    #[default]
    Atomic,
    /// `set`.
    Set,
    /// `map`.
    Map,
}

/// One node of a schema.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// The JSON type; none stands for any.
    pub kind: Option<Type>,
    /// Null is a value like others.
    pub nullable: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// The value where there is none.
    pub default: Option<Value>,
    /// Named members.
    pub properties: BTreeMap<String, Schema>,
    /// Other members.
    pub additional: Additional,
    /// What the elements of a list are.
    pub items: Option<Box<Schema>>,
    /// How elements of a list are told apart.
    pub list: ListType,
    /// The keys of a list of type map.
    pub keys: Vec<String>,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    /// Limits; boxed, because most nodes have none.
    pub checks: Option<Box<Checks>>,
    /// There is something to default here or below.
    pub has_defaults: bool,
    /// There is a list of type set or map here or below.
    pub has_lists: bool,
    /// There is an embedded resource here or below.
    pub has_embedded: bool,
}

/// The limits of a node.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    /// The format, when it is one that is checked, with the name as written.
    pub format: Option<(Format, String)>,
    /// The pattern, as written and compiled; an unusable one matches nothing.
    pub pattern: Option<(String, Option<Arc<Regex>>)>,
    /// The values that are allowed.
    pub enumeration: Option<Vec<Value>>,
    /// The largest number.
    pub maximum: Option<f64>,
    /// It is excluded itself.
    pub exclusive_maximum: bool,
    /// The smallest number.
    pub minimum: Option<f64>,
    /// It is excluded itself.
    pub exclusive_minimum: bool,
    /// What a number is a multiple of.
    pub multiple_of: Option<f64>,
    /// Characters at most.
    pub max_length: Option<u64>,
    /// Characters at least.
    pub min_length: Option<u64>,
    /// Elements at most.
    pub max_items: Option<u64>,
    /// Elements at least.
    pub min_items: Option<u64>,
    /// No two elements are the same.
    pub unique_items: bool,
    /// Members at most.
    pub max_properties: Option<u64>,
    /// Members at least.
    pub min_properties: Option<u64>,
    /// Members that have to be there.
    pub required: Vec<String>,
    /// All of these hold.
    pub all_of: Vec<Schema>,
    /// At least one of these holds.
    pub any_of: Vec<Schema>,
    /// Exactly one of these holds.
    pub one_of: Vec<Schema>,
    /// This does not hold.
    pub not: Option<Box<Schema>>,
}

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// There are more than [`MAX_NODES`].
    #[error("the schema has more than {MAX_NODES} nodes (hint: split the definition)")]
    TooMany,
}

/// What is shared while one definition is compiled.
#[derive(Default)]
pub struct Compiler {
    patterns: HashMap<String, Option<Arc<Regex>>>,
    nodes: usize,
}

impl Compiler {
    /// Compiles a node as it stands in a CustomResourceDefinition.
    ///
    /// # Errors
    /// [`SchemaError::TooMany`].
    pub fn schema(&mut self, from: &Value) -> Result<Schema, SchemaError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(SchemaError::TooMany);
        }
        let flag = |name: &str| from.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| from.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut out = Schema {
            kind: Type::parse(text("type")),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            default: from.get("default").filter(|v| !v.is_null()).cloned(),
            list: match text("x-kubernetes-list-type") {
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Atomic,
            },
            keys: strings(from.get("x-kubernetes-list-map-keys")),
            atomic_map: text("x-kubernetes-map-type") == "atomic",
            ..Schema::default()
        };
        for (name, property) in from.get("properties").and_then(Value::as_object).into_iter().flatten() {
            out.properties.insert(name.clone(), self.schema(property)?);
        }
        out.additional = match from.get("additionalProperties") {
            None | Some(Value::Null) => Additional::Unset,
            Some(Value::Bool(true)) => Additional::Any,
            Some(Value::Bool(false)) => Additional::Nothing,
            Some(schema) => Additional::Schema(Box::new(self.schema(schema)?)),
        };
        if let Some(items) = from.get("items").filter(|v| v.is_object()) {
            out.items = Some(Box::new(self.schema(items)?));
        }
        out.checks = self.checks(from, out.kind)?.map(Box::new);
        let below = || out.children();
        let has_defaults = out.default.is_some() || below().any(|s| s.has_defaults);
        let has_lists = out.list != ListType::Atomic || below().any(|s| s.has_lists);
        let has_embedded = out.embedded || below().any(|s| s.has_embedded);
        Ok(Schema { has_defaults, has_lists, has_embedded, ..out })
    }

    fn checks(&mut self, from: &Value, kind: Option<Type>) -> Result<Option<Checks>, SchemaError> {
        let number = |name: &str| from.get(name).and_then(Value::as_f64);
        let count = |name: &str| from.get(name).and_then(Value::as_u64);
        let flag = |name: &str| from.get(name).and_then(Value::as_bool).unwrap_or(false);
        let format = from.get("format").and_then(Value::as_str).unwrap_or_default();
        let pattern = from.get("pattern").and_then(Value::as_str).filter(|p| !p.is_empty());
        let checks = Checks {
            format: Format::of(kind, format).map(|known| (known, format.to_owned())),
            pattern: pattern.map(|text| (text.to_owned(), self.pattern(text))),
            enumeration: from.get("enum").and_then(Value::as_array).filter(|l| !l.is_empty()).cloned(),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            unique_items: flag("uniqueItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            required: strings(from.get("required")),
            all_of: self.list(from.get("allOf"))?,
            any_of: self.list(from.get("anyOf"))?,
            one_of: self.list(from.get("oneOf"))?,
            not: match from.get("not").filter(|v| v.is_object()) {
                Some(schema) => Some(Box::new(self.schema(schema)?)),
                None => None,
            },
        };
        Ok((!checks.is_empty()).then_some(checks))
    }

    fn list(&mut self, from: Option<&Value>) -> Result<Vec<Schema>, SchemaError> {
        let list = from.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|schema| self.schema(schema)).collect()
    }

    /// Each pattern is compiled once.
    fn pattern(&mut self, text: &str) -> Option<Arc<Regex>> {
        if let Some(known) = self.patterns.get(text) {
            return known.clone();
        }
        let compiled = compile_pattern(text).ok().map(Arc::new);
        self.patterns.insert(text.to_owned(), compiled.clone());
        compiled
    }
}

/// Compiles a pattern within its bounds.
///
/// # Errors
/// The pattern is no regular expression, or takes too much.
pub fn compile_pattern(text: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES)
        .nest_limit(200)
        .build()
}

impl Checks {
    fn is_empty(&self) -> bool {
        let numbers = [self.maximum, self.minimum, self.multiple_of];
        let counts = [
            self.max_length,
            self.min_length,
            self.max_items,
            self.min_items,
            self.max_properties,
            self.min_properties,
        ];
        self.format.is_none()
            && self.pattern.is_none()
            && self.enumeration.is_none()
            && numbers.iter().all(Option::is_none)
            && counts.iter().all(Option::is_none)
            && !self.unique_items
            && self.required.is_empty()
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }
}

impl Schema {
    /// The schemas of what is directly below.
    pub fn children(&self) -> impl Iterator<Item = &Schema> {
        let additional = match &self.additional {
            Additional::Schema(schema) => Some(&**schema),
            _ => None,
        };
        self.properties.values().chain(additional).chain(self.items.as_deref())
    }

    /// The schema of a member.
    pub fn member(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }

    /// Whether a null here is replaced or dropped rather than kept.
    pub fn is_null_dropped(&self) -> bool {
        !self.nullable && self.default.is_none()
    }
}

fn strings(from: Option<&Value>) -> Vec<String> {
    let list = from.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
