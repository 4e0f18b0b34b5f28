//! `RUN --mount`: what is mounted, the caches that stay from build to build, and mount points that go again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use sampan_daemon::Backoff;

use super::context::Source;
use super::copy::{Target, digest};
use super::parse::{MountKind, Run, Sharing};
use super::run::{Build, Here, normal};
use super::stage::Stage;
use super::{RunMount, RunMountSource, SecretSource};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::lookup::Layered;
use crate::store::Store;
use crate::store::lease::Lease;
use crate::store::lock::open_lock;

/// Bytes of one secret.
const MAX_SECRET: u64 = 500 << 10;
/// Directories that one private cache may have at the same time.
const MAX_PRIVATE: usize = 32;
/// Before a cache that others hold is looked at for the second time.
const WAIT: Duration = Duration::from_millis(20);

/// Mounts of one step.
#[derive(Default)]
pub(super) struct Mounted {
    /// What of them the step's result depends on.
    pub(super) key: Vec<String>,
    orders: Vec<Order>,
    pub(super) mounts: Vec<RunMount>,
    /// Secrets as variables.
    pub(super) env: Vec<String>,
    /// Held until the step ends.
    pub(super) _locks: Vec<Flock<File>>,
}

/// A mount that is known but not made yet.
struct Order {
    kind: MountKind,
    target: PathBuf,
    source: Option<Arc<Source>>,
}

impl Build {
    /// What is to be mounted, as far as the step's key needs it.
    pub(super) async fn mounts(&self, here: &Here<'_>, run: &Run, stage: &Stage) -> Result<Mounted> {
        let mut mounted = Mounted::default();
        for (number, mount) in run.mounts.iter().enumerate() {
            let mut kind = mount.kind.clone();
            let target = match (&mount.target, &kind) {
                (Some(word), _) => self.expand(here, stage, word)?,
                (None, MountKind::Secret { id, .. }) => format!("/run/secrets/{id}"),
                (None, MountKind::Ssh { .. }) => format!("/run/buildkit/ssh_agent.{number}"),
                (None, _) => String::new(),
            };
            let target = normal(&stage.workdir().join(target));
            if target == Path::new("/") {
                return Err(self.wrong(here.line, "--mount: the target cannot be / (hint: target=/path)"));
            }
            let mut source = None;
            let mut content = String::new();
            match &mut kind {
                MountKind::Bind { from, source: path, .. } => {
                    *path = self.expand(here, stage, path)?;
                    (source, content) = self.bound(here, from.as_deref(), path).await?;
                }
                MountKind::Cache { from, source: path, id, .. } => {
                    *path = self.expand(here, stage, path)?;
                    let word = id.clone().unwrap_or_else(|| target.display().to_string());
                    *id = Some(self.expand(here, stage, &word)?);
                    if let Some(from) = from {
                        source = Some(self.source(here, from).await?.0);
                    }
                }
                MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => {}
            }
            mounted.key.push(format!("{kind:?} {} {content}", target.display()));
            mounted.orders.push(Order { kind, target, source });
        }
        Ok(mounted)
    }

    /// The tree of a bind mount, and a digest of what is bound.
    async fn bound(
        &self,
        here: &Here<'_>,
        from: Option<&str>,
        path: &str,
    ) -> Result<(Option<Arc<Source>>, String)> {
        let (source, key) = match from {
            None => (self.context.clone(), String::new()),
            Some(from) => self.source(here, from).await?,
        };
        // A stage's key stands for its files.
        if !key.is_empty() {
            return Ok((Some(source), key));
        }
        let (tree, path) = (source.clone(), path.to_owned());
        let (line, file) = (here.line.number, self.plan.file.clone());
        let content = self.images.blocking(move |_| {
            let wrong = |reason| Error::Dockerfile { file, line, reason };
            digest(&tree, &tree.choose(&path).map_err(wrong)?)
        });
        let content = content.await?;
        Ok((Some(source), content.to_string()))
    }

    /// The directories of a step's caches by id. Each is locked once, as strictly as any of its mounts wants, and all in
    /// one order: neither a step nor two of them side by side wait for themselves.
    async fn caches(
        &self,
        orders: &[Order],
        locks: &mut Vec<Flock<File>>,
    ) -> Result<BTreeMap<String, PathBuf>> {
        let mut wanted = BTreeMap::new();
        for order in orders {
            let MountKind::Cache { id, source: path, sharing, mode, owner, .. } = &order.kind else {
                continue;
            };
            let first = || (*sharing, (*mode, *owner), path.clone(), order.source.clone());
            let cache = wanted.entry(id.clone().unwrap_or_default()).or_insert_with(first);
            cache.0 = cache.0.max(*sharing);
        }
        let mut dirs = BTreeMap::new();
        for (id, (sharing, rights, path, tree)) in wanted {
            // The kernel has no wait for a lock or a cancellation, whichever comes first: a cache that others hold is
            // looked at again and again.
            let mut backoff = Backoff::new(WAIT, WAIT * 16);
            let (dir, lock) = loop {
                let (id, path, tree) = (id.clone(), path.clone(), tree.clone());
                let cache = self.images.blocking(move |inner| {
                    let seed = tree.as_ref().map(|tree| (&**tree, path.as_str()));
                    cache(&inner.store, &id, sharing, rights, seed)
                });
                if let Some(found) = cache.await? {
                    break found;
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                    () = self.options.cancel.cancelled() => {
                        return Err(Error::Cancelled { what: "the build".into() });
                    }
                }
            };
            locks.push(lock);
            dirs.insert(id, dir);
        }
        Ok(dirs)
    }

    /// Make what is mounted.
    pub(super) async fn ready(&self, here: &Here<'_>, mut mounted: Mounted) -> Result<Mounted> {
        let orders = std::mem::take(&mut mounted.orders);
        let caches = self.caches(&orders, &mut mounted._locks).await?;
        for Order { kind, target, source } in orders {
            let (line, file) = (here.line.number, self.plan.file.clone());
            let wrong = move |reason: String| Error::Dockerfile { file, line, reason };
            let lease = self.lease.clone();
            let (source, read_only) = match kind {
                MountKind::Bind { source: path, writable, .. } => {
                    let Some(tree) = source else { continue };
                    let bound =
                        self.images.blocking(move |_| bind(&lease, &tree, &path, writable).map_err(wrong));
                    (RunMountSource::Path(bound.await?), !writable)
                }
                MountKind::Cache { id, read_only, .. } => {
                    let Some(dir) = caches.get(&id.unwrap_or_default()) else { continue };
                    (RunMountSource::Path(dir.clone()), read_only)
                }
                MountKind::Tmpfs { size } => (RunMountSource::Tmpfs { size }, false),
                MountKind::Ssh { id, required, mode, owner } => {
                    let Some((_, socket)) = self.options.ssh.iter().find(|(name, _)| *name == id) else {
                        if required {
                            let reason = format!("no SSH agent {id:?} was given (hint: --ssh {id}=SOCKET)");
                            return Err(self.wrong(here.line, reason));
                        }
                        continue;
                    };
                    if !mounted.env.iter().any(|variable| variable.starts_with("SSH_AUTH_SOCK=")) {
                        mounted.env.push(format!("SSH_AUTH_SOCK={}", target.display()));
                    }
                    (RunMountSource::Agent { socket: socket.clone(), mode, owner }, false)
                }
                MountKind::Secret { id, required, mode, owner, env } => {
                    let secret = self.options.secrets.iter().find(|(name, _)| *name == id);
                    let Some((_, secret)) = secret else {
                        if required {
                            let reason =
                                format!("secret {id:?} was not given (hint: --secret id={id},src=FILE)");
                            return Err(self.wrong(here.line, reason));
                        }
                        continue;
                    };
                    let bytes = secret_bytes(&id, secret)?;
                    if let Some(name) = env {
                        let text = String::from_utf8(bytes.clone()).ok().filter(|text| !text.contains('\0'));
                        let reason = || wrong(format!("secret {id:?} is no text, as env={name} needs"));
                        mounted.env.push(format!("{name}={}", text.ok_or_else(reason)?));
                        continue;
                    }
                    (RunMountSource::Secret { bytes: bytes.into(), mode, owner }, true)
                }
            };
            mounted.mounts.push(RunMount { target, source, read_only });
        }
        Ok(mounted)
    }
}

fn secret_bytes(id: &str, secret: &SecretSource) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    match secret {
        SecretSource::Bytes(given) => bytes.clone_from(given),
        SecretSource::File(path) => {
            let file = File::open(path).map_err(Error::io("open", path))?;
            file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        }
    }
    if bytes.len() as u64 > MAX_SECRET {
        return Err(Error::Limit { what: format!("secret {id}"), limit: MAX_SECRET, unit: "bytes" });
    }
    Ok(bytes)
}

/// A path of the host that shows what is bound, and nothing else.
fn bind(lease: &Lease, tree: &Source, path: &str, writable: bool) -> Result<PathBuf, String> {
    let chosen = tree.choose(path)?;
    let [item] = chosen.as_slice() else {
        return Err(format!("--mount: source={path} means several files (hint: name one)"));
    };
    // One place, and nothing in it that must not be seen: bound as it is.
    if let [place] = item.found.places.as_slice()
        && !writable
        && (!item.found.is_dir() || !tree.hides())
    {
        return Ok(place.clone());
    }
    let copied = || -> Result<PathBuf> {
        let dir = lease.scratch_dir("bound")?;
        let target = Target { upper: &dir, lowers: &[], owner: None, chmod: None };
        target.copy(tree, &chosen, Path::new("/bound"), false)?;
        Ok(dir.join("bound"))
    };
    copied().map_err(|error| error.to_string())
}

/// A cache's directory, and the lock that keeps it; `None` when others hold it.
fn cache(
    store: &Store,
    id: &str,
    sharing: Sharing,
    (mode, owner): (Option<u32>, (u32, u32)),
    seed: Option<(&Source, &str)>,
) -> Result<Option<(PathBuf, Flock<File>)>> {
    let name = Digest::of(id.as_bytes()).hex();
    for number in 0..MAX_PRIVATE {
        let base =
            store.path("mounts").join(if number == 0 { name.clone() } else { format!("{name}-{number}") });
        let lock = base.with_extension("lock");
        let arg = match sharing {
            Sharing::Shared => FlockArg::LockSharedNonblock,
            Sharing::Private | Sharing::Locked => FlockArg::LockExclusiveNonblock,
        };
        let guard = match take(&lock, arg)? {
            Some(guard) => guard,
            None if sharing == Sharing::Private => continue,
            None => return Ok(None),
        };
        // What was used last is forgotten last; a failure only makes it look older.
        let _ = guard.set_modified(std::time::SystemTime::now());
        if !base.is_dir() {
            make(store, &base, mode.unwrap_or(0o755), owner, seed)?;
        }
        return Ok(Some((base, guard)));
    }
    let what = format!("directories of the private cache {id:?} in use");
    Err(Error::Limit { what, limit: MAX_PRIVATE as u64, unit: "directories" })
}

/// Lock a file that may be removed by whoever held it; `None` when it is held and must not be waited for.
fn take(path: &Path, arg: FlockArg) -> Result<Option<Flock<File>>> {
    loop {
        let mut file = open_lock(path)?;
        let guard = loop {
            match Flock::lock(file, arg) {
                Ok(guard) => break guard,
                Err((back, nix::Error::EINTR)) => file = back,
                Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
                Err((_, error)) => return Err(Error::errno("lock", path)(error)),
            }
        };
        let mine = guard.metadata().map_err(Error::io("read", path))?;
        if fs::metadata(path).is_ok_and(|there| there.ino() == mine.ino()) {
            return Ok(Some(guard));
        }
    }
}

/// Made aside and renamed: two that share it may come at the same time.
fn make(
    store: &Store,
    base: &Path,
    mode: u32,
    (uid, gid): (u32, u32),
    seed: Option<(&Source, &str)>,
) -> Result<()> {
    let fresh = store.path("tmp").join(format!("f-{}", store.unique()));
    fs::create_dir(&fresh).map_err(Error::io("create", &fresh))?;
    if let Some((tree, path)) = seed {
        let chosen = tree.choose(path).map_err(|reason| Error::archive("--mount=type=cache", reason))?;
        Target { upper: &fresh, lowers: &[], owner: None, chmod: None }.copy(
            tree,
            &chosen,
            Path::new("/"),
            true,
        )?;
    }
    super::copying::set_mode(&fresh, mode)?;
    std::os::unix::fs::chown(&fresh, Some(uid), Some(gid)).map_err(Error::io("chown", &fresh))?;
    match fs::rename(&fresh, base) {
        Err(_) if base.is_dir() => {
            // Somebody else was quicker.
            crate::store::lease::remove_tree(&fresh);
            Ok(())
        }
        renamed => renamed.map_err(Error::io("move", &fresh)),
    }
}

/// Remove caches that nobody uses, the oldest first, until `keep` are left. Gives bytes.
pub(crate) fn prune(store: &Store, keep: usize) -> Result<u64> {
    let dir = store.path("mounts");
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "lock") {
            found.push((entry.metadata().and_then(|metadata| metadata.modified()).ok(), path));
        }
    }
    found.sort();
    let doomed = found.len().saturating_sub(keep);
    let mut freed = 0;
    for (_, lock) in &found[..doomed] {
        let Some(_guard) = take(lock, FlockArg::LockExclusiveNonblock)? else { continue };
        let base = lock.with_extension("");
        if base.is_dir() {
            freed += size(&base);
            let trash = store.path("tmp").join(format!("trash-{}", store.unique()));
            fs::rename(&base, &trash).map_err(Error::io("move", &base))?;
            crate::store::lease::remove_tree(&trash);
        }
        fs::remove_file(lock).map_err(Error::io("remove", lock))?;
    }
    Ok(freed)
}

/// Bytes of files below a directory; what vanishes meanwhile counts nothing.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A mount point that was made for a mount goes again, with the directories on the way to it that are empty now.
pub(super) fn remove_stub(upper: &Path, lowers: &Layered, target: &Path) -> Result<()> {
    let mut path = lowers.lookup(target, true)?.path;
    let mut last = true;
    while path != Path::new("/") {
        let place = upper.join(path.strip_prefix("/").unwrap_or(&path));
        let below = lowers.lookup(&path, false)?.metadata;
        let Ok(there) = fs::symlink_metadata(&place) else {
            // Mounted over something that was there: nothing was made.
            path.pop();
            last = false;
            continue;
        };
        let same = |below: &fs::Metadata| {
            below.is_dir()
                && (below.mode(), below.uid(), below.gid()) == (there.mode(), there.uid(), there.gid())
        };
        let ours = match &below {
            None => there.is_dir() || (last && there.is_file() && there.len() == 0),
            // Copied up for what was made in it.
            Some(below) => there.is_dir() && same(below),
        };
        let removed = match there.is_dir() {
            _ if !ours => return Ok(()),
            true => fs::remove_dir(&place),
            false => fs::remove_file(&place),
        };
        if removed.is_err() {
            // Not empty: the step wrote there itself.
            return Ok(());
        }
        path.pop();
        last = false;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_go_and_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
        for path in ["lower/etc", "lower/run", "upper/etc", "upper/run/secrets", "upper/own/dir", "upper/a/b"]
        {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::os::unix::fs::symlink("run", lower.join("link")).unwrap();
        for path in ["etc/resolv.conf", "run/secrets/key", "own/file", "a/b/c"] {
            fs::write(upper.join(path), "").unwrap();
        }
        fs::write(upper.join("own/file"), "text").unwrap();
        fs::write(upper.join("a/kept"), "").unwrap();
        let stack = Layered::new(&[lower]);
        for path in ["/etc/resolv.conf", "/link/secrets/key", "/own/dir", "/own/file", "/a/b/c", "/none"] {
            remove_stub(&upper, &stack, Path::new(path)).unwrap();
        }
        let left = |path: &str| upper.join(path).exists();
        assert!(!left("etc") && !left("run") && !left("own/dir") && !left("a/b"));
        assert!(left("own/file") && left("a/kept"));
    }
}
