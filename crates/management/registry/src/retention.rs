//! Which images of a project are kept: a pure decision, and its carrying out.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use crate::{
    auth::Caller,
    core::{Access, Core},
    digest::Digest,
    error::ApiResult,
    events::{Event, Kind},
    meta::{self, Change, Manifest, Project, Retention, Tag, keys},
    name::{glob, project_of},
};

const DAY: i64 = 24 * 3600;

/// Tags that go: those that some rule is about and no rule keeps.
pub(crate) fn expired(
    retention: &Retention,
    below: &str,
    tags: &[(String, Tag)],
    manifests: &HashMap<Digest, Manifest>,
    now: i64,
) -> Vec<String> {
    let (mut meant, mut kept) = (HashSet::new(), HashSet::new());
    for rule in &retention.rules {
        if !rule.repositories.is_empty() && !glob(&rule.repositories, below) {
            continue;
        }
        let mut about: Vec<&(String, Tag)> =
            tags.iter().filter(|(name, _)| rule.tags.is_empty() || glob(&rule.tags, name)).collect();
        about.sort_by_key(|(name, tag)| (std::cmp::Reverse(tag.made), name.clone()));
        for (position, (name, tag)) in about.into_iter().enumerate() {
            meant.insert(name.clone());
            let within =
                |time: i64, days: Option<u32>| days.is_some_and(|days| now - time < i64::from(days) * DAY);
            let pulled = manifests.get(&tag.digest).map_or(0, |manifest| manifest.pulled);
            let newest = rule.newest.is_some_and(|newest| position < newest as usize);
            if newest || within(tag.made, rule.pushed_days) || within(pulled, rule.pulled_days) {
                kept.insert(name.clone());
            }
        }
    }
    let mut gone: Vec<String> = meant.difference(&kept).cloned().collect();
    gone.sort();
    gone
}

/// Manifests without a tag that nothing kept needs and that are older than `before`.
pub(crate) fn untagged(
    manifests: &HashMap<Digest, Manifest>,
    tagged: &HashSet<Digest>,
    before: i64,
) -> Vec<Digest> {
    let mut needed: HashSet<Digest> = HashSet::new();
    let young = |manifest: &Manifest| manifest.made.max(manifest.touched) > before;
    let roots = manifests.iter().filter(|(digest, manifest)| tagged.contains(digest) || young(manifest));
    let mut queue: Vec<Digest> = roots.map(|(digest, _)| digest.clone()).collect();
    let mut referrers: HashMap<&Digest, Vec<&Digest>> = HashMap::new();
    for (digest, manifest) in manifests {
        if let Some(subject) = &manifest.subject {
            referrers.entry(subject).or_default().push(digest);
        }
    }
    while let Some(digest) = queue.pop() {
        if !needed.insert(digest.clone()) {
            continue;
        }
        // A signature goes with what it signs.
        queue.extend(referrers.get(&digest).into_iter().flatten().map(|digest| (*digest).clone()));
        queue.extend(
            manifests.get(&digest).into_iter().flat_map(|manifest| manifest.manifests.iter().cloned()),
        );
    }
    let mut gone: Vec<Digest> = manifests.keys().filter(|digest| !needed.contains(digest)).cloned().collect();
    gone.sort();
    gone
}

impl Core {
    /// Carry out the rules of all projects. Returns how many tags and manifests went.
    pub(crate) async fn retain(&self) -> ApiResult<usize> {
        let mut count = 0;
        for (name, project) in self.meta.records::<Project>("p/").await? {
            if project.retention == Retention::default() {
                continue;
            }
            for (repository, record) in self.meta.repositories_of(&name).await? {
                count += self.retain_repository(&name, &project, &repository, record.id).await?;
            }
        }
        Ok(count)
    }

    async fn retain_repository(
        &self,
        name: &str,
        project: &Project,
        repository: &str,
        repo: u32,
    ) -> ApiResult<usize> {
        debug_assert_eq!(project_of(repository), name);
        let access = Access {
            caller: Caller::System("retention"),
            from: Ipv4Addr::LOCALHOST.into(),
            repository: repository.to_owned(),
            project_name: name.to_owned(),
            project: project.clone(),
        };
        let now = meta::now();
        let manifests: HashMap<Digest, Manifest> = self.meta.manifests(repo).await?.into_iter().collect();
        let tags = self.meta.tags(repo, "", 0).await?;
        let below = repository.strip_prefix(&format!("{name}/")).unwrap_or(repository);
        let mut count = 0;
        for tag in expired(&project.retention, below, &tags, &manifests, now) {
            if Self::is_immutable(&access, &tag) {
                continue;
            }
            let Some((_, revision)) = self.meta.tag(repo, &tag).await? else { continue };
            // Pushed again meanwhile: it is young then.
            let seen = tags.iter().find(|(name, _)| *name == tag).map(|(_, tag)| tag.made);
            if self.meta.tag(repo, &tag).await?.map(|(tag, _)| tag.made) != seen {
                continue;
            }
            let mut change = Change::default();
            change.at(keys::tag(repo, &tag), revision).delete(keys::tag(repo, &tag));
            if self.commit_told(change, &Event::new(Kind::Delete, &access, &tag, None)).await? {
                count += 1;
                self.audit.record(&access.caller, access.from, "retention", repository, &tag);
            }
        }
        let Some(days) = project.retention.untagged_days else { return Ok(count) };
        let tagged = self.meta.tags(repo, "", 0).await?.into_iter().map(|(_, tag)| tag.digest).collect();
        for digest in untagged(&manifests, &tagged, now - (i64::from(days) * DAY).max(1)) {
            let Some((manifest, revision)) = self.meta.manifest(repo, &digest).await? else { continue };
            if manifest.touched != manifests.get(&digest).map_or(-1, |seen| seen.touched) {
                continue;
            }
            if self.remove_manifest(&access, repo, &digest, (&manifest, revision), None).await? {
                count += 1;
                self.audit.record(&access.caller, access.from, "retention", repository, &digest.to_string());
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Rule;

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    #[test]
    fn rules_keep_what_any_of_them_keeps() {
        let now = 100 * DAY;
        let tag = |name: &str, n: u8, days: i64| {
            (name.to_owned(), Tag { digest: digest(n), made: now - days * DAY, checked: 0 })
        };
        let tags = [tag("v1", 1, 40), tag("v2", 2, 30), tag("v3", 3, 20), tag("v4", 4, 1), tag("dev", 5, 50)];
        let manifests = HashMap::from([(digest(1), Manifest { pulled: now - DAY, ..Manifest::default() })]);
        let rule = |tags: &str| Rule { tags: tags.into(), ..Rule::default() };
        let gone = |rules: Vec<Rule>| {
            expired(&Retention { rules, untagged_days: None }, "app", &tags, &manifests, now)
        };
        assert!(gone(vec![]).is_empty());
        assert_eq!(gone(vec![Rule { newest: Some(2), ..rule("v*") }]), ["v1", "v2"]);
        assert_eq!(gone(vec![Rule { newest: Some(2), pulled_days: Some(2), ..rule("v*") }]), ["v2"]);
        assert_eq!(gone(vec![Rule { pushed_days: Some(25), ..rule("") }]), ["dev", "v1", "v2"]);
        assert!(gone(vec![Rule { repositories: "other".into(), newest: Some(0), ..rule("") }]).is_empty());
        let two = vec![Rule { newest: Some(1), ..rule("v*") }, Rule { pushed_days: Some(35), ..rule("v*") }];
        assert_eq!(gone(two), ["v1"]);
    }

    #[test]
    fn what_an_index_or_a_subject_needs_stays() {
        let index = Manifest { manifests: vec![digest(2)], ..Manifest::default() };
        let signature = Manifest { subject: Some(digest(2)), ..Manifest::default() };
        let lost = Manifest { subject: Some(digest(9)), ..Manifest::default() };
        let young = Manifest { made: 50, ..Manifest::default() };
        let all = HashMap::from([
            (digest(1), index),
            (digest(2), Manifest::default()),
            (digest(3), signature),
            (digest(4), lost),
            (digest(5), young),
            (digest(6), Manifest::default()),
        ]);
        let mut expected = vec![digest(4), digest(6)];
        expected.sort();
        assert_eq!(untagged(&all, &HashSet::from([digest(1)]), 10), expected);
    }
}
