//! A whole root file system as one map: what the stack of an image's layers shows.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::lookup::{Found, Layered};
use crate::error::{Error, Result};

/// Symlinks that one lookup follows.
const MAX_LINKS: usize = 40;

/// A file, directory or link.
pub(crate) struct Node {
    pub(crate) metadata: Metadata,
    /// Where it is on this machine.
    pub(crate) place: PathBuf,
    /// What a symlink says.
    pub(crate) link: Option<PathBuf>,
}

impl Node {
    /// Bytes of a file; links to the same file count once, with the first.
    pub(crate) fn size(&self) -> u64 {
        if self.metadata.is_file() { self.metadata.len() } else { 0 }
    }

    /// Names of the same file are the same.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        (self.metadata.is_file() && self.metadata.nlink() > 1)
            .then(|| (self.metadata.dev(), self.metadata.ino()))
    }
}

/// All of it, by absolute path without symlinks on the way.
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    pub(crate) fn read(lowers: &[PathBuf], limit: u64) -> Result<Self> {
        let stack = Layered::new(lowers);
        let mut tree = Self { nodes: BTreeMap::new() };
        if !lowers.is_empty() {
            let root = stack.lookup(Path::new("/"), true)?;
            tree.directory(&stack, &root, limit)?;
        }
        Ok(tree)
    }

    fn directory(&mut self, stack: &Layered, dir: &Found, limit: u64) -> Result<()> {
        for name in stack.names(dir)? {
            let found = stack.child(dir, name.as_bytes())?;
            let (Some(metadata), Some(place)) = (found.metadata.clone(), found.places.first().cloned())
            else {
                continue;
            };
            if self.nodes.len() as u64 >= limit {
                return Err(Error::Limit { what: "files of the image".into(), limit, unit: "files" });
            }
            let link = match metadata.is_symlink() {
                true => Some(std::fs::read_link(&place).map_err(Error::io("read", &place))?),
                false => None,
            };
            self.nodes.insert(found.path.clone(), Node { metadata, place, link });
            if found.is_dir() {
                self.directory(stack, &found, limit)?;
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        path == Path::new("/") || self.get(path).is_some_and(|node| node.metadata.is_dir())
    }

    /// What lies below a directory.
    pub(crate) fn below<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Node)> {
        self.nodes
            .range(dir.to_owned()..)
            .skip_while(move |(path, _)| *path == dir)
            .take_while(move |(path, _)| path.starts_with(dir))
    }

    /// Where a path leads, and the links on the way. With `last` unset, a link at its end stays.
    pub(crate) fn resolve(&self, path: &Path, last: bool) -> Option<(PathBuf, Vec<PathBuf>)> {
        let mut todo: Vec<PathBuf> = parts(path);
        let (mut at, mut links) = (PathBuf::from("/"), Vec::new());
        while let Some(part) = todo.pop() {
            if part == Path::new("..") {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            let node = self.nodes.get(&next)?;
            match &node.link {
                Some(target) if last || !todo.is_empty() => {
                    if links.len() >= MAX_LINKS {
                        return None;
                    }
                    links.push(next);
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    todo.extend(parts(target));
                }
                _ => at = next,
            }
        }
        Some((at, links))
    }
}

/// Parts of a path, the first last.
fn parts(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    });
    let mut parts: Vec<PathBuf> = parts.collect();
    parts.reverse();
    parts
}
