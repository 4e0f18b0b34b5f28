//! Functions.

pub(crate) mod format;
pub(crate) mod regex;
pub(crate) mod semver;
pub(crate) mod url;
