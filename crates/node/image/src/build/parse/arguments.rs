//! What stands behind each instruction's name.

use super::super::expand::words;
use super::model::{Copy, Form, Heredoc, Instruction, Run};
use crate::oci::Healthcheck;

const KNOWN: &str = "FROM, ARG, ENV, COPY, ADD, RUN, CMD, ENTRYPOINT, WORKDIR, USER, EXPOSE, LABEL, VOLUME, \
    STOPSIGNAL, SHELL, HEALTHCHECK, ONBUILD";

/// One instruction out of its logical line and the here-documents behind it.
pub(super) fn instruction(
    text: &str,
    heredocs: Vec<Heredoc>,
    escape: char,
) -> std::result::Result<Instruction, String> {
    let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let keyword = keyword.to_ascii_uppercase();
    let (flags, rest) = split_flags(rest.trim());
    let flags = Flags { keyword: &keyword, flags };
    if rest.is_empty()
        && !matches!(keyword.as_str(), "CMD" | "ENTRYPOINT")
        && KNOWN.split(", ").any(|known| known == keyword)
    {
        return Err(format!("{keyword} needs an argument"));
    }
    let split = |rest: &str| words(rest, escape).map_err(|reason| format!("{keyword}: {reason}"));
    match keyword.as_str() {
        "FROM" => from(&flags, rest),
        "ARG" => {
            flags.only(&[])?;
            let pairs = split(rest)?.into_iter().map(|word| match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            });
            pairs
                .map(|(name, value)| checked_name(&keyword, name).map(|name| (name, value)))
                .collect::<std::result::Result<_, _>>()
                .map(Instruction::Arg)
        }
        "ENV" => flags.only(&[]).and_then(|()| pairs(&keyword, rest, escape)).map(Instruction::Env),
        "LABEL" => flags.only(&[]).and_then(|()| pairs(&keyword, rest, escape)).map(Instruction::Label),
        "COPY" | "ADD" => copy(&flags, rest, heredocs, escape).map(|copy| Instruction::Copy(Box::new(copy))),
        "RUN" => run(&flags, rest, heredocs).map(|run| Instruction::Run(Box::new(run))),
        "ONBUILD" => onbuild(&flags, rest, &heredocs, escape),
        "CMD" => flags.only(&[]).map(|()| Instruction::Cmd(form(rest))),
        "ENTRYPOINT" => flags.only(&[]).map(|()| Instruction::Entrypoint(form(rest))),
        "WORKDIR" => flags.only(&[]).map(|()| Instruction::Workdir(rest.to_owned())),
        "USER" => one(&flags, rest, escape).map(Instruction::User),
        "STOPSIGNAL" => one(&flags, rest, escape).map(Instruction::StopSignal),
        "EXPOSE" => flags.only(&[]).and_then(|()| split(rest)).map(Instruction::Expose),
        "VOLUME" => {
            flags.only(&[])?;
            match form(rest) {
                Form::Exec(paths) => Ok(Instruction::Volume(paths)),
                Form::Shell(text) => split(&text).map(Instruction::Volume),
            }
        }
        "SHELL" => match flags.only(&[]).map(|()| form(rest))? {
            Form::Exec(argv) if !argv.is_empty() => Ok(Instruction::Shell(argv)),
            _ => Err("SHELL needs the exec form (hint: SHELL [\"/bin/sh\", \"-c\"])".into()),
        },
        "HEALTHCHECK" => healthcheck(&flags, rest),
        "MAINTAINER" => {
            Ok(Instruction::Label(vec![("maintainer".into(), format!("'{}'", rest.replace('\'', "")))]))
        }
        other => Err(format!("unknown instruction {other:?} (hint: known are {KNOWN})")),
    }
}

/// Flags of an instruction: `--name=value` before anything else.
struct Flags<'a> {
    keyword: &'a str,
    flags: Vec<(String, Option<String>)>,
}

impl Flags<'_> {
    fn only(&self, known: &[&str]) -> std::result::Result<(), String> {
        match self.flags.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) if known.is_empty() => {
                Err(format!("{} takes no flag, but --{name} was given", self.keyword))
            }
            Some((name, _)) => {
                let known: Vec<String> = known.iter().map(|name| format!("--{name}")).collect();
                Err(format!("{}: unknown flag --{name} (hint: known are {})", self.keyword, known.join(", ")))
            }
        }
    }

    /// `--name`, `--name=true`, `--name=false`.
    fn switch(&self, wanted: &str) -> std::result::Result<Option<bool>, String> {
        match self.flags.iter().rev().find(|(name, _)| name == wanted) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            Some((_, Some(value))) => match value.to_ascii_lowercase().as_str() {
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                _ => Err(format!("{}: --{wanted} is true or false, not {value:?}", self.keyword)),
            },
        }
    }

    fn all(&self, wanted: &str) -> impl Iterator<Item = &str> {
        let same = move |(name, value): &'_ &(String, Option<String>)| name == wanted && value.is_some();
        self.flags.iter().filter(same).map(|(_, value)| value.as_deref().unwrap_or_default())
    }

    fn get(&self, wanted: &str) -> std::result::Result<Option<String>, String> {
        match self.flags.iter().find(|(name, _)| name == wanted) {
            None => Ok(None),
            Some((_, Some(value))) if !value.is_empty() => Ok(Some(value.clone())),
            Some(_) => Err(format!("{}: --{wanted} needs a value", self.keyword)),
        }
    }
}

fn split_flags(mut rest: &str) -> (Vec<(String, Option<String>)>, &str) {
    let mut flags = Vec::new();
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        match flag.split_once('=') {
            Some((name, value)) => flags.push((name.to_owned(), Some(value.to_owned()))),
            None => flags.push((flag.to_owned(), None)),
        }
        rest = after.trim_start();
    }
    (flags, rest)
}

/// The exec form is a JSON array of texts; anything else is for the shell.
fn form(rest: &str) -> Form {
    if rest.starts_with('[')
        && let Ok(argv) = serde_json::from_str(rest)
    {
        return Form::Exec(argv);
    }
    Form::Shell(rest.to_owned())
}

fn one(flags: &Flags<'_>, rest: &str, escape: char) -> std::result::Result<String, String> {
    flags.only(&[])?;
    let mut found = words(rest, escape)?;
    match (found.pop(), found.is_empty()) {
        (Some(word), true) => Ok(word),
        _ => Err(format!("{} takes exactly one argument", flags.keyword)),
    }
}

fn from(flags: &Flags<'_>, rest: &str) -> std::result::Result<Instruction, String> {
    flags.only(&["platform"])?;
    let parts: Vec<&str> = rest.split_whitespace().collect();
    let name = match parts.as_slice() {
        [_] => None,
        [_, by, name] if by.eq_ignore_ascii_case("as") => Some(name.to_ascii_lowercase()),
        _ => return Err("FROM is written FROM image, or FROM image AS name".into()),
    };
    if let Some(name) = &name {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fits) {
            return Err(format!(
                "the stage name {name:?} must begin with a letter and hold letters, digits, _ . -"
            ));
        }
    }
    Ok(Instruction::From { image: parts[0].to_owned(), name, platform: flags.get("platform")? })
}

fn checked_name(keyword: &str, name: String) -> std::result::Result<String, String> {
    if name.is_empty() || name.contains(['\'', '"']) || (keyword != "LABEL" && name.contains('$')) {
        return Err(format!("{keyword}: {name:?} is no name"));
    }
    Ok(name)
}

/// `a=b c="d e"`, or the old form `name the rest is the value`.
fn pairs(keyword: &str, rest: &str, escape: char) -> std::result::Result<Vec<(String, String)>, String> {
    let found = words(rest, escape).map_err(|reason| format!("{keyword}: {reason}"))?;
    if let Some(first) = found.first()
        && !first.contains('=')
    {
        let value = rest[first.len()..].trim();
        if value.is_empty() {
            return Err(format!("{keyword} is written {keyword} name=value"));
        }
        return Ok(vec![(checked_name(keyword, first.clone())?, value.to_owned())]);
    }
    found
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) => {
                let name = name.trim_matches(['"', '\'']).to_owned();
                checked_name(keyword, name).map(|name| (name, value.to_owned()))
            }
            None => Err(format!("{keyword}: {word:?} has no = (hint: quote values that hold blanks)")),
        })
        .collect()
}

fn copy(
    flags: &Flags<'_>,
    rest: &str,
    texts: Vec<Heredoc>,
    escape: char,
) -> std::result::Result<Copy, String> {
    let add = flags.keyword == "ADD";
    flags.only(if add {
        &["chown", "chmod", "link", "exclude", "checksum", "unpack", "keep-git-dir"]
    } else {
        &["chown", "chmod", "from", "link", "parents", "exclude"]
    })?;
    let mut sources = match form(rest) {
        Form::Exec(list) => list,
        Form::Shell(text) => words(&text, escape)?,
    };
    if !texts.is_empty() {
        sources.retain(|word| super::announcement(word).is_none());
    }
    let target = sources.pop().filter(|_| !sources.is_empty() || !texts.is_empty());
    let target =
        target.ok_or_else(|| format!("{} needs at least one source and a destination", flags.keyword))?;
    let from = flags.get("from")?;
    if from.is_some() && !texts.is_empty() {
        return Err("COPY: a here-document does not come --from anywhere".into());
    }
    refuse_variable(flags.keyword, from.as_deref())?;
    Ok(Copy {
        add,
        sources,
        texts,
        target,
        chown: flags.get("chown")?,
        chmod: flags.get("chmod")?,
        from,
        link: flags.switch("link")?.unwrap_or(false),
        parents: flags.switch("parents")?.unwrap_or(false),
        exclude: flags.all("exclude").map(str::to_owned).collect(),
        checksum: flags.get("checksum")?,
        keep_git: flags.switch("keep-git-dir")?.unwrap_or(false),
        unpack: flags.switch("unpack")?,
    })
}

/// Which stages are needed must be known before any argument is.
pub(super) fn refuse_variable(keyword: &str, from: Option<&str>) -> std::result::Result<(), String> {
    match from {
        Some(from) if from.contains('$') => Err(format!(
            "{keyword}: variables are not put into from={from} (hint: FROM {from} AS name, and from=name)"
        )),
        _ => Ok(()),
    }
}

fn run(flags: &Flags<'_>, rest: &str, heredocs: Vec<Heredoc>) -> std::result::Result<Run, String> {
    flags.only(&["network", "mount", "security"])?;
    let network = flags.get("network")?;
    if let Some(network) = &network
        && !matches!(network.as_str(), "none" | "host" | "default")
    {
        return Err(format!("RUN: --network={network} is not known (hint: none, host or default)"));
    }
    if flags.get("security")?.is_some_and(|mode| mode != "sandbox") {
        return Err("RUN: steps always run in the sandbox (hint: leave --security out)".into());
    }
    let mounts = flags.all("mount").map(super::mount::mount).collect::<std::result::Result<Vec<_>, _>>()?;
    let alone = heredocs.len() == 1 && rest.split_whitespace().count() == 1;
    let (form, script) = match (form(rest), heredocs.into_iter()) {
        (Form::Exec(argv), _) if argv.is_empty() => return Err("RUN needs a command".into()),
        (Form::Shell(_), mut texts) if alone => {
            let content = texts.next().map(|text| text.content).unwrap_or_default();
            let script = content.starts_with("#!").then(|| content.clone());
            (Form::Shell(content), script)
        }
        // The shell reads its here-documents itself.
        (Form::Shell(command), texts) if texts.len() > 0 => {
            let raw: String = texts.map(|text| text.raw).collect();
            (Form::Shell(format!("{command}\n{raw}")), None)
        }
        (form, _) => (form, None),
    };
    Ok(Run { form, script, network, mounts })
}

fn onbuild(
    flags: &Flags<'_>,
    rest: &str,
    heredocs: &[Heredoc],
    escape: char,
) -> std::result::Result<Instruction, String> {
    flags.only(&[])?;
    let mut text = rest.to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(&heredoc.raw);
    }
    super::trigger(&text, escape)?;
    Ok(Instruction::OnBuild(text))
}

fn healthcheck(flags: &Flags<'_>, rest: &str) -> std::result::Result<Instruction, String> {
    flags.only(&["interval", "timeout", "start-period", "start-interval", "retries"])?;
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = match (kind.to_ascii_uppercase().as_str(), form(command.trim())) {
        ("NONE", _) => vec!["NONE".to_owned()],
        ("CMD", Form::Exec(argv)) if !argv.is_empty() => [vec!["CMD".to_owned()], argv].concat(),
        ("CMD", Form::Shell(text)) if !text.is_empty() => vec!["CMD-SHELL".to_owned(), text],
        _ => return Err("HEALTHCHECK is written HEALTHCHECK [flags] CMD command, or HEALTHCHECK NONE".into()),
    };
    let time = |name: &str| flags.get(name)?.map_or(Ok(0), |text| duration(&text));
    let retries = flags.get("retries")?.map_or(Ok(0), |text| {
        text.parse().map_err(|_| format!("HEALTHCHECK: --retries={text} is no number"))
    });
    Ok(Instruction::Healthcheck(Healthcheck {
        test,
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries: retries?,
    }))
}

/// Go's durations: `1m30s`, `500ms`, `1.5h`. Nanoseconds.
fn duration(text: &str) -> std::result::Result<i64, String> {
    let bad = || format!("{text:?} is no duration (hint: 30s, 1m30s, 500ms)");
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(bad()),
            };
        rest = &rest[unit..];
    }
    if text.is_empty() || !(0.0..9e18).contains(&total) {
        return Err(bad());
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    Ok(total as i64)
}
