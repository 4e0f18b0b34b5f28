//! Words, quotes and variables of a Dockerfile, as docker's builder reads them.

mod pattern;

/// Split at blanks that are not quoted or escaped; quotes stay in the words.
pub(crate) fn words(text: &str, escape: char) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match quote {
            None if character.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if character == '\'' || character == '"' => quote = Some(character),
            Some(open) if character == open => quote = None,
            _ => {}
        }
        word.push(character);
        if character == escape && quote != Some('\'') {
            word.extend(characters.next());
        }
    }
    if let Some(quote) = quote {
        return Err(format!("a {quote} is not closed"));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// Remove quotes and escapes and put variables in; an unknown variable is empty.
pub(crate) fn expand(
    word: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let characters: Vec<char> = word.chars().collect();
    let mut lexer = Lexer { characters, at: 0, escape, lookup, depth: 0, raw: false };
    lexer.run(&[]).map(|(text, _)| text)
}

/// Put variables into the text of a here-document: quotes and escapes stay as they are.
pub(crate) fn expand_text(
    text: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let characters: Vec<char> = text.chars().collect();
    let mut lexer = Lexer { characters, at: 0, escape, lookup, depth: 0, raw: true };
    lexer.run(&[]).map(|(text, _)| text)
}

/// Braces inside braces that are read.
const DEPTH: usize = 20;

struct Lexer<'a> {
    characters: Vec<char>,
    at: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
    /// Quotes and escapes are text.
    raw: bool,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let character = self.characters.get(self.at).copied();
        self.at += 1;
        character
    }

    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    /// Read until the end or until one of `stops`, which is consumed and given.
    fn run(&mut self, stops: &[char]) -> Result<(String, Option<char>), String> {
        let mut out = String::new();
        while let Some(character) = self.next() {
            if stops.contains(&character) {
                return Ok((out, Some(character)));
            }
            match character {
                '\'' | '"' if self.raw => out.push(character),
                character if self.raw && character == self.escape => {
                    out.push(character);
                    out.extend(self.next());
                }
                '\'' => loop {
                    match self.next() {
                        Some('\'') => break,
                        Some(character) => out.push(character),
                        None => return Err("a ' is not closed".into()),
                    }
                },
                '"' => self.double_quoted(&mut out)?,
                '$' => self.variable(&mut out)?,
                character if character == self.escape => match self.next() {
                    Some(character) => out.push(character),
                    None => out.push(character),
                },
                character => out.push(character),
            }
        }
        match stops.last() {
            None => Ok((out, None)),
            Some(stop) => Err(format!("a {stop} is missing")),
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => self.variable(out)?,
                Some(character) if character == self.escape => match self.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => out.push(next),
                    Some(next) => out.extend([character, next]),
                    None => return Err("a \" is not closed".into()),
                },
                Some(character) => out.push(character),
                None => return Err("a \" is not closed".into()),
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(character) = self.peek() {
            let fits = character == '_'
                || character.is_ascii_alphabetic()
                || (!name.is_empty() && character.is_ascii_digit());
            if !fits {
                break;
            }
            name.push(character);
            self.at += 1;
        }
        name
    }

    fn variable(&mut self, out: &mut String) -> Result<(), String> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                out.push('$');
            } else {
                out.push_str(&(self.lookup)(&name).unwrap_or_default());
            }
            return Ok(());
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err("${…} without a variable's name".into());
        }
        let value = (self.lookup)(&name);
        let mut colon = false;
        if self.peek() == Some(':') {
            colon = true;
            self.at += 1;
        }
        let operator = self.next();
        if operator == Some('}') && !colon {
            out.push_str(&value.unwrap_or_default());
            return Ok(());
        }
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("variables are nested too deep".into());
        }
        if !colon && let Some(operator @ ('#' | '%' | '/')) = operator {
            let changed = self.change(operator, value.unwrap_or_default());
            self.depth -= 1;
            out.push_str(&changed?);
            return Ok(());
        }
        let word = self.run(&['}'])?.0;
        self.depth -= 1;
        let set = value.as_ref().is_some_and(|value| !colon || !value.is_empty());
        match operator {
            Some('-') => out.push_str(if set { value.as_deref().unwrap_or_default() } else { &word }),
            Some('+') => out.push_str(if set { &word } else { "" }),
            Some('?') if set => out.push_str(value.as_deref().unwrap_or_default()),
            Some('?') => {
                let word = if word.is_empty() { "it is not set" } else { &word };
                return Err(format!("variable {name}: {word}"));
            }
            _ => {
                let known = ":-, -, :+, +, :?, ?, #, ##, %, %%, / and //";
                return Err(format!("${{{name}…}}: only {known} are understood"));
            }
        }
        Ok(())
    }

    /// `#`, `##`, `%`, `%%`, `/` and `//`: what a pattern matches is cut off or replaced.
    fn change(&mut self, operator: char, value: String) -> Result<String, String> {
        let twice = self.peek() == Some(operator);
        if twice {
            self.at += 1;
        }
        let stops: &[char] = if operator == '/' { &['/', '}'] } else { &['}'] };
        let (pattern, stop) = self.run(stops)?;
        let with = if stop == Some('/') { self.run(&['}'])?.0 } else { String::new() };
        let text: Vec<char> = value.chars().collect();
        pattern::change(&pattern, &text, operator, twice, &with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(word: &str) -> Result<String, String> {
        expand(word, '\\', &|name| match name {
            "A" => Some("value".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn variables_and_quotes() {
        for (word, expected) in [
            ("$A/x", "value/x"),
            ("${A}x", "valuex"),
            ("$NONE.", "."),
            ("${NONE:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${A:+y}", "y"),
            ("${EMPTY:+y}", ""),
            ("${EMPTY+y}", "y"),
            ("${NONE:-${A}z}", "valuez"),
            ("${NONE:-\"q}\"}", "q}"),
            ("'$A'", "$A"),
            ("\"$A b\"", "value b"),
            ("\\$A", "$A"),
            ("\"\\$A\\n\"", "$A\\n"),
            ("a\\ b", "a b"),
            ("$", "$"),
            ("$1", "$1"),
            ("100%", "100%"),
            ("${A#v*l}", "ue"),
            ("${A##*[lu]}", "e"),
            ("${A%u?}", "val"),
            ("${A%%[al]*}", "v"),
            ("${A#x}", "value"),
            ("${A/l/L}", "vaLue"),
            ("${A//[aeu]/_}", "v_l__"),
            ("${A/a*}", "v"),
            ("${A//\\//x}", "value"),
            ("${NONE/a/b}", ""),
            ("${A/$NONE/b}", "value"),
            ("${A%%${A}}", ""),
        ] {
            assert_eq!(of(word).as_deref(), Ok(expected), "{word}");
        }
        for bad in ["${}", "${A", "'x", "\"x", "${A/x/y", "${A:/x/y}", "${A~x}", "${NONE:?must be set}"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(&format!("{}x{}", "${N:-".repeat(50), "}".repeat(50))).is_err());
    }

    #[test]
    fn texts_keep_quotes() {
        let of = |text: &str| expand_text(text, '\\', &|name| (name == "A").then(|| "1".to_owned()));
        assert_eq!(of("it's \"$A\" \\$A \\n ${B:-'x'}").unwrap(), "it's \"1\" \\$A \\n 'x'");
    }

    #[test]
    fn splitting() {
        assert_eq!(words("a 'b c' d\\ e \"f g\"h", '\\').unwrap(), ["a", "'b c'", "d\\ e", "\"f g\"h"]);
        assert_eq!(words("a` b", '`').unwrap(), ["a` b"]);
        assert!(words("'a", '\\').is_err());
    }
}
