//! Talking to a person: data on stdout, talk on stderr; tables, steps and progress bars.

use std::{
    collections::HashMap,
    io::{IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use sampan_image::{LayerState, Progress, ProgressFn};
use serde::Serialize;

use crate::cli::Format;

/// Print `value` as JSON or YAML, or call `text` for people.
pub(crate) fn print<T: Serialize>(format: Format, value: &T, text: impl FnOnce() -> String) -> Result<()> {
    let out = match format {
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(value)?,
        Format::Text | Format::Wide => text(),
    };
    write(&out)
}

/// Write to stdout; a reader that went away is no error.
pub(crate) fn write(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Columns that line up, as kubectl prints them.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("   ").trim_end().to_owned() + "\n"
    };
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let mut out = line(&header);
    rows.iter().for_each(|row| out += &line(row));
    out
}

/// Bytes as people read them.
pub(crate) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// Progress bars for layers on a terminal; a line a layer elsewhere.
pub(crate) fn layer_progress() -> ProgressFn {
    let terminal = std::io::stderr().is_terminal();
    let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    let known: Mutex<HashMap<String, ProgressBar>> = Mutex::default();
    let style = ProgressStyle::with_template("{prefix:>14} {wide_bar} {bytes:>10}/{total_bytes:10} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    Arc::new(move |event| match event {
        Progress::Resolved { reference, digest, layers, bytes: size } => {
            let line = format!("{reference}: {layers} layers, {}, {digest}", bytes(size));
            if terminal { bars.println(line).unwrap_or_default() } else { eprintln!("{line}") }
        }
        Progress::Layer { digest, done, total, state } => {
            let short = digest.to_string().chars().skip(7).take(12).collect::<String>();
            let word = match state {
                LayerState::Downloading => "downloading",
                LayerState::Uploading => "uploading",
                LayerState::Unpacking => "unpacking",
                LayerState::Done => "done",
                LayerState::Exists => "exists",
            };
            let finished = matches!(state, LayerState::Done | LayerState::Exists);
            if !terminal {
                if finished {
                    eprintln!("{short}: {word}");
                }
                return;
            }
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let bar = known.entry(short.clone()).or_insert_with(|| {
                bars.add(ProgressBar::new(total.unwrap_or(0)).with_style(style.clone()).with_prefix(short))
            });
            bar.set_length(total.unwrap_or(done));
            bar.set_position(done);
            bar.set_message(word);
            if finished {
                bar.finish();
            }
        }
    })
}

/// Waits until somebody wants this process to end: Ctrl-C, or SIGTERM.
///
/// # Errors
/// Signals cannot be waited for.
pub(crate) async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_without_trailing_blanks() {
        let rows = [vec!["a".into(), "1".into()], vec!["long name".into(), String::new()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME        N\na           1\nlong name\n");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500), "1.5 kB");
        assert_eq!(bytes(2_000_000_000), "2.0 GB");
    }
}
