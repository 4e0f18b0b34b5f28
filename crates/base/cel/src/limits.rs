//! What bounds an expression. The figures are Kubernetes'.

/// Cost that one evaluation of one expression may have.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Cost that all expressions of one custom resource, or of one policy binding, may have together in one request.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// Cost that the match conditions of one webhook or policy may have together in one request.
pub const MATCH_CONDITIONS_BUDGET: u64 = RUNTIME_BUDGET / 4;
/// Cost that one rule of a CustomResourceDefinition may have by estimation.
pub const ESTIMATED_RULE_LIMIT: u64 = 10_000_000;
/// Cost that all rules of a CustomResourceDefinition's version may have by estimation.
pub const ESTIMATED_TOTAL_LIMIT: u64 = 100_000_000;
/// Bytes of a request, from which unbounded sizes are estimated.
pub const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// Bytes of what a messageExpression may yield.
pub const MAX_MESSAGE_BYTES: usize = 5 * 1024;
/// Characters of an expression.
pub const MAX_EXPRESSION_CHARACTERS: usize = 100_000;
/// How many levels an expression may have, operators and selections included.
pub const MAX_DEPTH: usize = 250;
/// How deeply brackets, calls and conditions may be nested in each other.
pub const MAX_NESTING: usize = 100;
