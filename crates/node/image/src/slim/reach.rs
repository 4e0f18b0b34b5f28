//! What runs, and everything that leads from there: links, interpreters, libraries, named paths, packages.
//!
//! In doubt a file stays. What no package manager brought is the application's own and stays always.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::elf;
use crate::error::{Error, Result};
use crate::layers::tree::Tree;
use crate::packages::{Packages, read_text};

/// Bytes of one file that are searched.
const MAX_FILE: u64 = 1 << 30;
/// Bytes of one script or configuration file.
const MAX_TEXT: u64 = 4 << 20;
/// Where programs are, besides the image's own `PATH`.
const PROGRAM_DIRS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Directories that are named everywhere and mean nothing.
const COMMON_DIRS: [&str; 24] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/locale",
    "/usr/lib/locale",
    "/usr/share/info",
    "/usr/local/lib",
    "/usr/local/share",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/share/perl5",
    "/usr/lib/python3/dist-packages",
    "/usr/share/fonts",
    "/usr/share/icons",
    "/usr/share/dict",
    "/usr/share/misc",
    "/var/lib/dpkg",
    "/usr/lib/debug",
    "/usr/lib/modules",
    "/usr/share/bash-completion",
    // Conversions of encodings count for those who convert.
    "/usr/lib/x86_64-linux-gnu/gconv",
    "/usr/lib/aarch64-linux-gnu/gconv",
];
/// Programs whose libraries lie elsewhere than they say: program, directories.
const LANGUAGES: [(&str, &[&str]); 7] = [
    ("python3", &["/usr/lib/python3", "/usr/local/lib/python3"]),
    ("perl", &["/usr/share/perl", "/usr/lib/x86_64-linux-gnu/perl", "/usr/lib/aarch64-linux-gnu/perl"]),
    ("ruby", &["/usr/lib/ruby", "/usr/share/rubygems", "/var/lib/gems"]),
    ("php", &["/usr/lib/php", "/usr/share/php"]),
    ("node", &["/usr/share/nodejs", "/usr/lib/nodejs", "/usr/share/node_modules"]),
    ("java", &["/usr/lib/jvm"]),
    ("lua", &["/usr/share/lua", "/usr/lib/x86_64-linux-gnu/lua"]),
];

/// Directories of modules in directories of modules.
const HOLD_MODULES: [&str; 4] = ["dist-packages", "site-packages", "node_modules", "vendor_perl"];
/// Modules of Python that are loaded when something goes wrong, and that others load late.
const PYTHON_ERRORS: [&str; 44] = [
    "__future__.py",
    "_strptime.py",
    "argparse.py",
    "ast.py",
    "base64.py",
    "calendar.py",
    "collections",
    "contextlib.py",
    "copy.py",
    "dataclasses.py",
    "datetime.py",
    "dis.py",
    "email",
    "encodings",
    "enum.py",
    "functools.py",
    "gettext.py",
    "hashlib.py",
    "html",
    "http",
    "importlib",
    "inspect.py",
    "json",
    "linecache.py",
    "locale.py",
    "logging",
    "mimetypes.py",
    "opcode.py",
    "pickle.py",
    "queue.py",
    "random.py",
    "re",
    "shutil.py",
    "socket.py",
    "string.py",
    "tempfile.py",
    "textwrap.py",
    "threading.py",
    "token.py",
    "tokenize.py",
    "traceback.py",
    "urllib",
    "warnings.py",
    "weakref.py",
];
/// Modules that convert between the encodings that everybody meets.
const GCONV: [&str; 8] = [
    "gconv-modules",
    "gconv-modules.cache",
    "ISO8859-1.so",
    "ISO8859-15.so",
    "CP1252.so",
    "UTF-7.so",
    "UTF-16.so",
    "UTF-32.so",
];

/// The search.
pub(super) struct Reach<'a> {
    tree: &'a Tree,
    packages: &'a Packages,
    programs: Vec<PathBuf>,
    libraries: BTreeMap<String, Vec<PathBuf>>,
    library_dirs: Vec<PathBuf>,
    /// What was seen, where that was watched: it stands for what would be guessed.
    seen: Option<BTreeSet<PathBuf>>,
    /// Words that were looked at: scripts say the same ones again and again.
    words_done: HashSet<String>,
    pub(super) keep: BTreeSet<PathBuf>,
    todo: Vec<PathBuf>,
    /// Data of packages: kept, but what their scripts name is not followed.
    data: BTreeSet<PathBuf>,
    package_done: BTreeSet<usize>,
    /// Directories that were added with everything in them: many programs name the same.
    dirs_done: BTreeSet<PathBuf>,
}

impl<'a> Reach<'a> {
    pub(super) fn new(
        tree: &'a Tree,
        packages: &'a Packages,
        path: &str,
        seen: Option<&[PathBuf]>,
    ) -> Result<Self> {
        let dirs = path.split(':').chain(PROGRAM_DIRS).filter(|dir| dir.starts_with('/'));
        let mut libraries: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for (file, node) in &tree.nodes {
            if let Some(name) = file.file_name().and_then(|name| name.to_str())
                && (name.ends_with(".so") || name.contains(".so."))
                && !node.metadata.is_dir()
            {
                libraries.entry(name.to_owned()).or_default().push(file.clone());
            }
        }
        Ok(Self {
            tree,
            packages,
            programs: dirs.map(PathBuf::from).collect(),
            libraries,
            library_dirs: library_dirs(tree)?,
            seen: seen.map(|seen| seen.iter().cloned().collect()),
            words_done: HashSet::new(),
            keep: BTreeSet::new(),
            todo: Vec::new(),
            data: BTreeSet::new(),
            package_done: BTreeSet::new(),
            dirs_done: BTreeSet::new(),
        })
    }

    /// Only what was seen counts as used, and nothing is guessed.
    fn traced(&self) -> bool {
        self.seen.is_some()
    }

    /// A command line: its program, and every file that an argument names.
    pub(super) fn command(&mut self, argv: &[String], cwd: &Path) {
        if let Some(program) = argv.first() {
            self.program(program);
            self.named(&cwd.join(program).display().to_string());
        }
        for word in argv.iter().skip(1) {
            self.words(word);
            self.named(&cwd.join(word).display().to_string());
        }
    }

    /// Keep a path, whatever it is, and the links on the way.
    pub(super) fn add(&mut self, path: &Path) {
        let Some((end, links)) = self.tree.resolve(path, true) else {
            // A link that leads nowhere yet: what makes its target may come at run time.
            if let Some((link, links)) = self.tree.resolve(path, false) {
                self.keep.extend(links);
                self.keep.insert(link);
            }
            return;
        };
        self.keep.extend(links);
        // What was mere data may turn out to be run.
        if self.keep.insert(end.clone()) || self.data.remove(&end) {
            self.todo.push(end);
        }
    }

    /// Keep a file that came with a package.
    fn add_data(&mut self, path: &Path) {
        let Some((end, links)) = self.tree.resolve(path, true) else { return self.add(path) };
        self.keep.extend(links);
        if self.keep.insert(end.clone()) {
            self.data.insert(end.clone());
            self.todo.push(end);
        }
    }

    /// Keep a directory with everything in it.
    pub(super) fn add_all(&mut self, dir: &Path) {
        let Some((dir, links)) = self.tree.resolve(dir, true) else { return };
        self.keep.extend(links);
        if !self.dirs_done.insert(dir.clone()) {
            return;
        }
        let below: Vec<PathBuf> = self.tree.below(&dir).map(|(path, _)| path.clone()).collect();
        self.keep.insert(dir);
        below.iter().for_each(|path| self.add(path));
    }

    /// Follow everything to its end.
    pub(super) fn run(&mut self) -> Result<()> {
        while let Some(path) = self.todo.pop() {
            self.visit(&path)?;
        }
        Ok(())
    }

    fn program(&mut self, name: &str) {
        if name.contains('/') {
            return self.named(name);
        }
        for at in 0..self.programs.len() {
            let path = self.programs[at].join(name);
            self.add(&path);
        }
    }

    /// A path that something says.
    fn named(&mut self, path: &str) {
        let path = Path::new(path);
        let Some((end, _)) = self.tree.resolve(path, true) else { return self.add(path) };
        if !self.tree.is_dir(&end) {
            return self.add(path);
        }
        let generic = end.components().count() < 4 || COMMON_DIRS.iter().any(|dir| end == Path::new(dir));
        if generic || self.traced() {
            self.add(path);
        } else {
            self.add_all(path);
        }
    }

    /// Everything in a text that may be a program or a path.
    fn words(&mut self, text: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || "/._-+@~".contains(c);
        for word in text.split(|c| !fits(c)).filter(|word| !word.is_empty()) {
            let program = !word.contains('/') && word.len() < 64;
            if (!program && !word.starts_with('/')) || !self.words_done.insert(word.to_owned()) {
                continue;
            }
            if program {
                self.program(word);
            } else {
                self.named(word.trim_end_matches('/'));
            }
        }
    }

    fn visit(&mut self, path: &Path) -> Result<()> {
        let Some(node) = self.tree.get(path) else { return Ok(()) };
        // How a package is started, rotated and installed is not what it runs with.
        if !node.metadata.is_file() || (path.starts_with("/etc") && !configures(path)) {
            return Ok(());
        }
        let data = self.data.contains(path);
        if !data {
            self.language(path);
        }
        if let Some(&package) = self.packages.owner.get(path)
            && !self.traced()
            && !data
            && self.package_done.insert(package)
        {
            self.package(package, path);
        }
        let mut head = [0; 4];
        let mut file = File::open(&node.place).map_err(Error::io("open", &node.place))?;
        let read = file.read(&mut head).map_err(Error::io("read", &node.place))?;
        let head = &head[..read];
        if elf::is_elf(head) {
            let mut bytes = head.to_vec();
            file.take(MAX_FILE).read_to_end(&mut bytes).map_err(Error::io("read", &node.place))?;
            let mut needs = elf::needs(&bytes, path);
            if data {
                // Helpers of a package need their libraries; plugins may load and read more.
                needs.named.retain(|name| name.contains(".so"));
            }
            self.elf(path, &needs);
        } else if head.starts_with(b"#!") && data {
            // Run only by name, and then it is no mere data.
        } else if head.starts_with(b"#!") && node.metadata.len() <= MAX_TEXT {
            self.script(&read_text(self.tree, path)?.unwrap_or_default());
        } else if path.starts_with("/etc") && node.metadata.len() <= MAX_TEXT {
            self.paths(&read_text(self.tree, path)?.unwrap_or_default());
        }
        Ok(())
    }

    fn elf(&mut self, path: &Path, needs: &elf::Needs) {
        if let Some(interpreter) = &needs.interpreter {
            self.add(interpreter);
        }
        for name in &needs.libraries {
            self.library(name, &needs.paths);
            // Name services are loaded by what /etc/nsswitch.conf says.
            if name == "libc.so.6" {
                for service in ["files", "dns", "compat"] {
                    self.library(&format!("libnss_{service}.so.2"), &[]);
                }
                self.library("libgcc_s.so.1", &[]);
            }
        }
        if needs.converts {
            self.conversions();
        }
        if self.traced() {
            return;
        }
        for name in &needs.loaded {
            let name = name.rsplit('/').next().unwrap_or(name);
            for file in self.libraries.get(name).cloned().unwrap_or_default() {
                self.add(&file);
            }
        }
        // A program's own paths count; those in common libraries are examples as a rule, but for programs and files.
        let library = self.library_dirs.iter().any(|dir| path.parent() == Some(dir));
        for name in &needs.named {
            let is_dir =
                self.tree.resolve(Path::new(name), true).is_some_and(|(end, _)| self.tree.is_dir(&end));
            if !(library && is_dir && Path::new(name).components().count() < 4) {
                self.named(name);
            }
        }
    }

    /// Modules that convert encodings: all, or what was seen and what the web is written in.
    fn conversions(&mut self) {
        for dir in self.library_dirs.clone() {
            let dir = dir.join("gconv");
            if !self.traced() {
                self.add_all(&dir);
                continue;
            }
            for name in GCONV {
                self.add(&dir.join(name));
            }
            self.add_all(&dir.join("gconv-modules.d"));
        }
    }

    fn library(&mut self, name: &str, first: &[PathBuf]) {
        if name.contains('/') {
            return self.add(Path::new(name));
        }
        let found = first.iter().chain(&self.library_dirs).map(|dir| dir.join(name));
        if let Some(path) = found.into_iter().find(|path| self.tree.resolve(path, true).is_some()) {
            return self.add(&path);
        }
        for file in self.libraries.get(name).cloned().unwrap_or_default() {
            self.add(&file);
        }
    }

    fn script(&mut self, text: &str) {
        let first = text.lines().next().unwrap_or_default().trim_start_matches("#!").trim();
        self.words(first);
        let shell = ["sh", "bash", "dash", "ash"]
            .iter()
            .any(|name| first.split(['/', ' ']).any(|word| word == *name));
        if !shell {
            return self.paths(text);
        }
        // What is told to people is full of words that are programs elsewhere.
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            self.words(line);
        }
    }

    /// Absolute paths in a text.
    fn paths(&mut self, text: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || "/._-+@~".contains(c);
        for word in text.split(|c| !fits(c)).filter(|word| word.starts_with('/') && word.len() > 3) {
            self.named(word.trim_end_matches('/'));
        }
        // Modules are named from where their program looks.
        for word in text.split(|c| !fits(c)).filter(|word| word.ends_with(".so")) {
            let name = word.rsplit('/').next().unwrap_or(word);
            for file in self.libraries.get(name).cloned().unwrap_or_default() {
                self.add(&file);
            }
        }
    }

    /// Interpreters find their libraries by their own rules.
    fn language(&mut self, path: &Path) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
        let program = self.programs.iter().any(|dir| path.parent() == Some(dir));
        let library =
            name.starts_with("libpython3") || name.starts_with("libperl") || name.starts_with("libnode");
        if !program && !library {
            return;
        }
        let base = name.trim_start_matches("lib");
        for (language, dirs) in LANGUAGES {
            if !base.starts_with(language) {
                continue;
            }
            for dir in dirs {
                let (parent, prefix) = (Path::new(dir).parent(), Path::new(dir).file_name());
                let (Some(parent), Some(prefix)) = (parent, prefix.and_then(|name| name.to_str())) else {
                    continue;
                };
                // python3 stands for python3.11 too.
                let found: BTreeSet<PathBuf> = self
                    .tree
                    .below(parent)
                    .filter(|(path, node)| path.parent() == Some(parent) && !node.metadata.is_file())
                    .filter(|(path, _)| {
                        path.file_name()
                            .and_then(|name| name.to_str())
                            .is_some_and(|name| name.starts_with(prefix))
                    })
                    .map(|(path, _)| path.clone())
                    .collect();
                for dir in found {
                    if self.traced() { self.used(&dir) } else { self.add_all(&dir) }
                }
            }
        }
    }

    /// Of a language's libraries, the modules of which something was seen, each as a whole, and what reports errors.
    fn used(&mut self, dir: &Path) {
        let Some((dir, links)) = self.tree.resolve(dir, true) else { return };
        self.keep.extend(links);
        if !self.dirs_done.insert(dir.clone()) {
            return;
        }
        let children: Vec<PathBuf> = self
            .tree
            .below(&dir)
            .filter(|(path, _)| path.parent() == Some(&*dir))
            .map(|(path, _)| path.clone())
            .collect();
        for child in children {
            let name = child.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let next = self.seen.as_ref().and_then(|seen| seen.range(child.clone()..).next());
            let seen = next.is_some_and(|path| path.starts_with(&child));
            if name == "lib-dynload" {
                // Each module drags libraries along; those that were opened are kept already.
                continue;
            }
            let holds_modules = HOLD_MODULES.contains(&name)
                || name.starts_with('@')
                || name.starts_with("python3")
                || name.starts_with(|first: char| first.is_ascii_digit());
            if holds_modules && self.tree.is_dir(&child) {
                self.used(&child);
            } else if seen || PYTHON_ERRORS.contains(&name) || name.ends_with("-info") {
                self.add_all(&child);
                self.add(&child);
            }
        }
    }

    /// A package whose program or data is needed is needed with its data, but not with its other programs.
    fn package(&mut self, package: usize, path: &Path) {
        let in_dirs = |path: &Path, dirs: &[PathBuf]| dirs.iter().any(|dir| path.parent() == Some(dir));
        if in_dirs(path, &self.library_dirs) {
            return;
        }
        for file in self.packages.files[package].clone() {
            if !in_dirs(&file, &self.programs) {
                self.add_data(&file);
            }
        }
    }
}

/// Configuration that programs read, not that of installing, starting and rotating.
fn configures(path: &Path) -> bool {
    const OTHERS: [&str; 22] = [
        "init.d",
        "rc0.d",
        "rc1.d",
        "rc2.d",
        "rc3.d",
        "rc4.d",
        "rc5.d",
        "rc6.d",
        "rcS.d",
        "apt",
        "dpkg",
        "kernel",
        "logrotate.d",
        "systemd",
        "passwd",
        "passwd-",
        "shadow",
        "shadow-",
        "group",
        "shells",
        "ld.so.cache",
        "ufw",
    ];
    let first = path.strip_prefix("/etc").ok().and_then(|rest| rest.iter().next());
    let first = first.and_then(|name| name.to_str()).unwrap_or_default();
    !OTHERS.contains(&first) && !first.starts_with("cron") && !first.starts_with("default")
}

/// Where the dynamic loader looks.
fn library_dirs(tree: &Tree) -> Result<Vec<PathBuf>> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    let mut files = vec![PathBuf::from("/etc/ld.so.conf")];
    files.extend(tree.below(Path::new("/etc/ld.so.conf.d")).map(|(path, _)| path.clone()));
    for file in files {
        let text = read_text(tree, &file)?.unwrap_or_default();
        dirs.extend(text.lines().map(str::trim).filter(|line| line.starts_with('/')).map(PathBuf::from));
    }
    let usual = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    dirs.extend(usual);
    for base in ["/usr/lib", "/lib"] {
        let base = Path::new(base);
        dirs.extend(
            tree.below(base)
                .filter(|(path, node)| {
                    path.parent() == Some(base)
                        && node.metadata.is_dir()
                        && path.to_string_lossy().ends_with("-linux-gnu")
                })
                .map(|(path, _)| path.clone()),
        );
    }
    let mut real: Vec<PathBuf> = Vec::new();
    for dir in dirs {
        if let Some((dir, _)) = tree.resolve(&dir, true)
            && !real.contains(&dir)
        {
            real.push(dir);
        }
    }
    Ok(real)
}
