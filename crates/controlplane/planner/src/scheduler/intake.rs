//! Many nodes that enter the buckets of a class at once, as when it looks at all of them for the first time.

use super::class::Bucket;
use crate::hash::Map;

/// Nodes of one bucket and one score.
#[derive(Debug)]
struct Group {
    bucket: u32,
    score: i64,
    /// How many were there before.
    before: usize,
    nodes: Vec<u32>,
}

/// The nodes so far: in the end they are where they would be, had they come one by one.
#[derive(Debug, Default)]
pub(super) struct Intake {
    groups: Vec<Group>,
    /// By bucket and score.
    known: Map<(u32, i64), usize>,
    last: usize,
}

impl Intake {
    /// The bucket of the last node.
    pub fn bucket(&self) -> Option<u32> {
        self.groups.get(self.last).map(|group| group.bucket)
    }

    /// Adds a node: its position in its level.
    pub fn add(&mut self, buckets: &[Bucket], node: usize, bucket: u32, score: i64) -> u32 {
        if self.groups.get(self.last).is_none_or(|group| (group.bucket, group.score) != (bucket, score)) {
            self.last = *self.known.entry((bucket, score)).or_insert_with(|| {
                let before = buckets[bucket as usize].levels.get(&score).map_or(0, Vec::len);
                self.groups.push(Group { bucket, score, before, nodes: Vec::new() });
                self.groups.len() - 1
            });
        }
        let group = &mut self.groups[self.last];
        group.nodes.push(u32::try_from(node).unwrap_or(u32::MAX));
        u32::try_from(group.before + group.nodes.len() - 1).unwrap_or(u32::MAX)
    }

    /// Puts all of them where they belong.
    pub fn end(self, buckets: &mut [Bucket]) {
        for Group { bucket, score, nodes, .. } in self.groups {
            let bucket = &mut buckets[bucket as usize];
            bucket.count += u32::try_from(nodes.len()).unwrap_or(u32::MAX);
            let level = bucket.levels.entry(score).or_default();
            if level.is_empty() {
                *level = nodes;
            } else {
                level.extend(nodes);
            }
        }
    }
}
