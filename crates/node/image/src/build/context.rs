//! What `COPY` may see: the context directory (or another stage), minus `.dockerignore`; globs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::layers::lookup::{Found, Layered};

/// `.dockerignore` lines that are read.
const MAX_RULES: usize = 10_000;
/// Files that one `COPY` takes.
const MAX_FILES: usize = 5_000_000;

/// A tree to copy from.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) tree: Layered,
    ignore: Vec<Rule>,
    /// Owners are those of an image, and kept. Files of a context belong to root.
    pub(crate) owned: bool,
    /// For messages: `the context`, or `stage two`.
    pub(crate) name: String,
}

#[derive(Clone)]
struct Rule {
    parts: Vec<String>,
    keep: bool,
}

/// A file that was chosen.
pub(crate) struct Chosen {
    /// Path in the source with symlinks resolved, absolute.
    pub(crate) found: Found,
    /// The name it was chosen by.
    pub(crate) name: PathBuf,
    /// With `--parents`, how many of its first directories stay behind.
    pub(crate) pivot: usize,
}

impl Source {
    /// The context directory with its ignore file.
    pub(crate) fn context(dir: &Path, dockerfile: &Path) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::archive(dir, "the build context is not a directory"));
        }
        let mut own = dockerfile.as_os_str().to_owned();
        own.push(".dockerignore");
        let file = [PathBuf::from(own), dir.join(".dockerignore")].into_iter().find(|path| path.is_file());
        let ignore = match file {
            Some(path) => rules(&std::fs::read_to_string(&path).map_err(Error::io("read", &path))?)
                .map_err(|(line, reason)| Error::Dockerfile { file: path.clone(), line, reason })?,
            None => Vec::new(),
        };
        let tree = Layered::new(&[dir.to_owned()]);
        Ok(Self { tree, ignore, owned: false, name: "the build context".into() })
    }

    /// The files of another stage or image.
    pub(crate) fn layers(lowers: &[PathBuf], name: &str) -> Self {
        Self { tree: Layered::new(lowers), ignore: Vec::new(), owned: true, name: name.to_owned() }
    }

    /// The same without what `--exclude` names: from the root of the source, or from what was chosen.
    pub(crate) fn excluding(&self, patterns: &[String], chosen: &[Chosen]) -> Result<Self, String> {
        let mut source = self.clone();
        let bases = chosen.iter().filter_map(|item| {
            if item.found.is_dir() { Some(item.name.as_path()) } else { item.name.parent() }
        });
        let bases: BTreeSet<&Path> = bases.chain([Path::new("/")]).collect();
        let text = patterns.join("\n");
        let rules = rules(&text).map_err(|(_, reason)| format!("--exclude: {reason}"))?;
        if rules.len().saturating_mul(bases.len()) > MAX_RULES {
            return Err(format!("--exclude: more than {MAX_RULES} rules"));
        }
        for base in bases {
            let base: Vec<String> = clean(&base.to_string_lossy()).iter().map(|part| literal(part)).collect();
            source.ignore.extend(
                rules.iter().map(|rule| Rule { parts: [&base[..], &rule.parts].concat(), keep: rule.keep }),
            );
        }
        Ok(source)
    }

    /// Whether an ignore file hides anything.
    pub(crate) fn hides(&self) -> bool {
        !self.ignore.is_empty()
    }

    /// Whether a path (absolute in the source) is hidden by the ignore file.
    pub(crate) fn ignored(&self, path: &Path) -> bool {
        let parts: Vec<&str> =
            path.iter().filter_map(|part| part.to_str()).filter(|part| *part != "/").collect();
        let mut ignored = false;
        for rule in &self.ignore {
            // A rule also covers what lies below the directory it names.
            let covers = (1..=parts.len()).any(|end| glob_path(&rule.parts, &parts[..end]));
            if covers {
                ignored = !rule.keep;
            }
        }
        ignored
    }

    /// Files that an argument of `COPY` means; never none.
    pub(crate) fn choose(&self, pattern: &str) -> Result<Vec<Chosen>, String> {
        if pattern.split('/').any(|part| part == "..") && escapes(pattern) {
            return Err(format!("{pattern:?} leaves {} (refused)", self.name));
        }
        let parts = clean(pattern);
        let pivot = pattern.split_once("/./").map_or(0, |(before, _)| clean(before).len());
        let mut paths = BTreeSet::new();
        self.walk(PathBuf::from("/"), &parts, &mut paths).map_err(|error| error.to_string())?;
        let mut chosen = Vec::new();
        for name in paths {
            let found = self
                .tree
                .lookup(&name, true)
                .map_err(|error| format!("{pattern:?}: {error} (hint: symlinks cannot leave it)"))?;
            let hidden = self.ignored(&name) && !(found.is_dir() && self.ignore.iter().any(|rule| rule.keep));
            if found.metadata.is_some() && !hidden {
                chosen.push(Chosen { found, name, pivot });
            }
        }
        if chosen.is_empty() {
            return Err(format!(
                "{pattern:?} is not in {} (hint: check .dockerignore; symlinks cannot leave it)",
                self.name
            ));
        }
        Ok(chosen)
    }

    fn walk(&self, base: PathBuf, parts: &[String], out: &mut BTreeSet<PathBuf>) -> Result<()> {
        let Some((part, rest)) = parts.split_first() else {
            if out.len() >= MAX_FILES {
                return Err(Error::Limit {
                    what: "files of one COPY".into(),
                    limit: MAX_FILES as u64,
                    unit: "files",
                });
            }
            out.insert(base);
            return Ok(());
        };
        if !part.contains(['*', '?', '[', '\\']) {
            return self.walk(base.join(part), rest, out);
        }
        if part == "**" {
            self.walk(base.clone(), rest, out)?;
        }
        let found = self.tree.lookup(&base, true)?;
        for name in self.tree.names(&found)? {
            let path = base.join(&name);
            if part == "**" {
                if self.tree.lookup(&path, false)?.is_dir() {
                    self.walk(path, parts, out)?;
                } else if rest.is_empty() {
                    out.insert(path);
                }
            } else if name.to_str().is_some_and(|name| glob(part, name)) {
                self.walk(path, rest, out)?;
            }
        }
        Ok(())
    }
}

fn escapes(pattern: &str) -> bool {
    let mut depth = 0i64;
    pattern.split('/').any(|part| {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    })
}

fn clean(pattern: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

/// Patterns by themselves: a source of nothing that [`Source::ignored`] answers for.
pub(crate) fn covers(patterns: &[String]) -> Result<Source, String> {
    let ignore = rules(&patterns.join("\n")).map_err(|(_, reason)| reason)?;
    Ok(Source { tree: Layered::new(&[]), ignore, owned: false, name: String::new() })
}

/// A name as a pattern that means itself.
fn literal(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for character in name.chars() {
        if matches!(character, '*' | '?' | '[' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

fn rules(text: &str) -> Result<Vec<Rule>, (usize, String)> {
    let mut rules = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (keep, pattern) = match line.strip_prefix('!') {
            Some(pattern) => (true, pattern.trim()),
            None => (false, line),
        };
        if pattern.is_empty() {
            return Err((index + 1, "\"!\" without a pattern".into()));
        }
        if rules.len() >= MAX_RULES {
            return Err((index + 1, format!("more than {MAX_RULES} rules")));
        }
        rules.push(Rule { parts: clean(pattern), keep });
    }
    Ok(rules)
}

fn glob_path(parts: &[String], path: &[&str]) -> bool {
    match parts.split_first() {
        None => path.is_empty(),
        Some((part, rest)) if part == "**" => {
            (0..=path.len()).any(|skip| glob_path(rest, &path[skip..]) && (!rest.is_empty() || skip > 0))
        }
        Some((part, rest)) => match path.split_first() {
            Some((name, path)) => glob(part, name) && glob_path(rest, path),
            None => false,
        },
    }
}

/// One part of a path: `*`, `?`, `[a-z]`, `[^a]`, `\x`.
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on after the last star: one star is enough to come back to.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        if let Some(width) = one(&pattern[p.min(pattern.len())..], name[n]) {
            p += width;
            n += 1;
            continue;
        }
        match star {
            Some((after, from)) => {
                star = Some((after, from + 1));
                (p, n) = (after, from + 1);
            }
            None => return false,
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|character| *character == '*')
}

/// How much of the pattern stands for this character.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '\\' => (*pattern.get(1)? == character).then_some(2),
        '[' => {
            let end = 1 + pattern.iter().skip(1).position(|c| *c == ']').filter(|at| *at > 0)?;
            let mut set = &pattern[1..end];
            let negated = set.first().is_some_and(|first| matches!(first, '^' | '!'));
            if negated {
                set = &set[1..];
            }
            let mut hit = false;
            let mut at = 0;
            while at < set.len() {
                if set.get(at + 1) == Some(&'-') && at + 2 < set.len() {
                    hit |= (set[at]..=set[at + 2]).contains(&character);
                    at += 3;
                } else {
                    hit |= set[at] == character;
                    at += 1;
                }
            }
            (hit != negated).then_some(end + 1)
        }
        literal => (*literal == character).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, matches) in [
            ("*", "x", true),
            ("*.go", "a.go", true),
            ("*.go", "a.rs", false),
            ("a*b*c", "axxbyyc", true),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("**", "abc", true),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern} {name}");
        }
        // No exponential time.
        assert!(!glob(&format!("{}c", "a*".repeat(50)), &"a".repeat(500)));
    }

    #[test]
    fn ignore_rules() {
        let source = |text: &str| Source {
            tree: Layered::new(&[]),
            ignore: rules(text).unwrap(),
            owned: false,
            name: String::new(),
        };
        let ignore = source("# c\n*.log\n**/node_modules\n/docs\n!docs/keep.md\na/**/b\n");
        for (path, ignored) in [
            ("/x.log", true),
            ("/d/x.log", false),
            ("/d/node_modules", true),
            ("/node_modules/deep/file", true),
            ("/docs/a", true),
            ("/docs/keep.md", false),
            ("/a/b", true),
            ("/a/x/y/b", true),
            ("/main.rs", false),
        ] {
            assert_eq!(ignore.ignored(Path::new(path)), ignored, "{path}");
        }
        assert!(
            source("*\n!src\n").ignored(Path::new("/x")) && !source("*\n!src\n").ignored(Path::new("/src/a"))
        );
    }
}
