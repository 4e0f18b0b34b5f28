//! Who asks.

/// The identity of a request, as authentication found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name, e.g. `system:node:a` or `system:serviceaccount:default:default`.
    pub name: String,
    /// Stable id of the user when there is one.
    pub uid: Option<String>,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Further facts, by key.
    pub extra: Vec<(String, Vec<String>)>,
}

impl UserInfo {
    /// An authenticated user; adds the group `system:authenticated`.
    #[must_use]
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == "system:authenticated") {
            groups.push("system:authenticated".to_owned());
        }
        Self { name: name.into(), uid: None, groups, extra: Vec::new() }
    }

    /// A user that may do everything.
    #[must_use]
    pub fn admin(name: impl Into<String>) -> Self {
        Self::new(name, &["system:masters"])
    }

    /// Who says nothing of himself. Roles decide what he may do.
    #[must_use]
    pub fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self { name: "system:anonymous".to_owned(), groups, ..Self::default() }
    }

    /// True when the user belongs to the group.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The user as `authentication.k8s.io/v1` writes it.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        let mut user = serde_json::Map::new();
        user.insert("username".into(), self.name.clone().into());
        if let Some(uid) = &self.uid {
            user.insert("uid".into(), uid.clone().into());
        }
        if !self.groups.is_empty() {
            user.insert("groups".into(), self.groups.clone().into());
        }
        if !self.extra.is_empty() {
            let extra = self.extra.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
            user.insert("extra".into(), serde_json::Value::Object(extra));
        }
        user.into()
    }
}
