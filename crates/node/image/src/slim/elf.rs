//! What an ELF file needs: its interpreter, its libraries, and what its strings name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Texts of one file that are looked at.
const MAX_TEXTS: usize = 200_000;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) interpreter: Option<PathBuf>,
    pub(super) libraries: Vec<String>,
    /// Where libraries are looked for first; `$ORIGIN` is put in.
    pub(super) paths: Vec<PathBuf>,
    /// Absolute paths anywhere in it.
    pub(super) named: BTreeSet<String>,
    /// Names of libraries that it may load itself.
    pub(super) loaded: BTreeSet<String>,
    /// It converts between encodings.
    pub(super) converts: bool,
}

/// Whether these are the first bytes of an ELF file.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Read one; what is malformed needs nothing.
pub(super) fn needs(bytes: &[u8], path: &Path) -> Needs {
    let mut needs = Needs::default();
    if let Ok(elf) = goblin::elf::Elf::parse(bytes) {
        needs.interpreter = elf.interpreter.map(PathBuf::from);
        needs.libraries = elf.libraries.iter().map(|name| (*name).to_owned()).collect();
        let origin = path.parent().unwrap_or(Path::new("/")).display().to_string();
        let dirs = elf.rpaths.iter().chain(&elf.runpaths).flat_map(|list| list.split(':'));
        needs.paths = dirs
            .map(|dir| PathBuf::from(dir.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin)))
            .collect();
        needs.converts = elf
            .dynsyms
            .iter()
            .any(|symbol| symbol.is_import() && elf.dynstrtab.get_at(symbol.st_name) == Some("iconv_open"));
    }
    texts(bytes, &mut needs);
    needs
}

/// Characters of paths and names.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-+@~".contains(&byte)
}

/// Runs of such characters that look like a path or a library.
fn texts(bytes: &[u8], needs: &mut Needs) {
    for word in bytes.split(|byte| !plain(*byte)).filter(|word| word.len() >= 4 && word.len() < 1024) {
        if needs.named.len() + needs.loaded.len() >= MAX_TEXTS {
            return;
        }
        let Ok(word) = std::str::from_utf8(word) else { continue };
        let word = word.trim_end_matches(['.', '-']);
        if word.starts_with('/') {
            needs.named.insert(word.trim_end_matches('/').to_owned());
        } else if word.ends_with(".so") || word.contains(".so.") {
            needs.loaded.insert(word.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program() {
        let path = std::env::current_exe().unwrap();
        let needs = needs(&std::fs::read(&path).unwrap(), &path);
        assert!(needs.interpreter.is_some_and(|path| path.is_absolute()));
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")));
    }

    #[test]
    fn nonsense_needs_nothing() {
        assert_eq!(needs(b"\x7fELF\x02\x01", Path::new("/x")), Needs::default());
        let found = needs(b"\0--conf=/etc/x/y.conf --z\0libfoo.so.1\0mod.so\0//\0", Path::new("/x"));
        assert_eq!(found.named.into_iter().collect::<Vec<_>>(), ["/etc/x/y.conf"]);
        assert_eq!(found.loaded.into_iter().collect::<Vec<_>>(), ["libfoo.so.1", "mod.so"]);
    }
}
