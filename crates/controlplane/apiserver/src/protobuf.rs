//! Request bodies in protobuf, which typed clients (helm, parts of kubectl) send: read into the JSON form.
//!
//! `facts.txt` says of each message which field number is which member; `tools/protobuf_facts.py` writes it.
//! Answers are JSON, which the same clients accept.

use std::{collections::HashMap, sync::OnceLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use sampan_api::status::Status;
use serde_json::{Map, Value};

/// The content type.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What a body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Messages inside messages at most.
const MAX_DEPTH: usize = 48;

/// Members and items of one body at most: a bound on what small input can become.
const MAX_VALUES: usize = 300_000;

/// How a field holds its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    List,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
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
    Raw,
    Texts,
    Dropped,
    Message(usize),
}

#[derive(Debug)]
struct Field {
    number: u64,
    /// Empty: the members of the message belong to the object around it.
    name: &'static str,
    shape: Shape,
    /// Zero counts as a value.
    pointer: bool,
    kind: Kind,
}

struct Facts {
    names: HashMap<&'static str, usize>,
    messages: Vec<Vec<Field>>,
}

fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| {
        let mut facts = Facts { names: HashMap::new(), messages: Vec::new() };
        for line in include_str!("protobuf/facts.txt").lines() {
            let mut words = line.split(' ');
            facts.names.insert(words.next().unwrap_or_default(), facts.messages.len());
            facts.messages.push(words.filter_map(field).collect());
        }
        facts
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
        "x" => Kind::Dropped,
        message => Kind::Message(message.strip_prefix('m')?.parse().ok()?),
    };
    Some(Field { number: number.parse().ok()?, name, shape, pointer, kind })
}

/// A field as it comes.
enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// Reads fields one after another.
struct Reader<'a>(&'a [u8]);

type Outcome<T> = Result<T, &'static str>;

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Outcome<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("unexpected end")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    fn take(&mut self, length: usize) -> Outcome<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("unexpected end")?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field's number and value; none at the end.
    fn next(&mut self) -> Outcome<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed(little(self.take(8)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| "a length is too large")?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed(little(self.take(4)?)),
            _ => return Err("unknown wire type"),
        };
        Ok(Some((tag >> 3, wire)))
    }
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A body as the object that JSON would have said. Its `apiVersion` and `kind` are those of the envelope.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Status> {
    read(body).map_err(|why| Status::bad_request(format!("couldn't decode the protobuf body: {why}")))
}

fn read(body: &[u8]) -> Outcome<Value> {
    let envelope = body.strip_prefix(MAGIC).ok_or("it does not begin as Kubernetes' protobuf does")?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader(envelope);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader(meta);
                while let Some((number, wire)) = meta.next()? {
                    match (number, wire) {
                        (1, Wire::Bytes(text)) => version = text_of(text)?,
                        (2, Wire::Bytes(text)) => kind = text_of(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let message = find(&version, &kind).ok_or("its kind is not known in this form (hint: send JSON)")?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), version.into());
    object.insert("kind".to_owned(), kind.into());
    let mut decoder = Decoder { left: MAX_VALUES };
    decoder.message(message, raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

/// The message of a kind. Options travel under the version of the object that they are for.
fn find(version: &str, kind: &str) -> Option<usize> {
    let (group, version) = version.split_once('/').unwrap_or(("core", version));
    let group = group.split('.').next().unwrap_or_default();
    let names = &facts().names;
    let own = names.get(format!("{group}/{version}.{kind}").as_str());
    own.or_else(|| names.get(format!("meta/v1.{kind}").as_str())).copied()
}

fn text_of(bytes: &[u8]) -> Outcome<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "a text is not UTF-8")
}

struct Decoder {
    left: usize,
}

impl Decoder {
    fn message(
        &mut self,
        index: usize,
        bytes: &[u8],
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Outcome<()> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply");
        }
        let fields = facts().messages.get(index).ok_or("a message is not known")?;
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.next()? {
            let Some(field) = fields.iter().find(|field| field.number == number) else { continue };
            self.left = self.left.checked_sub(1).ok_or("it has too many values")?;
            match (field.shape, field.kind, &wire) {
                (Shape::One, Kind::Message(inner), Wire::Bytes(bytes)) if field.name.is_empty() => {
                    self.message(inner, bytes, out, depth + 1)?;
                }
                (Shape::Map, kind, Wire::Bytes(entry)) => {
                    let (key, value) = self.entry(kind, entry, depth)?;
                    let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                    if let Some(map) = map.as_object_mut() {
                        map.insert(key, value);
                    }
                }
                (Shape::List, kind, wire) => {
                    let Some(value) = self.value(kind, wire, depth)? else { continue };
                    let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                    if let Some(list) = list.as_array_mut() {
                        list.push(value);
                    }
                }
                (_, kind, wire) => {
                    let Some(value) = self.value(kind, wire, depth)? else { continue };
                    if field.pointer || !is_zero(&value) {
                        out.insert(field.name.to_owned(), value);
                    }
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, kind: Kind, bytes: &[u8], depth: usize) -> Outcome<(String, Value)> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.next()? {
            match (number, wire) {
                (1, Wire::Bytes(text)) => key = text_of(text)?,
                (2, wire) => value = self.value(kind, &wire, depth)?,
                _ => {}
            }
        }
        Ok((key, value.unwrap_or_else(|| "".into())))
    }

    fn value(&mut self, kind: Kind, wire: &Wire<'_>, depth: usize) -> Outcome<Option<Value>> {
        Ok(Some(match (kind, wire) {
            (Kind::Text, Wire::Bytes(bytes)) => text_of(bytes)?.into(),
            (Kind::Flag, Wire::Varint(number)) => (*number != 0).into(),
            (Kind::Number, Wire::Varint(number)) => number.cast_signed().into(),
            (Kind::Float, Wire::Fixed(bits)) => f64::from_bits(*bits).into(),
            (Kind::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Kind::Time | Kind::MicroTime, Wire::Bytes(bytes)) => return time(kind, bytes),
            (Kind::Duration, Wire::Bytes(bytes)) => duration(bytes)?,
            (Kind::Quantity, Wire::Bytes(bytes)) => texts(bytes)?.pop().unwrap_or_default().into(),
            (Kind::Texts, Wire::Bytes(bytes)) => texts(bytes)?.into(),
            (Kind::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
            (Kind::Raw, Wire::Bytes(bytes)) => raw(bytes)?,
            (Kind::Message(index), Wire::Bytes(bytes)) => {
                let mut inner = Map::new();
                self.message(index, bytes, &mut inner, depth + 1)?;
                inner.into()
            }
            (Kind::Dropped, _) => return Ok(None),
            _ => return Err("a field has another wire type than its kind"),
        }))
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(flag) => !flag,
        _ => false,
    }
}

/// Seconds and nanoseconds; nothing at all is no time.
fn time(kind: Kind, bytes: &[u8]) -> Outcome<Option<Value>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = i32::try_from(value).map_err(|_| "a time is out of range")?,
            _ => {}
        }
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| "a time is out of range")?;
    let text = if kind == Kind::Time {
        sampan_daemon::clock::rfc3339(at)
    } else {
        sampan_daemon::clock::rfc3339_micro(at)
    };
    Ok(Some(text.into()))
}

/// Nanoseconds, written as Go writes a duration.
fn duration(bytes: &[u8]) -> Outcome<Value> {
    let mut nanos = 0;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Varint(value)) = (number, wire) {
            nanos = value.cast_signed();
        }
    }
    let whole = nanos % 1_000_000_000 == 0;
    Ok(if whole { format!("{}s", nanos / 1_000_000_000) } else { format!("{nanos}ns") }.into())
}

/// All texts of field 1.
fn texts(bytes: &[u8]) -> Outcome<Vec<String>> {
    let mut out = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Bytes(text)) = (number, wire) {
            out.push(text_of(text)?);
        }
    }
    Ok(out)
}

fn int_or_string(bytes: &[u8]) -> Outcome<Value> {
    let (mut is_text, mut number, mut text) = (false, 0_i64, String::new());
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.next()? {
        match (field, wire) {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(bytes)) => text = text_of(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// JSON inside.
fn raw(bytes: &[u8]) -> Outcome<Value> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Bytes(bytes)) = (number, wire) {
            return serde_json::from_slice(bytes).map_err(|_| "an embedded object is not JSON");
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
    }

    #[test]
    fn a_secret_is_read() {
        let metadata =
            [bytes(1, b"s"), bytes(8, b""), bytes(11, &[bytes(1, b"k"), bytes(2, b"v")].concat())].concat();
        let data = [bytes(1, b"key"), bytes(2, &[0xff, 0])].concat();
        let secret = [bytes(1, &metadata), bytes(2, &data), bytes(3, b""), vec![5 << 3, 0]].concat();
        let value = decode(&envelope("v1", "Secret", &secret)).unwrap();
        let expected = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"k": "v"}},
            "data": {"key": "/wA="}, "immutable": false,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn inline_members_and_options_find_their_place() {
        let volume = [bytes(1, b"v"), bytes(2, &bytes(2, b""))].concat();
        let spec = bytes(1, &volume);
        let pod = decode(&envelope("v1", "Pod", &bytes(2, &spec))).unwrap();
        assert_eq!(pod["spec"]["volumes"][0], serde_json::json!({"name": "v", "emptyDir": {}}));
        let options = decode(&envelope("apps/v1", "DeleteOptions", &[1 << 3, 0])).unwrap();
        assert_eq!(options["gracePeriodSeconds"], 0);
    }

    #[test]
    fn damaged_bodies_are_refused() {
        let whole = envelope("v1", "Pod", &bytes(2, &bytes(1, &bytes(1, b"v"))));
        for end in 0..whole.len() {
            // Whatever is cut off: an answer, never a panic.
            let _ = decode(&whole[..end]);
        }
        assert!(decode(b"{}").is_err());
        assert!(decode(&envelope("v1", "Nonsense", b"")).is_err());
        assert!(decode(&envelope("v1", "Pod", &[0xff; 20])).is_err());
    }

    #[test]
    fn every_fact_is_understood() {
        let count: usize = facts().messages.iter().map(Vec::len).sum();
        let words = include_str!("protobuf/facts.txt").split_whitespace().count();
        assert_eq!(count + facts().messages.len(), words);
        let inside = |kind: Kind| !matches!(kind, Kind::Message(index) if index >= facts().messages.len());
        assert!(facts().messages.iter().flatten().all(|field| inside(field.kind)));
    }
}
