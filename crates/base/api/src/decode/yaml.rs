//! Reads one YAML document into a `Value`.

use serde::de::DeserializeSeed;

use super::Parsed;
use super::json::{Notes, Seed};

/// Reads one document; `Err` says why not. Nesting and repetition of aliases are bounded by the reader.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
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
