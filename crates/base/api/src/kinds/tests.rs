//! The registry is consistent, and says what `kubectl api-resources` shows.

use std::collections::HashSet;

use super::*;

#[test]
fn no_path_kind_or_short_name_comes_twice_in_a_group() {
    let (mut paths, mut kinds) = (HashSet::new(), HashSet::new());
    for r in resources() {
        assert!(paths.insert((r.group, r.version, r.plural)), "{}", r.plural);
        assert!(kinds.insert((r.group, r.version, r.kind)), "{}", r.kind);
        assert_eq!(r.plural, r.plural.to_lowercase());
        assert!(!r.singular.is_empty() && !r.verbs.is_empty());
        assert!(serves(r.group, r.version), "{} is missing in the groups", r.group);
        assert!(r.verbs.is_sorted() && r.subresources.is_sorted_by_key(|s| s.name), "{}", r.plural);
    }
}

#[test]
fn lookups_find_what_is_there_only() {
    assert_eq!(by_path("apps", "v1", "deployments").unwrap().short_names, ["deploy"]);
    assert_eq!(by_api_version("batch/v1", "Job").unwrap().plural, "jobs");
    assert!(by_path("apps", "v1beta1", "deployments").is_none());
    assert!(by_path("", "v1", "deployments").is_none());
    assert_eq!(known("autoscaling", "v1", "Scale").unwrap().kind, "Scale");
    assert!(known("autoscaling", "v2", "Scale").is_none());
}

#[test]
fn events_share_their_storage() {
    let new = by_path("events.k8s.io", "v1", "events").unwrap();
    assert_eq!(new.stored_as().unwrap().group, "");
    assert!(by_path("", "v1", "bindings").unwrap().stored_as().is_none());
}

#[test]
fn every_kind_is_in_the_schema() {
    for r in resources() {
        assert!(crate::schema::get().by_kind(&r.gvk()).is_some(), "{} has no schema", r.kind);
    }
}
