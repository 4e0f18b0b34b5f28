//! The records that are stored as JSON. Unknown fields are ignored and missing ones have defaults, so that versions
//! can follow each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A project: who may do what with the repositories below one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Project {
    /// Anybody may pull.
    pub public: bool,
    /// Bytes of blobs and manifests at most; 0 for no limit. What several repositories share counts once.
    pub quota: u64,
    /// What users may do.
    pub members: BTreeMap<String, Role>,
    /// Tags that cannot be moved or deleted once they exist, as globs over `repository:tag` below the project.
    pub immutable: Vec<String>,
    /// Which images are kept; without rules all are.
    pub retention: Retention,
    /// Images come from another registry when they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Free words.
    pub labels: Vec<String>,
    /// Seconds since 1970.
    pub made: i64,
}

/// What a member of a project may do; each includes those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Pull.
    Guest,
    /// Push.
    Developer,
    /// Delete; robots, labels, webhooks.
    Maintainer,
    /// Members, quota and rules.
    Admin,
}

/// A member in a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// What they may do.
    pub role: Role,
}

/// Which images of a project are kept. An image is kept when any rule keeps one of its tags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Retention {
    /// Rules; a repository that no rule is about is left alone.
    pub rules: Vec<Rule>,
    /// Manifests without a tag are dropped after these days, unless an index or a subject that is kept needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untagged_days: Option<u32>,
}

/// One rule of retention.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// Repositories it is about, as a glob below the project; empty is all.
    pub repositories: String,
    /// Tags it is about; empty is all. Tags that no rule is about are kept.
    pub tags: String,
    /// Keep the newest so many.
    pub newest: Option<u32>,
    /// Keep what was pushed in the last days.
    pub pushed_days: Option<u32>,
    /// Keep what was pulled in the last days.
    pub pulled_days: Option<u32>,
}

/// Where images of a project come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Proxy {
    /// `https://registry-1.docker.io`, or with a path that is put before names.
    pub upstream: String,
    /// Asked in order before it.
    pub mirrors: Vec<String>,
    /// User there.
    pub username: String,
    /// Password there.
    pub password: String,
    /// A tag that was looked up less than so many seconds ago is not looked up again. [300]
    pub fresh_seconds: Option<u32>,
}

/// A repository.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Repository {
    pub(crate) id: u32,
    pub(crate) made: i64,
    pub(crate) labels: Vec<String>,
    pub(crate) description: String,
}

/// A manifest of a repository. Field names are short: there are many.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// Media type.
    #[serde(rename = "t")]
    pub media_type: String,
    /// Bytes.
    #[serde(rename = "z")]
    pub size: u64,
    /// Seconds since 1970.
    #[serde(rename = "a")]
    pub made: i64,
    /// Seconds since 1970 of the last pull, to the hour.
    #[serde(rename = "p", skip_serializing_if = "is_zero")]
    pub pulled: i64,
    /// Seconds since 1970 when a tag or an index was pointed to it last.
    #[serde(rename = "u", skip_serializing_if = "is_zero")]
    pub touched: i64,
    /// Blobs it needs.
    #[serde(rename = "b", skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Digest>,
    /// Manifests it needs.
    #[serde(rename = "m", skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Digest>,
    /// What it refers to.
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Artifact type, or the config's media type.
    #[serde(rename = "y", skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// Annotations; only kept of what has a subject, for the list of referrers.
    #[serde(rename = "n", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Free words.
    #[serde(rename = "l", skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// A tag.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tag {
    /// What it points to.
    #[serde(rename = "d")]
    pub digest: Digest,
    /// Seconds since 1970 of the last push.
    #[serde(rename = "a")]
    pub made: i64,
    /// Of a proxied tag: seconds since 1970 of the last look at the upstream.
    #[serde(rename = "c", default, skip_serializing_if = "is_zero")]
    pub checked: i64,
}

/// A person.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct User {
    /// PBKDF2 of the password: salt and hash, base64.
    pub password: String,
    /// May do everything.
    pub admin: bool,
    /// May not come in.
    pub disabled: bool,
    /// Seconds since 1970.
    pub made: i64,
}

/// An account for a machine. Its name is `robot$project+name`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Robot {
    /// The project; empty is every project.
    pub project: String,
    /// Of `pull`, `push`, `delete`.
    pub actions: Vec<String>,
    /// SHA-256 of the secret, hex.
    pub secret: String,
    /// Seconds since 1970; 0 never.
    pub expires: i64,
    /// May not come in.
    pub disabled: bool,
    /// Seconds since 1970.
    pub made: i64,
}

/// Who is told when something happens in a project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Webhook {
    /// The project.
    pub project: String,
    /// Where to POST.
    pub url: String,
    /// Of `push`, `pull`, `delete`, `quota`, `replication`; empty is all but `pull`.
    pub events: Vec<String>,
    /// Sent as `Authorization`.
    pub authorization: String,
    /// Key of the `X-Sampan-Signature` (HMAC-SHA-256 of the body, hex).
    pub secret: String,
    /// An administrator made it: it may lead to this machine itself.
    pub trusted: bool,
}

/// Which way a rule copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ReplicationMode {
    /// To the other registry.
    #[default]
    Push,
    /// From it.
    Pull,
}

/// Copies images between this registry and another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Replication {
    /// Which way.
    pub(crate) mode: ReplicationMode,
    /// The other registry, `https://host[:port][/prefix]`.
    pub remote: String,
    /// User there.
    pub username: String,
    /// Password there.
    pub password: String,
    /// What is copied.
    pub filter: Filter,
    /// Put before the repository's name on the other side (here, when pulling).
    pub prefix: String,
    /// When.
    pub schedule: Schedule,
    /// Bytes a second, at most; 0 for no limit.
    pub bandwidth: u64,
    /// Deleted here, deleted there (push on events only).
    pub deletions: bool,
    /// Not now.
    pub disabled: bool,
}

/// What a rule is about, as globs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Filter {
    /// Repositories; when pulling from a registry without a catalog, plain names. Empty is all.
    pub repositories: Vec<String>,
    /// Tags; empty is all.
    pub tags: Vec<String>,
}

/// When a rule is carried out; each that is set counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Schedule {
    /// At each push (rules that push).
    pub on_push: bool,
    /// Every so many seconds; 0 for never.
    pub every_seconds: u64,
}
