//! Contents that were not worth packing, known again by a few of their chunks: when another one that is like them comes,
//! both together may be worth it.
//!
//! A sketch is the smallest hashes of a content's chunks. Of two contents that share a part of their chunks, the one has
//! about that part of the other's sketch (A. Broder, On the resemblance and containment of documents, 1997).

use std::collections::{BTreeSet, HashMap};

use super::recipe::Chunk;
use crate::digest::Digest;

/// Hashes of a sketch, at most.
const MOST: usize = 16;

/// Some of a content's chunks, each by the first eight bytes of its hash.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sketch(Vec<u64>);

fn short(chunk: &Chunk) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&chunk.hash[..8]);
    u64::from_be_bytes(bytes)
}

impl Sketch {
    /// Of these chunks.
    pub(crate) fn of<'a>(chunks: impl Iterator<Item = &'a Chunk>) -> Self {
        let mut smallest = BTreeSet::new();
        for chunk in chunks {
            smallest.insert(short(chunk));
            if smallest.len() > MOST {
                smallest.pop_last();
            }
        }
        Self(smallest.into_iter().collect())
    }

    /// As it is stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|hash| hash.to_be_bytes()).collect()
    }

    /// What was stored; whatever it is.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        Self(bytes.as_chunks().0.iter().take(MOST).map(|hash| u64::from_be_bytes(*hash)).collect())
    }
}

/// One of them that is like another content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alike {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Which part of its chunks the other has, in hundredths.
    pub(crate) shared: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// Whose sketch has the hash; of several the last.
    owners: HashMap<u64, usize>,
    contents: Vec<(Digest, u64, usize)>,
}

impl Refused {
    /// One more, and its bytes.
    pub(crate) fn add(&mut self, digest: Digest, size: u64, sketch: &Sketch) {
        for hash in &sketch.0 {
            self.owners.insert(*hash, self.contents.len());
        }
        self.contents.push((digest, size, sketch.0.len()));
    }

    /// Those of which at least half is among these chunks of another content, the likest first.
    pub(crate) fn like<'a>(&self, digest: &Digest, chunks: impl Iterator<Item = &'a Chunk>) -> Vec<Alike> {
        if self.owners.is_empty() {
            return Vec::new();
        }
        let found: BTreeSet<u64> = chunks.map(short).filter(|hash| self.owners.contains_key(hash)).collect();
        let mut counts: HashMap<usize, usize> = HashMap::new();
        found.iter().for_each(|hash| *counts.entry(self.owners[hash]).or_default() += 1);
        let alike = counts.into_iter().filter_map(|(at, count)| {
            let (other, size, all) = self.contents.get(at)?;
            let half = other != digest && count * 2 >= *all;
            half.then(|| Alike { digest: other.clone(), size: *size, shared: (count * 100 / all) as u64 })
        });
        let mut alike: Vec<Alike> = alike.collect();
        alike.sort_by(|a, b| (b.shared, &a.digest).cmp(&(a.shared, &b.digest)));
        alike
    }

    /// It is looked at again.
    pub(crate) fn forget(&mut self, digest: &Digest) {
        let Some(at) = self.contents.iter().position(|(other, ..)| other == digest) else { return };
        self.owners.retain(|_, owner| *owner != at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(numbers: std::ops::Range<u64>) -> Vec<Chunk> {
        let chunk = |number: u64| {
            let mut hash = [0; 16];
            hash.copy_from_slice(&Digest::of(&number.to_be_bytes()).bytes()[..16]);
            Chunk { hash, pack: 0, offset: 0, packed: 0, plain: 0 }
        };
        numbers.map(chunk).collect()
    }

    #[test]
    fn who_shares_most_chunks_is_known_again() {
        let mut refused = Refused::default();
        let name = |name: &str| Digest::of(name.as_bytes());
        refused.add(name("a"), 10, &Sketch::of(chunks(0..1000).iter()));
        refused.add(name("small"), 20, &Sketch::of(chunks(5000..5003).iter()));
        let like = |refused: &Refused, range| refused.like(&name("new"), chunks(range).iter());
        assert_eq!(like(&refused, 2000..4000), []);
        assert_eq!(like(&refused, 800..1800), [], "a fifth is not enough");
        let found = like(&refused, 100..1100);
        assert_eq!((found.len(), &found[0].digest, found[0].size), (1, &name("a"), 10));
        assert!((70..=100).contains(&found[0].shared), "{found:?}");
        assert_eq!(like(&refused, 5001..9000)[0].shared, 66);
        assert_eq!(refused.like(&name("a"), chunks(0..1000).iter()), [], "not itself");
        refused.forget(&name("a"));
        assert_eq!(like(&refused, 100..1100), []);
    }

    #[test]
    fn a_sketch_is_stored_in_few_bytes() {
        let sketch = Sketch::of(chunks(0..100).iter());
        assert_eq!(sketch.encode().len(), MOST * 8);
        assert_eq!(Sketch::decode(&sketch.encode()), sketch);
        assert_eq!(Sketch::decode(&[1; 7]), Sketch::default());
        assert_eq!(Sketch::decode(&[1; 4096]).0.len(), MOST);
    }
}
