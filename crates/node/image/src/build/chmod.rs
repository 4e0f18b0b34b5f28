//! `--chmod`: octal, or symbolic as chmod(1) has it.

/// A change of modes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chmod {
    Exact(u32),
    Clauses(Vec<Clause>),
}

/// `u+rX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Bits that it may touch.
    who: u32,
    operator: char,
    bits: u32,
    /// `X`: execution where somebody has it, and of directories.
    conditional: bool,
}

impl Chmod {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("--chmod={text} is no mode (hint: --chmod=755, or u=rwX,go=rX)");
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return mode.map(Chmod::Exact).ok_or_else(bad);
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '=']).ok_or_else(bad)?;
            let mut who = 0;
            for letter in clause[..at].chars() {
                who |= match letter {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return Err(bad()),
                };
            }
            let (mut bits, mut conditional) = (0, false);
            for letter in clause[at + 1..].chars() {
                match letter {
                    'r' => bits |= 0o444,
                    'w' => bits |= 0o222,
                    'x' => bits |= 0o111,
                    'X' => conditional = true,
                    's' => bits |= 0o6000,
                    't' => bits |= 0o1000,
                    _ => return Err(bad()),
                }
            }
            let operator = clause.as_bytes()[at].into();
            clauses.push(Clause { who: if who == 0 { 0o7777 } else { who }, operator, bits, conditional });
        }
        Ok(Chmod::Clauses(clauses))
    }

    /// The mode of a file that had `mode`.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        let clauses = match self {
            Chmod::Exact(mode) => return *mode,
            Chmod::Clauses(clauses) => clauses,
        };
        clauses.iter().fold(mode & 0o7777, |mode, clause| {
            let some = directory || mode & 0o111 != 0;
            let bits = clause.bits | if clause.conditional && some { 0o111 } else { 0 };
            // The sticky bit is nobody's in particular.
            let bits = bits & (clause.who | if clause.bits & 0o1000 != 0 { 0o1000 } else { 0 });
            match clause.operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                _ => mode & !(clause.who & 0o777) & !(bits & 0o7000) | bits,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, mode, directory, expected) in [
            ("755", 0o600, false, 0o755),
            ("04711", 0, false, 0o4711),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o755, false, 0o700),
            ("u+s", 0o755, false, 0o4755),
            ("+t", 0o777, true, 0o1777),
        ] {
            assert_eq!(Chmod::parse(text).unwrap().apply(mode, directory), expected, "{text} {mode:o}");
        }
        for bad in ["9", "77777", "u", "x+r", "u+q", "", "u=r;o=w"] {
            assert!(Chmod::parse(bad).unwrap_err().contains("hint"), "{bad}");
        }
    }
}
