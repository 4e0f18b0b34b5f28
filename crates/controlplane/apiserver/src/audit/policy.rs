//! What of which request is recorded: `audit.k8s.io/v1` Policy
//! (<https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/>).

use sampan_api::decode;
use serde::Deserialize;

use crate::{authz::Attributes, user::UserInfo};

/// How much is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who asked for what, when, and how it ended.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// A policy: the first rule that matches a request decides.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde::de::IgnoredAny,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What is recorded of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) level: Level,
    pub(crate) omit: Vec<Stage>,
    pub(crate) omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy file, YAML or JSON.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let parsed = decode::parse_yaml(text).map_err(|status| status.message)?;
        let policy: Self = serde_json::from_value(parsed.value).map_err(|error| error.to_string())?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err(format!(
                "it is {:?} {:?} (hint: apiVersion is audit.k8s.io/v1 and kind is Policy)",
                policy.api_version, policy.kind
            ));
        }
        if policy.rules.is_empty() {
            return Err(
                "it has no rules (hint: `rules: [{level: Metadata}]` records every request)".to_owned()
            );
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if !rule.non_resource_urls.is_empty() && of_resources {
                return Err(format!(
                    "rules[{at}] cannot apply to both regular resources and non-resource URLs"
                ));
            }
        }
        Ok(policy)
    }

    /// What is recorded of a request.
    pub(crate) fn scope(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Scope {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, attributes)) else {
            return Scope { level: Level::None, omit: self.omit_stages.clone(), omit_managed_fields: true };
        };
        let omit = self.omit_stages.iter().chain(&rule.omit_stages).copied().collect();
        let omit_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Scope { level: rule.level, omit, omit_managed_fields }
    }
}

impl Rule {
    fn matches(&self, user: &UserInfo, attributes: &Attributes<'_>) -> bool {
        let has = |set: &[String], wanted: &str| set.is_empty() || set.iter().any(|text| text == wanted);
        if !has(&self.users, &user.name)
            || !(self.user_groups.is_empty() || self.user_groups.iter().any(|group| user.in_group(group)))
            || !has(&self.verbs, attributes.verb())
        {
            return false;
        }
        match attributes {
            _ if self.namespaces.is_empty()
                && self.resources.is_empty()
                && self.non_resource_urls.is_empty() =>
            {
                true
            }
            Attributes::Path { path, .. } => self.non_resource_urls.iter().any(|url| {
                url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
            }),
            Attributes::Resource { .. } => {
                self.non_resource_urls.is_empty()
                    && has(&self.namespaces, attributes.namespace().unwrap_or_default())
                    && (self.resources.is_empty()
                        || self.resources.iter().any(|group| group.matches(attributes)))
            }
        }
    }
}

impl GroupResources {
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let Attributes::Resource { target, .. } = attributes else { return false };
        if self.group != target.group {
            return false;
        }
        let name = target.name.as_deref().unwrap_or_default();
        let named = self.resource_names.is_empty() || self.resource_names.iter().any(|own| own == name);
        let sub = target.subresource.as_deref().unwrap_or_default();
        let fits = |own: &String| match own.split_once('/') {
            _ if own == "*" => true,
            None => sub.is_empty() && *own == target.resource,
            Some(("*", own)) => !sub.is_empty() && own == sub,
            Some((resource, "*")) => resource == target.resource,
            Some((resource, own)) => resource == target.resource && own == sub,
        };
        self.resources.is_empty() || (named && self.resources.iter().any(fits))
    }
}
