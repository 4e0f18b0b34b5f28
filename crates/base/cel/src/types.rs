//! Types as expressions see them.

use std::{fmt, sync::Arc};

use crate::declare::ObjectType;

/// A type.
#[derive(Debug, Clone, Default)]
pub enum Type {
    /// Known only when the expression runs.
    #[default]
    Dyn,
    /// What has no type because of an error that was reported.
    Error,
    /// `null_type`
    Null,
    /// `bool`
    Bool,
    /// `int`, 64 bits, signed
    Int,
    /// `uint`, 64 bits
    Uint,
    /// `double`
    Double,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// `google.protobuf.Duration`
    Duration,
    /// `google.protobuf.Timestamp`
    Timestamp,
    /// `list(T)`
    List(Arc<Type>),
    /// `map(K, V)`
    Map(Arc<Type>, Arc<Type>),
    /// An object with declared fields; two are the same when their names are.
    Object(Arc<ObjectType>),
    /// A type of Kubernetes' library, of which only functions know the inside.
    Opaque(Opaque),
    /// `optional_type(T)`
    Optional(Arc<Type>),
    /// `type(T)`: the type of a type.
    Type(Arc<Type>),
    /// A parameter of a generic function, or not decided yet.
    Param(u32),
}

/// The types of Kubernetes' library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opaque {
    /// `kubernetes.Quantity`
    Quantity,
    /// `kubernetes.URL`
    Url,
    /// `net.IP`
    Ip,
    /// `net.CIDR`
    Cidr,
    /// `kubernetes.Semver`
    Semver,
    /// `kubernetes.NamedFormat`
    Format,
    /// `kubernetes.authorization.Authorizer`
    Authorizer,
    /// `kubernetes.authorization.PathCheck`
    PathCheck,
    /// `kubernetes.authorization.GroupCheck`
    GroupCheck,
    /// `kubernetes.authorization.ResourceCheck`
    ResourceCheck,
    /// `kubernetes.authorization.Decision`
    Decision,
}

impl Opaque {
    /// Each with its name.
    pub(crate) const ALL: [(Opaque, &'static str); 11] = [
        (Opaque::Quantity, "kubernetes.Quantity"),
        (Opaque::Url, "kubernetes.URL"),
        (Opaque::Ip, "net.IP"),
        (Opaque::Cidr, "net.CIDR"),
        (Opaque::Semver, "kubernetes.Semver"),
        (Opaque::Format, "kubernetes.NamedFormat"),
        (Opaque::Authorizer, "kubernetes.authorization.Authorizer"),
        (Opaque::PathCheck, "kubernetes.authorization.PathCheck"),
        (Opaque::GroupCheck, "kubernetes.authorization.GroupCheck"),
        (Opaque::ResourceCheck, "kubernetes.authorization.ResourceCheck"),
        (Opaque::Decision, "kubernetes.authorization.Decision"),
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(opaque, _)| *opaque == self).map_or("", |(_, name)| name)
    }
}

impl Type {
    /// A list of these.
    pub fn list(items: Type) -> Type {
        Type::List(Arc::new(items))
    }

    /// A map from one to the other.
    pub fn map(keys: Type, values: Type) -> Type {
        Type::Map(Arc::new(keys), Arc::new(values))
    }

    /// An optional one.
    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// Whether it is decided only when the expression runs, or not at all.
    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// The name that `type(x)` has as a value, without parameters.
    pub(crate) fn name(&self) -> &str {
        match self {
            Type::Dyn | Type::Param(_) => "dyn",
            Type::Error => "!error!",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::List(_) => "list",
            Type::Map(..) => "map",
            Type::Object(object) => &object.name,
            Type::Opaque(opaque) => opaque.name(),
            Type::Optional(_) => "optional_type",
            Type::Type(_) => "type",
        }
    }
}

/// Exactly the same, parameters included.
impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a == b,
            (Type::Type(a), Type::Type(b)) => a == b,
            (Type::Map(a, b), Type::Map(c, d)) => a == c && b == d,
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Param(a), Type::Param(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

impl Eq for Type {}

/// As cel-go writes them in messages.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::List(items) => write!(f, "list({items})"),
            Type::Map(keys, values) => write!(f, "map({keys}, {values})"),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Type(inner) if matches!(**inner, Type::Dyn) => f.write_str("type"),
            Type::Type(inner) => write!(f, "type({inner})"),
            Type::Param(id) => write!(f, "_var{id}"),
            other => f.write_str(other.name()),
        }
    }
}
