//! What apply has to know of a type: which values may stand where, which maps and lists are one value, and how the
//! elements of the other lists are told apart. Built-in kinds ([`Root::builtin`]), custom resources
//! ([`Root::structural`]) and objects without a schema ([`Root::deduced`]) all compile to the same small graph, once,
//! when the configuration changes; nothing is looked up in a schema document per request.

mod builtin;
mod structural;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

/// A text that is mostly known at compile time.
pub(crate) type Name = Cow<'static, str>;

/// The index of a [`Node`] in its [`Types`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ref(u32);

/// Which scalars a type takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Numeric,
    String,
    Boolean,
    Untyped,
}

/// What may stand at a place: any of the forms that are there.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) scalar: Option<Scalar>,
    pub(crate) list: Option<List>,
    pub(crate) map: Option<Map>,
}

/// A list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List {
    pub(crate) element: Ref,
    pub(crate) how: Elements,
}

/// How the elements of a list are told apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Elements {
    /// Not at all: the list is one value.
    Atomic,
    /// Each is its own key.
    Set,
    /// They are objects with these keys, in the order of the schema.
    Keyed(Vec<Key>),
}

/// A key of list elements.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) name: Name,
    /// What an element that lacks the key has.
    pub(crate) default: Option<Value>,
}

/// An object.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Map {
    /// The named members, sorted.
    pub(crate) fields: Vec<Field>,
    /// What other members are; none may be there when this is none.
    pub(crate) element: Option<Ref>,
    /// The object is one value.
    pub(crate) atomic: bool,
    /// Nothing is known of the members: they are told by what they hold.
    pub(crate) deduced: bool,
}

impl Map {
    /// The named member.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| (*f.name).cmp(name)).ok().map(|i| &self.fields[i])
    }

    /// The type of a member, named or not.
    pub(crate) fn member(&self, name: &str) -> Option<Ref> {
        self.field(name).map(|f| f.node).or(self.element)
    }
}

/// A named member of an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: Name,
    pub(crate) node: Ref,
    /// It is there even where JSON leaves it out: nobody adds or removes it, only what it holds.
    pub(crate) standing: bool,
}

/// A graph of types.
#[derive(Debug, Default)]
pub struct Types {
    nodes: Vec<Node>,
}

/// The two types of values that no schema describes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Untyped {
    /// Anything; maps and lists are one value.
    pub(crate) atomic: Ref,
    /// Anything; maps are taken apart, lists are one value.
    pub(crate) deduced: Ref,
}

impl Types {
    pub(crate) fn node(&self, at: Ref) -> &Node {
        &self.nodes[at.0 as usize]
    }

    fn add(&mut self, node: Node) -> Ref {
        // A schema is a document of at most some megabytes, so there are never more than u32 can count.
        let at = Ref(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        at
    }

    fn set(&mut self, at: Ref, node: Node) {
        self.nodes[at.0 as usize] = node;
    }

    fn scalar(&mut self, scalar: Scalar) -> Ref {
        self.add(Node { scalar: Some(scalar), ..Node::default() })
    }

    fn add_untyped(&mut self) -> Untyped {
        let [atomic, deduced] = [(); 2].map(|()| self.add(Node::default()));
        let list = || Some(List { element: atomic, how: Elements::Atomic });
        let map = |element, whole| {
            Some(Map { fields: Vec::new(), element: Some(element), atomic: whole, deduced: !whole })
        };
        let scalar = Some(Scalar::Untyped);
        self.set(atomic, Node { scalar, list: list(), map: map(atomic, true) });
        self.set(deduced, Node { scalar, list: list(), map: map(deduced, false) });
        Untyped { atomic, deduced }
    }
}

/// The type of whole objects: a graph and the place in it to begin at. Cheap to clone; keep one for each kind.
#[derive(Debug, Clone)]
pub struct Root {
    pub(crate) types: Arc<Types>,
    pub(crate) at: Ref,
}

impl Root {
    /// The type of a built-in kind's bodies, of subresources' too (`Scale`).
    pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Root> {
        builtin::root(group, version, kind)
    }

    /// The type of a custom resource's version: its `openAPIV3Schema` (structural, as it is in the
    /// CustomResourceDefinition), plus apiVersion, kind and metadata. `preserve` is the definition's old
    /// `preserveUnknownFields: true`.
    pub fn structural(schema: &Value, preserve: bool) -> Root {
        structural::root(schema, preserve)
    }

    /// The type of objects of which nothing is known: every list is one value.
    pub fn deduced() -> Root {
        static DEDUCED: OnceLock<Root> = OnceLock::new();
        let made = DEDUCED.get_or_init(|| {
            let mut types = Types::default();
            let at = types.add_untyped().deduced;
            Root { types: Arc::new(types), at }
        });
        made.clone()
    }
}

#[cfg(test)]
mod tests;
