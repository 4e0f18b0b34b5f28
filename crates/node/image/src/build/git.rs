//! `ADD` of a git repository, by the `git` of this machine: protocols, credentials and their traps are its field.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::layers::meta;
use crate::service::Images;
use crate::store::lease::Lease;

/// What the caller's environment says about its own repositories, configuration and keys.
const CALLERS: [&str; 17] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "XDG_CONFIG_HOME",
    "GIT_TEMPLATE_DIR",
    // It would allow transports that are forbidden below.
    "GIT_ALLOW_PROTOCOL",
    "GIT_ASKPASS",
    "SSH_ASKPASS",
    "SSH_AUTH_SOCK",
];

/// `URL[#[REF][:DIRECTORY]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    url: String,
    /// A branch, a tag or a commit; `HEAD` when nothing was said.
    reference: String,
    /// The directory of the repository that is wanted.
    directory: PathBuf,
}

/// What a repository is asked with.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub(super) lease: &'a Arc<Lease>,
    /// A socket of an SSH agent.
    pub(super) agent: Option<&'a Path>,
    pub(super) cancel: &'a CancellationToken,
}

impl Address {
    /// `None`: it is no repository.
    pub(super) fn parse(text: &str) -> Option<std::result::Result<Self, String>> {
        let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
        let schemes = ["git://", "ssh://", "git+ssh://"];
        let web = url.starts_with("http://") || url.starts_with("https://");
        let short = !url.contains("://") && url.starts_with("git@") && url.contains(':');
        let git =
            short || schemes.iter().any(|scheme| url.starts_with(scheme)) || (web && url.ends_with(".git"));
        git.then(|| Self::checked(url, fragment).map_err(|why| format!("{text:?}: {why}")))
    }

    fn checked(url: &str, fragment: &str) -> std::result::Result<Self, &'static str> {
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let odd = |text: &str| text.chars().any(|c| c.is_control() || c == ' ');
        if odd(url) || url.contains("://-") {
            return Err("no address of a repository");
        }
        if odd(reference) || reference.starts_with('-') || reference.contains("..") {
            return Err("what stands behind # is no branch, tag or commit");
        }
        let directory = super::run::normal(Path::new(directory));
        let reference = if reference.is_empty() { "HEAD" } else { reference }.to_owned();
        Ok(Self { url: url.to_owned(), reference, directory })
    }

    /// The commit that is meant now. Nothing is fetched for it.
    pub(super) async fn resolve(&self, client: Client<'_>) -> Result<String> {
        if is_commit(&self.reference) {
            return Ok(self.reference.to_ascii_lowercase());
        }
        let peeled = format!("{}^{{}}", self.reference);
        let asked = ["ls-remote", "--", &self.url, &self.reference, &peeled].map(OsStr::new);
        let said = self.git(client, None, &asked).await?;
        let found: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once('\t')).collect();
        // A name stands for a tag before a branch, and a tag for what it is about.
        let candidates = [
            format!("refs/tags/{peeled}"),
            format!("refs/tags/{}", self.reference),
            format!("refs/heads/{}", self.reference),
            self.reference.clone(),
        ];
        let commit = candidates.iter().find_map(|name| found.iter().find(|(_, found)| found == name));
        let commit = commit.map(|(commit, _)| *commit).filter(|commit| is_commit(commit));
        commit.map(str::to_owned).ok_or_else(|| {
            let reason = format!("it has no {:?} (hint: #BRANCH, #TAG or #COMMIT)", self.reference);
            Error::archive(&self.url, reason)
        })
    }

    /// What a step's key says of it.
    pub(super) fn key(&self, commit: &str, keep: bool) -> String {
        format!("git {commit} {} {keep}", self.directory.display())
    }

    /// The files of a commit in a directory of their own, with submodules. All were changed when it was made.
    pub(super) async fn fetch(
        &self,
        images: &Images,
        client: Client<'_>,
        commit: &str,
        keep: bool,
    ) -> Result<PathBuf> {
        let dir = client.lease.scratch_dir("git")?;
        let at = Some(dir.as_path());
        self.git(client, at, &["init", "-q"].map(OsStr::new)).await?;
        self.git(client, at, &["remote", "add", "--", "origin", &self.url].map(OsStr::new)).await?;
        let shallow = ["fetch", "-q", "--depth=1", "--", "origin", commit].map(OsStr::new);
        if self.git(client, at, &shallow).await.is_err() {
            if client.cancel.is_cancelled() {
                return Err(Error::Cancelled { what: "the build".into() });
            }
            // Not every server gives a commit by its number, or a part of its history.
            let all = ["fetch", "-q", "--tags", "--", "origin", "+refs/heads/*:refs/remotes/origin/*"];
            self.git(client, at, &all.map(OsStr::new)).await?;
        }
        self.git(client, at, &["checkout", "-q", "--detach", commit, "--"].map(OsStr::new)).await?;
        let modules = ["submodule", "update", "-q", "--init", "--recursive", "--depth=1"].map(OsStr::new);
        if dir.join(".gitmodules").is_file() {
            self.git(client, at, &modules).await?;
        }
        let made = self.git(client, at, &["log", "-1", "--format=%ct"].map(OsStr::new)).await?;
        let made = made.trim().parse().unwrap_or(0);
        let wanted = dir.join(self.directory.strip_prefix("/").unwrap_or(&self.directory));
        let (url, directory) = (self.url.clone(), self.directory.clone());
        images
            .blocking(move |_| {
                let real =
                    fs::canonicalize(&wanted).ok().filter(|real| real.starts_with(&dir) && real.is_dir());
                let Some(real) = real else {
                    let reason = format!("it has no directory {}", directory.display());
                    return Err(Error::archive(url, reason));
                };
                tidy(&dir, keep, made)?;
                Ok(real)
            })
            .await
    }

    async fn git(&self, client: Client<'_>, dir: Option<&Path>, arguments: &[&OsStr]) -> Result<String> {
        let home = client.lease.scratch_dir("home")?;
        let mut command = Command::new("git");
        // Nothing of the caller's configuration, nobody to ask, and no transport that runs programs.
        command.args(["-c", "protocol.ext.allow=never", "-c", "protocol.file.allow=never"]);
        command.args(["-c", "advice.detachedHead=false", "-c", "core.hooksPath=/dev/null"]);
        command.args(arguments).env("HOME", &home).env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
        for name in CALLERS {
            command.env_remove(name);
        }
        if let Some(agent) = client.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        command.current_dir(dir.unwrap_or(&home)).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = tokio::select! {
            output = command.output() => output,
            () = client.cancel.cancelled() => return Err(Error::Cancelled { what: "the build".into() }),
        };
        let output = output.map_err(|error| {
            let reason = format!("git cannot be run: {error} (hint: install git on this machine)");
            Error::archive(&self.url, reason)
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(3)..].join("; ");
        Err(Error::archive(&self.url, format!("git {}: {last}", arguments[0].display())))
    }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Files as old as their commit, and git's own gone unless they are to be kept.
fn tidy(dir: &Path, keep: bool, made: i64) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(Error::io("read", dir))?);
        if entry.file_name() == ".git" && !keep {
            let removed = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io("remove", &path))?;
        } else if kind.is_dir() {
            tidy(&path, keep, made)?;
        } else {
            meta::set_mtime(&path, (made, 0)).map_err(Error::io("set time of", &path))?;
        }
    }
    meta::set_mtime(dir, (made, 0)).map_err(Error::io("set time of", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parsed = |text: &str| Address::parse(text).unwrap().unwrap();
        let address = parsed("https://h/x.git#v1:a/../b");
        assert_eq!((address.url.as_str(), address.reference.as_str()), ("https://h/x.git", "v1"));
        assert_eq!(address.directory, Path::new("/b"));
        assert_eq!(parsed("git@h:o/r").reference, "HEAD");
        assert_eq!(parsed("git@h:o/r.git#:../../etc").directory, Path::new("/etc"));
        for other in ["https://h/x.tar", "http://h/x.git?a=b", "git@h", "x.git"] {
            assert_eq!(Address::parse(other), None, "{other}");
        }
        for bad in
            ["ssh://-oProxyCommand=x/y", "git://h/x#--upload-pack=x", "https://h/x.git#a..b", "git@h:x y"]
        {
            assert!(Address::parse(bad).unwrap().is_err(), "{bad}");
        }
        let commit = "a".repeat(40);
        assert!(is_commit(&commit) && !is_commit("main"));
    }
}
