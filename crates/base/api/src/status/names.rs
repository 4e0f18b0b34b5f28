//! How a resource or a kind is called inside a message: `pods`, `deployments.apps`, `Deployment.apps`.

use std::borrow::Cow;
use std::fmt;

use crate::kinds::Resource;

/// A resource (plural) and its group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupResource<'a> {
    /// The API group; empty for the core group.
    pub group: Cow<'a, str>,
    /// The resource's plural, with `/status` and the like where a subresource is meant.
    pub resource: Cow<'a, str>,
}

/// A kind and its group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupKind<'a> {
    /// The API group; empty for the core group.
    pub group: Cow<'a, str>,
    /// The kind.
    pub kind: Cow<'a, str>,
}

impl From<&Resource> for GroupResource<'_> {
    fn from(resource: &Resource) -> Self {
        Self {
            group: Cow::Owned(resource.group.to_string()),
            resource: Cow::Owned(resource.plural.to_string()),
        }
    }
}

impl<'a> From<(&'a str, &'a str)> for GroupResource<'a> {
    fn from((group, resource): (&'a str, &'a str)) -> Self {
        Self { group: Cow::Borrowed(group), resource: Cow::Borrowed(resource) }
    }
}

impl From<&Resource> for GroupKind<'_> {
    fn from(resource: &Resource) -> Self {
        Self { group: Cow::Owned(resource.group.to_string()), kind: Cow::Owned(resource.kind.to_string()) }
    }
}

impl<'a> From<(&'a str, &'a str)> for GroupKind<'a> {
    fn from((group, kind): (&'a str, &'a str)) -> Self {
        Self { group: Cow::Borrowed(group), kind: Cow::Borrowed(kind) }
    }
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        qualified(f, &self.resource, &self.group)
    }
}

impl fmt::Display for GroupKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        qualified(f, &self.kind, &self.group)
    }
}

fn qualified(f: &mut fmt::Formatter<'_>, name: &str, group: &str) -> fmt::Result {
    f.write_str(name)?;
    if group.is_empty() { Ok(()) } else { write!(f, ".{group}") }
}

/// The text in double quotes with the escapes of Go's `%q`, which every message uses.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
