//! Files that no program needs to run, by where they are.

use std::path::Path;

use serde::Serialize;

/// Why a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// A later layer overwrites or deletes it.
    Hidden,
    /// Caches and lists of package managers.
    PackageCache,
    /// Records of package managers that only installing needs.
    PackageManager,
    /// Manual pages, documentation, examples.
    Documentation,
    /// Translations, and locales other than C.
    Locales,
    /// Headers, static libraries, tests of languages' libraries.
    Development,
    /// What debuggers read: sections of programs and libraries.
    DebugInformation,
    /// Logs and temporary files.
    Temporary,
    /// Nothing that runs leads there.
    Unreachable,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cause::Hidden => "hidden by later layers",
            Cause::PackageCache => "package caches",
            Cause::PackageManager => "package managers' records",
            Cause::Documentation => "documentation",
            Cause::Locales => "locales",
            Cause::Development => "development files",
            Cause::DebugInformation => "debug information",
            Cause::Temporary => "logs and temporary files",
            Cause::Unreachable => "not reachable",
        })
    }
}

/// Directories and what they are.
const PLACES: [(&str, Cause); 34] = [
    ("/var/cache/apt", Cause::PackageCache),
    ("/var/lib/apt/lists", Cause::PackageCache),
    ("/var/cache/debconf", Cause::PackageCache),
    ("/var/cache/apk", Cause::PackageCache),
    ("/etc/apk/cache", Cause::PackageCache),
    ("/var/cache/dnf", Cause::PackageCache),
    ("/var/cache/yum", Cause::PackageCache),
    ("/var/cache/ldconfig", Cause::PackageCache),
    ("/root/.cache", Cause::PackageCache),
    ("/root/.npm", Cause::PackageCache),
    ("/root/.cargo/registry", Cause::PackageCache),
    ("/var/lib/dpkg/info", Cause::PackageManager),
    ("/var/lib/dpkg/status-old", Cause::PackageManager),
    ("/var/lib/dpkg/available", Cause::PackageManager),
    ("/var/lib/dpkg/triggers", Cause::PackageManager),
    ("/var/lib/dpkg/alternatives", Cause::PackageManager),
    ("/var/lib/apt", Cause::PackageManager),
    ("/var/lib/ucf", Cause::PackageManager),
    ("/usr/share/doc", Cause::Documentation),
    ("/usr/share/man", Cause::Documentation),
    ("/usr/share/info", Cause::Documentation),
    ("/usr/share/doc-base", Cause::Documentation),
    ("/usr/share/lintian", Cause::Documentation),
    ("/usr/share/linda", Cause::Documentation),
    ("/usr/share/bug", Cause::Documentation),
    ("/usr/share/gtk-doc", Cause::Documentation),
    ("/usr/share/common-licenses", Cause::Documentation),
    ("/usr/local/share/man", Cause::Documentation),
    ("/usr/local/share/doc", Cause::Documentation),
    ("/usr/share/locale", Cause::Locales),
    ("/usr/share/i18n", Cause::Locales),
    ("/usr/include", Cause::Development),
    ("/usr/share/pkgconfig", Cause::Development),
    ("/var/log", Cause::Temporary),
];

/// Why a file is never needed, if so. `c_locale` files stay: programs ask for them by name.
pub(super) fn never_needed(path: &Path, is_dir: bool) -> Option<Cause> {
    let text = path.to_string_lossy();
    if let Some((_, cause)) = PLACES.iter().find(|(place, _)| path.starts_with(place)) {
        // Licences ask to stay with what they are for.
        let licence = *cause == Cause::Documentation && path.ends_with("copyright");
        // Directories for logs are written to.
        let kept = licence
            || (*cause == Cause::Temporary && is_dir)
            || text.starts_with("/usr/share/common-licenses");
        return (!kept).then_some(*cause);
    }
    if (text.starts_with("/tmp/") || text.starts_with("/var/tmp/")) && !is_dir {
        return Some(Cause::Temporary);
    }
    if let Some(name) = text.strip_prefix("/usr/lib/locale/") {
        return (!name.to_ascii_uppercase().starts_with("C.")).then_some(Cause::Locales);
    }
    let library =
        text.starts_with("/usr/lib/") || text.starts_with("/usr/local/lib/") || text.starts_with("/lib/");
    if library {
        let has = |part: &str| text.contains(part);
        let python = has("/python3");
        let tests = ["/test/", "/tests/", "/idlelib/", "/turtledemo/", "/ensurepip/", "/lib2to3/tests/"];
        if (python && (tests.iter().any(|part| has(part)) && !has("-packages/") || has("/config-3")))
            || text.ends_with(".a")
            || text.ends_with(".la")
            || has("/pkgconfig/")
            || has("/cmake/")
        {
            return Some(Cause::Development);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (path, cause) in [
            ("/var/lib/apt/lists/x", Some(Cause::PackageCache)),
            ("/var/lib/dpkg/info/x.list", Some(Cause::PackageManager)),
            ("/var/lib/dpkg/status", None),
            ("/usr/share/doc/x/README", Some(Cause::Documentation)),
            ("/usr/share/doc/x/copyright", None),
            ("/usr/share/locale/de/LC_MESSAGES/x.mo", Some(Cause::Locales)),
            ("/usr/lib/locale/C.utf8/LC_CTYPE", None),
            ("/usr/lib/locale/locale-archive", Some(Cause::Locales)),
            ("/usr/lib/python3.11/test/x.py", Some(Cause::Development)),
            ("/usr/lib/python3/dist-packages/x/tests/y.py", None),
            ("/usr/lib/x86_64-linux-gnu/libx.a", Some(Cause::Development)),
            ("/tmp/x", Some(Cause::Temporary)),
            ("/app/tests/x.a", None),
            ("/usr/bin/x", None),
        ] {
            assert_eq!(never_needed(Path::new(path), false), cause, "{path}");
        }
        assert_eq!(never_needed(Path::new("/var/log/nginx"), true), None);
    }
}
