//! Label selectors and field selectors: parsing with upstream's messages, and matching.

mod field;
mod label;
mod lexer;

pub use field::FieldSelector;
pub use label::{LabelSelector, Labels, Operator, Requirement};
