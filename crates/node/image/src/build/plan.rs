//! What a Dockerfile asks for, before anything is done: stages, what they need, and in which order they may run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::expand::expand;
use super::parse::{Dockerfile, Instruction, Line, MountKind};
use crate::error::{Error, Result};
use crate::oci::Platform;

/// Arguments that need no `ARG` before the first `FROM`: platforms of the build and of its result.
pub(super) fn platform_args(build: &Platform, target: &Platform) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (prefix, platform) in [("TARGET", target), ("BUILD", build)] {
        args.insert(format!("{prefix}PLATFORM"), platform.to_string());
        args.insert(format!("{prefix}OS"), platform.os.clone());
        args.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        args.insert(format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default());
    }
    args
}

/// What is known before.
pub(super) struct Given<'a> {
    pub(super) file: &'a std::path::Path,
    pub(super) build: &'a Platform,
    pub(super) target: &'a Platform,
    pub(super) args: &'a dyn Fn(&str) -> Option<String>,
    /// The stage that is wanted; the last when absent.
    pub(super) stage: Option<&'a str>,
}

/// Lines of one stage: its `FROM` and what follows.
pub(super) struct Part {
    pub(super) name: Option<String>,
    pub(super) image: String,
    pub(super) platform: Platform,
    pub(super) lines: Vec<Line>,
    /// Earlier stages that it needs.
    pub(super) needs: BTreeSet<usize>,
    /// Number of its first step.
    pub(super) first: usize,
}

/// A whole build.
pub(super) struct Plan {
    pub(super) file: PathBuf,
    pub(super) escape: char,
    /// Arguments from before the first `FROM`.
    pub(super) globals: BTreeMap<String, String>,
    /// Their names, and those of the platform.
    pub(super) used: BTreeSet<String>,
    pub(super) parts: Vec<Part>,
    /// The stage that becomes the image.
    pub(super) target: usize,
    /// Stages that it needs, itself included.
    pub(super) needed: BTreeSet<usize>,
    /// How many steps there are.
    pub(super) steps: usize,
}

impl Plan {
    pub(super) fn new(dockerfile: &Dockerfile, given: &Given<'_>) -> Result<Self> {
        let mut plan = Self {
            file: given.file.to_owned(),
            escape: dockerfile.escape,
            globals: platform_args(given.build, given.target),
            used: BTreeSet::new(),
            parts: Vec::new(),
            target: 0,
            needed: BTreeSet::new(),
            steps: 0,
        };
        for line in &dockerfile.lines {
            plan.line(line, given)?;
        }
        for at in 0..plan.parts.len() {
            plan.parts[at].needs = plan.needs(at)?;
        }
        plan.target = match given.stage {
            None => plan.parts.len().saturating_sub(1),
            Some(name) => plan.find(plan.parts.len(), name).ok_or_else(|| plan.no_stage(name))?,
        };
        let mut todo = vec![plan.target];
        while let Some(at) = todo.pop() {
            if plan.needed.insert(at) {
                todo.extend(&plan.parts[at].needs);
            }
        }
        for at in plan.needed.clone() {
            plan.parts[at].first = plan.steps + 1;
            plan.steps += plan.parts[at].lines.len();
        }
        Ok(plan)
    }

    fn line(&mut self, line: &Line, given: &Given<'_>) -> Result<()> {
        match (&line.instruction, self.parts.last_mut()) {
            (Instruction::From { image, name, platform }, _) => {
                let image = self.global(line, image)?;
                if image.is_empty() {
                    let hint = "(hint: give the ARG a default, or --build-arg)";
                    return Err(self.wrong(line, format!("FROM is empty after variables were put in {hint}")));
                }
                let platform = match platform {
                    None => given.target.clone(),
                    Some(word) => {
                        let text = self.global(line, word)?;
                        let bad = || self.wrong(line, format!("{text:?} is no platform (hint: linux/amd64)"));
                        Platform::parse(&text).ok_or_else(bad)?
                    }
                };
                self.parts.push(Part {
                    name: name.clone(),
                    image,
                    platform,
                    lines: vec![line.clone()],
                    needs: BTreeSet::new(),
                    first: 0,
                });
            }
            (_, Some(part)) => part.lines.push(line.clone()),
            (Instruction::Arg(args), None) => {
                for (name, default) in args {
                    let default = default.as_ref().map(|word| self.global(line, word)).transpose()?;
                    if let Some(value) = (given.args)(name).or(default) {
                        self.globals.insert(name.clone(), value);
                    }
                    self.used.insert(name.clone());
                }
            }
            (_, None) => return Err(self.wrong(line, "the first instruction must be FROM")),
        }
        Ok(())
    }

    fn global(&self, line: &Line, word: &str) -> Result<String> {
        expand(word, self.escape, &|name| self.globals.get(name).cloned())
            .map_err(|reason| self.wrong(line, reason))
    }

    /// Earlier stages that a stage names.
    fn needs(&self, at: usize) -> Result<BTreeSet<usize>> {
        let mut needs: BTreeSet<usize> = self.find(at, &self.parts[at].image).into_iter().collect();
        for line in &self.parts[at].lines {
            for from in froms(&line.instruction) {
                match self.find(at, from) {
                    Some(other) => drop(needs.insert(other)),
                    None if self.find(self.parts.len(), from).is_some() => {
                        return Err(self.wrong(
                            line,
                            format!("--from={from} names a stage that comes later (hint: put it before)"),
                        ));
                    }
                    None => {}
                }
            }
        }
        Ok(needs)
    }

    /// A stage by name or number, among those before `before`.
    pub(super) fn find(&self, before: usize, name: &str) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let by_name = self.parts[..before].iter().rposition(|part| part.name.as_deref() == Some(&lower));
        by_name.or_else(|| name.parse().ok().filter(|at| *at < before))
    }

    fn no_stage(&self, name: &str) -> Error {
        let names: Vec<&str> = self.parts.iter().filter_map(|part| part.name.as_deref()).collect();
        let hint = match names.as_slice() {
            [] => "stages are named by FROM image AS name".to_owned(),
            names => format!("there are {}", names.join(", ")),
        };
        let reason = format!("there is no stage {name:?} (hint: {hint})");
        Error::Dockerfile { file: self.file.clone(), line: 1, reason }
    }

    pub(super) fn wrong(&self, line: &Line, reason: impl Into<String>) -> Error {
        Error::Dockerfile { file: self.file.clone(), line: line.number, reason: reason.into() }
    }
}

/// What an instruction takes files from, as written.
fn froms(instruction: &Instruction) -> Vec<&str> {
    match instruction {
        Instruction::Copy(copy) => copy.from.as_deref().into_iter().collect(),
        Instruction::Run(run) => {
            let from = run.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => from.as_deref(),
                _ => None,
            });
            from.collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, stage: Option<&str>) -> Result<Plan> {
        let host = Platform::parse("linux/amd64").unwrap();
        let other = Platform::parse("linux/arm/v7").unwrap();
        let args = |name: &str| (name == "GIVEN").then(|| "given".to_owned());
        let given = Given { file: "Dockerfile".as_ref(), build: &host, target: &other, args: &args, stage };
        Plan::new(&super::super::parse::parse(text).unwrap(), &given)
    }

    #[test]
    fn stages_and_what_they_need() {
        let text = "ARG GIVEN=d\nARG OTHER=${GIVEN}-x\nFROM --platform=$BUILDPLATFORM base:$OTHER AS a\nRUN x\n\
            FROM a AS b\nFROM scratch AS unused\nFROM img-$TARGETARCH$TARGETVARIANT\nCOPY --from=1 x x\n\
            RUN --mount=from=a,target=/x y\n";
        let all = plan(text, None).unwrap();
        assert_eq!((all.parts[0].image.as_str(), all.parts[3].image.as_str()), ("base:given-x", "img-armv7"));
        assert_eq!(all.parts[0].platform.to_string(), "linux/amd64");
        assert_eq!(all.parts[3].platform.to_string(), "linux/arm/v7");
        assert_eq!(all.parts[3].needs, BTreeSet::from([0, 1]));
        assert_eq!((all.needed.len(), all.steps, all.parts[3].first), (3, 6, 4));
        assert_eq!(plan(text, Some("B")).unwrap().needed, BTreeSet::from([0, 1]));
        assert_eq!(plan(text, Some("2")).unwrap().needed, BTreeSet::from([2]));
        let error = plan(text, Some("none")).err().unwrap().to_string();
        assert!(error.contains("there are a, b, unused"), "{error}");
    }

    #[test]
    fn mistakes() {
        for (text, reason) in [
            ("FROM $NONE", "Dockerfile:1: FROM is empty"),
            ("FROM --platform=x a", "\"x\" is no platform"),
            ("FROM a\nRUN --mount=from=b,target=/x y\nFROM a AS b", "Dockerfile:2: --from=b names a stage"),
            ("FROM ${X:?give-X}", "variable X: give-X"),
        ] {
            let error = plan(text, None).err().unwrap().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
