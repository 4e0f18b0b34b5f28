//! Reads JSON into a `Value` and notes members that come twice.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{MAX_PROBLEMS, Parsed};

/// Reads one JSON value; `Err` is the message in the words of Go's encoding/json.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let mut notes = Notes::default();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&mut notes).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(value) => Ok(Parsed { value, duplicates: notes.duplicates }),
        Err(error) => Err(in_words_of_go(&error, bytes)),
    }
}

/// The path to where the reader is, and what was found.
#[derive(Default)]
pub(super) struct Notes {
    path: Vec<Step>,
    pub(super) duplicates: Vec<String>,
}

enum Step {
    Member(String),
    Element(usize),
}

impl Notes {
    fn duplicate(&mut self, name: &str) {
        if self.duplicates.len() >= MAX_PROBLEMS {
            return;
        }
        let mut out = String::new();
        for step in &self.path {
            match step {
                Step::Member(name) if out.is_empty() => out.push_str(name),
                Step::Member(name) => {
                    out.push('.');
                    out.push_str(name);
                }
                Step::Element(index) => out.push_str(&format!("[{index}]")),
            }
        }
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(name);
        self.duplicates.push(out);
    }
}

/// Reads any value; YAML uses it as well.
pub(super) struct Seed<'a>(pub(super) &'a mut Notes);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("json: unsupported value: not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            self.0.path.push(Step::Element(out.len()));
            let next = seq.next_element_seed(Seed(self.0))?;
            self.0.path.pop();
            match next {
                Some(value) => out.push(value),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(name) = map.next_key_seed(Name)? {
            if out.contains_key(&name) {
                self.0.duplicate(&name);
            }
            self.0.path.push(Step::Member(name));
            let value = map.next_value_seed(Seed(self.0))?;
            if let Some(Step::Member(name)) = self.0.path.pop() {
                out.insert(name, value);
            }
        }
        Ok(Value::Object(out))
    }
}

/// Reads the name of a member. YAML has names that are no text: Kubernetes turns scalars into text.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Name {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text as name of a member")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

/// The message that Go gives for the same mistake, as far as the place tells.
fn in_words_of_go(error: &serde_json::Error, bytes: &[u8]) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let text = error.to_string();
    let why = [
        ("expected value", "looking for beginning of value"),
        ("expected ident", "in literal"),
        ("key must be a string", "looking for beginning of object key string"),
        ("trailing comma", "looking for beginning of value"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
        ("control character", "in string literal"),
        ("invalid escape", "in string escape code"),
        ("invalid number", "in numeric literal"),
    ]
    .into_iter()
    .find(|(ours, _)| text.starts_with(ours))
    .map(|(_, theirs)| theirs);
    let at = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1));
    let found = at.and_then(|line| line.get(error.column().saturating_sub(1)));
    match (why, found) {
        (Some(why), Some(byte)) if byte.is_ascii_graphic() || *byte == b' ' => {
            format!("invalid character '{}' {why}", char::from(*byte))
        }
        (Some(why), _) => {
            format!("invalid character {why} (line {}, column {})", error.line(), error.column())
        }
        (None, _) => text,
    }
}
