//! Facts about every type that is served: fields, their JSON types, list and map semantics, strategic merge keys.
//! They come from a generated table (`schema/types.txt`, see `schema/generate.py`), read once at first use.

mod parse;

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::kinds::Gvk;

/// The table as text. Its hash changes iff the facts change.
pub(crate) const TABLE: &str = include_str!("../schema/types.txt");

/// The index of a type in the [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u16);

/// The JSON form of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    String,
    /// Bytes in base64.
    Bytes,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A floating point number.
    Number,
    /// True or false.
    Bool,
    /// RFC 3339 with whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A resource quantity, as text or number.
    Quantity,
    /// A whole number of 32 bits, or text.
    IntOrString,
    /// Anything: raw extensions and managed fields.
    Any,
    /// An object of that type.
    Object(TypeId),
    /// A list.
    List(Box<Shape>),
    /// An object with free keys.
    Map(Box<Shape>),
}

/// How elements of a list are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListType {
    /// Nothing is said: the list is one value.
    #[default]
    Unset,
    /// The list is one value.
    Atomic,
    /// Each element is its own key.
    Set,
    /// The elements are objects with these keys.
    Map(Vec<&'static str>),
}

/// A member of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// Its form.
    pub shape: Shape,
    /// Whether it must be there.
    pub required: bool,
    /// For lists: how elements are told apart.
    pub list: ListType,
    /// For objects and maps: whether they are one value (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// The map type was written down in the source as granular.
    pub granular: bool,
    /// Strategic merge: lists merge instead of being replaced.
    pub patch_merge: bool,
    /// Strategic merge: the patch may list the keys to keep.
    pub patch_retain_keys: bool,
    /// Strategic merge: objects are replaced instead of merged.
    pub patch_replace: bool,
    /// Strategic merge: the member that tells elements apart.
    pub merge_key: Option<&'static str>,
}

/// An object type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// The name without the usual prefixes, `core.v1.Pod` or `~apis.meta.v1.ObjectMeta`.
    pub name: &'static str,
    /// The kinds for which it is the body.
    pub kinds: Vec<Gvk>,
    /// Whether the object is one value (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    fields: Vec<Field>,
}

impl Type {
    /// The members, sorted by name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The member of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.cmp(name)).ok().map(|i| &self.fields[i])
    }

    /// The name of the Go type without its package: `Pod`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, name)| name)
    }

    /// The name as OpenAPI has it: `io.k8s.api.core.v1.Pod`.
    pub fn openapi_name(&self) -> String {
        if let Some(rest) = self.name.strip_prefix('~') {
            return format!("io.k8s.apimachinery.pkg.{rest}");
        }
        match self.name.strip_prefix('^') {
            Some(rest) => format!("io.k8s.{rest}"),
            None => format!("io.k8s.api.{}", self.name),
        }
    }
}

/// Every type.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
    by_name: HashMap<&'static str, TypeId>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), TypeId>,
}

impl Schema {
    /// The type of an id. Ids come from this schema, so there always is one.
    pub fn type_of(&self, id: TypeId) -> &Type {
        &self.types[usize::from(id.0)]
    }

    /// The type of a name, `core.v1.Pod` for example.
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// The type of a kind's bodies. Kinds that are only options of a connection have none.
    pub fn by_kind(&self, kind: &Gvk) -> Option<TypeId> {
        self.by_kind.get(&(kind.group, kind.version, kind.kind)).copied()
    }

    /// Every type with its id, sorted by name.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        (0..).map(TypeId).zip(&self.types)
    }

    /// Finds what lies at a dotted path below a type; lists and maps are stepped through.
    pub fn lookup(&self, id: TypeId, path: &str) -> Option<&Field> {
        let (mut at, mut found) = (Some(id), None);
        for name in path.split('.') {
            let field = self.type_of(at?).field(name)?;
            at = element_type(&field.shape);
            found = Some(field);
        }
        found
    }
}

/// The object type inside any number of lists and maps.
fn element_type(shape: &Shape) -> Option<TypeId> {
    match shape {
        Shape::Object(id) => Some(*id),
        Shape::List(inner) | Shape::Map(inner) => element_type(inner),
        _ => None,
    }
}

/// The facts, read at the first call.
pub fn get() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    // The table is ours and a test reads all of it, so a bad line cannot reach a release; it would leave types out.
    SCHEMA.get_or_init(|| parse::table(TABLE).unwrap_or_default())
}

#[cfg(test)]
mod tests;
