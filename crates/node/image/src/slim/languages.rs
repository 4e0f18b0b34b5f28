//! Languages that an image speaks: English, and those that its environment or its maker names.

use std::collections::BTreeSet;
use std::path::Path;

/// Codes as in `de_AT.UTF-8`: the letters before anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Languages(BTreeSet<String>);

impl Languages {
    /// From names of locales; `C` and `POSIX` are none.
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all = BTreeSet::new();
        for name in names {
            let code = name.split(['_', '-', '.', '@']).next().unwrap_or_default().to_ascii_lowercase();
            if (code.len() == 2 || code.len() == 3) && code.bytes().all(|byte| byte.is_ascii_lowercase()) {
                // Both forms of Norwegian build on the common one.
                if code == "nb" || code == "nn" {
                    all.insert("no".to_owned());
                }
                all.insert(code);
            }
        }
        Self(all)
    }

    /// Those of an environment (`LANG`, `LANGUAGE`, `LC_…`), and more.
    pub(super) fn of(env: &[String], more: &[String]) -> Self {
        let named = env
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .filter(|(name, _)| *name == "LANG" || *name == "LANGUAGE" || name.starts_with("LC_"));
        let named = named.flat_map(|(_, value)| value.split(':'));
        Self::new(named.chain(more.iter().map(String::as_str)))
    }

    /// Whether dates and numbers are written in it.
    pub(super) fn formats(&self, language: &str) -> bool {
        language == "en" || self.0.contains(language)
    }

    /// Whether a file of translations or of a locale is one of theirs.
    pub(super) fn speak(&self, path: &Path) -> bool {
        let Some(name) = ["/usr/share/locale", "/usr/lib/locale"]
            .iter()
            .find_map(|dir| path.strip_prefix(dir).ok()?.iter().next()?.to_str())
        else {
            return false;
        };
        let code = name.split(['_', '-', '.', '@']).next().unwrap_or_default();
        self.0.contains(code) || (!self.0.is_empty() && (name == "locale-archive" || name == "locale.alias"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_locales() {
        let env = ["LANG=de_AT.UTF-8", "LC_ALL=C.UTF-8", "LANGUAGE=fr:pt_BR", "HOME=/it", "LC_TIME=POSIX"];
        let languages = Languages::of(&env.map(str::to_owned), &["sr@latin".to_owned(), "nn".to_owned()]);
        assert_eq!(languages, Languages::new(["de", "fr", "pt", "sr", "nn", "no"]));
        for (path, is) in [
            ("/usr/share/locale/de/LC_MESSAGES/x.mo", true),
            ("/usr/share/locale/pt_PT/LC_MESSAGES/x.mo", true),
            ("/usr/share/locale/it/LC_MESSAGES/x.mo", false),
            ("/usr/lib/locale/locale-archive", true),
            ("/usr/lib/locale/de_DE.utf8/LC_TIME", true),
            ("/usr/share/doc/de/x", false),
        ] {
            assert_eq!(languages.speak(Path::new(path)), is, "{path}");
        }
        assert!(!Languages::default().speak(Path::new("/usr/lib/locale/locale-archive")));
        assert!(Languages::default().formats("en") && !Languages::default().formats("de"));
    }
}
