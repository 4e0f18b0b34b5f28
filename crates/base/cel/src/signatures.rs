//! Which functions there are: every overload with its types, under the name that cel-go or Kubernetes gives it.

use std::{collections::HashMap, sync::LazyLock};

use crate::types::{Opaque, Type};

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    /// The name under which its cost is known.
    pub(crate) id: String,
    /// Whether it is called on a target, which is the first parameter.
    pub(crate) member: bool,
    pub(crate) params: Vec<Type>,
    pub(crate) result: Type,
    /// Parameters are numbered below this.
    pub(crate) generics: u32,
}

/// The overloads of a function.
pub(crate) fn find(function: &str) -> Option<&'static [Overload]> {
    FUNCTIONS.get(function).map(Vec::as_slice)
}

/// The type that a name stands for as a value.
pub(crate) fn type_value(name: &str) -> Option<Type> {
    let any = || Type::Dyn;
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "list" => Type::list(any()),
        "map" => Type::map(any(), any()),
        "null_type" => Type::Null,
        "type" => Type::Type(any().into()),
        "optional_type" => Type::optional(any()),
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        _ => Type::Opaque(Opaque::ALL.iter().find(|(_, known)| *known == name)?.0),
    })
}

static FUNCTIONS: LazyLock<HashMap<String, Vec<Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<String, Vec<Overload>> = HashMap::new();
    let lines = TABLE.lines().map(str::to_owned).chain(comparisons()).chain(lists());
    for line in lines {
        if let Some((name, overload)) = read(&line) {
            functions.entry(name).or_default().push(overload);
        }
    }
    functions
});

/// `<`, `<=`, `>` and `>=` of what has an order; numbers of different types compare, too.
fn comparisons() -> impl Iterator<Item = String> {
    const OPERATORS: [(&str, &str); 4] =
        [("_<_", "less"), ("_<=_", "less_equals"), ("_>_", "greater"), ("_>=_", "greater_equals")];
    const PAIRS: [(&str, &str, &str); 14] = [
        ("bool", "bool", "bool"),
        ("int64", "int", "int"),
        ("int64_double", "int", "double"),
        ("int64_uint64", "int", "uint"),
        ("uint64", "uint", "uint"),
        ("uint64_double", "uint", "double"),
        ("uint64_int64", "uint", "int"),
        ("double", "double", "double"),
        ("double_int64", "double", "int"),
        ("double_uint64", "double", "uint"),
        ("string", "string", "string"),
        ("bytes", "bytes", "bytes"),
        ("timestamp", "timestamp", "timestamp"),
        ("duration", "duration", "duration"),
    ];
    OPERATORS.into_iter().flat_map(|(operator, name)| {
        PAIRS.into_iter().map(move |(id, a, b)| format!("{operator} {name}_{id} ({a} {b}) bool"))
    })
}

/// Functions of lists whose elements have an order, or a sum.
fn lists() -> impl Iterator<Item = String> {
    const ORDERED: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];
    const SUMMABLE: [&str; 4] = ["int", "uint", "double", "duration"];
    let ordered = ORDERED.into_iter().flat_map(|ty| {
        [
            format!("isSorted list_{ty}_is_sorted_bool .(list<{ty}>) bool"),
            format!("max list_{ty}_max_{ty} .(list<{ty}>) {ty}"),
            format!("min list_{ty}_min_{ty} .(list<{ty}>) {ty}"),
            format!("sort list_{ty}_sort .(list<{ty}>) list<{ty}>"),
            format!("@sortByAssociatedKeys list_{ty}_sortByAssociatedKeys .(list<A> list<{ty}>) list<A>"),
        ]
    });
    ordered.chain(SUMMABLE.into_iter().map(|ty| format!("sum list_{ty}_sum_{ty} .(list<{ty}>) {ty}")))
}

/// Reads a line: function, overload, parameters (a point before them when it is called on the first), result.
fn read(line: &str) -> Option<(String, Overload)> {
    let mut words = line.splitn(3, ' ');
    let (name, id, rest) = (words.next()?, words.next()?, words.next()?);
    let (params, result) = rest.split_once(')')?;
    let member = params.starts_with('.');
    let params = params.trim_start_matches('.').trim_start_matches('(');
    let params: Vec<Type> = params.split_whitespace().map(read_type).collect();
    let result = read_type(result.trim());
    let overload = Overload { id: id.to_owned(), member, params, result, generics: 3 };
    Some((name.to_owned(), overload))
}

fn read_type(text: &str) -> Type {
    let inner = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
    if let Some(items) = inner("list<") {
        return Type::list(read_type(items));
    }
    if let Some((keys, values)) = inner("map<").and_then(|inner| inner.split_once(',')) {
        return Type::map(read_type(keys), read_type(values));
    }
    if let Some(inner) = inner("optional<") {
        return Type::optional(read_type(inner));
    }
    if let Some(inner) = inner("type<") {
        return Type::Type(read_type(inner).into());
    }
    match text {
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        "C" => Type::Param(2),
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "quantity" => Type::Opaque(Opaque::Quantity),
        "url" => Type::Opaque(Opaque::Url),
        "ip" => Type::Opaque(Opaque::Ip),
        "cidr" => Type::Opaque(Opaque::Cidr),
        "semver" => Type::Opaque(Opaque::Semver),
        "format" => Type::Opaque(Opaque::Format),
        "authorizer" => Type::Opaque(Opaque::Authorizer),
        "path" => Type::Opaque(Opaque::PathCheck),
        "group" => Type::Opaque(Opaque::GroupCheck),
        "resource" => Type::Opaque(Opaque::ResourceCheck),
        "decision" => Type::Opaque(Opaque::Decision),
        other => type_value(other).unwrap_or(Type::Dyn),
    }
}

const TABLE: &str = include_str!("signatures.txt");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_an_overload_with_an_implementation() {
        for line in TABLE.lines() {
            let (name, overload) = read(line).unwrap_or_else(|| panic!("{line}"));
            let written = line.split('(').nth(1).unwrap().split(')').next().unwrap();
            assert_eq!(overload.params.len(), written.split_whitespace().count(), "{line}");
            for word in written.split_whitespace().filter(|word| *word != "dyn") {
                assert_ne!(read_type(word), Type::Dyn, "{line}");
            }
            assert!(crate::plan::implemented(&name), "{name} has no implementation");
        }
    }
}
