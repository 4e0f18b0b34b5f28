//! Regular expressions: RE2's syntax, which the regex crate shares but for details.

use regex::Regex;

use crate::error::EvalError;

/// Bytes that a compiled expression may take.
const MAX_SIZE: usize = 1 << 20;

/// Compiles one, within a bound of size.
pub(crate) fn compile(pattern: &str) -> Result<Regex, EvalError> {
    regex::RegexBuilder::new(pattern)
        .size_limit(MAX_SIZE)
        .dfa_size_limit(MAX_SIZE)
        .build()
        .map_err(|error| EvalError::new(format!("error parsing regexp: {}", reason(&error.to_string()))))
}

/// The last line of a parser's message says what is wrong.
fn reason(message: &str) -> &str {
    message.lines().last().map_or(message, |line| line.trim_start_matches("error: "))
}
