//! What the client accepts: the media type of an answer, how it is to look, and as what it is to come.
//!
//! The first clause of `Accept` counts that can be met, clauses ordered by their `q` and wildcards last, as in
//! Kubernetes. Answers are made in JSON; [`finish`] turns them into what was agreed on.

use http::{HeaderMap, HeaderValue, Response, header};
use sampan_api::{decode, status::Status};

use crate::{
    body::Body,
    encode::{Form, Include},
    protobuf,
    request::Query,
};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// A media type of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Media {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

/// As what an object is to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shape {
    #[default]
    Object,
    Table,
    Partial,
}

/// What is asked, by kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// An object that comes in every form, or a list of such.
    Object,
    /// A custom object: in protobuf there is only its metadata.
    Custom,
    /// Something that is not an object of a resource.
    Other,
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) media: Media,
    /// Indented, for people.
    pub(crate) pretty: bool,
    shape: Shape,
}

/// One clause of an Accept header.
struct Clause<'a> {
    kind: &'a str,
    subtype: &'a str,
    parameters: &'a str,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (range, parameters) = text.split_once(';').unwrap_or((text, ""));
        let range = range.trim_matches(' ');
        let (kind, subtype) = match range.split_once('/') {
            Some((kind, subtype)) if !subtype.contains('/') => {
                (kind.trim_matches(' '), subtype.trim_matches(' '))
            }
            None if range == "*" => ("*", "*"),
            _ => return None,
        };
        let clause = Self { kind, subtype, parameters, quality: 1.0 };
        let quality = clause.get("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
        Some(Self { quality, ..clause })
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.parameters.split(';').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.trim_matches(' '), value.trim_matches(' ')))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.pairs().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    fn covers(&self, media: Media) -> bool {
        let (kind, subtype) = media.name().split_once('/').unwrap_or_default();
        (self.kind == "*" || self.kind == kind)
            && (self.subtype == "*" || self.subtype == subtype)
            && (self.kind != "*" || self.subtype == "*")
    }

    /// What the clause makes of an answer in this media type; none when it cannot be.
    fn meet(&self, media: Media, asked: Asked) -> Option<Accepted> {
        if self.get("stream").is_some_and(|stream| !matches!(stream, "" | "watch") || media == Media::Yaml)
            || self.get("sv").is_some_and(|version| !version.is_empty())
        {
            return None;
        }
        let shape = match (self.get("as"), self.get("g"), self.get("v")) {
            (None, None, None) if asked == Asked::Custom && media == Media::Protobuf => return None,
            (None, None, None) => Shape::Object,
            _ if asked == Asked::Other => return None,
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) if media != Media::Protobuf => Shape::Table,
            (
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                Some("meta.k8s.io"),
                Some("v1"),
            ) => Shape::Partial,
            _ => return None,
        };
        Some(Accepted { media, shape, pretty: self.get("pretty") == Some("1") })
    }
}

/// The clauses of an Accept header, the best first.
fn clauses(text: &str) -> Vec<Clause<'_>> {
    let mut all: Vec<Clause<'_>> = text.split(',').filter_map(Clause::parse).collect();
    let wild = |clause: &Clause<'_>| (clause.kind == "*", clause.subtype == "*");
    all.sort_by(|a, b| b.quality.total_cmp(&a.quality).then_with(|| wild(a).cmp(&wild(b))));
    all
}

fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl Media {
    const ALL: [Self; 3] = [Self::Json, Self::Yaml, Self::Protobuf];

    const fn name(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => protobuf::CONTENT_TYPE,
        }
    }
}

impl Accepted {
    /// What the headers and the query agree to; none when nothing that is there is accepted ([`refusal`]).
    pub(crate) fn read(headers: &HeaderMap, query: &Query, asked: Asked) -> Option<Self> {
        let text = accept(headers);
        // What most send is decided without taking it apart.
        let mut accepted = match text {
            "" | JSON | "*/*" | "application/json, */*" => Self::default(),
            protobuf::CONTENT_TYPE | "application/vnd.kubernetes.protobuf, */*" if asked == Asked::Object => {
                Self { media: Media::Protobuf, ..Self::default() }
            }
            _ => {
                let clauses = clauses(text);
                let offers = clauses.iter().flat_map(|clause| Media::ALL.map(|media| (clause, media)));
                offers
                    .filter(|(clause, media)| clause.covers(*media))
                    .find_map(|(clause, media)| clause.meet(media, asked))?
            }
        };
        accepted.pretty = query.pretty().unwrap_or(accepted.pretty || is_for_people(headers));
        Some(accepted)
    }

    /// As what objects are to come.
    pub(crate) fn form(self, query: &Query) -> Result<Form, Status> {
        Ok(match self.shape {
            Shape::Object => Form::Object,
            Shape::Partial => Form::Partial,
            Shape::Table => Form::Table(include(query)?),
        })
    }

    /// Whether the bytes of stored objects can be sent as they are.
    pub(crate) fn is_plain(self) -> bool {
        self.media == Media::Json && !self.pretty
    }
}

/// Clients that people look at.
fn is_for_people(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.starts_with(name))
}

fn include(query: &Query) -> Result<Include, Status> {
    match query.get("includeObject") {
        None | Some("Metadata") => Ok(Include::Metadata),
        Some("Object") => Ok(Include::Object),
        Some("None") => Ok(Include::Nothing),
        Some(other) => Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: \"{other}\": must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

/// 406: what could be had.
pub(crate) fn refusal(asked: Asked) -> Status {
    match asked {
        Asked::Custom => Status::not_acceptable(&[JSON, YAML]),
        _ => Status::not_acceptable(&[JSON, YAML, protobuf::CONTENT_TYPE]),
    }
}

/// 406 for a watch.
pub(crate) fn stream_refusal(asked: Asked) -> Status {
    match asked {
        Asked::Custom => Status::not_acceptable(&["application/json;stream=watch"]),
        _ => Status::not_acceptable(&["application/json;stream=watch", protobuf::WATCH_TYPE]),
    }
}

/// Which version of aggregated discovery the client wants, when it wants it.
pub(crate) fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    for clause in clauses(accept(headers)).iter().filter(|clause| clause.covers(Media::Json)) {
        match (clause.get("g"), clause.get("v"), clause.get("as")) {
            (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList")) => return Some("v2"),
            (Some("apidiscovery.k8s.io"), Some("v2beta1"), Some("APIGroupDiscoveryList")) => {
                return Some("v2beta1");
            }
            (None, None, None) => return None,
            _ => {}
        }
    }
    None
}

/// Turns an answer in JSON into what was agreed on.
pub(crate) fn finish(accepted: Accepted, response: &mut Response<Body>) {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == JSON);
    if accepted.is_plain() || !is_json {
        return;
    }
    let Some(json) = response.body().bytes() else { return };
    let (bytes, media) = match accepted.media {
        Media::Json => (Some(pretty(json)), JSON),
        Media::Yaml => (decode::to_yaml(json).map(String::into_bytes), YAML),
        Media::Protobuf => (protobuf::transcode(json), protobuf::CONTENT_TYPE),
    };
    if let Some(bytes) = bytes {
        *response.body_mut() = Body::full(bytes);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    }
}

/// Compact JSON, indented.
fn pretty(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (index, &byte) in json.iter().enumerate() {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                if !matches!(json.get(index + 1), Some(b'}' | b']')) {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(index.checked_sub(1).and_then(|before| json.get(before)), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b'\n' | b' ' => {}
            other => {
                in_text = other == b'"';
                out.push(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
