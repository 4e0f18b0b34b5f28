//! Where a build is: live on a terminal, lines elsewhere.

use std::{
    collections::{BTreeMap, VecDeque},
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use sampan_image::BuildEvent;

use crate::terminal;

/// Lines of a step's output that are shown when it fails.
const LAST_LINES: usize = 100;

/// Receives what a build says.
type Events = Arc<dyn Fn(BuildEvent) + Send + Sync>;

/// Whether somebody looks at a terminal.
pub(super) fn is_live() -> bool {
    std::io::stderr().is_terminal()
}

pub(super) fn printer(live: bool) -> Events {
    if !live {
        return Arc::new(lines);
    }
    let live =
        Live { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), steps: Mutex::default() };
    Arc::new(move |event| live.event(event))
}

/// Steps of different stages run side by side: each line says whose it is.
fn lines(event: BuildEvent) {
    match event {
        BuildEvent::Step { number, of, stage, instruction } => {
            eprintln!("[{number}/{of}] {stage}: {instruction}");
        }
        BuildEvent::Cached { number } => eprintln!("[{number}] cached"),
        BuildEvent::Output { number, line, .. } => eprintln!("[{number}]   {line}"),
        BuildEvent::Done { number, took, bytes } => {
            eprintln!("[{number}] {:.2} s, {}", took.as_secs_f64(), terminal::bytes(bytes));
        }
        BuildEvent::Warning { message } => eprintln!("warning: {message}"),
    }
}

/// A line for each running step, with what it said last.
struct Live {
    bars: MultiProgress,
    steps: Mutex<BTreeMap<usize, Step>>,
}

struct Step {
    bar: ProgressBar,
    title: String,
    cached: bool,
    output: VecDeque<String>,
}

impl Live {
    fn event(&self, event: BuildEvent) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::Step { number, of, stage, instruction } => {
                let title = format!("[{number}/{of}] {stage}: {}", first_line(&instruction));
                let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner());
                let bar = ProgressBar::new_spinner().with_style(style).with_prefix(title.clone());
                let bar = self.bars.add(bar);
                bar.enable_steady_tick(Duration::from_millis(200));
                steps.insert(number, Step { bar, title, cached: false, output: VecDeque::new() });
            }
            BuildEvent::Cached { number } => {
                if let Some(step) = steps.get_mut(&number) {
                    step.cached = true;
                }
            }
            BuildEvent::Output { number, line, .. } => {
                let Some(step) = steps.get_mut(&number) else { return };
                step.bar.set_message(line.clone());
                if step.output.len() == LAST_LINES {
                    step.output.pop_front();
                }
                step.output.push_back(line);
            }
            BuildEvent::Done { number, took, bytes } => {
                let Some(step) = steps.remove(&number) else { return };
                step.bar.finish_and_clear();
                let how = match step.cached {
                    true => "cached".to_owned(),
                    false => format!("{:.1} s, {}", took.as_secs_f64(), terminal::bytes(bytes)),
                };
                let _ = self.bars.println(format!("{} \x1b[2m{how}\x1b[0m", step.title));
            }
            BuildEvent::Warning { message } => drop(self.bars.println(format!("warning: {message}"))),
        }
    }
}

impl Drop for Live {
    /// Steps that did not end failed: what they said is what one wants to read.
    fn drop(&mut self) {
        let steps = std::mem::take(&mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner));
        for step in steps.into_values() {
            step.bar.finish_and_clear();
            eprintln!("{}", step.title);
            step.output.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}

fn first_line(text: &str) -> String {
    let mut line: String = text.chars().take(70).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}
