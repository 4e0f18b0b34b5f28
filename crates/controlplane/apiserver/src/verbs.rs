//! What can be done with every resource.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod options;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod update;
pub(crate) mod watch;
