//! Bodies in protobuf as the objects that JSON would have said.

use base64::{Engine, engine::general_purpose::STANDARD};
use sampan_api::status::Status;
use serde_json::{Map, Value};

use super::{
    MAGIC, Outcome,
    facts::{Field, Kind, Message, Shape},
    scalars::{read_duration, read_int_or_string, read_raw, read_texts, read_time, text_of},
    wire::{Reader, Wire},
};

/// Messages inside messages at most.
const MAX_DEPTH: usize = 48;

/// Members and items of one body at most: a bound on what small input can become.
const MAX_VALUES: usize = 300_000;

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
    let message =
        Message::find(&version, &kind).ok_or("its kind is not known in this form (hint: send JSON)")?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), version.into());
    object.insert("kind".to_owned(), kind.into());
    let mut decoder = Decoder { left: MAX_VALUES };
    decoder.message(message, raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

struct Decoder {
    left: usize,
}

impl Decoder {
    fn message(
        &mut self,
        message: Message,
        bytes: &[u8],
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Outcome<()> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply");
        }
        let fields = message.fields();
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.next()? {
            let Some(field) = fields.iter().find(|field| u64::from(field.number) == number) else { continue };
            self.left = self.left.checked_sub(1).ok_or("it has too many values")?;
            self.field(field, &wire, out, depth)?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        wire: &Wire<'_>,
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Outcome<()> {
        match (field.shape, field.kind, wire) {
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
                let Some(value) = self.value(kind, wire, depth)? else { return Ok(()) };
                let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    list.push(value);
                }
            }
            (_, kind, wire) => {
                let Some(value) = self.value(kind, wire, depth)? else { return Ok(()) };
                if field.pointer || !is_zero(&value) {
                    out.insert(field.name.to_owned(), value);
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
            (Kind::Float, Wire::Fixed(bits)) => float(f64::from_bits(*bits)),
            (Kind::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Kind::Time | Kind::MicroTime, Wire::Bytes(bytes)) => return read_time(kind, bytes),
            (Kind::Duration, Wire::Bytes(bytes)) => read_duration(bytes)?,
            (Kind::Quantity, Wire::Bytes(bytes)) => read_texts(bytes)?.pop().unwrap_or_default().into(),
            (Kind::Texts, Wire::Bytes(bytes)) => read_texts(bytes)?.into(),
            (Kind::IntOrString, Wire::Bytes(bytes)) => read_int_or_string(bytes)?,
            (Kind::Raw, Wire::Bytes(bytes)) => read_raw(bytes)?,
            (Kind::Message(inner), Wire::Bytes(bytes)) => self.object(inner, bytes, depth)?,
            (Kind::Schemas | Kind::SchemaOrFlag | Kind::SchemaOrTexts, Wire::Bytes(bytes)) => {
                self.choice(kind, bytes, depth)?
            }
            _ => return Err("a field has another wire type than its kind"),
        }))
    }

    fn object(&mut self, message: Message, bytes: &[u8], depth: usize) -> Outcome<Value> {
        let mut inner = Map::new();
        self.message(message, bytes, &mut inner, depth + 1)?;
        Ok(inner.into())
    }

    /// A schema, or what may stand in its place.
    fn choice(&mut self, kind: Kind, bytes: &[u8], depth: usize) -> Outcome<Value> {
        let message = Message::schema().ok_or("schemas are not known")?;
        let (mut flag, mut list) = (false, Vec::new());
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.next()? {
            self.left = self.left.checked_sub(1).ok_or("it has too many values")?;
            match (kind, number, wire) {
                (Kind::SchemaOrFlag, 1, Wire::Varint(value)) => flag = value != 0,
                (Kind::SchemaOrFlag, 2, Wire::Bytes(bytes))
                | (Kind::Schemas | Kind::SchemaOrTexts, 1, Wire::Bytes(bytes)) => {
                    return self.object(message, bytes, depth + 1);
                }
                (Kind::Schemas, 2, Wire::Bytes(bytes)) => {
                    list.push(self.object(message, bytes, depth + 1)?)
                }
                (Kind::SchemaOrTexts, 2, Wire::Bytes(bytes)) => list.push(text_of(bytes)?.into()),
                _ => {}
            }
        }
        Ok(if kind == Kind::SchemaOrFlag { flag.into() } else { list.into() })
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(flag) => !flag,
        Value::Null => true,
        _ => false,
    }
}

/// Whole numbers are written without a fraction in JSON.
fn float(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT { (value as i64).into() } else { value.into() }
}
