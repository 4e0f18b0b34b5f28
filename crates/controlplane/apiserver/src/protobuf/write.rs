//! JSON bytes as protobuf, in one pass: the parser calls, the bytes are appended.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Outcome, UNFIT, envelope,
    facts::{Field, Kind, Member, Message, Shape},
    scalars::{write_duration, write_int_or_string, write_time},
    wire::{self, nested, number, text},
};

/// The field of `metadata.resourceVersion`.
const RESOURCE_VERSION: u32 = 6;

/// Appends the fields of an object. `revision` becomes its resourceVersion.
pub(super) fn object(out: &mut Vec<u8>, message: Message, json: &[u8], revision: Option<i64>) -> Outcome<()> {
    run(Members { message, out, revision }, json)
}

fn run<'de>(seed: impl DeserializeSeed<'de, Value = ()>, json: &'de [u8]) -> Outcome<()> {
    seed.deserialize(&mut serde_json::Deserializer::from_slice(json)).map_err(|error| {
        tracing::debug!(%error, "an object has no protobuf form");
        UNFIT
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    #[serde(borrow, default)]
    api_version: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    kind: std::borrow::Cow<'a, str>,
}

/// See [`super::transcode`].
pub(super) fn any(json: &[u8]) -> Option<Vec<u8>> {
    let head: Head<'_> = serde_json::from_slice(json).ok()?;
    let (version, kind) = (head.api_version.as_ref(), head.kind.as_ref());
    let item = kind.strip_suffix("List").and_then(|kind| Message::find(version, kind));
    // The only kind whose answer names no version.
    let own = Message::find(if kind == "APIVersions" { "v1" } else { version }, kind);
    let mut out = Vec::with_capacity(json.len());
    envelope(&mut out, version, kind, |out| {
        nested(out, 2, |out| match (own, item) {
            (Some(message), _) => object(out, message, json, None),
            (None, Some(item)) => run(List { item, out }, json),
            (None, None) => Err(UNFIT),
        })
    })
    .ok()?;
    Some(out)
}

/// A list: its own metadata and its items.
struct List<'o> {
    item: Message,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let meta = Message::find("v1", "ListMeta").ok_or_else(|| A::Error::custom(UNFIT))?;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let field = match key.as_ref() {
                "metadata" => (1, Shape::One, meta),
                "items" => (2, Shape::List, self.item),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let (number, shape, message) = field;
            map.next_value_seed(Slot {
                number,
                shape,
                kind: Kind::Message(message),
                out: self.out,
                revision: None,
            })?;
        }
        Ok(())
    }
}

/// The members of an object.
struct Members<'o> {
    message: Message,
    out: &'o mut Vec<u8>,
    revision: Option<i64>,
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(member) = map.next_key_seed(Name(self.message))? {
            match member {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(member) => {
                    let Field { number, name, shape, kind, .. } = member.field;
                    let revision = self.revision.filter(|_| name == "metadata");
                    let slot = Slot { number, shape, kind, out: self.out, revision };
                    map.next_value_seed(Inlined { path: &member.path, slot })?;
                }
            }
        }
        Ok(())
    }
}

/// The name of a member; nothing for one that has no field.
struct Name(Message);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Member>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Member>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.member(name))
    }
}

/// A value inside messages whose members belong to the object around them. Each such message is written once for each
/// member: whoever reads merges them.
struct Inlined<'p, 'o> {
    path: &'p [u32],
    slot: Slot<'o>,
}

impl<'de> DeserializeSeed<'de> for Inlined<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Some((&outer, path)) = self.path.split_first().filter(|(number, _)| **number != 0) else {
            return self.slot.deserialize(deserializer);
        };
        let Slot { out, number, shape, kind, revision } = self.slot;
        nested(out, outer, |out| {
            let slot = Slot { number, shape, kind, out, revision };
            Inlined { path, slot }.deserialize(deserializer)
        })
    }
}

/// Where a value goes. Null writes nothing.
struct Slot<'o> {
    number: u32,
    shape: Shape,
    kind: Kind,
    out: &'o mut Vec<u8>,
    revision: Option<i64>,
}

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if (self.shape, self.kind) != (Shape::One, Kind::Raw) {
            return deserializer.deserialize_any(self);
        }
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        if raw != "null" {
            nested(self.out, self.number, |out| {
                text(out, 1, raw);
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Slot<'_> {
    fn whole(self, value: u64) -> Outcome<()> {
        match self.kind {
            Kind::Number => number(self.out, self.number, value),
            Kind::Float => self.float(value.cast_signed() as f64),
            Kind::IntOrString => write_int_or_string(self.out, self.number, Err(value))?,
            Kind::Quantity => self.quantity(&value.cast_signed().to_string())?,
            _ => return Err(UNFIT),
        }
        Ok(())
    }

    fn float(self, value: f64) {
        wire::tag(self.out, self.number, wire::FIXED);
        self.out.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    fn quantity(self, value: &str) -> Outcome<()> {
        nested(self.out, self.number, |out| {
            text(out, 1, value);
            Ok(())
        })
    }

    fn text(self, value: &str) -> Outcome<()> {
        match self.kind {
            Kind::Text => text(self.out, self.number, value),
            Kind::Time | Kind::MicroTime => write_time(self.out, self.number, self.kind, value)?,
            Kind::Quantity => self.quantity(value)?,
            Kind::IntOrString => write_int_or_string(self.out, self.number, Ok(value))?,
            Kind::Duration => write_duration(self.out, self.number, value)?,
            Kind::Bytes => {
                let decoded = STANDARD.decode(value).map_err(|_| "bytes are not base64")?;
                wire::bytes(self.out, self.number, &decoded);
            }
            _ => return Err(UNFIT),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of kind {:?}", self.kind)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.kind {
            Kind::Flag => number(self.out, self.number, value.into()),
            Kind::SchemaOrFlag => nested(self.out, self.number, |out| {
                number(out, 1, value.into());
                Ok(())
            })?,
            _ => return Err(E::custom(UNFIT)),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.whole(value).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.whole(value.cast_unsigned()).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.kind {
            Kind::Float => self.float(value),
            Kind::Quantity => self.quantity(&value.to_string()).map_err(E::custom)?,
            // Patches may leave a whole number as 1.0.
            Kind::Number | Kind::IntOrString if value.fract() == 0.0 => {
                self.whole((value as i64).cast_unsigned()).map_err(E::custom)?;
            }
            _ => return Err(E::custom(UNFIT)),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.text(value).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Slot { number, kind, out, revision, .. } = self;
        let schema = || Message::schema().ok_or_else(|| A::Error::custom(UNFIT));
        match (self.shape, kind) {
            (Shape::Map, kind) => {
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    nested(out, number, |out| {
                        text(out, 1, &key);
                        map.next_value_seed(Slot { number: 2, shape: Shape::One, kind, out, revision: None })
                    })?;
                }
                Ok(())
            }
            (_, Kind::Message(message)) => nested(out, number, |out| {
                Members { message, out, revision: None }.visit_map(map)?;
                if let Some(revision) = revision {
                    text(out, RESOURCE_VERSION, &revision.to_string());
                }
                Ok(())
            }),
            (_, Kind::Schemas | Kind::SchemaOrTexts) => nested(out, number, |out| {
                nested(out, 1, |out| Members { message: schema()?, out, revision: None }.visit_map(map))
            }),
            (_, Kind::SchemaOrFlag) => nested(out, number, |out| {
                wire::number(out, 1, 1);
                nested(out, 2, |out| Members { message: schema()?, out, revision: None }.visit_map(map))
            }),
            _ => Err(A::Error::custom(UNFIT)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        let Slot { number, kind, out, .. } = self;
        match (self.shape, kind) {
            (Shape::List, kind) => elements(list, out, number, kind),
            (_, Kind::Texts) => nested(out, number, |out| elements(list, out, 1, Kind::Text)),
            (_, Kind::SchemaOrTexts) => nested(out, number, |out| elements(list, out, 2, Kind::Text)),
            (_, Kind::Schemas) => {
                let schema = Message::schema().ok_or_else(|| A::Error::custom(UNFIT))?;
                nested(out, number, |out| elements(list, out, 2, Kind::Message(schema)))
            }
            _ => Err(A::Error::custom(UNFIT)),
        }
    }
}

/// Each element as a field of its own.
fn elements<'de, A: SeqAccess<'de>>(
    mut list: A,
    out: &mut Vec<u8>,
    number: u32,
    kind: Kind,
) -> Result<(), A::Error> {
    loop {
        let slot = Slot { number, shape: Shape::One, kind, out, revision: None };
        if list.next_element_seed(slot)?.is_none() {
            return Ok(());
        }
    }
}
