//! The data package of ICU ("CmnD", `ucmndata.h`): a table of contents sorted by name, and items.
//!
//! Names are `icudt72l/TREE/LOCALE.res`. Orders of texts stay in all languages, since databases keep what was sorted
//! by them; converters stay that cost little, and those of the large alphabets that the web is written in.

use crate::slim::languages::Languages;

/// Items of one package.
const MAX_ITEMS: usize = 100_000;
/// Items begin at a multiple of it.
const ALIGN: usize = 16;
/// A converter of a small alphabet.
const SMALL_CONVERTER: usize = 12 << 10;
/// Converters of large alphabets that stay (Encoding Standard, as ICU calls them).
const CONVERTERS: [&str; 15] = [
    "euc-jp-2007",
    "gb18030",
    "ibm-1363_P110-1997",
    "ibm-1363_P11B-1998",
    "ibm-1373_P100-2002",
    "ibm-1375_P100-2008",
    "ibm-1383_P110-1999",
    "ibm-1386_P100-2001",
    "ibm-943_P130-1999",
    "ibm-943_P15A-2003",
    "ibm-970_P110_P110-2006_U2",
    "jisx-212",
    "windows-936-2000",
    "windows-949-2000",
    "windows-950-2000",
];

/// Whether these bytes begin like a package, least significant byte first.
pub(super) fn is_package(bytes: &[u8]) -> bool {
    bytes.get(2..4) == Some(b"\xda\x27") && bytes.get(12..16) == Some(b"CmnD") && bytes.get(8) == Some(&0)
}

struct Package<'a> {
    header: &'a [u8],
    /// Names and contents, in their order.
    items: Vec<(&'a str, &'a [u8])>,
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(word.try_into().ok()?)).ok()
}

impl<'a> Package<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        if !is_package(bytes) {
            return None;
        }
        let header = usize::from(u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?));
        let (header, body) = bytes.split_at_checked(header)?;
        let count = word(body, 0).filter(|count| *count > 0 && *count <= MAX_ITEMS)?;
        let starts = (0..count).map(|at| word(body, 8 + 8 * at)).collect::<Option<Vec<usize>>>()?;
        let mut items: Vec<(&str, &[u8])> = Vec::with_capacity(count);
        for (at, start) in starts.iter().enumerate() {
            let end = starts.get(at + 1).copied().unwrap_or(body.len());
            let name = body.get(word(body, 4 + 8 * at)?..)?;
            let name = name.get(..name.iter().take(256).position(|byte| *byte == 0)?)?;
            let name = std::str::from_utf8(name).ok()?;
            // They are found by halving.
            if items.last().is_some_and(|(last, _)| *last >= name) {
                return None;
            }
            items.push((name, body.get(*start..end)?));
        }
        Some(Self { header, items })
    }

    fn write(&self) -> Option<Vec<u8>> {
        let mut bytes = self.header.to_vec();
        let mut name = 4 + 8 * self.items.len();
        let names: usize = self.items.iter().map(|(name, _)| name.len() + 1).sum();
        let mut start = (name + names).next_multiple_of(ALIGN);
        bytes.extend(u32::try_from(self.items.len()).ok()?.to_le_bytes());
        for (text, item) in &self.items {
            bytes.extend(u32::try_from(name).ok()?.to_le_bytes());
            bytes.extend(u32::try_from(start).ok()?.to_le_bytes());
            name += text.len() + 1;
            start = (start + item.len()).next_multiple_of(ALIGN);
        }
        for (text, _) in &self.items {
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        for (_, item) in &self.items {
            let body = bytes.len() - self.header.len();
            bytes.resize(self.header.len() + body.next_multiple_of(ALIGN), 0);
            bytes.extend(*item);
        }
        Some(bytes)
    }
}

/// The package without what is of other languages alone; `None` when nothing is, or when it is not understood.
pub(super) fn trim(bytes: &[u8], languages: &Languages) -> Option<Vec<u8>> {
    let mut package = Package::read(bytes)?;
    let before = package.items.len();
    package.items.retain(|(name, item)| stays(name, item.len(), languages));
    if package.items.len() == before || package.items.is_empty() {
        return None;
    }
    let trimmed = package.write()?;
    // What was written reads as it should.
    (Package::read(&trimmed)?
        .items
        .iter()
        .map(|(name, _)| name)
        .eq(package.items.iter().map(|(name, _)| name)))
    .then_some(trimmed)
}

fn stays(name: &str, bytes: usize, languages: &Languages) -> bool {
    // Before the first slash stands the version.
    let name = name.split_once('/').map_or(name, |(_, rest)| rest);
    let (tree, leaf) = name.rsplit_once('/').unwrap_or(("", name));
    let (stem, kind) = leaf.rsplit_once('.').unwrap_or((leaf, ""));
    match kind {
        "res" if tree != "coll" => locale(stem).is_none_or(|language| languages.formats(language)),
        "cnv" => bytes < SMALL_CONVERTER || CONVERTERS.contains(&stem),
        // Where words end in scripts without spaces.
        "dict" => dictionary(stem).is_none_or(|spoken| spoken.iter().any(|one| languages.formats(one))),
        _ => true,
    }
}

/// The language of a locale's name, `None` when it is none: `root`, `pool`, `supplementalData`, `de_AT`, `zh_Hans_SG`.
fn locale(stem: &str) -> Option<&str> {
    let language = stem.split('_').next()?;
    let letters = language.bytes().all(|byte| byte.is_ascii_lowercase());
    (letters && (language.len() == 2 || language.len() == 3) && stem != "res_index").then_some(language)
}

/// Languages that a dictionary of words serves.
fn dictionary(stem: &str) -> Option<&'static [&'static str]> {
    Some(match stem {
        "cjdict" => &["zh", "ja", "yue"],
        "thaidict" => &["th"],
        "khmerdict" => &["km"],
        "laodict" => &["lo"],
        "burmesedict" => &["my"],
        _ => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    pub(in crate::slim::trim) fn package(items: &BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
        let mut header = vec![0u8; 32];
        header[..4].copy_from_slice(b"\x20\x00\xda\x27");
        header[12..16].copy_from_slice(b"CmnD");
        let items = items.iter().map(|(name, item)| (*name, item.as_slice())).collect();
        Package { header: &header, items }.write().unwrap()
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        Package::read(bytes).unwrap().items.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    #[test]
    fn only_other_languages_go() {
        let small = vec![1; 100];
        let mut items = BTreeMap::from(
            [
                "x/brkitr/cjdict.dict",
                "x/brkitr/char.brk",
                "x/brkitr/de.res",
                "x/coll/de.res",
                "x/curr/de_AT.res",
                "x/curr/en_150.res",
                "x/curr/pool.res",
                "x/curr/root.res",
                "x/curr/zh_Hans_SG.res",
                "x/likelySubtags.res",
                "x/nb.res",
                "x/no.res",
                "x/res_index.res",
                "x/uts46.nrm",
                "x/windows-1252.cnv",
                "x/yue.res",
            ]
            .map(|name| (name, small.clone())),
        );
        items.insert("x/gb18030.cnv", vec![2; SMALL_CONVERTER]);
        items.insert("x/ibm-1390.cnv", vec![3; SMALL_CONVERTER]);
        let all = package(&items);
        let trimmed = trim(&all, &Languages::default()).unwrap();
        let stay = [
            "x/brkitr/char.brk",
            "x/coll/de.res",
            "x/curr/en_150.res",
            "x/curr/pool.res",
            "x/curr/root.res",
            "x/gb18030.cnv",
            "x/likelySubtags.res",
            "x/res_index.res",
            "x/uts46.nrm",
            "x/windows-1252.cnv",
        ];
        assert_eq!(names(&trimmed), stay);
        let read = Package::read(&trimmed).unwrap();
        let large = read.items.iter().find(|(name, _)| *name == "x/gb18030.cnv").unwrap().1;
        assert!(large.starts_with(&vec![2; SMALL_CONVERTER]));
        let some = names(&trim(&all, &Languages::new(["zh_TW.UTF-8", "nb"])).unwrap());
        for name in ["x/brkitr/cjdict.dict", "x/curr/zh_Hans_SG.res", "x/nb.res", "x/no.res"] {
            assert!(some.iter().any(|one| one == name), "{name}");
        }
        assert!(!some.iter().any(|name| name == "x/curr/de_AT.res"));
    }

    #[test]
    fn what_lies_is_left_alone() {
        let good = package(&BTreeMap::from([("x/de.res", vec![1; 50]), ("x/en.res", vec![2; 50])]));
        assert!(trim(&good, &Languages::default()).is_some());
        for len in 0..good.len() - 50 {
            let _ = trim(&good[..len], &Languages::default());
        }
        for at in 0..90 {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _ = trim(&bad, &Languages::default());
            }
        }
        let mut many = good.clone();
        many[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(trim(&many, &Languages::default()).is_none());
        let mut far = good;
        far[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(trim(&far, &Languages::default()).is_none());
    }
}
