//! Kubernetes objects: kinds, schema facts, defaults, validation, selectors, patches, tables. No I/O.
//!
//! Objects are `serde_json::Value` here: what a client sent, minus what Kubernetes would drop, plus what it would
//! fill in. The way of a request body is [`decode`] (or [`patch`]), `defaults`, `strategy`, `validation`.

pub mod apply;
pub mod custom;
pub mod decode;
pub mod defaults;
#[cfg(test)]
mod fuzz;
pub mod instancetype;
pub mod kinds;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
pub mod validation;
