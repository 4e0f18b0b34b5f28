//! What can be cut out of a file that stays: languages of ICU's data that nobody asked for, debug information.
//!
//! Programs see such files as before, with less in them. Whatever is not exactly as expected is left alone.

mod elf;
mod icu;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::Cause;
use super::languages::Languages;
use crate::error::{Error, Result};

/// Fewer bytes are not worth a changed file.
const WORTH: usize = 16 << 10;
/// Bytes of the largest file that is looked at.
const MAX_FILE: u64 = 1 << 30;
/// Enough to see what a file is.
const HEAD: usize = 16;

/// As [`trim`], of a file of this machine.
pub(super) fn file(path: &Path, languages: Option<&Languages>) -> Result<Option<(Vec<u8>, Cause)>> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let len = file.metadata().map_err(Error::io("read", path))?.len();
    let mut bytes = vec![0; HEAD];
    let known = len > WORTH as u64
        && len <= MAX_FILE
        && file.read_exact(&mut bytes).is_ok()
        && (icu::is_package(&bytes) || super::elf::is_elf(&bytes));
    if !known {
        return Ok(None);
    }
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(trim(&bytes, languages))
}

/// The same file without what nobody needs, and what that is; `None` where nothing is to be cut.
/// Debug information goes from all files, languages only with `languages`.
fn trim(bytes: &[u8], languages: Option<&Languages>) -> Option<(Vec<u8>, Cause)> {
    let (trimmed, cause) = match languages.and_then(|languages| other_languages(bytes, languages)) {
        Some(trimmed) => (trimmed, Cause::Locales),
        None => (elf::without_debug_information(bytes)?, Cause::DebugInformation),
    };
    (trimmed.len() + WORTH <= bytes.len()).then_some((trimmed, cause))
}

/// ICU's data lie in a file of their own or as the only symbol of a library.
fn other_languages(bytes: &[u8], languages: &Languages) -> Option<Vec<u8>> {
    if icu::is_package(bytes) {
        return icu::trim(bytes, languages);
    }
    let symbol = elf::symbol(bytes, |name| name.starts_with("icudt") && name.ends_with("_dat"))?;
    let package = icu::trim(bytes.get(symbol.bytes.clone())?, languages)?;
    elf::shrink(bytes, &symbol, &package)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use sampan_fuzz::Target;

    use super::*;

    fn run(dir: &Path, program: &str, args: &[&str]) -> String {
        let out = Command::new(program).args(args).current_dir(dir).output().unwrap();
        assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// A package as ICU has it: each item says its own name.
    fn package(names: &[&str]) -> Vec<u8> {
        let items: BTreeMap<&str, Vec<u8>> =
            names.iter().map(|name| (*name, format!("{name} ").repeat(3000).into_bytes())).collect();
        icu::tests::package(&items)
    }

    /// A real library is cut and loaded by a real program, which finds what is left.
    #[test]
    fn a_library_with_less_in_it_loads() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["icudt1l/brkitr/root.res", "icudt1l/curr/de.res", "icudt1l/de.res", "icudt1l/en_GB.res"];
        let all = package(&names);
        let bytes: Vec<String> = all.iter().map(u8::to_string).collect();
        let source = format!(
            "const unsigned char icudt1_dat[] __attribute__((aligned(16))) = {{{}}};\nint after = 42;\n\
             int *other(void) {{ return &after; }}\n",
            bytes.join(",")
        );
        fs::write(dir.path().join("data.c"), source).unwrap();
        let program = "#include <stdio.h>\nextern const unsigned char icudt1_dat[]; extern int *other(void);\n\
            int main() { for (int i = 0; i < 40000; i++) putchar(icudt1_dat[i]); return *other() != 42; }\n";
        fs::write(dir.path().join("main.c"), program).unwrap();
        // As ICU makes it: nothing but data in its segment.
        let flags = "-shared -fPIC -nostdlib -fno-asynchronous-unwind-tables -Wl,-soname,libicudata.so.1 -o libicudata.so.1 data.c";
        run(dir.path(), "cc", &flags.split(' ').collect::<Vec<_>>());
        run(dir.path(), "cc", &["-o", "main", "main.c", "libicudata.so.1", "-Wl,-rpath,$ORIGIN"]);
        let library = dir.path().join("libicudata.so.1");
        let before = fs::read(&library).unwrap();
        let (after, cause) = trim(&before, Some(&Languages::default())).unwrap();
        assert_eq!(cause, Cause::Locales);
        assert!(before.len() - after.len() > 100_000, "{} {}", before.len(), after.len());
        fs::write(&library, &after).unwrap();
        let left = package(&["icudt1l/brkitr/root.res", "icudt1l/en_GB.res"]);
        let out = Command::new(dir.path().join("main")).output().unwrap();
        assert!(out.status.success());
        assert_eq!(out.stdout[..], left[..40_000]);
        assert!(trim(&before, None).is_none() && trim(&after, Some(&Languages::default())).is_none());
    }

    /// A program without its debug information runs, and still says where it was by the names of its functions.
    #[test]
    fn a_program_without_debug_information_runs() {
        let dir = tempfile::tempdir().unwrap();
        let program = "#include <stdio.h>\nstatic int three(void) { return 3; }\n\
            int main() { printf(\"%d\\n\", three()); return 0; }\n";
        // Enough to be worth it.
        let filler: String =
            (0..2000).map(|at| format!("int f{at}(int a) {{ return a + {at}; }}\n")).collect();
        fs::write(dir.path().join("main.c"), filler + program).unwrap();
        run(dir.path(), "cc", &["-g", "-o", "main", "main.c"]);
        let before = fs::read(dir.path().join("main")).unwrap();
        let (after, cause) = trim(&before, None).unwrap();
        assert_eq!(cause, Cause::DebugInformation);
        fs::write(dir.path().join("main"), &after).unwrap();
        assert_eq!(run(dir.path(), "./main", &[]), "3\n");
        assert!(run(dir.path(), "nm", &["main"]).contains(" t three\n"));
        assert!(trim(&after, None).is_none());
        // Objects that are linked later, and what has more behind it, are left alone.
        run(dir.path(), "cc", &["-g", "-c", "-o", "main.o", "main.c"]);
        assert!(trim(&fs::read(dir.path().join("main.o")).unwrap(), None).is_none());
        assert!(trim(&[before, vec![1; 1000]].concat(), None).is_none());
    }

    /// Whatever a file says of itself, nothing but a smaller one comes of it.
    #[test]
    fn files_that_lie_are_no_danger() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.c"), "const char icudt1_dat[4096] = {1};\nint main() { return 0; }\n")
            .unwrap();
        run(dir.path(), "cc", &["-g", "-rdynamic", "-o", "a", "a.c"]);
        let program = fs::read(dir.path().join("a")).unwrap();
        assert!(elf::without_debug_information(&program).is_some());
        Target::new("slim::trim::tests::files_that_lie_are_no_danger")
            .seeds([&program])
            .longest(20 << 10)
            .run(|bytes| {
                let less = elf::without_debug_information(bytes);
                assert!(less.is_none_or(|less| less.len() < bytes.len()));
                if let Some(symbol) = elf::symbol(bytes, |name| name == "icudt1_dat") {
                    let less = elf::shrink(bytes, &symbol, b"less");
                    assert!(less.is_none_or(|less| less.len() < bytes.len()));
                }
            });
    }
}
