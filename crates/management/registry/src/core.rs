//! What the registry is, below HTTP: repositories with manifests, tags and blobs, and the rules between them.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::StatusCode;
use sampan_daemon::Supervisor;

use crate::{
    audit::Audit,
    auth::{Action, Auth, Caller},
    content::Contents,
    counts::Counts,
    digest::Digest,
    error::{ApiError, ApiResult},
    events::{Event, Events, Kind},
    manifest::Parsed,
    meta::{self, Change, Link, Manifest, Meta, Project, RepoId, Tag, keys},
    metrics::Metrics,
    name::{Selector, glob, is_repository, project_of},
    options::Options,
    upload::Uploads,
};

/// A change is tried again this often when others were faster.
const RETRIES: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) meta: Arc<Meta>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) contents: Arc<Contents>,
    pub(crate) uploads: Uploads,
    pub(crate) auth: Auth,
    pub(crate) audit: Audit,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: Events,
    pub(crate) outbox: crate::outbox::Outbox,
    pub(crate) client: crate::connect::HttpClient,
    /// Does not speak to this machine itself.
    pub(crate) guarded: crate::connect::HttpClient,
    pub(crate) flights: crate::proxy::Flights,
    pub(crate) upkeep: crate::gc::Upkeeper,
    pub(crate) replicator: crate::replicate::Replicator,
    pub(crate) supervisor: Supervisor,
}

/// Who asks, from where, and for which repository: allowed already.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) caller: Caller,
    pub(crate) from: IpAddr,
    pub(crate) repository: String,
    pub(crate) project_name: String,
    pub(crate) project: Project,
}

/// A manifest that was found.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
}

impl Core {
    /// Check that somebody may do something in a repository. A project that does not exist is made for those who may
    /// do everything when they push.
    pub(crate) async fn access(
        &self,
        caller: &Caller,
        from: IpAddr,
        repository: &str,
        action: Action,
    ) -> ApiResult<Access> {
        if !is_repository(repository) {
            return Err(ApiError::name_invalid(repository));
        }
        let project_name = project_of(repository).to_owned();
        let mut project = self.meta.project(&project_name).await?.map(|(project, _)| project);
        if !caller.may(action, repository, project.as_ref()) {
            if caller.is_anonymous() {
                return Err(crate::auth::unauthorized("authentication required (hint: log in)"));
            }
            let grants = matches!(caller, Caller::Token { subject, .. } if subject.may(action, repository, project.as_ref()));
            if grants {
                return Err(crate::auth::unauthorized("the token is not good for this"));
            }
            let message = format!("{} may not {} in project {project_name}", caller.name(), action.name());
            self.audit.record(caller, from, "denied", repository, &message);
            return Err(ApiError::denied(message));
        }
        if project.is_none() && action == Action::Push {
            let made = Project { public: self.options.open, made: meta::now(), ..Project::default() };
            let mut change = Change::default();
            change.at(keys::project(&project_name), 0).put_json(keys::project(&project_name), &made);
            // Somebody else may have been faster.
            self.meta.commit(change).await?;
            project = self.meta.project(&project_name).await?.map(|(project, _)| project);
        }
        let project = project.ok_or_else(|| ApiError::name_unknown(repository))?;
        if project.proxy.is_some() && action == Action::Push && !matches!(caller, Caller::System("proxy")) {
            return Err(ApiError::denied(format!(
                "project {project_name} mirrors another registry; nothing is pushed to it"
            )));
        }
        let repository = repository.to_owned();
        Ok(Access { caller: caller.clone(), from, repository, project_name, project })
    }

    /// The number of a repository that must exist.
    pub(crate) async fn repo(&self, repository: &str) -> ApiResult<RepoId> {
        let found = self.meta.repository(repository).await?;
        found.map(|found| found.id).ok_or_else(|| ApiError::name_unknown(repository))
    }

    /// The size of a blob of a repository. Whoever asks may be about to refer to it, so it is kept for a while more.
    pub(crate) async fn blob(&self, access: &Access, digest: &Digest) -> ApiResult<u64> {
        let unknown = || ApiError::blob_unknown(digest);
        let Some(repository) = self.meta.repository(&access.repository).await? else { return Err(unknown()) };
        if let Some((link, revision)) = self.meta.link(repository.id, digest).await? {
            self.refresh(repository.id, digest, link, revision).await?;
        } else if self.meta.manifest(repository.id, digest).await?.is_none() {
            return Err(unknown());
        }
        self.contents.size(digest).await?.ok_or_else(unknown)
    }

    async fn refresh(&self, repo: RepoId, digest: &Digest, link: Link, revision: i64) -> ApiResult<()> {
        let half = i64::try_from(self.options.upkeep.grace.as_secs() / 2).unwrap_or(i64::MAX);
        if meta::now() - link.made < half.max(1) {
            return Ok(());
        }
        let key = keys::link(repo, digest);
        let mut change = Change::default();
        change.at(key.clone(), revision).put(key, Link { made: meta::now(), ..link }.encode());
        // When it was collected at this moment, the next look says so.
        self.meta.commit(change).await?;
        Ok(())
    }

    /// The repository has this content from now on. The caller holds it and made it durable.
    pub(crate) async fn add_link(&self, access: &Access, digest: &Digest, size: u64) -> ApiResult<()> {
        let repo = self.meta.repository_or_make(&access.repository).await?;
        let hold = self.counts.hold(digest);
        let _lock = self.contents.lock(digest).await;
        if self.contents.size(digest).await?.is_none() {
            // It was collected between the look at it and the hold.
            return Err(ApiError::blob_unknown(digest));
        }
        if let Some((link, revision)) = self.meta.link(repo, digest).await? {
            return self.refresh(repo, digest, link, revision).await;
        }
        // The project has paid already when another of its repositories has the blob.
        let charged = if self.shared(&access.project_name, repo, digest).await? { 0 } else { size };
        self.counts.charge(&access.project_name, charged, access.project.quota).inspect_err(|_| {
            self.events.send(Event::new(Kind::Quota, access, "", Some(digest)));
        })?;
        let mut change = Change::default();
        let key = keys::link(repo, digest);
        change.at(key.clone(), 0).put(key, Link { size, made: meta::now() }.encode());
        match self.meta.commit(change).await {
            Ok(true) => hold.keep(),
            Ok(false) => self.counts.refund(&access.project_name, charged),
            Err(error) => {
                self.counts.refund(&access.project_name, charged);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Another repository of the project has the blob.
    async fn shared(&self, project: &str, repo: RepoId, digest: &Digest) -> ApiResult<bool> {
        if !self.counts.is_linked(digest) {
            return Ok(false);
        }
        for (_, other) in self.meta.repositories_of(project).await? {
            if other.id != repo && self.meta.link(other.id, digest).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Remove a blob from a repository if it still is as it was seen.
    pub(crate) async fn unlink(
        &self,
        repository: &str,
        repo: RepoId,
        digest: &Digest,
        revision: i64,
    ) -> ApiResult<bool> {
        let _lock = self.contents.lock(digest).await;
        let Some((link, _)) = self.meta.link(repo, digest).await? else { return Ok(false) };
        let mut change = Change::default();
        change.at(keys::link(repo, digest), revision).delete(keys::link(repo, digest));
        if !self.meta.commit(change).await? {
            return Ok(false);
        }
        self.counts.release(digest);
        let project = project_of(repository);
        if !self.shared(project, repo, digest).await? {
            self.counts.refund(project, link.size);
        }
        Ok(true)
    }

    /// `DELETE` of a blob.
    pub(crate) async fn delete_blob(&self, access: &Access, digest: &Digest) -> ApiResult<()> {
        let repo = self.repo(&access.repository).await?;
        for _ in 0..RETRIES {
            let Some((link, revision)) = self.meta.link(repo, digest).await? else {
                return Err(ApiError::blob_unknown(digest));
            };
            // Made old, so that a manifest that refers to it from now on has to write it anew, which is seen below.
            let key = keys::link(repo, digest);
            let mut change = Change::default();
            change.at(key.clone(), revision).put(key, Link { made: 0, ..link }.encode());
            if !self.meta.commit(change).await? {
                continue;
            }
            let Some((_, revision)) = self.meta.link(repo, digest).await? else { continue };
            let manifests = self.meta.manifests(repo).await?;
            if let Some((user, _)) = manifests.iter().find(|(_, manifest)| manifest.blobs.contains(digest)) {
                let message = format!("blob {digest} is needed by manifest {user} (hint: delete that first)");
                return Err(ApiError::new(StatusCode::CONFLICT, "DENIED", message));
            }
            if self.unlink(&access.repository, repo, digest, revision).await? {
                self.audit.record(
                    &access.caller,
                    access.from,
                    "delete-blob",
                    &access.repository,
                    &digest.to_string(),
                );
                return Ok(());
            }
        }
        Err(ApiError::unavailable("too many others change this repository at this moment"))
    }

    /// Take a blob over from another repository. False when it is not there or may not be seen.
    pub(crate) async fn mount(
        &self,
        access: &Access,
        source: Option<&str>,
        digest: &Digest,
    ) -> ApiResult<bool> {
        // Nothing is remembered of what was only asked for.
        if self.contents.size(digest).await?.is_none() {
            return Ok(false);
        }
        let hold = self.counts.hold(digest);
        let mut found = None;
        if let Some(source) = source {
            let Ok(other) = self.access(&access.caller, access.from, source, Action::Pull).await else {
                return Ok(false);
            };
            found = self.blob(&other, digest).await.ok();
        } else if self.counts.is_linked(digest) {
            // Nobody said from where: any repository of the same project, or this one.
            for (name, repository) in self.meta.repositories_of(&access.project_name).await? {
                if self.meta.link(repository.id, digest).await?.is_some()
                    && access.caller.may(Action::Pull, &name, Some(&access.project))
                {
                    found = self.contents.size(digest).await?;
                    break;
                }
            }
        }
        let Some(size) = found else { return Ok(false) };
        let linked = self.add_link(access, digest, size).await;
        drop(hold);
        match linked {
            Err(error) if error.code == "BLOB_UNKNOWN" => Ok(false),
            linked => linked.map(|()| true),
        }
    }

    /// Which manifest is meant.
    pub(crate) async fn resolve(&self, access: &Access, selector: &Selector) -> ApiResult<Fetched> {
        let repo = match self.meta.repository(&access.repository).await? {
            Some(repository) => repository.id,
            None => return Err(ApiError::name_unknown(&access.repository)),
        };
        let (digest, named) = match selector {
            Selector::Digest(digest) => (digest.clone(), digest.to_string()),
            Selector::Tag(tag) => match self.meta.tag(repo, tag).await? {
                Some((found, _)) => (found.digest, tag.clone()),
                None => return Err(ApiError::manifest_unknown(tag)),
            },
        };
        let Some((manifest, _)) = self.meta.manifest(repo, &digest).await? else {
            return Err(ApiError::manifest_unknown(&named));
        };
        Ok(Fetched { digest, media_type: manifest.media_type, size: manifest.size })
    }

    /// Its bytes.
    pub(crate) async fn manifest_bytes(&self, digest: &Digest) -> ApiResult<Bytes> {
        let bytes = self.contents.small(digest, self.options.limits.manifest_bytes).await?;
        bytes.ok_or_else(|| ApiError::manifest_unknown(&digest.to_string()))
    }

    /// A tag that exists and may not be moved or removed.
    pub(crate) fn is_immutable(access: &Access, tag: &str) -> bool {
        let below = access
            .repository
            .strip_prefix(&format!("{}/", access.project_name))
            .unwrap_or(&access.repository);
        let name = format!("{below}:{tag}");
        access.project.immutable.iter().any(|pattern| {
            let whole = if pattern.contains(':') { pattern.clone() } else { format!("**:{pattern}") };
            glob(&whole, &name)
        })
    }

    /// Store a manifest, and point a tag to it. Returns its digest and what it refers to.
    pub(crate) async fn put_manifest(
        &self,
        access: &Access,
        selector: &Selector,
        content_type: &str,
        bytes: Bytes,
    ) -> ApiResult<(Digest, Option<Digest>)> {
        self.store_manifest(access, selector, (content_type, bytes), true).await
    }

    /// The same for a manifest whose blobs come when they are asked for.
    pub(crate) async fn keep_fetched(
        &self,
        access: &Access,
        selector: &Selector,
        content_type: &str,
        bytes: Bytes,
    ) -> ApiResult<()> {
        self.store_manifest(access, selector, (content_type, bytes), false).await.map(drop)
    }

    async fn store_manifest(
        &self,
        access: &Access,
        selector: &Selector,
        (content_type, bytes): (&str, Bytes),
        complete: bool,
    ) -> ApiResult<(Digest, Option<Digest>)> {
        let digest = match selector {
            Selector::Digest(asked) => {
                let got = Digest::with(asked.algorithm(), &bytes);
                if got != *asked {
                    return Err(ApiError::digest_mismatch(asked, &got));
                }
                got
            }
            Selector::Tag(_) => Digest::of(&bytes),
        };
        let parsed = Parsed::parse(content_type, &bytes, self.options.limits.descriptors)?;
        let repo = self.meta.repository_or_make(&access.repository).await?;
        if complete {
            self.check_references(repo, &parsed).await?;
        }
        let hold = self.counts.hold(&digest);
        self.contents.keep(&digest, &bytes).await?;
        let mut hold = Some(hold);
        for _ in 0..RETRIES {
            let known = self.meta.manifest(repo, &digest).await?;
            let charged = if known.is_some() { 0 } else { bytes.len() as u64 };
            let mut change = self.references(repo, &parsed, complete).await?;
            self.add_manifest(&mut change, access, repo, (&digest, bytes.len()), &parsed, selector, known)
                .await?;
            self.counts.charge(&access.project_name, charged, access.project.quota).inspect_err(|_| {
                self.events.send(Event::new(Kind::Quota, access, "", Some(&digest)));
            })?;
            let tag = if let Selector::Tag(tag) = selector { tag.as_str() } else { "" };
            let event = Event::new(Kind::Push, access, tag, Some(&digest));
            let done = self.commit_told(change, &event).await;
            if matches!(done, Ok(true)) {
                if charged > 0 {
                    hold.take().into_iter().for_each(crate::counts::Hold::keep);
                }
                self.audit.record(
                    &access.caller,
                    access.from,
                    "push",
                    &access.repository,
                    &format!("{tag}@{digest}"),
                );
                return Ok((digest, parsed.subject));
            }
            self.counts.refund(&access.project_name, charged);
            done?;
            if complete {
                self.check_references(repo, &parsed).await?;
            }
        }
        Err(ApiError::unavailable("too many others change this repository at this moment"))
    }

    async fn check_references(&self, repo: RepoId, parsed: &Parsed) -> ApiResult<()> {
        let unknown = |digest: &Digest| {
            let message = format!(
                "the manifest refers to {digest}, which this repository does not have (hint: push it first)"
            );
            ApiError::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message)
                .with_detail(serde_json::json!({ "digest": digest }))
        };
        for blob in &parsed.blobs {
            let Some((link, _)) = self.meta.link(repo, &blob.digest).await? else {
                return Err(unknown(&blob.digest));
            };
            if i64::try_from(link.size) != Ok(blob.size) {
                let message = format!(
                    "the manifest says {} has {} bytes, and it has {}",
                    blob.digest, blob.size, link.size
                );
                return Err(ApiError::manifest_invalid(message));
            }
        }
        for child in &parsed.manifests {
            if self.meta.manifest(repo, &child.digest).await?.is_none() {
                return Err(unknown(&child.digest));
            }
        }
        Ok(())
    }

    /// The transaction holds only while everything the manifest needs is still there.
    async fn references(&self, repo: RepoId, parsed: &Parsed, complete: bool) -> ApiResult<Change> {
        let mut change = Change::default();
        if !complete {
            return Ok(change);
        }
        let (mut seen, now) = (std::collections::HashSet::new(), meta::now());
        // What is written anew here cannot be removed by a collection that saw it before.
        for blob in parsed.blobs.iter().filter(|blob| seen.insert(&blob.digest)) {
            let key = keys::link(repo, &blob.digest);
            let Some((link, revision)) = self.meta.link(repo, &blob.digest).await? else {
                change.at(key, -1);
                continue;
            };
            change.at(key.clone(), revision);
            if link.made < now {
                change.put(key, Link { made: now, ..link }.encode());
            }
        }
        for child in parsed.manifests.iter().filter(|child| seen.insert(&child.digest)) {
            let key = keys::manifest(repo, &child.digest);
            let Some((child, revision)) = self.meta.manifest(repo, &child.digest).await? else {
                change.at(key, -1);
                continue;
            };
            change.at(key.clone(), revision);
            if child.touched < now {
                change.put_json(key, &Manifest { touched: now, ..child });
            }
        }
        Ok(change)
    }

    #[expect(clippy::too_many_arguments, reason = "one step of store_manifest, with all that it knows")]
    async fn add_manifest(
        &self,
        change: &mut Change,
        access: &Access,
        repo: RepoId,
        (digest, size): (&Digest, usize),
        parsed: &Parsed,
        selector: &Selector,
        known: Option<(Manifest, i64)>,
    ) -> ApiResult<()> {
        let now = meta::now();
        let key = keys::manifest(repo, digest);
        if let Some((known, revision)) = known {
            // Always written anew: a deletion that did not see the tag must fail.
            change.at(key.clone(), revision).put_json(key, &Manifest { touched: now, ..known });
        } else {
            let unique = |list: &[crate::manifest::Descriptor]| {
                let mut digests: Vec<Digest> = list.iter().map(|d| d.digest.clone()).collect();
                digests.sort_unstable();
                digests.dedup();
                digests
            };
            let record = Manifest {
                media_type: parsed.media_type.to_owned(),
                size: size as u64,
                made: now,
                touched: now,
                blobs: unique(&parsed.blobs),
                manifests: unique(&parsed.manifests),
                subject: parsed.subject.clone(),
                artifact_type: parsed.artifact_type.clone(),
                annotations: parsed.annotations.clone(),
                ..Manifest::default()
            };
            change.at(key.clone(), 0).put_json(key, &record);
            if let Some(subject) = &parsed.subject {
                change.put(keys::referrer(repo, subject, digest), Bytes::new());
            }
        }
        if let Selector::Tag(tag) = selector {
            let key = keys::tag(repo, tag);
            let before = self.meta.tag(repo, tag).await?;
            let moved = before.as_ref().is_some_and(|(before, _)| before.digest != *digest);
            if moved && Self::is_immutable(access, tag) {
                return Err(ApiError::denied(format!(
                    "tag {tag} of {} is immutable (hint: push another tag)",
                    access.repository
                )));
            }
            let record = Tag { digest: digest.clone(), made: now, checked: 0 };
            change.at(key.clone(), before.map_or(0, |(_, revision)| revision)).put_json(key, &record);
        }
        Ok(())
    }

    /// `DELETE` of a tag, or of a manifest with all its tags.
    pub(crate) async fn delete_manifest(&self, access: &Access, selector: &Selector) -> ApiResult<()> {
        let repo = self.repo(&access.repository).await?;
        for _ in 0..RETRIES {
            let done = match selector {
                Selector::Tag(tag) => {
                    let Some((_, revision)) = self.meta.tag(repo, tag).await? else {
                        return Err(ApiError::manifest_unknown(tag));
                    };
                    if Self::is_immutable(access, tag) {
                        return Err(ApiError::denied(format!(
                            "tag {tag} of {} is immutable",
                            access.repository
                        )));
                    }
                    let mut change = Change::default();
                    change.at(keys::tag(repo, tag), revision).delete(keys::tag(repo, tag));
                    self.commit_told(change, &Event::new(Kind::Delete, access, tag, None)).await?
                }
                Selector::Digest(digest) => {
                    let Some((manifest, revision)) = self.meta.manifest(repo, digest).await? else {
                        return Err(ApiError::manifest_unknown(&digest.to_string()));
                    };
                    let event = Event::new(Kind::Delete, access, "", Some(digest));
                    self.remove_manifest(access, repo, digest, (&manifest, revision), Some(event)).await?
                }
            };
            if done {
                let what = match selector {
                    Selector::Tag(tag) => tag.clone(),
                    Selector::Digest(digest) => digest.to_string(),
                };
                self.audit.record(&access.caller, access.from, "delete", &access.repository, &what);
                return Ok(());
            }
        }
        Err(ApiError::unavailable("too many others change this repository at this moment"))
    }

    /// Remove a manifest and its tags if it still is as it was seen.
    pub(crate) async fn remove_manifest(
        &self,
        access: &Access,
        repo: RepoId,
        digest: &Digest,
        (manifest, revision): (&Manifest, i64),
        event: Option<Event>,
    ) -> ApiResult<bool> {
        let mut change = Change::default();
        let key = keys::manifest(repo, digest);
        change.at(key.clone(), revision).delete(key);
        if let Some(subject) = &manifest.subject {
            change.delete(keys::referrer(repo, subject, digest));
        }
        for (tag, found) in self.meta.tags(repo, "", 0).await? {
            if found.digest != *digest {
                continue;
            }
            if Self::is_immutable(access, &tag) {
                return Err(ApiError::denied(format!("{digest} has the immutable tag {tag}")));
            }
            let key = keys::tag(repo, &tag);
            let Some((now, revision)) = self.meta.tag(repo, &tag).await? else { return Ok(false) };
            if now.digest != *digest {
                return Ok(false);
            }
            change.at(key.clone(), revision).delete(key);
        }
        let done = match &event {
            Some(event) => self.commit_told(change, event).await?,
            None => self.meta.commit(change).await?,
        };
        if !done {
            return Ok(false);
        }
        self.counts.release(digest);
        self.counts.refund(&access.project_name, manifest.size);
        self.contents.forget(digest);
        Ok(true)
    }

    /// Count links and usage. Before anything is served.
    pub(crate) async fn recount(&self) -> ApiResult<()> {
        let mut contents = self.meta.pages(vec![b'c']);
        while let Some(page) = contents.next().await? {
            for (digest, _) in page.iter().filter_map(|kv| Digest::from_key(&kv.key[1..])) {
                self.counts.found(digest);
            }
        }
        let mut paid = std::collections::HashSet::new();
        for (name, repository) in self.meta.repositories("", usize::MAX).await? {
            let project = project_of(&name);
            for kv in self.meta.prefix(keys::of_repo(b'b', repository.id)).await? {
                let (Some((digest, _)), Some(link)) =
                    (Digest::from_key(&kv.key[5..]), Link::decode(&kv.value))
                else {
                    continue;
                };
                self.counts.hold(&digest).keep();
                if paid.insert((project.to_owned(), digest)) {
                    self.counts.charge(project, link.size, 0)?;
                }
            }
            for (digest, manifest) in self.meta.manifests(repository.id).await? {
                self.counts.hold(&digest).keep();
                self.counts.charge(project, manifest.size, 0)?;
            }
        }
        Ok(())
    }

    /// Our own socket for administrators.
    pub(crate) fn socket(&self) -> PathBuf {
        self.options.dir.join("admin.sock")
    }
}
