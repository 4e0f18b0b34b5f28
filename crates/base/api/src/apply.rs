//! Server-side apply: which manager owns which fields, and what an applied configuration makes of an object
//! (structured merge). Pure: objects in, objects out.

mod types;

pub use types::{Root, Types};
