//! Texts and other values as small numbers.

use std::hash::Hash;
use std::sync::Arc;

use crate::hash::Map;

/// Gives each distinct value a number, in the order of first sight. Nothing is forgotten: who owns one must replace it
/// when there is too much in it that nobody has any more (see `Nodes::compact`).
#[derive(Debug)]
pub(super) struct Interner<T: ?Sized> {
    ids: Map<Arc<T>, u32>,
    values: Vec<Arc<T>>,
}

impl<T: ?Sized> Clone for Interner<T> {
    fn clone(&self) -> Self {
        Self { ids: self.ids.clone(), values: self.values.clone() }
    }
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self { ids: Map::default(), values: Vec::new() }
    }
}

impl<T: ?Sized + Hash + Eq> Interner<T> {
    pub fn get(&self, value: &T) -> Option<u32> {
        self.ids.get(value).copied()
    }

    pub fn intern<'a>(&mut self, value: &'a T) -> u32
    where
        Arc<T>: From<&'a T>,
    {
        if let Some(id) = self.get(value) {
            return id;
        }
        self.insert(Arc::from(value))
    }

    pub fn insert(&mut self, value: Arc<T>) -> u32 {
        if let Some(id) = self.ids.get(&*value) {
            return *id;
        }
        let id = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        self.ids.insert(value.clone(), id);
        self.values.push(value);
        id
    }

    pub fn value(&self, id: u32) -> &Arc<T> {
        &self.values[id as usize]
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }
}
