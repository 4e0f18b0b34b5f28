//! Tables with a hash that is quick rather than strong: those that a decision looks into again and again.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

/// What is looked up.
pub(crate) type Map<K, V> = HashMap<K, V, RandomState>;
/// What is there or not.
pub(crate) type Set<T> = HashSet<T, RandomState>;
