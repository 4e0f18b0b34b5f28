//! What is different between two values of a type. The hot path of every write: nothing is built where nothing differs.

use std::cmp::Ordering;

use serde_json::{Map as Members, Value};

use super::problem::Problems;
use super::reset::Reset;
use super::set::{PathElement, Set, same};
use super::types::{Elements, List, Map, Node as TypeNode, Ref, Scalar, Types};
use super::walk::{Form, elements, field, form, items, members, same_form};

/// What differs.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Comparison {
    /// What the second value lacks.
    pub(super) removed: Set,
    /// What the second value adds or has otherwise.
    pub(super) changed: Set,
}

impl Comparison {
    /// What of it a write sets.
    pub(super) fn set_by(self, reset: &Reset) -> Comparison {
        Comparison { removed: reset.set_by(self.removed), changed: reset.set_by(self.changed) }
    }

    pub(super) fn is_same(&self) -> bool {
        self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Where a walk is: what it has found of the place itself and below.
#[derive(Default)]
struct Found {
    removed: (bool, Set),
    changed: (bool, Set),
}

/// Compares two values. What `skip` has is left out, with all below.
pub(super) fn compare(
    types: &Types,
    at: Ref,
    lhs: &Value,
    rhs: &Value,
    skip: Option<&Set>,
) -> Result<Comparison, Problems> {
    let walk = Walk { types };
    let mut found = Found::default();
    walk.place(at, Some(lhs), Some(rhs), skip, &mut found)?;
    Ok(Comparison { removed: found.removed.1, changed: found.changed.1 })
}

struct Walk<'a> {
    types: &'a Types,
}

const NULL: Value = Value::Null;

impl Walk<'_> {
    fn place(
        &self,
        at: Ref,
        lhs: Option<&Value>,
        rhs: Option<&Value>,
        skip: Option<&Set>,
        out: &mut Found,
    ) -> Result<(), Problems> {
        let node = self.types.node(at);
        let leaf = if same_form(node, lhs, rhs) || lhs.is_none() || rhs.is_none() {
            let decides = if rhs.is_none() { lhs } else { rhs };
            self.as_form(form(node, decides), lhs, rhs, skip, out)?
        } else {
            self.as_form(form(node, lhs), lhs, rhs, skip, out)?;
            self.as_form(form(node, rhs), lhs, rhs, skip, out)?
        };
        if !leaf {
            out.changed.0 |= lhs.is_none();
            out.removed.0 |= lhs.is_some() && rhs.is_none();
        }
        Ok(())
    }

    /// Compares as one form; true when the place is a leaf.
    fn as_form(
        &self,
        form: Form<'_>,
        lhs: Option<&Value>,
        rhs: Option<&Value>,
        skip: Option<&Set>,
        out: &mut Found,
    ) -> Result<bool, Problems> {
        match form {
            Form::Scalar(_) => {}
            Form::List(list) => {
                let (l, r) = (items(lhs), items(rhs));
                if list.how != Elements::Atomic && !(l.is_empty() && r.is_empty()) {
                    return self.list(list, l, r, out).map(|()| false);
                }
            }
            Form::Map(map) => {
                let (l, r) = (members(lhs), members(rhs));
                let empty = |m: Option<&Members<String, Value>>| m.is_none_or(Members::is_empty);
                if !(map.atomic || empty(l) && empty(r)) {
                    return self.map(map, (l, lhs.is_some()), (r, rhs.is_some()), skip, out).map(|()| false);
                }
            }
            Form::Nothing => return Err(Problems::one("schema error: invalid atom: inlined")),
        }
        match (lhs, rhs) {
            (None, _) => out.changed.0 = true,
            (_, None) => out.removed.0 = true,
            (Some(l), Some(r)) => out.changed.0 |= !same(l, r),
        }
        Ok(true)
    }

    fn map(
        &self,
        map: &Map,
        (lhs, has_lhs): (Option<&Members<String, Value>>, bool),
        (rhs, has_rhs): (Option<&Members<String, Value>>, bool),
        skip: Option<&Set>,
        out: &mut Found,
    ) -> Result<(), Problems> {
        let none = Members::new();
        let (lhs, rhs) = (lhs.unwrap_or(&none), rhs.unwrap_or(&none));
        let mut parts = Parts::default();
        let mut other = lhs.iter();
        let mut common = 0;
        for (name, new) in rhs {
            // Who changes an object keeps the order of its members: mostly the other one is just there.
            let old = match other.next() {
                Some((own, old)) if own == name => Some(old),
                _ => lhs.get(name),
            };
            common += usize::from(old.is_some());
            let settled = !new.is_object() && !new.is_array() && old == Some(new);
            if !settled {
                self.member(map, name, (old, has_lhs), (Some(new), has_rhs), skip, &mut parts)?;
            }
        }
        if common < lhs.len() {
            for (name, old) in lhs.iter().filter(|(name, _)| !rhs.contains_key(*name)) {
                self.member(map, name, (Some(old), has_lhs), (None, has_rhs), skip, &mut parts)?;
            }
        }
        if !has_lhs {
            self.standing(map, rhs, &mut parts);
        }
        parts.into(out);
        Ok(())
    }

    fn member(
        &self,
        map: &Map,
        name: &str,
        (lhs, has_lhs): (Option<&Value>, bool),
        (rhs, has_rhs): (Option<&Value>, bool),
        skip: Option<&Set>,
        parts: &mut Parts,
    ) -> Result<(), Problems> {
        let skip = match skip.and_then(|skip| skip.field(name)) {
            Some(node) if node.member => return Ok(()),
            other => other.map(|node| &node.below),
        };
        let known = map.field(name);
        let Some(at) = known.map(|f| f.node).or(map.element) else {
            return Err(Problems::one(format!(
                "schema error: no type found matching: inlined type ({name})"
            )));
        };
        let stand = known.is_some_and(|f| f.standing).then(|| zero(self.types.node(at)));
        let mut found = Found::default();
        let lhs = lhs.or(stand.as_ref().filter(|_| has_lhs));
        let rhs = rhs.or(stand.as_ref().filter(|_| has_rhs));
        self.place(at, lhs, rhs, skip, &mut found)?;
        parts.add(|| field(map, name), found);
        Ok(())
    }

    /// Objects that stand in a new object although JSON leaves them out.
    fn standing(&self, map: &Map, rhs: &Members<String, Value>, parts: &mut Parts) {
        for field in map.fields.iter().filter(|f| f.standing && !rhs.contains_key(&*f.name)) {
            if self.types.node(field.node).map.as_ref().is_some_and(|map| !map.atomic) {
                let found = Found { changed: (true, Set::default()), ..Found::default() };
                parts.add(|| PathElement::Field(field.name.clone()), found);
            }
        }
    }

    fn list(&self, list: &List, lhs: &[Value], rhs: &[Value], out: &mut Found) -> Result<(), Problems> {
        if lhs.len() == rhs.len() && lhs.iter().zip(rhs).all(|(l, r)| identical(l, r)) {
            return Ok(());
        }
        let sorted = |items| {
            let mut all = elements(list, items)?;
            all.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(all)
        };
        let (lhs, rhs) = (sorted(lhs)?, sorted(rhs)?);
        let (mut l, mut r) = (lhs.as_slice(), rhs.as_slice());
        let mut parts = Parts::default();
        loop {
            let element = match (l.first(), r.first()) {
                (Some(a), Some(b)) => {
                    if a.0.cmp(&b.0) == Ordering::Greater {
                        &b.0
                    } else {
                        &a.0
                    }
                }
                (Some(one), None) | (None, Some(one)) => &one.0,
                (None, None) => break,
            };
            let (olds, news) = (take(&mut l, element), take(&mut r, element));
            let mut found = Found::default();
            let mut one = |old: Option<&Value>, new: Option<&Value>| {
                self.place(list.element, old, new, None, &mut found)
            };
            match (olds, news) {
                ([] | [_], [] | [_]) => one(olds.first().map(|o| o.1), news.first().map(|n| n.1))?,
                ([_, _, ..], [_, _, ..]) => {
                    let equal =
                        olds.len() == news.len() && olds.iter().zip(news).all(|(o, n)| same(o.1, n.1));
                    found.changed.0 |= !equal;
                }
                ([_, _, ..], news) => {
                    if let [new] = news {
                        one(None, Some(new.1))?;
                    }
                    found.removed.0 = true;
                }
                (olds, _) => {
                    if let [old] = olds {
                        one(Some(old.1), None)?;
                    }
                    found.changed.0 = true;
                }
            }
            parts.add(|| element.clone(), found);
        }
        parts.into(out);
        Ok(())
    }
}

/// The elements at the front that are this one.
fn take<'a, 'v>(
    rest: &mut &'a [(PathElement, &'v Value)],
    element: &PathElement,
) -> &'a [(PathElement, &'v Value)] {
    let count = rest.iter().take_while(|one| one.0 == *element).count();
    let (front, back) = rest.split_at(count);
    *rest = back;
    front
}

/// The children of a place, as they are found.
#[derive(Default)]
struct Parts {
    removed: Vec<super::set::Node>,
    changed: Vec<super::set::Node>,
}

impl Parts {
    fn add(&mut self, element: impl Fn() -> PathElement, found: Found) {
        for (to, (member, below)) in [(&mut self.removed, found.removed), (&mut self.changed, found.changed)]
        {
            if member || !below.is_empty() {
                to.push(super::set::Node { element: element(), member, below });
            }
        }
    }

    fn into(self, out: &mut Found) {
        for (to, nodes) in [(&mut out.removed.1, self.removed), (&mut out.changed.1, self.changed)] {
            if !nodes.is_empty() {
                let more = Set::from_nodes(nodes);
                *to = if to.is_empty() { more } else { to.union(&more) };
            }
        }
    }
}

/// Equal to the last byte, members in the same order: the cheap test that settles most.
fn identical(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((an, av), (bn, bv))| an == bn && identical(av, bv))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| identical(a, b))
        }
        _ => a == b,
    }
}

/// What stands where JSON leaves a member out.
fn zero(node: &TypeNode) -> Value {
    match node {
        TypeNode { map: Some(_), scalar: None, .. } => Value::Object(Members::new()),
        TypeNode { scalar: Some(Scalar::Numeric), .. } => 0.into(),
        TypeNode { scalar: Some(Scalar::String), .. } => Value::String(String::new()),
        TypeNode { scalar: Some(Scalar::Boolean), .. } => false.into(),
        _ => NULL,
    }
}
