//! The Dockerfile: lines, comments, continuations, here-documents. Variables are put in later.

mod arguments;
mod model;
mod mount;

use std::path::Path;

pub(crate) use model::{Copy, Dockerfile, Form, Heredoc, Instruction, Line, MountKind, Run, Sharing};

use super::expand::words;
use crate::error::{Error, Result};

/// A Dockerfile larger than this is refused.
const MAX_BYTES: u64 = 4 << 20;
/// Instructions of one Dockerfile.
const MAX_LINES: usize = 20_000;

/// Read and parse a file.
pub(crate) fn read(path: &Path) -> Result<Dockerfile> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    // Not its size: it may be a pipe, or grow.
    std::fs::File::open(path)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::archive(path, "there is no such Dockerfile (hint: name it with --file)")
            }
            _ => Error::io("open", path)(error),
        })?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::Limit { what: path.display().to_string(), limit: MAX_BYTES, unit: "bytes" });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Error::Dockerfile { file: path.to_owned(), line, reason: "the file is not UTF-8 text".into() }
    })?;
    parse(&text).map_err(|(line, reason)| Error::Dockerfile { file: path.to_owned(), line, reason })
}

/// Line and reason.
type Failure = (usize, String);

pub(crate) fn parse(text: &str) -> std::result::Result<Dockerfile, Failure> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape_directive(text)?;
    let lines = lines(text, escape)?;
    let first = lines.iter().find(|line| !matches!(line.instruction, Instruction::Arg(_)));
    match first {
        None => Err((1, "the Dockerfile has no FROM instruction".into())),
        Some(Line { instruction: Instruction::From { .. }, .. }) => Ok(Dockerfile { escape, lines }),
        Some(line) => {
            Err((line.number, "the first instruction must be FROM (only ARG may stand before it)".into()))
        }
    }
}

/// What `ONBUILD` of a base image says, as one instruction.
pub(crate) fn trigger(text: &str, escape: char) -> std::result::Result<Line, String> {
    let mut found = lines(text, escape).map_err(|(_, reason)| reason)?;
    match (found.pop(), found.is_empty()) {
        (Some(line), true) => match line.instruction {
            Instruction::OnBuild(_) | Instruction::From { .. } => {
                Err("ONBUILD cannot hold FROM or another ONBUILD".into())
            }
            _ => Ok(line),
        },
        _ => Err("ONBUILD needs exactly one instruction".into()),
    }
}

fn lines(text: &str, escape: char) -> std::result::Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    let mut current: Option<(usize, String)> = None;
    let mut rows = text.lines().enumerate();
    while let Some((index, raw)) = rows.next() {
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
        let mut next = || rows.next().map(|(_, row)| row);
        finish(&mut lines, number, &joined, escape, &mut next)?;
    }
    if let Some((number, joined)) = current {
        finish(&mut lines, number, &joined, escape, &mut || None)?;
    }
    Ok(lines)
}

fn finish<'a>(
    lines: &mut Vec<Line>,
    number: usize,
    text: &str,
    escape: char,
    next: &mut dyn FnMut() -> Option<&'a str>,
) -> std::result::Result<(), Failure> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(());
    }
    if lines.len() >= MAX_LINES {
        return Err((number, format!("more than {MAX_LINES} instructions")));
    }
    let heredocs = heredocs(text, escape, next).map_err(|reason| (number, reason))?;
    let instruction = arguments::instruction(text, heredocs, escape).map_err(|reason| (number, reason))?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.push(Line { number, text, instruction });
    Ok(())
}

/// Bodies of the here-documents that a line of `RUN`, `COPY`, `ADD` (or `ONBUILD` with these) announces.
fn heredocs<'a>(
    text: &str,
    escape: char,
    next: &mut dyn FnMut() -> Option<&'a str>,
) -> std::result::Result<Vec<Heredoc>, String> {
    let mut heads = text.split_whitespace().map(str::to_ascii_uppercase);
    let mut head = heads.next().unwrap_or_default();
    if head == "ONBUILD" {
        head = heads.next().unwrap_or_default();
    }
    if !matches!(head.as_str(), "RUN" | "COPY" | "ADD") || !text.contains("<<") {
        return Ok(Vec::new());
    }
    // What cannot be split into words is the shell's own business.
    let found = words(text, escape).unwrap_or_default();
    let announced: Vec<Heredoc> = found.iter().filter_map(|word| announcement(word)).collect();
    announced
        .into_iter()
        .map(|mut heredoc| {
            while let Some(row) = next() {
                heredoc.raw.push_str(row);
                heredoc.raw.push('\n');
                let row = if heredoc.chomp { row.trim_start_matches('\t') } else { row };
                if row == heredoc.name {
                    return Ok(heredoc);
                }
                heredoc.content.push_str(row);
                heredoc.content.push('\n');
            }
            let name = &heredoc.name;
            Err(format!("the here-document {name:?} does not end (hint: a line with {name} alone ends it)"))
        })
        .collect()
}

/// `<<EOF`, `<<-EOF`, `<<"EOF"`, `3<<EOF`.
fn announcement(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let name: String = rest.chars().filter(|c| !matches!(c, '\'' | '"')).collect();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || !name.chars().all(fits) {
        return None;
    }
    let expand = name.len() == rest.len();
    Some(Heredoc { name, expand, chomp, content: String::new(), raw: String::new() })
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
            // One language is understood, whatever frontend is asked for.
            "syntax" | "check" => {}
            _ => break,
        }
    }
    Ok('\\')
}

#[cfg(test)]
mod tests;
