//! What goes wrong when an expression is compiled or runs.

use std::fmt;

/// One thing that is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// What.
    pub message: String,
    /// Where: characters from the beginning of the expression.
    pub offset: usize,
}

/// An expression that does not compile. It displays as cel-go's issues do: one `ERROR: <input>:line:column: message`
/// an issue, with the line and a mark below.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    /// What is wrong, by place; never empty.
    pub issues: Vec<Issue>,
    /// The type is right by itself, but none of those asked for.
    pub wrong_result: bool,
    /// The expression.
    expression: String,
}

/// Issues beyond these are only counted.
const MAX_ISSUES: usize = 100;
/// Lines longer than these many bytes are not shown.
const MAX_LINE: usize = 16_384;

impl CompileError {
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> CompileError {
        issues.sort_by_key(|issue| issue.offset);
        CompileError { issues, wrong_result: false, expression: source.to_owned() }
    }

    pub(crate) fn wrong_result(source: &str, message: String) -> CompileError {
        let issues = vec![Issue { message, offset: 0 }];
        CompileError { issues, wrong_result: true, expression: source.to_owned() }
    }

    /// The first message.
    pub fn message(&self) -> &str {
        self.issues.first().map_or("", |issue| &issue.message)
    }

    /// Where the first issue is: characters from the beginning.
    pub fn offset(&self) -> usize {
        self.issues.first().map_or(0, |issue| issue.offset)
    }

    fn show(&self, f: &mut fmt::Formatter<'_>, issue: &Issue) -> fmt::Result {
        let before: String = self.expression.chars().take(issue.offset).collect();
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or("").chars().count();
        write!(f, "ERROR: <input>:{}:{}: {}", line + 1, column + 1, issue.message)?;
        let text = self.expression.split('\n').nth(line).unwrap_or("");
        if text.len() > MAX_LINE {
            return Ok(());
        }
        let text = text.replace('\t', " ");
        write!(f, "\n | {text}\n | ")?;
        let mut characters = text.chars();
        for c in characters.by_ref().take(column) {
            f.write_str(if c.len_utf8() > 1 { "\u{ff0e}" } else { "." })?;
        }
        let wide = characters.next().is_some_and(|c| c.len_utf8() > 1);
        f.write_str(if wide { "\u{ff3e}" } else { "^" })
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wrong_result {
            return f.write_str(self.message());
        }
        for (index, issue) in self.issues.iter().take(MAX_ISSUES).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            self.show(f, issue)?;
        }
        match self.issues.len().saturating_sub(MAX_ISSUES) {
            0 => Ok(()),
            more => write!(f, "\n{more} more errors were truncated"),
        }
    }
}

/// Why an expression yields no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression itself fails: `no such key: x`, for example.
    #[error("{0}")]
    Failed(String),
    /// One evaluation costs more than [`crate::limits::PER_CALL_LIMIT`].
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// What the caller's budget had left was less than the evaluation cost.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    Budget,
}

impl EvalError {
    /// A failure of the expression itself.
    pub(crate) fn new(message: impl Into<String>) -> EvalError {
        EvalError::Failed(message.into())
    }

    /// Whether `&&` and `||` may look past it: only what the expression itself does wrong.
    pub(crate) fn absorbable(&self) -> bool {
        matches!(self, EvalError::Failed(_))
    }
}
