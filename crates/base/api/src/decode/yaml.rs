//! Reads one YAML document into a `Value`.

use serde::de::DeserializeSeed;

use super::Parsed;
use super::json::{Notes, Seed};

/// At most so many brackets may stand open: the scanner's time grows with the square of it. Brackets inside texts
/// count too, which no manifest comes near.
const MAX_OPEN: usize = 512;

/// Reads one document; `Err` says why not. Nesting and repetition of aliases are bounded by the reader.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    if open_brackets(bytes) > MAX_OPEN {
        return Err(format!("yaml: more than {MAX_OPEN} open brackets (hint: send the object as JSON)"));
    }
    let mut documents = serde_yaml_ng::Deserializer::from_slice(bytes);
    let Some(first) = documents.next() else { return Err("yaml: the document is empty".to_owned()) };
    let mut notes = Notes::default();
    let value = Seed(&mut notes).deserialize(first).map_err(|e| format!("yaml: {e}"))?;
    if documents.next().is_some() {
        return Err(
            "yaml: several documents in one request (hint: send each object in its own request)".to_owned()
        );
    }
    Ok(Parsed { value, duplicates: notes.duplicates })
}

/// JSON as YAML; nothing when it is none.
pub(super) fn write(json: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    serde_yaml_ng::to_string(&value).ok()
}

/// The largest number of brackets that stand open at once.
fn open_brackets(bytes: &[u8]) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in bytes {
        match byte {
            b'[' | b'{' => {
                open += 1;
                most = most.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    most
}
