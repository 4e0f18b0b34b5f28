//! Acting as another: the `Impersonate-*` headers, each of which takes a permission
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>).

use http::HeaderMap;
use sampan_api::status::Status;

use crate::{authz::Attributes, core::Core, request::Target, user::UserInfo};

const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Groups, values and the like that one request may ask for; more is 400.
const MOST: usize = 1000;

/// One thing that is asked for.
struct Wish {
    kind: &'static str,
    group: &'static str,
    resource: &'static str,
    namespace: Option<String>,
    name: String,
    /// The key of an extra value.
    key: Option<String>,
}

impl Wish {
    fn new(kind: &'static str, resource: &'static str, name: &str) -> Self {
        Self { kind, group: "", resource, namespace: None, name: name.to_owned(), key: None }
    }

    fn of_authentication(
        kind: &'static str,
        resource: &'static str,
        name: &str,
        key: Option<String>,
    ) -> Self {
        Self { group: "authentication.k8s.io", key, ..Self::new(kind, resource, name) }
    }

    fn target(&self) -> Target {
        Target {
            group: self.group.to_owned(),
            version: "v1".to_owned(),
            resource: self.resource.to_owned(),
            namespace: self.namespace.clone(),
            name: Some(self.name.clone()),
            subresource: self.key.clone(),
        }
    }

    /// As Go prints an `ObjectReference`.
    fn to_text(&self) -> String {
        let version = if self.group.is_empty() { String::new() } else { format!("{}/v1", self.group) };
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let path = self.key.as_deref().unwrap_or_default();
        format!("{{{} {namespace} {}  {version}  {path}}}", self.kind, self.name)
    }
}

/// Namespace and name of a service account's user name.
fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Whether the request asks for anything; the only cost for those that do not.
fn asks(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("impersonate-"))
}

fn wishes(headers: &HeaderMap) -> Result<Vec<Wish>, Status> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    let mut wishes = Vec::new();
    let user = text("impersonate-user");
    if let Some(user) = user {
        wishes.push(match account(user) {
            Some((namespace, name)) => Wish {
                namespace: Some(namespace.to_owned()),
                ..Wish::new("ServiceAccount", "serviceaccounts", name)
            },
            None => Wish::new("User", "users", user),
        });
    }
    for group in headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok()) {
        wishes.push(Wish::new("Group", "groups", group));
    }
    for (name, value) in headers {
        let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) else { continue };
        let decoded = percent_encoding::percent_decode_str(key).decode_utf8();
        let key = decoded.map_or_else(|_| key.to_owned(), Into::into);
        wishes.push(Wish::of_authentication("UserExtra", "userextras", value, Some(key)));
    }
    if let Some(uid) = text("impersonate-uid") {
        wishes.push(Wish::of_authentication("UID", "uids", uid, None));
    }
    if wishes.len() > MOST {
        return Err(Status::bad_request(format!("a request may impersonate at most {MOST} attributes")));
    }
    if user.is_none() && !wishes.is_empty() {
        let texts: Vec<String> = wishes.iter().map(Wish::to_text).collect();
        let texts = texts.join(" ");
        return Err(Status::bad_request(format!("requested [{texts}] without impersonating a user")));
    }
    Ok(wishes)
}

/// The user that the request wants to act as; nothing when it acts for itself.
///
/// # Errors
/// 403 when its own user may not.
pub(crate) fn wanted(core: &Core, user: &UserInfo, headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    if !asks(headers) {
        return Ok(None);
    }
    let wishes = wishes(headers)?;
    let Some(first) = wishes.first() else { return Ok(None) };
    let mut other = UserInfo { name: first.name.clone(), ..UserInfo::default() };
    let named_groups = wishes.iter().any(|wish| wish.kind == "Group");
    for wish in &wishes {
        match wish.kind {
            "ServiceAccount" => {
                let namespace = wish.namespace.as_deref().unwrap_or_default();
                other.name = format!("system:serviceaccount:{namespace}:{}", wish.name);
                if !named_groups {
                    let own = format!("system:serviceaccounts:{namespace}");
                    other.groups.extend(["system:serviceaccounts".to_owned(), own]);
                }
            }
            "Group" => other.groups.push(wish.name.clone()),
            "UID" => other.uid = Some(wish.name.clone()),
            "UserExtra" => add_extra(&mut other, wish),
            _ => {}
        }
        core.authorize(user, &Attributes::resource("impersonate", &wish.target()))?;
    }
    if other.name == "system:anonymous" {
        if !other.in_group(UNAUTHENTICATED) {
            other.groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !other.in_group(AUTHENTICATED) && !other.in_group(UNAUTHENTICATED) {
        other.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Some(other))
}

fn add_extra(user: &mut UserInfo, wish: &Wish) {
    let key = wish.key.clone().unwrap_or_default();
    match user.extra.iter_mut().find(|(known, _)| *known == key) {
        Some((_, values)) => values.push(wish.name.clone()),
        None => user.extra.push((key, vec![wish.name.clone()])),
    }
}
