//! Instructions that change the config alone.

use super::expand::expand;
use super::parse::{Form, Instruction};
use super::stage::Stage;
use crate::oci::Empty;

/// Names that may be given as build arguments without an `ARG`.
pub(crate) const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

impl Stage {
    /// Put variables in: `ENV` wins over `ARG`.
    pub(crate) fn expand(&self, word: &str, escape: char) -> Result<String, String> {
        expand(word, escape, &|name| self.env(name).or_else(|| self.args.get(name).cloned()))
    }

    fn expand_all(&self, words: &[String], escape: char) -> Result<Vec<String>, String> {
        words.iter().map(|word| self.expand(word, escape)).collect()
    }

    /// Apply an instruction that makes no layer. `given` are build arguments, `global` those before `FROM`.
    pub(crate) fn apply(
        &mut self,
        instruction: &Instruction,
        escape: char,
        argument: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), String> {
        match instruction {
            Instruction::Arg(args) => {
                for (name, default) in args {
                    let default = default.as_ref().map(|word| self.expand(word, escape)).transpose()?;
                    if let Some(value) = argument(name).or(default) {
                        self.args.insert(name.clone(), value);
                    }
                }
            }
            Instruction::Env(pairs) => {
                // All values of one line see the state before it.
                let values: Vec<String> =
                    pairs.iter().map(|(_, word)| self.expand(word, escape)).collect::<Result<_, _>>()?;
                for ((name, _), value) in pairs.iter().zip(values) {
                    self.set_env(name, &value);
                }
            }
            Instruction::Label(pairs) => {
                for (name, word) in pairs {
                    let (name, value) = (self.expand(name, escape)?, self.expand(word, escape)?);
                    self.config.labels.get_or_insert_default().insert(name, value);
                }
            }
            Instruction::Cmd(form) => {
                self.config.cmd = Some(self.argv(form));
                self.own_cmd = true;
            }
            Instruction::Entrypoint(form) => {
                self.config.entrypoint = Some(self.argv(form)).filter(|argv| !argv.is_empty());
                if !self.own_cmd {
                    self.config.cmd = None;
                }
            }
            Instruction::User(word) => {
                let user = self.expand(word, escape)?;
                if user.is_empty() {
                    return Err("USER is empty after variables were put in".into());
                }
                self.config.user = Some(user);
            }
            Instruction::Expose(words) => {
                for port in self.expand_all(words, escape)? {
                    for port in ports(&port)? {
                        self.config.exposed_ports.get_or_insert_default().insert(port, Empty {});
                    }
                }
            }
            Instruction::Volume(words) => {
                for path in self.expand_all(words, escape)? {
                    if path.is_empty() {
                        return Err("VOLUME is empty after variables were put in".into());
                    }
                    self.config.volumes.get_or_insert_default().insert(path, Empty {});
                }
            }
            Instruction::StopSignal(word) => {
                let signal = self.expand(word, escape)?;
                check_signal(&signal)?;
                self.config.stop_signal = Some(signal);
            }
            Instruction::Shell(argv) => self.config.shell = Some(argv.clone()),
            Instruction::Healthcheck(check) => self.config.healthcheck = Some(check.clone()),
            Instruction::OnBuild(text) => {
                self.config.on_build.get_or_insert_default().push(text.clone());
            }
            _ => {}
        }
        Ok(())
    }

    /// The command line of a form; an empty exec form is empty.
    pub(crate) fn argv(&self, form: &Form) -> Vec<String> {
        match form {
            Form::Exec(argv) => argv.clone(),
            Form::Shell(text) if text.is_empty() => Vec::new(),
            Form::Shell(text) => [self.shell(), vec![text.clone()]].concat(),
        }
    }
}

/// `80`, `80/udp`, `8000-8003/tcp`.
fn ports(text: &str) -> Result<Vec<String>, String> {
    let bad = || format!("{text:?} is no port (hint: 80, 80/udp, or 8000-8003/tcp)");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first == 0 || last < first {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn check_signal(text: &str) -> Result<(), String> {
    let name = if text.starts_with("SIG") { text.to_owned() } else { format!("SIG{text}") };
    let number = text.parse::<i32>().is_ok_and(|number| (1..=64).contains(&number));
    let realtime = name.starts_with("SIGRTMIN") || name.starts_with("SIGRTMAX");
    if number || realtime || name.parse::<nix::sys::signal::Signal>().is_ok() {
        return Ok(());
    }
    Err(format!("{text:?} is no signal (hint: SIGTERM, TERM or 15)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_grows() {
        let file = super::super::parse::parse(
            "FROM scratch\nARG V=1\nENV A=$V B=$A\nENV A=2 B=x$A\nLABEL a.$A=\"$B\"\nCMD [\"x\"]\nENTRYPOINT run $A\nEXPOSE 80 90-91/udp\nSTOPSIGNAL INT\nSHELL [\"/bin/bash\",\"-ec\"]\nCMD y",
        )
        .unwrap();
        let mut stage = Stage::scratch(&crate::oci::Platform::host());
        for line in &file.lines {
            stage.apply(&line.instruction, '\\', &|name| (name == "V").then(|| "7".into())).unwrap();
        }
        assert_eq!(stage.config.env.unwrap(), ["A=2", "B=x7"]);
        assert_eq!(stage.config.labels.unwrap()["a.2"], "x7");
        assert_eq!(stage.config.entrypoint.unwrap(), ["/bin/sh", "-c", "run $A"]);
        assert_eq!(stage.config.cmd.unwrap(), ["/bin/bash", "-ec", "y"]);
        assert_eq!(
            stage.config.exposed_ports.unwrap().into_keys().collect::<Vec<_>>(),
            ["80/tcp", "90/udp", "91/udp"]
        );
        assert!(ports("0").is_err() && ports("9-8").is_err() && ports("80/x").is_err());
        assert!(
            check_signal("NOPE").is_err() && check_signal("9").is_ok() && check_signal("SIGRTMIN+3").is_ok()
        );
    }
}
