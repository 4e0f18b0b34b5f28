//! Tokens whose signature was verified a short while ago. Verifying costs a hundred microseconds and more, looking here
//! about one. What a token hangs on is asked anew for each request all the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

/// Tokens kept in each of two generations.
const MOST: usize = 4096;

/// How long a verified signature is believed without looking again.
const LIFE: Duration = Duration::from_secs(120);

/// What is known of tokens, by their SHA-256: the tokens themselves are not kept.
pub(super) struct Cache<T>(Mutex<Generations<T>>);

struct Generations<T> {
    young: HashMap<[u8; 32], Entry<T>>,
    old: HashMap<[u8; 32], Entry<T>>,
}

struct Entry<T> {
    value: Arc<T>,
    until: Instant,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() }))
    }
}

impl<T> Cache<T> {
    pub(super) fn get(&self, token: &str) -> Option<Arc<T>> {
        let key: [u8; 32] = Sha256::digest(token).into();
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Generations { young, old } = &mut *guard;
        let entry = match young.get(&key) {
            Some(entry) => entry,
            None => {
                // Used again: it belongs to the young.
                let entry = old.remove(&key)?;
                young.entry(key).or_insert(entry)
            }
        };
        (entry.until > Instant::now()).then(|| entry.value.clone())
    }

    pub(super) fn put(&self, token: &str, value: Arc<T>) {
        let key: [u8; 32] = Sha256::digest(token).into();
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.young.len() >= MOST {
            guard.old = std::mem::take(&mut guard.young);
        }
        guard.young.insert(key, Entry { value, until: Instant::now() + LIFE });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bound_and_keeps_what_is_used() {
        let cache = Cache::default();
        cache.put("mine", Arc::new(7));
        for n in 0..3 * MOST {
            cache.put(&n.to_string(), Arc::new(0));
            if n % 1000 == 0 {
                assert_eq!(cache.get("mine").as_deref(), Some(&7));
            }
        }
        let guard = cache.0.lock().unwrap();
        assert!(guard.young.len() + guard.old.len() <= 2 * MOST + 2);
    }
}
