//! `application/vnd.kubernetes.protobuf`, which typed clients speak, in both directions.
//!
//! `facts.txt` says of each message which field number is which member; `tools/protobuf_facts.py` writes it. Bodies
//! are read into the JSON form; answers are written from JSON bytes in one pass, without a tree in between.

mod facts;
pub(crate) mod openapi;
mod read;
mod scalars;
mod wire;
mod write;

pub(crate) use self::{facts::Message, read::decode, scalars::go_duration};

use self::wire::{nested, text};

/// The content type.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The content type of a watch.
pub(crate) const WATCH_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// What an object begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Why something has no such form, or is none.
type Outcome<T> = Result<T, &'static str>;

/// Said when an object is not what the facts say of its kind.
const UNFIT: &str = "the object does not fit its kind";

/// The message of `PartialObjectMetadata`: whatever the object, only its metadata is written.
pub(crate) fn partial() -> Option<Message> {
    Message::find("meta.k8s.io/v1", "PartialObjectMetadata")
}

/// Appends an object in its envelope; `json` may be the stored form, whose resourceVersion is `revision`.
pub(crate) fn push_object(
    out: &mut Vec<u8>,
    (version, kind): (&str, &str),
    message: Message,
    json: &[u8],
    revision: Option<i64>,
) -> Outcome<()> {
    envelope(out, version, kind, |out| nested(out, 2, |out| write::object(out, message, json, revision)))
}

/// Appends an item of a list.
pub(crate) fn push_item(out: &mut Vec<u8>, message: Message, json: &[u8], revision: i64) -> Outcome<()> {
    nested(out, 2, |out| write::object(out, message, json, Some(revision)))
}

/// Appends a list in its envelope: `metadata` is the JSON of its own, `items` what [`push_item`] made.
pub(crate) fn push_list(
    out: &mut Vec<u8>,
    (version, kind): (&str, &str),
    metadata: &[u8],
    items: &[u8],
) -> Outcome<()> {
    let message = Message::find("v1", "ListMeta").ok_or(UNFIT)?;
    envelope(out, version, kind, |out| {
        let mut head = Vec::with_capacity(metadata.len());
        nested(&mut head, 1, |out| write::object(out, message, metadata, None))?;
        wire::tag(out, 2, wire::BYTES);
        wire::varint(out, (head.len() + items.len()) as u64);
        out.extend_from_slice(&head);
        out.extend_from_slice(items);
        Ok(())
    })
}

/// Appends an event of a watch, its length first; `object` is an object in its envelope.
pub(crate) fn push_frame(out: &mut Vec<u8>, change: &str, object: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    text(out, 1, change);
    let inner = 1 + wire::varint_len(object.len() as u64) + object.len();
    wire::tag(out, 2, wire::BYTES);
    wire::varint(out, inner as u64);
    wire::bytes(out, 1, object);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Any object or list in JSON as protobuf; nothing when its kind has no such form.
pub(crate) fn transcode(json: &[u8]) -> Option<Vec<u8>> {
    write::any(json)
}

/// Appends the envelope: magic, kind, and what `raw` appends as field 2.
fn envelope(
    out: &mut Vec<u8>,
    version: &str,
    kind: &str,
    raw: impl FnOnce(&mut Vec<u8>) -> Outcome<()>,
) -> Outcome<()> {
    let start = out.len();
    out.extend_from_slice(MAGIC);
    nested(out, 1, |out| {
        text(out, 1, version);
        text(out, 2, kind);
        Outcome::Ok(())
    })?;
    if let Err(why) = raw(out) {
        out.truncate(start);
        return Err(why);
    }
    // No encoding, no other content type.
    text(out, 3, "");
    text(out, 4, "");
    Ok(())
}

#[cfg(test)]
mod tests;
