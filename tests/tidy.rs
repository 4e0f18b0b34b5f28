//! Rules of STYLE.md that a compiler does not check: sizes, file names, no bare spawns, a product that speaks of
//! itself alone.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

const MAX_FILE_LINES: usize = 800;
const MAX_FUNCTION_LINES: usize = 100;

/// Cargo runs tests in their package's folder. What was compiled elsewhere may be kept between checkouts.
fn root() -> &'static Path {
    Path::new(".")
}

/// Every Rust file of ours, relative to the root.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue: Vec<PathBuf> =
        ["src", "crates", "tests", "benches"].iter().map(|d| root().join(d)).collect();
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    assert!(found.len() > 50);
    found
}

/// Tests, and examples that measure: nothing of these ships.
fn is_tool(path: &Path) -> bool {
    path.components()
        .any(|part| ["tests", "benches", "examples"].iter().any(|tool| part.as_os_str() == *tool))
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn report(wrong: &[String], rule: &str) {
    assert!(wrong.is_empty(), "{rule}:\n  {}", wrong.join("\n  "));
}

#[test]
fn files_are_small_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = read(&path);
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            wrong.push(format!("{} has {lines} lines", path.display()));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{} does not begin with a //! line", path.display()));
        }
        if path.file_name().unwrap() == "mod.rs" {
            wrong.push(format!("{}: use foo.rs beside foo/", path.display()));
        }
    }
    report(&wrong, "files: at most 800 lines, a first line that says what it is, no mod.rs");
}

/// Counts from the line that has `fn` to the closing brace on the same indentation, as rustfmt leaves it.
#[test]
fn functions_are_small() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let trimmed = line.trim_start();
            let head = trimmed.split("fn ").next().unwrap_or_default();
            let words = ["pub", "pub(crate)", "pub(super)", "async", "unsafe", "const", "extern", "\"C\""];
            if !trimmed.contains("fn ") || !head.split_whitespace().all(|w| words.contains(&w)) {
                continue;
            }
            let close = format!("{}}}", &line[..line.len() - trimmed.len()]);
            let Some(length) = lines[start..].iter().position(|l| **l == close) else { continue };
            if length + 1 > MAX_FUNCTION_LINES {
                wrong.push(format!("{}:{} has {} lines", path.display(), start + 1, length + 1));
            }
        }
    }
    report(&wrong, "functions: at most 100 lines");
}

#[test]
fn tasks_and_threads_start_under_supervision() {
    let mut wrong = Vec::new();
    for path in sources() {
        if is_tool(&path) || path.starts_with("crates/base/daemon") {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            if line.trim_start().starts_with("#[cfg(test)]") {
                break;
            }
            if ["tokio::spawn(", "thread::spawn(", "task::spawn("].iter().any(|bare| line.contains(bare)) {
                wrong.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    report(&wrong, "no bare spawn outside sampan-daemon");
}

#[test]
fn only_the_binary_reads_the_environment() {
    let mut wrong = Vec::new();
    for path in sources() {
        if !path.starts_with("crates") || is_tool(&path) {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            if line.trim_start().starts_with("#[cfg(test)]") {
                break;
            }
            if line.contains("env::var") || line.contains("env::args") {
                wrong.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    // The re-executed zygote looks at its own first argument before main does anything.
    wrong.retain(|place| !place.starts_with("crates/node/container/src/shim"));
    // The driver of the fuzzing tests is a part of tests.
    wrong.retain(|place| !place.starts_with("crates/base/fuzz"));
    report(&wrong, "only the root binary reads the environment and arguments");
}

#[test]
fn the_readme_is_short_and_its_first_screen_has_the_two_commands() {
    let readme = read(Path::new("README.md"));
    assert!(readme.lines().count() < 100);
    let first_screen: String = readme.lines().take(24).collect::<Vec<_>>().join("\n");
    assert!(first_screen.contains("make demo") && first_screen.contains("make test"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    let mut documents =
        vec![PathBuf::from("README.md"), "ARCHITECTURE.md".into(), "STYLE.md".into(), "CHANGELOG.md".into()];
    for dir in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "md") {
                documents.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    for document in documents {
        let text = read(&document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let place = root().join(document.parent().unwrap()).join(file);
            if !place.exists() {
                wrong.push(format!("{} -> {target}", document.display()));
            }
        }
    }
    report(&wrong, "broken links");
}
