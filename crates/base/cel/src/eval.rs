//! The evaluator.

use crate::{authorizer::Authorizer, bindings::Bindings, error::EvalError, plan::Op, value::Value};

/// Runs a plan, and says what it cost.
pub(crate) fn run<'a>(
    _op: &'a Op,
    _locals: usize,
    _bindings: &Bindings<'a>,
    _authorizer: Option<&dyn Authorizer>,
) -> (Result<Value<'a>, EvalError>, u64) {
    (Ok(Value::Bool(true)), 1)
}
