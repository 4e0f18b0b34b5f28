//! The classes that are known, and the shapes that pods share.
//!
//! There are two sets of classes. Those that *choose* know all that a decision reads. Those that only *fit* know where a
//! pod may go at all: pods that differ in their owner, images or wishes share one, so that a backlog of pods of many
//! owners does not need as many classes as it has owners.

use std::sync::Arc;

use super::class::Class;
use super::pod::Shape;
use super::profile::Profile;
use super::shapes::SHAPES;
use super::world::World;
use crate::hash::Map;
use crate::selector::Labels;

/// So many numbers about nodes are kept over all classes of a set: at 5,000 nodes 200 classes without counters, 70 with
/// the two of default spreading. The stalest go first.
const KEPT: usize = 1 << 20;
/// So many classes are kept whatever their size.
const LEAST: usize = 8;

/// All classes.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// By what matters of a shape.
    ids: Map<Arc<Shape>, u32>,
    classes: Vec<Option<Box<Class>>>,
    /// By the address of an interned shape, which is kept alive here.
    quick: Map<usize, (Arc<Shape>, u32)>,
    terms_epoch: u64,
    clock: u64,
    purpose: Purpose,
}

/// What the classes of a set are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Purpose {
    /// Choosing a node.
    #[default]
    Choose,
    /// Knowing where a pod may go at all.
    Fit,
}

impl Classes {
    /// An empty set.
    pub fn new(purpose: Purpose) -> Self {
        Self { purpose, ..Self::default() }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.classes.iter().flatten().count()
    }

    /// Whether a class for pods of that very shape is there.
    pub fn knows(&self, shape: &Arc<Shape>) -> bool {
        self.quick.contains_key(&(Arc::as_ptr(shape) as usize))
    }

    /// The same, or one for pods that are alike in what matters.
    pub fn knows_like(&self, shape: &Arc<Shape>, profile: &Profile, world: &World) -> bool {
        self.terms_epoch == world.terms.epoch
            && (self.knows(shape) || self.ids.contains_key(&self.key(shape, profile, world)))
    }

    fn key(&self, shape: &Shape, profile: &Profile, world: &World) -> Shape {
        match self.purpose {
            Purpose::Choose => essence(shape, world),
            Purpose::Fit => needs(shape, profile, world),
        }
    }

    /// Forgets everything, as when columns are numbered anew.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.classes.clear();
        self.quick.clear();
    }

    /// The class of a shape, up to date as far as it has looked at nodes.
    pub fn get(&mut self, shape: &Arc<Shape>, profile: &Arc<Profile>, world: &mut World) -> &mut Class {
        if self.terms_epoch != world.terms.epoch {
            // Other labels matter now: pods that were alike may not be any more.
            self.clear();
            self.terms_epoch = world.terms.epoch;
        }
        let id = self.find(shape, profile, world);
        self.clock += 1;
        let class = self.classes[id as usize].get_or_insert_with(|| {
            // Never: whoever has a number has a class.
            Box::new(Class::new(shape, profile, world))
        });
        class.used = self.clock;
        class.sync(world);
        class
    }

    /// The same, having looked at these nodes, or at every one.
    pub fn of_nodes(
        &mut self,
        nodes: Option<&[usize]>,
        shape: &Arc<Shape>,
        profile: &Arc<Profile>,
        world: &mut World,
    ) -> &mut Class {
        let class = self.get(shape, profile, world);
        class.know(world, nodes);
        class
    }

    fn find(&mut self, shape: &Arc<Shape>, profile: &Arc<Profile>, world: &mut World) -> u32 {
        let address = Arc::as_ptr(shape) as usize;
        if let Some((_, id)) = self.quick.get(&address) {
            return *id;
        }
        let key = Arc::new(self.key(shape, profile, world));
        let shape_of_class = if self.purpose == Purpose::Fit { &key } else { shape };
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None => {
                self.make_room();
                let free = self.classes.iter().position(Option::is_none);
                let at = free.unwrap_or(self.classes.len());
                let class = Some(Box::new(Class::new(shape_of_class, profile, world)));
                if at == self.classes.len() {
                    self.classes.push(class);
                } else {
                    self.classes[at] = class;
                }
                let id = u32::try_from(at).unwrap_or(u32::MAX);
                self.ids.insert(key.clone(), id);
                id
            }
        };
        if self.quick.len() >= SHAPES {
            self.quick.clear();
        }
        self.quick.insert(address, (shape.clone(), id));
        id
    }

    fn make_room(&mut self) {
        loop {
            let known = || self.classes.iter().flatten();
            let count = known().count();
            if count < LEAST || known().map(|c| c.weight()).sum::<usize>() < KEPT {
                return;
            }
            let stalest = (0..self.classes.len())
                .filter_map(|at| self.classes[at].as_ref().map(|c| (c.used, at)))
                .min();
            let Some((_, at)) = stalest else { return };
            self.classes[at] = None;
            let id = u32::try_from(at).unwrap_or(u32::MAX);
            self.ids.retain(|_, known| *known != id);
            self.quick.retain(|_, (_, known)| *known != id);
        }
    }
}

/// What matters of a shape: not the labels that nobody reads.
fn essence(shape: &Shape, world: &World) -> Shape {
    let own = |key: &str| {
        shape.spread.iter().any(|c| c.keys().any(|k| k == key))
            || shape.terms.all().any(|t| t.selector.keys().any(|k| k == key))
    };
    let read = shape.labels.iter().filter(|(key, _)| world.terms.reads(key) || own(key));
    let labels: Labels = read.map(|(k, v)| (k.clone(), v.clone())).collect();
    Shape {
        labels: Arc::new(labels),
        group: None,
        claims: Box::default(),
        wish: None,
        zones: shape.zones.clone().filter(|_| world.zones.is_some()),
        ..shape.clone()
    }
}

fn has_hard_defaults(shape: &Shape, profile: &Profile) -> bool {
    shape.spread.is_empty() && profile.default_spread.iter().any(|c| c.hard)
}

/// Whether other pods may have a say in where such a pod may go.
pub(super) fn minds_others(shape: &Shape, profile: &Profile, world: &World) -> bool {
    let own = shape.spread.iter().any(|c| c.hard) || shape.terms.all().next().is_some();
    own || has_hard_defaults(shape, profile) || !world.terms.is_empty()
}

/// What of that decides where a pod may go, and nothing that only makes some nodes better than others.
fn needs(shape: &Shape, profile: &Profile, world: &World) -> Shape {
    let mut needs = essence(shape, world);
    let siblings = has_hard_defaults(shape, profile);
    needs.owner = needs.owner.filter(|_| siblings);
    needs.images = Box::default();
    needs.nonzero = (0, 0);
    needs.terms.preferred = Vec::new();
    needs.node.forget_wishes();
    needs.spread = shape.spread.iter().filter(|c| c.hard).cloned().collect();
    let neighbours = !needs.spread.is_empty() || siblings || needs.terms.all().next().is_some();
    if !neighbours && world.terms.is_empty() {
        needs.namespace = Box::default();
        needs.labels = Arc::default();
    }
    needs
}
