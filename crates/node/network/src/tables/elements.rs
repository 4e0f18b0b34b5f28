//! The elements that a destination has in the kernel's sets and maps, and the edits between two states of it.

use std::collections::{BTreeMap, HashMap};

use super::{Frontend, Slot, count};
use crate::nft::{
    Batch, Data,
    rules::{self, Kind, UNSERVED},
};

/// What a destination leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any endpoint of that backend.
    Spread(u32),
    /// The endpoint of that backend which the client had before.
    Sticky(u32),
    /// Nothing: say so.
    Refuse,
}

impl Target {
    /// The endpoints it leads to, by way of a look-up of backends.
    pub fn slots<'a>(self, of: impl FnOnce(u32) -> &'a [Slot]) -> &'a [Slot] {
        match self {
            Self::Spread(id) | Self::Sticky(id) => of(id),
            Self::Refuse => &[],
        }
    }
}

/// Which kind a destination is.
pub fn kind(frontend: Frontend) -> Kind {
    if frontend.0.is_unspecified() { Kind::Node } else { Kind::Address }
}

/// A set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    All(Kind),
    Class(Kind, u32),
    Endpoints(Kind),
    Sticky(Kind),
    Unserved,
}

impl Place {
    fn name(self) -> String {
        match self {
            Self::All(kind) => kind.all(),
            Self::Class(kind, endpoints) => kind.class(endpoints),
            Self::Endpoints(kind) => kind.endpoints(),
            Self::Sticky(kind) => kind.sticky(),
            Self::Unserved => UNSERVED.to_owned(),
        }
    }
}

/// The longest key: address . protocol . port . slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Key {
    bytes: [u8; 16],
    length: usize,
}

impl Key {
    fn new((address, protocol, port): Frontend) -> Self {
        let mut key = Self::default();
        if !address.is_unspecified() {
            key.push(address.octets());
        }
        key.push([protocol.number(), 0, 0, 0]);
        let [high, low] = port.to_be_bytes();
        key.push([high, low, 0, 0]);
        key
    }

    fn push(&mut self, field: [u8; 4]) {
        self.bytes[self.length..self.length + 4].copy_from_slice(&field);
        self.length += 4;
    }

    fn with_slot(mut self, slot: u32) -> Self {
        self.push(rules::machine(slot));
        self
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    None,
    Endpoint([u8; 8]),
    Chain(String),
}

impl Value {
    fn data(&self) -> Data<'_> {
        match self {
            Self::None => Data::None,
            Self::Endpoint(bytes) => Data::Value(bytes),
            Self::Chain(name) => Data::Goto(name),
        }
    }
}

type Elements = HashMap<(Place, Key), Value>;

fn elements(frontend: Frontend, target: Target, slots: &[Slot]) -> Elements {
    let kind = kind(frontend);
    let key = Key::new(frontend);
    let mut all = Elements::new();
    match target {
        Target::Refuse => {
            all.insert((Place::Unserved, key), Value::None);
        }
        Target::Sticky(backend) => {
            all.insert((Place::All(kind), key), Value::None);
            all.insert((Place::Sticky(kind), key), Value::Chain(rules::sticky_chain(backend)));
        }
        Target::Spread(_) => {
            all.insert((Place::All(kind), key), Value::None);
            all.insert((Place::Class(kind, count(slots)), key), Value::None);
            for (at, slot) in (0..).zip(slots) {
                let mut data = [0; 8];
                data[..4].copy_from_slice(&slot.endpoint.ip().octets());
                data[4..6].copy_from_slice(&slot.endpoint.port().to_be_bytes());
                all.insert((Place::Endpoints(kind), key.with_slot(at)), Value::Endpoint(data));
            }
        }
    }
    all
}

/// Elements to take out of and to put into each set.
#[derive(Default)]
pub struct Edits {
    places: BTreeMap<Place, Edit>,
}

#[derive(Default)]
struct Edit {
    remove: Vec<Key>,
    add: Vec<(Key, Value)>,
}

impl Edits {
    /// Note the difference between what a destination had and what it is to have.
    pub fn change(
        &mut self,
        frontend: Frontend,
        had: Option<(Target, &[Slot])>,
        wants: Option<(Target, &[Slot])>,
    ) {
        let all = |state: Option<(Target, &[Slot])>| match state {
            Some((target, slots)) => elements(frontend, target, slots),
            None => Elements::new(),
        };
        let mut old = all(had);
        for ((place, key), value) in all(wants) {
            match old.remove(&(place, key)) {
                Some(same) if same == value => continue,
                // An element's data cannot be changed: out with it and in again.
                Some(_) => self.places.entry(place).or_default().remove.push(key),
                None => {}
            }
            self.places.entry(place).or_default().add.push((key, value));
        }
        for (place, key) in old.into_keys() {
            self.places.entry(place).or_default().remove.push(key);
        }
    }

    /// Append to a transaction.
    pub fn put(&self, batch: &mut Batch) {
        for (place, edit) in &self.places {
            let name = place.name();
            batch.delete_elements(&name, edit.remove.iter().map(Key::as_slice));
            batch.add_elements(&name, edit.add.iter().map(|(key, value)| (key.as_slice(), value.data())));
        }
    }
}
