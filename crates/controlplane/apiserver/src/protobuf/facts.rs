//! The facts about messages, read once at first use.

use std::{collections::HashMap, sync::OnceLock};

/// How a field holds its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    List,
    Map,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    Number,
    Float,
    Bytes,
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrString,
    /// JSON in a message of its own.
    Raw,
    /// A list of texts in a message of its own.
    Texts,
    /// A JSON schema, or a list of them.
    Schemas,
    /// A JSON schema, or a flag.
    SchemaOrFlag,
    /// A JSON schema, or a list of names.
    SchemaOrTexts,
    Message(Message),
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// Empty: the members of the message belong to the object around it.
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// Zero counts as a value.
    pub(super) pointer: bool,
    pub(super) kind: Kind,
}

/// A member of an object, with the numbers of the messages inside which its field lies (0: none).
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) path: [u32; 2],
    pub(super) field: Field,
}

/// A message that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message(u16);

struct Facts {
    names: HashMap<&'static str, Message>,
    fields: Vec<Vec<Field>>,
    /// By name.
    members: Vec<Vec<Member>>,
    schema: Option<Message>,
}

impl Message {
    /// The message of a kind. Options travel under the version of the object that they are for.
    pub(crate) fn find(version: &str, kind: &str) -> Option<Self> {
        let (group, version) = version.split_once('/').unwrap_or(("core", version));
        let group = match group.strip_suffix(".k8s.io").unwrap_or(group) {
            "rbac.authorization" => "rbac",
            "flowcontrol.apiserver" => "flowcontrol",
            other => other,
        };
        let names = &facts().names;
        let own = names.get(format!("{group}/{version}.{kind}").as_str());
        let shared = matches!(group, "core" | "meta") || kind.ends_with("Options");
        own.or_else(|| names.get(format!("meta/v1.{kind}").as_str()).filter(|_| shared)).copied()
    }

    /// The message of a JSON schema.
    pub(super) fn schema() -> Option<Self> {
        facts().schema
    }

    /// The fields.
    pub(super) fn fields(self) -> &'static [Field] {
        facts().fields.get(usize::from(self.0)).map_or(&[], Vec::as_slice)
    }

    /// The member of a name.
    pub(super) fn member(self, name: &str) -> Option<&'static Member> {
        let members = facts().members.get(usize::from(self.0))?;
        let index = members.binary_search_by(|member| member.field.name.cmp(name)).ok()?;
        members.get(index)
    }
}

fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| {
        let (mut names, mut fields) = (HashMap::new(), Vec::new());
        for (index, line) in (0..).zip(include_str!("facts.txt").lines()) {
            let mut words = line.split(' ');
            names.insert(words.next().unwrap_or_default(), Message(index));
            fields.push(words.filter_map(field).collect());
        }
        let members = fields.iter().map(|own| members(&fields, own)).collect();
        let schema = names.get("apiextensions/v1.JSONSchemaProps").copied();
        Facts { names, fields, members, schema }
    })
}

/// `number:name:shape and kind`.
fn field(word: &'static str) -> Option<Field> {
    let mut parts = word.splitn(3, ':');
    let (number, name, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let (shape, kind) = match kind.as_bytes().first()? {
        b'[' => (Shape::List, &kind[1..]),
        b'{' => (Shape::Map, &kind[1..]),
        _ => (Shape::One, kind),
    };
    let (pointer, kind) = kind.strip_prefix('*').map_or((false, kind), |rest| (true, rest));
    let kind = match kind {
        "s" => Kind::Text,
        "b" => Kind::Flag,
        "i" => Kind::Number,
        "f" => Kind::Float,
        "y" => Kind::Bytes,
        "t" => Kind::Time,
        "u" => Kind::MicroTime,
        "d" => Kind::Duration,
        "q" => Kind::Quantity,
        "o" => Kind::IntOrString,
        "r" => Kind::Raw,
        "e" => Kind::Texts,
        "A" => Kind::Schemas,
        "B" => Kind::SchemaOrFlag,
        "C" => Kind::SchemaOrTexts,
        message => Kind::Message(Message(message.strip_prefix('m')?.parse().ok()?)),
    };
    Some(Field { number: number.parse().ok()?, name, shape, pointer, kind })
}

/// The members of an object by name, those of inlined messages included.
fn members(all: &[Vec<Field>], own: &[Field]) -> Vec<Member> {
    let mut out = Vec::new();
    let inlined = |field: &Field| match field.kind {
        Kind::Message(inner) if field.name.is_empty() => all.get(usize::from(inner.0)),
        _ => None,
    };
    for field in own {
        let Some(inner) = inlined(field) else {
            out.push(Member { path: [0, 0], field: *field });
            continue;
        };
        for second in inner {
            match inlined(second) {
                None => out.push(Member { path: [field.number, 0], field: *second }),
                Some(inner) => {
                    let path = [field.number, second.number];
                    out.extend(inner.iter().map(|third| Member { path, field: *third }));
                }
            }
        }
    }
    out.sort_by_key(|member| member.field.name);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_is_understood() {
        let facts = facts();
        let count: usize = facts.fields.iter().map(Vec::len).sum();
        let words = include_str!("facts.txt").split_whitespace().count();
        assert_eq!(count + facts.fields.len(), words);
        let inside =
            |kind| !matches!(kind, Kind::Message(Message(n)) if usize::from(n) >= facts.fields.len());
        assert!(facts.fields.iter().flatten().all(|field| inside(field.kind)));
        // Nothing is inlined deeper than members reach, and no name is there twice.
        for members in &facts.members {
            assert!(members.iter().all(|member| !member.field.name.is_empty()), "{members:?}");
            assert!(members.windows(2).all(|two| two[0].field.name != two[1].field.name), "{members:?}");
        }
    }

    #[test]
    fn groups_have_their_messages() {
        for (version, kind) in [
            ("v1", "Pod"),
            ("apps/v1", "Deployment"),
            ("rbac.authorization.k8s.io/v1", "ClusterRole"),
            ("flowcontrol.apiserver.k8s.io/v1", "FlowSchema"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
            ("apiregistration.k8s.io/v1", "APIService"),
            ("resource.k8s.io/v1", "ResourceClaim"),
            ("v1", "Status"),
            ("meta.k8s.io/v1", "PartialObjectMetadata"),
            ("example.com/v1", "DeleteOptions"),
        ] {
            assert!(Message::find(version, kind).is_some(), "{version} {kind}");
        }
        assert_eq!(Message::find("apps.example.com/v1", "Deployment"), None);
        assert_eq!(Message::find("example.com/v1", "Status"), None);
    }
}
