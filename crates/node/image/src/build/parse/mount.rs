//! `RUN --mount=…`.

use super::arguments::refuse_variable;
use super::model::{Mount, MountKind, Sharing};

const KINDS: &str = "bind, cache, tmpfs, secret, ssh";

/// Keys and values of one flag.
struct Pairs<'a> {
    kind: &'a str,
    pairs: Vec<(String, Option<&'a str>)>,
}

/// `type=cache,target=/root/.cache,…`.
pub(super) fn mount(text: &str) -> Result<Mount, String> {
    let mut pairs = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key, Some(value.trim_matches('"'))),
            None => (part, None),
        };
        let key = match key.to_ascii_lowercase().as_str() {
            "dst" | "destination" => "target".to_owned(),
            "src" => "source".to_owned(),
            "ro" => "readonly".to_owned(),
            "rw" => "readwrite".to_owned(),
            key => key.to_owned(),
        };
        pairs.push((key, value));
    }
    let kind = pairs.iter().find(|(key, _)| key == "type").and_then(|(_, value)| *value).unwrap_or("bind");
    let pairs = Pairs { kind, pairs };
    let target = pairs.text("target")?.map(str::to_owned);
    if target.is_none() && !matches!(kind, "secret" | "ssh") {
        return Err(format!("RUN: --mount=type={kind} needs a target (hint: target=/path)"));
    }
    let kind = match kind {
        "bind" => pairs.bind()?,
        "cache" => pairs.cache()?,
        "tmpfs" => {
            pairs.only(&["target", "size"])?;
            MountKind::Tmpfs { size: pairs.text("size")?.map(size).transpose()? }
        }
        "secret" => pairs.secret()?,
        "ssh" => pairs.ssh()?,
        other => return Err(format!("RUN: --mount=type={other} is not known (hint: {KINDS})")),
    };
    Ok(Mount { kind, target })
}

impl<'a> Pairs<'a> {
    fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.pairs.iter().find(|(key, _)| key != "type" && !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) => Err(format!(
                "RUN: --mount=type={} has no {key:?} (hint: it has {})",
                self.kind,
                known.join(", ")
            )),
        }
    }

    fn text(&self, wanted: &str) -> Result<Option<&'a str>, String> {
        match self.pairs.iter().rev().find(|(key, _)| key == wanted) {
            None => Ok(None),
            Some((_, Some(value))) if !value.is_empty() => Ok(Some(value)),
            Some(_) => Err(format!("RUN: --mount=type={}: {wanted} needs a value", self.kind)),
        }
    }

    fn switch(&self, wanted: &str) -> Result<Option<bool>, String> {
        match self.pairs.iter().rev().find(|(key, _)| key == wanted) {
            None => Ok(None),
            Some((_, None | Some("true" | "1"))) => Ok(Some(true)),
            Some((_, Some("false" | "0"))) => Ok(Some(false)),
            Some((_, Some(value))) => Err(format!("RUN: --mount: {wanted} is true or false, not {value:?}")),
        }
    }

    fn number(&self, wanted: &str, radix: u32) -> Result<Option<u32>, String> {
        self.text(wanted)?
            .map(|text| {
                u32::from_str_radix(text, radix)
                    .map_err(|_| format!("RUN: --mount: {wanted}={text} is no number"))
            })
            .transpose()
    }

    fn owner(&self) -> Result<(u32, u32), String> {
        Ok((self.number("uid", 10)?.unwrap_or(0), self.number("gid", 10)?.unwrap_or(0)))
    }

    fn from(&self) -> Result<Option<String>, String> {
        let from = self.text("from")?;
        refuse_variable("RUN --mount", from)?;
        Ok(from.map(str::to_owned))
    }

    fn bind(&self) -> Result<MountKind, String> {
        self.only(&["target", "source", "from", "readwrite", "readonly"])?;
        let writable = self.switch("readwrite")?.or(self.switch("readonly")?.map(|only| !only));
        Ok(MountKind::Bind {
            from: self.from()?,
            source: self.text("source")?.unwrap_or("/").to_owned(),
            writable: writable.unwrap_or(false),
        })
    }

    fn cache(&self) -> Result<MountKind, String> {
        let known =
            ["target", "id", "source", "from", "readonly", "readwrite", "sharing", "mode", "uid", "gid"];
        self.only(&known)?;
        let sharing = match self.text("sharing")? {
            None | Some("shared") => Sharing::Shared,
            Some("private") => Sharing::Private,
            Some("locked") => Sharing::Locked,
            Some(other) => {
                return Err(format!("RUN: sharing={other} is not known (hint: shared, private, locked)"));
            }
        };
        Ok(MountKind::Cache {
            id: self.text("id")?.map(str::to_owned),
            from: self.from()?,
            source: self.text("source")?.unwrap_or("/").to_owned(),
            read_only: self.switch("readonly")?.unwrap_or(false),
            sharing,
            mode: self.number("mode", 8)?,
            owner: self.owner()?,
        })
    }

    fn ssh(&self) -> Result<MountKind, String> {
        self.only(&["target", "id", "required", "mode", "uid", "gid"])?;
        Ok(MountKind::Ssh {
            id: self.text("id")?.unwrap_or("default").to_owned(),
            required: self.switch("required")?.unwrap_or(false),
            mode: self.number("mode", 8)?.unwrap_or(0o600),
            owner: self.owner()?,
        })
    }

    fn secret(&self) -> Result<MountKind, String> {
        self.only(&["target", "id", "required", "mode", "uid", "gid", "env"])?;
        let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let id = match (self.text("id")?, self.text("target")?) {
            (Some(id), _) => id.to_owned(),
            (None, Some(target)) => base(target),
            (None, None) => return Err("RUN: --mount=type=secret needs an id (hint: id=name)".into()),
        };
        Ok(MountKind::Secret {
            id,
            required: self.switch("required")?.unwrap_or(false),
            mode: self.number("mode", 8)?.unwrap_or(0o400),
            owner: self.owner()?,
            env: self.text("env")?.map(str::to_owned),
        })
    }
}

/// `64m`, `1GB`, `4096`.
fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("RUN: --mount: size={text} is no size (hint: 64m)");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let shift = match text[digits..].to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(bad()),
    };
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(bad)
}
