//! Rules that copy images between this registry and others, at each push, by the clock, or when told to.

use std::{
    collections::{BTreeMap, HashSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use sampan_daemon::Backoff;
use serde::Serialize;
use tokio::{io::AsyncWriteExt, sync::Notify, time::Instant};

use crate::{
    auth::{Action, Caller},
    core::{Access, Core},
    digest::{Digest, Hasher},
    error::{ApiError, ApiResult},
    events::{Event, Kind},
    meta::{self, Replication, ReplicationMode, keys},
    name::{Selector, glob, project_of},
    objects::ByteStream,
    upstream::{Refusal, Upstream},
};

const ATTEMPTS: u32 = 5;
/// Indexes in indexes.
const DEPTH: usize = 4;

/// What a rule did last.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Done {
    pub(crate) ended: String,
    pub(crate) copied: u64,
    pub(crate) unchanged: u64,
    pub(crate) deleted: u64,
    pub(crate) bytes: u64,
    pub(crate) failures: Vec<String>,
}

/// State of the rules.
#[derive(Debug, Default)]
pub(crate) struct Replicator {
    last: Mutex<BTreeMap<String, Done>>,
    /// Rules were changed.
    pub(crate) changed: Notify,
}

impl Replicator {
    pub(crate) fn last(&self, rule: &str) -> Option<Done> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).get(rule).cloned()
    }

    /// A rule is no more.
    pub(crate) fn forget(&self, rule: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(rule);
        self.changed.notify_one();
    }
}

impl Replication {
    fn is_about(&self, repository: &str, tag: &str) -> bool {
        let any = |patterns: &[String], text: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| glob(pattern, text))
        };
        any(&self.filter.repositories, repository) && any(&self.filter.tags, tag)
    }
}

fn failed(refusal: &Refusal) -> ApiError {
    ApiError::unavailable(refusal.to_string())
}

impl Core {
    /// Rules that push what an event is about.
    pub(crate) async fn rules_about<'a>(
        &self,
        rules: &'a [(String, Replication)],
        event: &Event,
    ) -> ApiResult<Vec<&'a str>> {
        if !matches!(event.kind, Kind::Push | Kind::Delete) || event.actor == "replication" {
            return Ok(Vec::new());
        }
        let pushes = |rule: &Replication| {
            !rule.disabled
                && rule.mode == ReplicationMode::Push
                && rule.schedule.on_push
                && (event.kind == Kind::Push || rule.deletions)
        };
        let rules: Vec<_> = rules.iter().filter(|(_, rule)| pushes(rule)).collect();
        if rules.is_empty() {
            return Ok(Vec::new());
        }
        let mut tags = self.subject_tags(event).await?;
        tags.push(event.tag.clone());
        let about = |rule: &Replication| tags.iter().any(|tag| rule.is_about(&event.repository, tag));
        Ok(rules.into_iter().filter(|(_, rule)| about(rule)).map(|(name, _)| name.as_str()).collect())
    }

    /// What has no tag itself, a signature for example, goes with the tags of what it is about.
    async fn subject_tags(&self, event: &Event) -> ApiResult<Vec<String>> {
        let none = Ok(Vec::new());
        let (true, Some(digest)) = (event.tag.is_empty(), &event.digest) else { return none };
        let Some(repository) = self.meta.repository(&event.repository).await? else { return none };
        let Some((manifest, _)) = self.meta.manifest(repository.id, digest).await? else { return none };
        let Some(subject) = manifest.subject else { return none };
        let tags = self.meta.tags(repository.id, "", 0).await?;
        Ok(tags.into_iter().filter(|(_, found)| found.digest == subject).map(|(tag, _)| tag).collect())
    }

    /// Carry out what an event asks of one rule, or give up.
    pub(crate) async fn replicate_event(&self, rule: &str, event: &Event) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for attempt in 1..=ATTEMPTS {
            let mut done = Done::default();
            match self.replicate_one(rule, event, &mut done).await {
                Ok(true) => return self.ended(rule, done),
                // What it did last is forgotten too.
                Ok(false) => return,
                Err(error) if attempt == ATTEMPTS => {
                    done.failures.push(format!("{}:{}: {}", event.repository, event.tag, error.message));
                    self.ended(rule, done);
                }
                Err(_) => tokio::time::sleep(backoff.next_delay()).await,
            }
        }
    }

    /// False when the rule is no more.
    async fn replicate_one(&self, rule: &str, event: &Event, done: &mut Done) -> ApiResult<bool> {
        let Some((rule, _)) = self.meta.record::<Replication>(keys::named("x/", rule)).await? else {
            return Ok(false);
        };
        let remote = self.remote(&rule)?;
        let target = format!("{}{}", rule.prefix, event.repository);
        let digest = event.digest.as_ref().map(ToString::to_string);
        let reference = if event.tag.is_empty() { digest.unwrap_or_default() } else { event.tag.clone() };
        if event.kind == Kind::Delete {
            return match remote.delete_manifest(&target, &reference).await {
                Ok(()) | Err(Refusal::NotFound) => {
                    done.deleted += 1;
                    Ok(true)
                }
                Err(refusal) => Err(failed(&refusal)),
            };
        }
        let mut throttle = Throttle::new(rule.bandwidth);
        self.push_out(&remote, (&event.repository, &target), &reference, &mut throttle, done).await?;
        Ok(true)
    }

    fn remote(&self, rule: &Replication) -> ApiResult<Upstream> {
        Upstream::new(self.client.clone(), &rule.remote, &rule.username, &rule.password)
            .map_err(|refusal| failed(&refusal))
    }

    fn ended(&self, rule: &str, mut done: Done) {
        done.ended = meta::time(meta::now());
        self.metrics.replicated.fetch_add(done.copied, Relaxed);
        self.metrics.replication_failures.fetch_add(done.failures.len() as u64, Relaxed);
        let event = Event {
            kind: Kind::Replication,
            project: String::new(),
            repository: rule.to_owned(),
            tag: String::new(),
            digest: None,
            actor: "replication".to_owned(),
            time: meta::now(),
        };
        self.events.send(event);
        self.replicator.last.lock().unwrap_or_else(PoisonError::into_inner).insert(rule.to_owned(), done);
    }

    /// Runs rules by the clock, until the end.
    pub(crate) async fn replicate_by_clock(self: Arc<Self>) {
        let mut due: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let rules = self.meta.records::<Replication>("x/").await.unwrap_or_default();
            let scheduled =
                rules.into_iter().filter(|(_, rule)| !rule.disabled && rule.schedule.every_seconds > 0);
            let scheduled: BTreeMap<String, Replication> = scheduled.collect();
            due.retain(|name, _| scheduled.contains_key(name));
            for (name, rule) in &scheduled {
                let every = Duration::from_secs(rule.schedule.every_seconds);
                let at = due.entry(name.clone()).or_insert_with(|| Instant::now() + every);
                // A rule that was made to run more often does so at once.
                *at = (*at).min(Instant::now() + every);
            }
            let next = due.iter().min_by_key(|(_, at)| **at).map(|(name, at)| (name.clone(), *at));
            let Some((name, at)) = next else {
                self.replicator.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(at) => {
                    due.remove(&name);
                    // What went wrong is in what the rule did last.
                    let _ = self.run_rule(&name).await;
                }
                () = self.replicator.changed.notified() => {}
            }
        }
    }

    /// Carry a rule out now.
    pub(crate) async fn run_rule(&self, name: &str) -> ApiResult<Done> {
        let record = self.meta.record::<Replication>(keys::named("x/", name)).await?;
        let (rule, _) =
            record.ok_or_else(|| ApiError::not_found(format!("replication rule {name} does not exist")))?;
        let mut done = Done::default();
        let outcome = match rule.mode {
            ReplicationMode::Push => self.run_push(&rule, &mut done).await,
            ReplicationMode::Pull => self.run_pull(&rule, &mut done).await,
        };
        if let Err(error) = &outcome {
            done.failures.push(error.message.clone());
        }
        self.ended(name, done.clone());
        outcome.map(|()| done)
    }

    async fn run_push(&self, rule: &Replication, done: &mut Done) -> ApiResult<()> {
        let remote = self.remote(rule)?;
        let mut throttle = Throttle::new(rule.bandwidth);
        for (repository, record) in self.meta.repositories("", usize::MAX).await? {
            for (tag, _) in self.meta.tags(record.id, "", 0).await? {
                if !rule.is_about(&repository, &tag) {
                    continue;
                }
                let target = format!("{}{repository}", rule.prefix);
                if let Err(error) =
                    self.push_out(&remote, (&repository, &target), &tag, &mut throttle, done).await
                {
                    done.failures.push(format!("{repository}:{tag}: {}", error.message));
                }
            }
        }
        Ok(())
    }

    /// One image with all it needs, and what refers to it.
    async fn push_out(
        &self,
        remote: &Upstream,
        (repository, target): (&str, &str),
        reference: &str,
        throttle: &mut Throttle,
        done: &mut Done,
    ) -> ApiResult<()> {
        let access = self
            .access(&Caller::System("replication"), Ipv4Addr::LOCALHOST.into(), repository, Action::Pull)
            .await?;
        let found = match self.resolve(&access, &Selector::parse(reference)?).await {
            // Deleted meanwhile.
            Err(error) if error.code == "MANIFEST_UNKNOWN" => return Ok(()),
            found => found?,
        };
        let (repo, mut seen) = (self.repo(repository).await?, HashSet::new());
        match remote.head(target, reference).await {
            Ok(Some(there)) if there == found.digest => {
                done.unchanged += 1;
                let state = (throttle, done, &mut seen);
                return self.push_referrers(remote, (repo, target), &found.digest, state, DEPTH).await;
            }
            Err(refusal @ (Refusal::Denied(_) | Refusal::Failed(_))) => return Err(failed(&refusal)),
            _ => {}
        }
        self.push_tree(
            remote,
            (repo, target),
            &found.digest,
            Some(reference),
            (throttle, done, &mut seen),
            DEPTH,
        )
        .await?;
        done.copied += 1;
        Ok(())
    }

    fn push_tree<'a>(
        &'a self,
        remote: &'a Upstream,
        (repo, target): (u32, &'a str),
        digest: &'a Digest,
        reference: Option<&'a str>,
        (throttle, done, seen): (&'a mut Throttle, &'a mut Done, &'a mut HashSet<Digest>),
        depth: usize,
    ) -> BoxFuture<'a, ApiResult<()>> {
        Box::pin(async move {
            if depth == 0 || !seen.insert(digest.clone()) {
                return Ok(());
            }
            let Some((manifest, _)) = self.meta.manifest(repo, digest).await? else { return Ok(()) };
            for child in &manifest.manifests {
                self.push_tree(
                    remote,
                    (repo, target),
                    child,
                    None,
                    (&mut *throttle, &mut *done, &mut *seen),
                    depth - 1,
                )
                .await?;
            }
            for blob in &manifest.blobs {
                if remote.blob_size(target, blob).await.is_ok() {
                    continue;
                }
                let size = self.contents.size(blob).await?.ok_or_else(|| ApiError::blob_unknown(blob))?;
                let stream =
                    self.contents.stream(blob, 0..size).await?.ok_or_else(|| ApiError::blob_unknown(blob))?;
                let stream = throttle.slow(stream);
                remote.push_blob(target, blob, size, stream).await.map_err(|refusal| failed(&refusal))?;
                done.bytes += size;
            }
            let bytes = self.manifest_bytes(digest).await?;
            let text = digest.to_string();
            let reference = reference.unwrap_or(&text);
            remote
                .push_manifest(target, reference, &manifest.media_type, bytes)
                .await
                .map_err(|refusal| failed(&refusal))?;
            self.push_referrers(remote, (repo, target), digest, (throttle, done, seen), depth).await
        })
    }

    /// Signatures and the like go along, also those that came later.
    async fn push_referrers(
        &self,
        remote: &Upstream,
        (repo, target): (u32, &str),
        digest: &Digest,
        (throttle, done, seen): (&mut Throttle, &mut Done, &mut HashSet<Digest>),
        depth: usize,
    ) -> ApiResult<()> {
        let prefix = keys::referrers(repo, digest);
        let length = prefix.len();
        for kv in self.meta.prefix(prefix).await? {
            let Some((referrer, _)) = Digest::from_key(&kv.key[length..]) else { continue };
            if remote.head(target, &referrer.to_string()).await.is_ok() {
                continue;
            }
            let state = (&mut *throttle, &mut *done, &mut *seen);
            self.push_tree(remote, (repo, target), &referrer, None, state, depth - 1).await?;
        }
        Ok(())
    }

    async fn run_pull(&self, rule: &Replication, done: &mut Done) -> ApiResult<()> {
        let remote = self.remote(rule)?;
        let plain = |name: &String| !name.contains(['*', '?']);
        let patterns = &rule.filter.repositories;
        let repositories = if !patterns.is_empty() && patterns.iter().all(plain) {
            patterns.clone()
        } else {
            remote.repositories().await.map_err(|refusal| failed(&refusal))?
        };
        let mut throttle = Throttle::new(rule.bandwidth);
        for repository in repositories {
            if !rule.is_about(&repository, "")
                && !patterns.iter().any(|pattern| glob(pattern, &repository))
                && !patterns.is_empty()
            {
                continue;
            }
            let tags = match remote.tags(&repository).await {
                Ok(tags) => tags,
                Err(refusal) => {
                    done.failures.push(format!("{repository}: {refusal}"));
                    continue;
                }
            };
            for tag in tags.iter().filter(|tag| rule.is_about(&repository, tag)) {
                let target = format!("{}{repository}", rule.prefix);
                if let Err(error) =
                    self.pull_in(&remote, (&repository, &target), tag, &mut throttle, done).await
                {
                    done.failures.push(format!("{repository}:{tag}: {}", error.message));
                }
            }
        }
        Ok(())
    }

    async fn pull_in(
        &self,
        remote: &Upstream,
        (repository, target): (&str, &str),
        tag: &str,
        throttle: &mut Throttle,
        done: &mut Done,
    ) -> ApiResult<()> {
        let access = self
            .access(&Caller::System("replication"), Ipv4Addr::LOCALHOST.into(), target, Action::Push)
            .await?;
        debug_assert_eq!(access.project_name, project_of(target));
        let there = remote.head(repository, tag).await.map_err(|refusal| failed(&refusal))?;
        let here = self.resolve(&access, &Selector::parse(tag)?).await.ok();
        if let (Some(there), Some(here)) = (&there, &here)
            && *there == here.digest
        {
            done.unchanged += 1;
            return self.pull_referrers(remote, (repository, &access), there, (throttle, done), DEPTH).await;
        }
        self.pull_tree(remote, (repository, &access), tag, (throttle, done), DEPTH).await?;
        done.copied += 1;
        Ok(())
    }

    fn pull_tree<'a>(
        &'a self,
        remote: &'a Upstream,
        (repository, access): (&'a str, &'a Access),
        reference: &'a str,
        (throttle, done): (&'a mut Throttle, &'a mut Done),
        depth: usize,
    ) -> BoxFuture<'a, ApiResult<()>> {
        Box::pin(async move {
            if depth == 0 {
                return Err(ApiError::manifest_invalid("indexes lie too deep in indexes"));
            }
            let found = remote.manifest(repository, reference).await.map_err(|refusal| failed(&refusal))?;
            let parsed = crate::manifest::Parsed::parse(
                &found.media_type,
                &found.bytes,
                self.options.limits.descriptors,
            )?;
            for child in &parsed.manifests {
                let child = child.digest.to_string();
                self.pull_tree(remote, (repository, access), &child, (&mut *throttle, &mut *done), depth - 1)
                    .await?;
            }
            for blob in &parsed.blobs {
                if self.blob(access, &blob.digest).await.is_ok() {
                    continue;
                }
                done.bytes += self.pull_blob(remote, repository, access, &blob.digest, throttle).await?;
            }
            let (digest, _) = self
                .put_manifest(access, &Selector::parse(reference)?, &found.media_type, found.bytes)
                .await?;
            self.pull_referrers(remote, (repository, access), &digest, (throttle, done), depth).await
        })
    }

    /// Signatures and the like come along, also those that came later.
    async fn pull_referrers(
        &self,
        remote: &Upstream,
        (repository, access): (&str, &Access),
        digest: &Digest,
        (throttle, done): (&mut Throttle, &mut Done),
        depth: usize,
    ) -> ApiResult<()> {
        if depth <= 1 {
            return Ok(());
        }
        for referrer in remote.referrers(repository, digest).await.map_err(|refusal| failed(&refusal))? {
            let text = referrer.to_string();
            if self.resolve(access, &Selector::Digest(referrer)).await.is_err() {
                let state = (&mut *throttle, &mut *done);
                self.pull_tree(remote, (repository, access), &text, state, depth - 1).await?;
            }
        }
        Ok(())
    }

    async fn pull_blob(
        &self,
        remote: &Upstream,
        repository: &str,
        access: &Access,
        digest: &Digest,
        throttle: &Throttle,
    ) -> ApiResult<u64> {
        let hold = self.counts.hold(digest);
        let (_, stream) = remote.blob(repository, digest).await.map_err(|refusal| failed(&refusal))?;
        let mut stream = throttle.slow(stream);
        let path = self.contents.temporary();
        let mut file = tokio::fs::File::create_new(&path).await?;
        let (mut hasher, stall) = (Hasher::new(digest.algorithm()), self.options.limits.stall);
        let received = async {
            while let Some(bytes) =
                tokio::time::timeout(stall, stream.try_next()).await.map_err(std::io::Error::other)??
            {
                hasher.update(&bytes);
                if hasher.bytes() > self.options.limits.blob_bytes {
                    return Err(ApiError::size_invalid("the blob is too large"));
                }
                file.write_all(&bytes).await?;
            }
            file.flush().await?;
            let (size, got) = (hasher.bytes(), hasher.clone().finish());
            if got != *digest {
                return Err(ApiError::digest_mismatch(digest, &got));
            }
            self.contents.adopt(digest, &path, size).await?;
            self.add_link(access, digest, size).await?;
            Ok(size)
        }
        .await;
        if received.is_err() {
            let _ = tokio::fs::remove_file(&path).await;
        }
        drop(hold);
        received
    }
}

/// Bytes a second of one run of a rule: counted where they leave or arrive.
struct Throttle {
    bandwidth: u64,
    /// When what was let through so far is paid for.
    paid: Arc<Mutex<Instant>>,
}

impl Throttle {
    fn new(bandwidth: u64) -> Self {
        Self { bandwidth, paid: Arc::new(Mutex::new(Instant::now())) }
    }

    fn slow(&self, stream: ByteStream) -> ByteStream {
        if self.bandwidth == 0 {
            return stream;
        }
        let (bandwidth, paid) = (self.bandwidth, self.paid.clone());
        stream
            .and_then(move |bytes| {
                let until = {
                    let mut paid = paid.lock().unwrap_or_else(PoisonError::into_inner);
                    let cost = Duration::from_secs_f64(bytes.len() as f64 / bandwidth as f64);
                    *paid = (*paid).max(Instant::now()) + cost;
                    *paid
                };
                async move {
                    tokio::time::sleep_until(until).await;
                    Ok(bytes)
                }
            })
            .boxed()
    }
}
