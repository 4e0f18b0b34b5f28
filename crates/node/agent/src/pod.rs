//! What a Pod means on this node: reading its spec, remembering its runs, computing its status.

pub mod env;
pub mod files;
pub mod record;
pub mod resize;
pub mod security;
pub mod spec;
pub mod status;
