//! Fixtures: stores in temporary directories, hand-made tars, trees to compare, and external tools.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sampan_image::{ImageSummary, Images, ImportOptions, Options};

pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub images: Images,
}

impl Fixture {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sampan-image").tempdir().unwrap();
        let images = Images::open(options(dir.path())).unwrap();
        Self { dir, images }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("images")
    }

    /// Import bytes as a file.
    pub async fn import_bytes(
        &self,
        bytes: &[u8],
        name: Option<&str>,
    ) -> sampan_image::Result<Vec<ImageSummary>> {
        let path = self.path("import.bin");
        fs::write(&path, bytes).unwrap();
        self.import(&path, name).await
    }

    pub async fn import(&self, path: &Path, name: Option<&str>) -> sampan_image::Result<Vec<ImageSummary>> {
        let options = ImportOptions { name: name.map(str::to_owned), ..ImportOptions::default() };
        self.images.import(path, options).await
    }

    /// Nothing of an unfinished operation is left.
    pub fn assert_clean(&self) {
        for dir in ["tmp", "leases", "partial"] {
            let left: Vec<_> =
                fs::read_dir(self.store().join(dir)).unwrap().flatten().map(|entry| entry.path()).collect();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}

pub fn options(dir: &Path) -> Options {
    Options { sync: false, ..Options::new(dir.join("images")) }
}

/// Whether a program is installed; tests that need it say so and fail otherwise.
pub fn need(program: &str) {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    assert!(
        found.status.success(),
        "{program} is not installed (hint: apt-get install skopeo umoci docker-registry busybox-static apache2-utils)"
    );
}

pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file with these bytes, compressed.
pub fn gzipped(fixture: &Fixture, bytes: &[u8]) -> PathBuf {
    let path = fixture.path("plain.tar");
    fs::write(&path, bytes).unwrap();
    run("gzip", &["-nf", path.to_str().unwrap()]);
    fixture.path("plain.tar.gz")
}

/// A small root file system with everything that a layer can hold.
pub fn make_tree(root: &Path) {
    for dir in ["bin", "etc", "usr/share/doc", "tmp", "var/empty", "dev"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let name = "n".repeat(120);
    let script = format!(
        "set -e; cd '{}'; cp /bin/busybox bin/busybox; ln -s busybox bin/sh; ln bin/busybox bin/ls; ln -s /etc/passwd etc/abs
         printf 'root:x:0:0:root:/root:/bin/sh\\napp:x:100:101::/home/app:/bin/sh\\n' > etc/passwd
         printf 'root:x:0:\\nappgrp:x:101:\\nextra:x:102:app\\n' > etc/group
         chmod 4755 bin/busybox; chmod 1777 tmp; chown 100:101 etc/group; mkfifo var/pipe
         mknod dev/null c 1 3; mknod dev/loop b 7 0
         setfattr -n user.note -v hello etc/passwd 2>/dev/null || true
         mkdir -p usr/share/{name}/{name}; echo deep > usr/share/{name}/{name}/file
         truncate -s 1M var/sparse; printf end >> var/sparse
         touch -d @1600000000.5 etc/passwd; touch -d @1500000000 var/empty usr",
        root.display()
    );
    run("sh", &["-c", &script]);
    set_capability(&root.join("bin/busybox"));
}

/// cap_net_raw+ep, whose binary form holds zeros (and a newline, made up in an unused field).
pub fn set_capability(path: &Path) {
    let value: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr_set(path, c"security.capability", &value);
}

pub fn xattr_set(path: &Path, name: &std::ffi::CStr, value: &[u8]) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: both strings end in NUL and `value` is valid for its length.
    let result =
        unsafe { nix::libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

pub fn xattr_get(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = vec![0u8; 4096];
    // SAFETY: both strings end in NUL and `value` is writable for its length.
    let result =
        unsafe { nix::libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(result).ok().map(|length| value[..length].to_vec())
}

/// Everything about a tree that must survive, as text by path.
pub fn fingerprint(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    walk(root, root, &mut out, &mut BTreeMap::new());
    out
}

fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<String, String>, links: &mut BTreeMap<u64, String>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let mut text =
            format!("{:o} {}:{} {}", metadata.mode(), metadata.uid(), metadata.gid(), metadata.mtime());
        if metadata.is_symlink() {
            text += &format!(" -> {}", fs::read_link(&path).unwrap().display());
        } else if metadata.is_file() {
            text += &format!(" {}", sampan_image::Digest::of(&fs::read(&path).unwrap()));
            if metadata.nlink() > 1 {
                text += &format!(" link {}", links.entry(metadata.ino()).or_insert_with(|| name.clone()));
            }
        } else if !metadata.is_dir() {
            text += &format!(" dev {}", metadata.rdev());
        }
        for key in [c"security.capability", c"user.note", c"trusted.overlay.opaque"] {
            if let Some(value) = xattr_get(&path, key) {
                text += &format!(" {key:?}={value:?}");
            }
        }
        out.insert(name, text);
        if metadata.is_dir() {
            walk(root, &path, out, links);
        }
    }
}

/// Compare two trees and show only what differs.
pub fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (fingerprint(left), fingerprint(right));
    let differ: Vec<_> = left
        .iter()
        .filter(|(name, text)| right.get(*name) != Some(text))
        .map(|(name, text)| format!("{name}: {text} != {:?}", right.get(name)))
        .chain(
            right.keys().filter(|name| !left.contains_key(*name)).map(|name| format!("{name}: only right")),
        )
        .collect();
    assert!(differ.is_empty(), "{differ:#?}");
}

/// One entry of a hand-made tar.
pub struct Raw<'a> {
    pub name: &'a str,
    pub flag: u8,
    pub link: &'a str,
    pub data: &'a [u8],
    pub size: Option<u64>,
    pub pax: &'a [(&'a str, &'a [u8])],
    pub mode: u32,
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Self { name: "", flag: b'0', link: "", data: b"", size: None, pax: &[], mode: 0o644 }
    }
}

pub fn file<'a>(name: &'a str, data: &'a [u8]) -> Raw<'a> {
    Raw { name, data, ..Raw::default() }
}

pub fn dir(name: &str) -> Raw<'_> {
    Raw { name, flag: b'5', mode: 0o755, ..Raw::default() }
}

pub fn symlink<'a>(name: &'a str, link: &'a str) -> Raw<'a> {
    Raw { name, link, flag: b'2', ..Raw::default() }
}

pub fn hardlink<'a>(name: &'a str, link: &'a str) -> Raw<'a> {
    Raw { name, link, flag: b'1', ..Raw::default() }
}

/// A tar of these entries, with its end marker.
pub fn tar(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut out = tar_open(entries);
    out.extend_from_slice(&[0; 1024]);
    out
}

/// Without the end marker.
pub fn tar_open(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        if !entry.pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in entry.pax {
                let mut length = key.len() + value.len() + 3;
                while length != key.len() + value.len() + 3 + length.to_string().len() {
                    length = key.len() + value.len() + 3 + length.to_string().len();
                }
                records.extend_from_slice(format!("{length} {key}=").as_bytes());
                records.extend_from_slice(value);
                records.push(b'\n');
            }
            push(&mut out, &Raw { name: "PaxHeader", flag: b'x', ..Raw::default() }, &records);
        }
        push(&mut out, entry, entry.data);
    }
    out
}

fn push(out: &mut Vec<u8>, entry: &Raw<'_>, data: &[u8]) {
    let mut header = [0u8; 512];
    header[..entry.name.len().min(100)].copy_from_slice(&entry.name.as_bytes()[..entry.name.len().min(100)]);
    header[100..107].copy_from_slice(format!("{:07o}", entry.mode).as_bytes());
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    let size = entry.size.unwrap_or(data.len() as u64);
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[136..147].copy_from_slice(b"00000000001");
    header[156] = entry.flag;
    header[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    if entry.flag == b'3' || entry.flag == b'4' {
        header[329..336].copy_from_slice(b"0000001");
        header[337..344].copy_from_slice(b"0000003");
    }
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Mount a plan's layers as overlayfs in a mount namespace of its own and run a script there (`$1` is the root).
pub fn in_overlay(lower_dirs: &[PathBuf], work: &Path, script: &str) -> String {
    fs::create_dir_all(work.join("m")).unwrap();
    for name in ["u", "w"] {
        fs::create_dir_all(work.join(name)).unwrap();
    }
    let lower = lower_dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":");
    let work = work.display();
    let command = format!(
        "set -e; mount -t overlay overlay -o lowerdir={lower},upperdir={work}/u,workdir={work}/w {work}/m; set -- {work}/m; {script}"
    );
    run("unshare", &["--mount", "--propagation", "private", "sh", "-c", &command])
}
