//! `COPY` and `ADD`: where their files come from, and how they become a layer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::chmod::Chmod;
use super::context::{Chosen, Source};
use super::copy::{Target, digest};
use super::expand::expand_text;
use super::git::{self, Address};
use super::parse::{Copy, Heredoc};
use super::remote;
use super::run::{Build, Here, normal};
use super::stage::Stage;
use crate::compress::Decoder;
use crate::error::{Error, Result};
use crate::layers::unpack::{Unpack, unpack};
use crate::layers::{ingest, lookup::Layered};
use crate::service::Inner;
use crate::store::lease::Lease;

/// Files to copy, and what kind they are.
struct Batch {
    source: Arc<Source>,
    chosen: Vec<Chosen>,
    /// Archives among them are unpacked.
    unpack: bool,
}

/// What is known before it is fetched, and fetched only when the step is not remembered.
enum Late {
    Web(String, crate::Digest),
    Git(Address, String),
}

/// Everything that one instruction says, with variables put in.
struct Order {
    /// Patterns in `source`.
    patterns: Vec<String>,
    urls: Vec<String>,
    repositories: Vec<Address>,
    exclude: Vec<String>,
    chmod: Option<Chmod>,
    chown: Option<String>,
    to: PathBuf,
    /// The destination is a directory.
    into: bool,
}

impl Build {
    pub(super) async fn copy(&self, here: &Here<'_>, copy: &Copy, stage: &mut Stage) -> Result<()> {
        let order = self.order(here, copy, stage)?;
        let source = match &copy.from {
            None => self.context.clone(),
            Some(from) => self.source(here, from).await?.0,
        };
        let mut content = String::new();
        let mut batches = Vec::new();
        if !order.patterns.is_empty() {
            let unpack = copy.unpack.unwrap_or(copy.add);
            let (batch, digest) = self.choose(here, &order, source, unpack).await?;
            content = digest;
            batches.push(batch);
        }
        if !copy.texts.is_empty() {
            let (batch, digest) = self.texts(here, &copy.texts, stage).await?;
            content.push_str(&digest);
            batches.push(batch);
        }
        let checksum = copy.checksum.as_ref().map(|word| self.expand(here, stage, word)).transpose()?;
        let late = self.remotes(here, &order, copy, checksum, &mut content, &mut batches).await?;
        let count = batches.iter().map(|batch| batch.chosen.len()).sum::<usize>() + late.len();
        if count > 1 && !order.into && !copy.parents {
            let to = &copy.target;
            return Err(self.wrong(
                here.line,
                format!("several sources need a directory (hint: write {to:?} with a / at its end)"),
            ));
        }
        let owner = self.owner(&order, copy, stage).await?;
        let text = format!(
            "COPY {} {content} {} {} {owner:?} {:?} {} {:?} {:?}",
            copy.add,
            order.to.display(),
            order.into,
            order.chmod,
            copy.parents,
            copy.unpack,
            order.exclude,
        );
        let (key, step) = self.recall(here, stage, &text, copy.link).await?;
        let step = match step {
            Some(step) => step,
            None => {
                for late in late {
                    batches.push(self.fetch(late, copy).await?);
                }
                let lowers = if copy.link { Vec::new() } else { stage.lowers.clone() };
                let (maker, cancel) = (self.maker(), self.options.cancel.clone());
                let parents = copy.parents;
                self.images
                    .blocking(move |inner| {
                        let upper = maker.lease.scratch_dir("upper")?;
                        let chmod = order.chmod.as_ref();
                        let target = Target { upper: &upper, lowers: &lowers, owner, chmod };
                        for batch in batches {
                            place(&inner, &maker.lease, &target, batch, &order, parents, &cancel)?;
                        }
                        maker.remember(&inner, &upper, &key)
                    })
                    .await?
            }
        };
        self.take(stage, &here.line.text, &step)
    }

    fn order(&self, here: &Here<'_>, copy: &Copy, stage: &Stage) -> Result<Order> {
        let all = |words: &[String]| -> Result<Vec<String>> {
            words.iter().map(|word| self.expand(here, stage, word)).collect()
        };
        let sources = all(&copy.sources)?;
        let remote = |source: &String| source.contains("://") || source.starts_with("git@");
        let (remote, patterns): (Vec<String>, Vec<String>) = sources.into_iter().partition(remote);
        let (mut urls, mut repositories) = (Vec::new(), Vec::new());
        for url in remote {
            if !copy.add {
                let reason = format!("COPY does not fetch {url:?} (hint: ADD does)");
                return Err(self.wrong(here.line, reason));
            }
            match Address::parse(&url) {
                Some(address) => repositories.push(address.map_err(|why| self.wrong(here.line, why))?),
                None => {
                    remote::check(&url).map_err(|reason| self.wrong(here.line, reason))?;
                    urls.push(url);
                }
            }
        }
        let to = self.expand(here, stage, &copy.target)?;
        let chmod = copy.chmod.as_ref().map(|word| self.expand(here, stage, word)).transpose()?;
        let chmod = chmod.map(|text| Chmod::parse(&text)).transpose();
        Ok(Order {
            patterns,
            urls,
            repositories,
            exclude: all(&copy.exclude)?,
            chmod: chmod.map_err(|reason| self.wrong(here.line, reason))?,
            chown: copy.chown.as_ref().map(|word| self.expand(here, stage, word)).transpose()?,
            into: to.ends_with('/') || to.ends_with("/.") || to == ".",
            to: normal(&stage.workdir().join(&to)),
        })
    }

    /// Who owns what is copied; `None` keeps the owners.
    async fn owner(&self, order: &Order, copy: &Copy, stage: &Stage) -> Result<Option<(u32, u32)>> {
        match &order.chown {
            None => Ok(copy.from.is_none().then_some((0, 0))),
            Some(text) => {
                let (text, lowers) = (text.clone(), stage.lowers.clone());
                self.images.blocking(move |_| owner_of(&text, &lowers)).await.map(Some)
            }
        }
    }

    async fn choose(
        &self,
        here: &Here<'_>,
        order: &Order,
        source: Arc<Source>,
        unpack: bool,
    ) -> Result<(Batch, String)> {
        let (line, file) = (here.line.number, self.plan.file.clone());
        let (patterns, exclude) = (order.patterns.clone(), order.exclude.clone());
        self.images
            .blocking(move |_| {
                let wrong = |reason| Error::Dockerfile { file: file.clone(), line, reason };
                let mut source = source;
                let mut chosen = Vec::new();
                for pattern in &patterns {
                    chosen.extend(source.choose(pattern).map_err(wrong)?);
                }
                if !exclude.is_empty() {
                    source = Arc::new(source.excluding(&exclude, &chosen).map_err(wrong)?);
                    chosen.retain(|item| item.found.is_dir() || !source.ignored(&item.name));
                }
                let digest = digest(&source, &chosen)?;
                Ok((Batch { source, chosen, unpack }, digest.to_string()))
            })
            .await
    }

    /// Here-documents as files.
    async fn texts(&self, here: &Here<'_>, texts: &[Heredoc], stage: &Stage) -> Result<(Batch, String)> {
        let mut files = Vec::new();
        for text in texts {
            let lookup = |name: &str| stage.env(name).or_else(|| stage.args.get(name).cloned());
            let content = match text.expand {
                true => expand_text(&text.content, self.plan.escape, &lookup),
                false => Ok(text.content.clone()),
            };
            files.push((text.name.clone(), content.map_err(|reason| self.wrong(here.line, reason))?));
        }
        let lease = self.lease.clone();
        self.images
            .blocking(move |_| {
                let dir = lease.scratch_dir("texts")?;
                for (name, content) in &files {
                    let path = dir.join(name);
                    std::fs::write(&path, content).map_err(Error::io("write", &path))?;
                    set_mode(&path, 0o644)?;
                }
                let source = Source::layers(&[dir], "the here-document");
                let mut chosen = Vec::new();
                for (name, _) in &files {
                    chosen.extend(source.choose(name).map_err(|reason| Error::archive(name, reason))?);
                }
                let digest = digest(&source, &chosen)?;
                let batch = Batch { source: Arc::new(source), chosen, unpack: false };
                Ok((batch, digest.to_string()))
            })
            .await
    }

    /// What comes from elsewhere. What nothing is known of is fetched now; the rest is given back.
    async fn remotes(
        &self,
        here: &Here<'_>,
        order: &Order,
        copy: &Copy,
        checksum: Option<String>,
        content: &mut String,
        batches: &mut Vec<Batch>,
    ) -> Result<Vec<Late>> {
        if checksum.is_some() && (order.urls.len() + order.repositories.len() != 1 || copy.sources.len() != 1)
        {
            let reason =
                "ADD --checksum needs exactly one remote source (hint: ADD --checksum=sha256:… URL /x)";
            return Err(self.wrong(here.line, reason));
        }
        let mut late = Vec::new();
        for address in &order.repositories {
            let commit = address.resolve(self.git()).await?;
            if let Some(wanted) =
                checksum.as_ref().filter(|wanted| wanted.len() < 7 || !commit.starts_with(*wanted))
            {
                let reason = format!("the commit is {commit}, not --checksum={wanted}");
                return Err(self.wrong(here.line, reason));
            }
            content.push_str(&address.key(&commit, copy.keep_git));
            late.push(Late::Git(address.clone(), commit));
        }
        for url in &order.urls {
            if remote::file_name(url).is_empty() && order.into {
                let reason = format!("{url:?} names no file (hint: give a destination without / at its end)");
                return Err(self.wrong(here.line, reason));
            }
            if let Some(text) = &checksum {
                let digest = remote::checksum(text).map_err(|reason| self.wrong(here.line, reason))?;
                content.push_str(&format!("{} {digest}", remote::file_name(url)));
                late.push(Late::Web(url.clone(), digest));
            } else {
                let (batch, digest) = self.download(url, None, copy).await?;
                content.push_str(&digest.to_string());
                batches.push(batch);
            }
        }
        Ok(late)
    }

    fn git(&self) -> git::Client<'_> {
        let agent = self.options.ssh.iter().find(|(id, _)| id == "default");
        let agent = agent.map(|(_, socket)| socket.as_path());
        git::Client { lease: &self.lease, agent, cancel: &self.options.cancel }
    }

    async fn fetch(&self, late: Late, copy: &Copy) -> Result<Batch> {
        match late {
            Late::Web(url, digest) => Ok(self.download(&url, Some(digest), copy).await?.0),
            Late::Git(address, commit) => {
                let dir = address.fetch(&self.images, self.git(), &commit, copy.keep_git).await?;
                let source = Source::layers(&[dir], "the repository");
                let chosen = source.choose("/").map_err(|reason| Error::archive("repository", reason))?;
                Ok(Batch { source: Arc::new(source), chosen, unpack: false })
            }
        }
    }

    async fn download(
        &self,
        url: &str,
        wanted: Option<crate::Digest>,
        copy: &Copy,
    ) -> Result<(Batch, crate::Digest)> {
        let dir = remote::fetch(&self.images, &self.lease, url, wanted, &self.options.cancel).await?;
        let unpack = copy.unpack.unwrap_or(false);
        let read = self.images.blocking(move |_| {
            let source = Source::layers(&[dir], "the download");
            let chosen = source.choose("*").map_err(|reason| Error::archive("download", reason))?;
            let digest = digest(&source, &chosen)?;
            Ok((Batch { source: Arc::new(source), chosen, unpack }, digest))
        });
        read.await
    }
}

/// Put one batch where it belongs.
fn place(
    inner: &Inner,
    lease: &Lease,
    target: &Target<'_>,
    batch: Batch,
    order: &Order,
    parents: bool,
    cancel: &CancellationToken,
) -> Result<()> {
    for item in batch.chosen {
        match unpack_archive(inner, lease, &item, batch.unpack, cancel)? {
            Some(tree) => {
                let tree = Source::layers(&[tree], "the archive");
                let all = tree.choose("/").map_err(|reason| Error::archive(&item.name, reason))?;
                Target { owner: order.chown.as_ref().and(target.owner), chmod: None, ..*target }
                    .copy(&tree, &all, &order.to, true)?;
            }
            None if parents => target.copy_parents(&batch.source, &[item], &order.to)?,
            None => target.copy(&batch.source, &[item], &order.to, order.into)?,
        }
    }
    Ok(())
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(Error::io("set mode of", path))
}

/// `--chown`: without a group, the group has the user's number.
fn owner_of(text: &str, lowers: &[PathBuf]) -> Result<(u32, u32)> {
    let stack = Layered::new(lowers);
    let read = |path: &str| -> Result<String> {
        let bytes = stack.read_file(path, 1 << 20)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let user = crate::rootfs::resolve(text, &read("/etc/passwd")?, &read("/etc/group")?)
        .map_err(|reason| Error::archive(format!("--chown={text}"), reason))?;
    Ok((user.uid, if text.contains(':') { user.gid } else { user.uid }))
}

/// `ADD` unpacks archives; `None` when this is none.
fn unpack_archive(
    inner: &Inner,
    lease: &Lease,
    item: &Chosen,
    unpacked: bool,
    cancel: &CancellationToken,
) -> Result<Option<PathBuf>> {
    let (Some(place), true) = (item.found.places.first(), unpacked) else { return Ok(None) };
    if !item.found.metadata.as_ref().is_some_and(std::fs::Metadata::is_file) {
        return Ok(None);
    }
    let file = std::fs::File::open(place).map_err(Error::io("open", place))?;
    let Ok(mut decoder) = Decoder::new(&file) else { return Ok(None) };
    let mut head = [0; crate::tar::BLOCK];
    if std::io::Read::read_exact(&mut decoder, &mut head).is_err()
        || !crate::tar::reader::looks_like_header(&head)
    {
        return Ok(None);
    }
    std::io::Seek::rewind(&mut &file).map_err(Error::io("read", place))?;
    let decoder = Decoder::new(&file).map_err(Error::io("read", place))?;
    let dir = lease.scratch_dir("archive")?;
    let mut tar = crate::tar::TarReader::new(decoder);
    let layer = &item.name.display().to_string();
    let limits = &inner.store.options.limits;
    let unpacked =
        unpack(&mut tar, Unpack { dir: &dir, replaced: None, layer, sync: false, limits, cancel })?;
    ingest::refuse_dangling(&unpacked, &item.name)?;
    Ok(Some(dir))
}
