//! The Dockerfile: lines, comments, continuations, instructions and their flags. Variables are put in later.

use std::path::Path;

use super::expand::words;
use crate::error::{Error, Result};
use crate::oci::Healthcheck;

/// A Dockerfile larger than this is refused.
const MAX_BYTES: u64 = 4 << 20;
const KNOWN: &str = "FROM, ARG, ENV, COPY, ADD, RUN, CMD, ENTRYPOINT, WORKDIR, USER, EXPOSE, LABEL, VOLUME, \
    STOPSIGNAL, SHELL, HEALTHCHECK";

/// A parsed file.
#[derive(Debug)]
pub(crate) struct Dockerfile {
    pub(crate) escape: char,
    pub(crate) lines: Vec<Line>,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// 1-based line it begins on.
    pub(crate) number: usize,
    /// The instruction on one line.
    pub(crate) text: String,
    pub(crate) instruction: Instruction,
}

/// A command in either form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Exec(Vec<String>),
    Shell(String),
}

/// What to do; words still hold quotes and variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    From { image: String, name: Option<String>, platform: Option<String> },
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Copy(Copy),
    Run { form: Form, network: Option<String> },
    Cmd(Form),
    Entrypoint(Form),
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    Shell(Vec<String>),
    Healthcheck(Healthcheck),
}

/// `COPY` and `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) add: bool,
    pub(crate) sources: Vec<String>,
    pub(crate) target: String,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<u32>,
    pub(crate) from: Option<String>,
}

/// Read and parse a file.
pub(crate) fn read(path: &Path) -> Result<Dockerfile> {
    let size = std::fs::metadata(path).map_err(Error::io("open", path))?.len();
    if size > MAX_BYTES {
        return Err(Error::Limit { what: path.display().to_string(), limit: MAX_BYTES, unit: "bytes" });
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Error::Dockerfile { file: path.to_owned(), line, reason: "the file is not UTF-8 text".into() }
    })?;
    parse(&text).map_err(|(line, reason)| Error::Dockerfile { file: path.to_owned(), line, reason })
}

type Failure = (usize, String);

pub(crate) fn parse(text: &str) -> std::result::Result<Dockerfile, Failure> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape_directive(text)?;
    let mut lines = Vec::new();
    let mut current: Option<(usize, String)> = None;
    for (index, raw) in text.lines().enumerate() {
        let trimmed = raw.trim_start();
        if trimmed.starts_with('#') || (current.is_some() && trimmed.is_empty()) {
            continue;
        }
        let (number, mut joined) = current.take().unwrap_or((index + 1, String::new()));
        let part = if joined.is_empty() { trimmed } else { raw };
        let end = part.trim_end();
        if let Some(continued) = end.strip_suffix(escape)
            && !continued.ends_with(escape)
        {
            joined.push_str(continued);
            current = Some((number, joined));
            continue;
        }
        joined.push_str(end);
        finish(&mut lines, number, &joined, escape)?;
    }
    if let Some((number, joined)) = current {
        finish(&mut lines, number, &joined, escape)?;
    }
    let first = lines.iter().find(|line| !matches!(line.instruction, Instruction::Arg(_)));
    match first {
        None => Err((1, "the Dockerfile has no FROM instruction".into())),
        Some(Line { instruction: Instruction::From { .. }, .. }) => Ok(Dockerfile { escape, lines }),
        Some(line) => {
            Err((line.number, "the first instruction must be FROM (only ARG may stand before it)".into()))
        }
    }
}

fn finish(
    lines: &mut Vec<Line>,
    number: usize,
    text: &str,
    escape: char,
) -> std::result::Result<(), Failure> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(());
    }
    let instruction = instruction(text, escape).map_err(|reason| (number, reason))?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.push(Line { number, text, instruction });
    Ok(())
}

/// `# escape=` counts only before everything else.
fn escape_directive(text: &str) -> std::result::Result<char, Failure> {
    for (index, line) in text.lines().enumerate() {
        let Some((key, value)) = line.trim().strip_prefix('#').and_then(|comment| comment.split_once('='))
        else {
            break;
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "escape" => {
                return match value.trim() {
                    "\\" => Ok('\\'),
                    "`" => Ok('`'),
                    other => Err((index + 1, format!("escape may be \\ or `, not {other:?}"))),
                };
            }
            "syntax" | "check" => {}
            _ => break,
        }
    }
    Ok('\\')
}

fn instruction(text: &str, escape: char) -> std::result::Result<Instruction, String> {
    let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let keyword = keyword.to_ascii_uppercase();
    let (flags, rest) = split_flags(rest.trim());
    let flags = Flags { keyword: &keyword, flags };
    if rest.is_empty()
        && !matches!(keyword.as_str(), "CMD" | "ENTRYPOINT")
        && KNOWN.contains(keyword.as_str())
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
        "COPY" | "ADD" => copy(&flags, rest, escape).map(Instruction::Copy),
        "RUN" => run(&flags, rest),
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

fn copy(flags: &Flags<'_>, rest: &str, escape: char) -> std::result::Result<Copy, String> {
    let add = flags.keyword == "ADD";
    flags.only(if add { &["chown", "chmod", "link"] } else { &["chown", "chmod", "from", "link"] })?;
    if rest.contains("<<")
        && words(rest, escape).is_ok_and(|words| words.iter().any(|word| word.starts_with("<<")))
    {
        return Err(format!(
            "{}: here-documents are not supported (hint: put the text into a file)",
            flags.keyword
        ));
    }
    let mut sources = match form(rest) {
        Form::Exec(list) => list,
        Form::Shell(text) => words(&text, escape)?,
    };
    let target = sources.pop().filter(|_| !sources.is_empty());
    let target =
        target.ok_or_else(|| format!("{} needs at least one source and a destination", flags.keyword))?;
    let chmod = flags.get("chmod")?.map(|mode| {
        u32::from_str_radix(&mode, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| format!("{}: --chmod={mode} is no octal mode (hint: --chmod=755)", flags.keyword))
    });
    Ok(Copy {
        add,
        sources,
        target,
        chown: flags.get("chown")?,
        chmod: chmod.transpose()?,
        from: flags.get("from")?,
    })
}

fn run(flags: &Flags<'_>, rest: &str) -> std::result::Result<Instruction, String> {
    flags.only(&["network"])?;
    if rest.starts_with("<<") {
        return Err("RUN: here-documents are not supported (hint: join commands with && \\)".into());
    }
    let network = flags.get("network")?;
    if let Some(network) = &network
        && !matches!(network.as_str(), "none" | "host" | "default")
    {
        return Err(format!("RUN: --network={network} is not known (hint: none, host or default)"));
    }
    match form(rest) {
        Form::Exec(argv) if argv.is_empty() => Err("RUN needs a command".into()),
        form => Ok(Instruction::Run { form, network }),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Instruction {
        parse(&format!("FROM scratch\n{text}")).unwrap().lines.pop().unwrap().instruction
    }

    #[test]
    fn lines_and_forms() {
        let file = parse("# syntax=x\n# a comment\nARG V=1\nfrom base:$V as Two\nRUN a && \\\n# inside\n\n   b \\\n c\nCMD [\"x\", \"y\"]\n").unwrap();
        assert_eq!(file.lines.len(), 4);
        assert_eq!(
            file.lines[1].instruction,
            Instruction::From { image: "base:$V".into(), name: Some("two".into()), platform: None }
        );
        assert_eq!(file.lines[2].number, 5);
        assert_eq!(
            file.lines[2].instruction,
            Instruction::Run { form: Form::Shell("a &&    b  c".into()), network: None }
        );
        assert_eq!(file.lines[3].instruction, Instruction::Cmd(Form::Exec(vec!["x".into(), "y".into()])));
        let ticks = parse("# escape=`\nFROM a\nRUN x `\n y\\\nUSER b").unwrap();
        assert_eq!(
            ticks.lines[1].instruction,
            Instruction::Run { form: Form::Shell("x  y\\".into()), network: None }
        );
        assert_eq!(
            only("ENV A=1 B=\"2 3\""),
            Instruction::Env(vec![("A".into(), "1".into()), ("B".into(), "\"2 3\"".into())])
        );
        assert_eq!(only("ENV A some words"), Instruction::Env(vec![("A".into(), "some words".into())]));
        assert_eq!(only("CMD echo hi"), Instruction::Cmd(Form::Shell("echo hi".into())));
        assert_eq!(only("CMD []"), Instruction::Cmd(Form::Exec(vec![])));
        assert_eq!(only("CMD [broken"), Instruction::Cmd(Form::Shell("[broken".into())));
        let Instruction::Copy(copy) = only("COPY --chown=1:2 --chmod=755 --from=two a b /c/") else {
            panic!()
        };
        assert_eq!((copy.sources.len(), copy.target.as_str(), copy.chmod), (2, "/c/", Some(0o755)));
        let Instruction::Healthcheck(check) = only("HEALTHCHECK --interval=1m30s --retries=3 CMD curl x")
        else {
            panic!()
        };
        assert_eq!((check.interval, check.retries, check.test[0].as_str()), (90_000_000_000, 3, "CMD-SHELL"));
    }

    #[test]
    fn mistakes_have_a_line_and_a_hint() {
        for (text, line, reason) in [
            ("", 1, "no FROM"),
            ("# only\n", 1, "no FROM"),
            ("RUN x", 1, "first instruction must be FROM"),
            ("FROM a\n\nRUNN x", 3, "unknown instruction \"RUNN\" (hint"),
            ("FROM a\nONBUILD RUN x", 2, "unknown instruction"),
            ("FROM a\nCOPY --chwon=1 a b", 2, "unknown flag --chwon (hint"),
            ("FROM a\nRUN --mount=type=cache x", 2, "unknown flag --mount"),
            ("FROM a\nUSER --x y", 2, "takes no flag"),
            ("FROM a\nCOPY a", 2, "at least one source"),
            ("FROM a\nCOPY --chmod=9 a b", 2, "no octal mode"),
            ("FROM a\nENV A", 2, "name=value"),
            ("FROM a\nENV A=1 B", 2, "has no ="),
            ("FROM a\nENV A='1", 2, "not closed"),
            ("FROM a\nUSER a b", 2, "exactly one"),
            ("FROM a b", 1, "FROM image AS name"),
            ("FROM a AS 1x", 1, "stage name"),
            ("FROM a\nSHELL sh", 2, "exec form"),
            ("FROM a\nHEALTHCHECK --interval=x CMD y", 2, "no duration"),
            ("FROM a\nRUN <<EOF\necho\nEOF", 2, "here-documents"),
            ("FROM a\nWORKDIR", 2, "needs an argument"),
            ("# escape=x\nFROM a", 1, "escape may be"),
            ("FROM a\nRUN x \\", 0, ""),
        ] {
            match parse(text) {
                Err((at, message)) => {
                    assert!(at == line && message.contains(reason), "{text:?}: {at}: {message}")
                }
                Ok(_) => assert_eq!(line, 0, "{text:?} was accepted"),
            }
        }
    }
}
