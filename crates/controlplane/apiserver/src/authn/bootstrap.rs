//! Tokens to join with: `<id>.<secret>`, kept in Secrets of kube-system
//! (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>).

use jiff::Timestamp;
use sampan_daemon::clock;

use super::{
    facts::{Bootstrap, Facts, Proof},
    same_bytes,
};
use crate::{core::Core, user::UserInfo};

/// Id and secret of a token that has their form.
pub(super) fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let good = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    (id.len() == 6 && secret.len() == 16 && good(id) && good(secret)).then_some((id, secret))
}

/// The user of a token; nothing when there is no such token or it is not good for that.
pub(super) async fn user(core: &Core, facts: &Facts, id: &str, secret: &str) -> Option<UserInfo> {
    let found = facts.secret(core, "kube-system", &format!("bootstrap-token-{id}")).await.ok().flatten()?;
    if found.stamp.is_going() {
        return None;
    }
    let Proof::Bootstrap(held) = &found.proof else { return None };
    let good = same_bytes(held.secret.as_bytes(), secret.as_bytes())
        && held.id == id
        && held.authenticates
        && !has_expired(held, clock::now());
    let groups = groups(&held.groups)?;
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    good.then(|| UserInfo::new(format!("system:bootstrap:{id}"), &groups))
}

/// A time that does not parse counts as over.
fn has_expired(held: &Bootstrap, now: Timestamp) -> bool {
    let lasts = held.expiration.parse::<Timestamp>().is_ok_and(|at| at > now);
    !held.expiration.is_empty() && !lasts
}

/// The group of all such users, and those that the token names besides; nothing when one may not be named.
fn groups(named: &str) -> Option<Vec<String>> {
    let mut groups = vec!["system:bootstrappers".to_owned()];
    for name in named.split(',').filter(|name| !name.is_empty()) {
        let rest = name.strip_prefix("system:bootstrappers:")?;
        let good = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b':' || b == b'-';
        let ends = rest.bytes().next_back().is_some_and(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        if !ends || rest.len() > 256 || !rest.bytes().all(good) {
            return None;
        }
        if !groups.iter().any(|group| group == name) {
            groups.push(name.to_owned());
        }
    }
    groups.sort();
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_the_form_is_looked_up() {
        assert_eq!(split("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["", ".", "abcdef", "abcdef.0123456789abcdeF", "abcde/.0123456789abcdef", "a.b.c"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_groups_of_bootstrappers_can_be_named() {
        assert_eq!(groups("").unwrap(), ["system:bootstrappers"]);
        let two = "system:bootstrappers:kubeadm:default-node-token,system:bootstrappers:a";
        assert_eq!(groups(two).unwrap().len(), 3);
        assert!(groups("system:masters").is_none());
        assert!(groups("system:bootstrappers:a:").is_none());
    }

    #[test]
    fn a_time_that_is_no_time_is_over() {
        let held = |expiration: &str| Bootstrap { expiration: expiration.to_owned(), ..Bootstrap::default() };
        let now = clock::now();
        assert!(!has_expired(&held(""), now));
        assert!(has_expired(&held("tomorrow"), now));
        assert!(has_expired(&held("2001-01-01T00:00:00Z"), now));
        assert!(!has_expired(&held("2999-01-01T00:00:00Z"), now));
    }
}
