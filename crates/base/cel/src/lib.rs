//! The Common Expression Language (<https://cel.dev>) as Kubernetes has it: a compiler that checks types against
//! declared ones and estimates the cost, and an evaluator over JSON that costs no more than its budget allows.
//!
//! An [`Environment`] declares variables, [`Program::compile`] compiles an expression once, and
//! [`Program::evaluate`] runs it on [`Bindings`] that borrow the JSON they stand for: nothing is converted that the
//! expression does not look at. There is no I/O; the one question asked of the outside goes to an [`Authorizer`].
//!
//! What is absent: protocol buffers, and the parts of CEL's standard library that Kubernetes does not enable.

mod ast;
mod authorizer;
mod bindings;
mod check;
mod declare;
mod environment;
mod error;
mod escape;
mod estimate;
mod eval;
mod functions;
#[cfg(test)]
mod fuzz;
mod lex;
pub mod limits;
mod macros;
mod parse;
mod plan;
mod program;
mod signatures;
mod types;
mod value;

pub use authorizer::{Authorizer, Check, Decision, ServiceAccount};
pub use bindings::Bindings;
pub use declare::{Declared, Field, ListType, ObjectType, Shape};
pub use environment::Environment;
pub use error::{CompileError, EvalError, Issue};
pub use escape::{escape, unescape};
pub use estimate::Range as CostEstimate;
pub use program::Program;
pub use types::{Opaque, Type};
pub use value::{List, Map, Text, Value};
