//! The functions of the language, of cel-go's extensions and of Kubernetes' library.

mod authorization;
mod conversions;
pub(crate) mod format;
mod lists;
mod network;
mod operators;
mod printf;
mod quantities;
pub(crate) mod regex;
pub(crate) mod semver;
mod strings;
mod times;
pub(crate) mod url;

use crate::{authorizer::Authorizer, error::EvalError, value::Value};

pub(crate) use conversions::text;

/// What functions may use besides their arguments.
pub(crate) struct Context<'c> {
    pub(crate) authorizer: Option<&'c dyn Authorizer>,
    /// The pattern, when it is constant.
    pub(crate) regex: Option<&'c ::regex::Regex>,
    /// The cost that this evaluation may still have.
    pub(crate) left: u64,
}

/// What a function is.
pub(crate) type Implementation = for<'a, 'c> fn(&Context<'c>, Vec<Value<'a>>) -> Result<Value<'a>, EvalError>;

/// Bytes of the largest text that a function makes.
const MAX_TEXT: usize = 16 << 20;

/// An error when a function would make a text larger than any expression may.
fn bounded(bytes: usize) -> Result<(), EvalError> {
    if bytes > MAX_TEXT { Err(EvalError::CostLimit) } else { Ok(()) }
}

/// The function of a name.
pub(crate) fn find(name: &str) -> Option<Implementation> {
    operators::find(name)
        .or_else(|| conversions::find(name))
        .or_else(|| strings::find(name))
        .or_else(|| lists::find(name))
        .or_else(|| times::find(name))
        .or_else(|| quantities::find(name))
        .or_else(|| network::find(name))
        .or_else(|| authorization::find(name))
}
