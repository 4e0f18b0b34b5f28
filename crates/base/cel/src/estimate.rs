//! What an expression costs at least and at most, estimated from the sizes that are declared: as cel-go and
//! Kubernetes estimate it, since it decides which rules a CustomResourceDefinition may have.

pub(crate) mod calls;

use std::collections::HashMap;

use crate::{
    ast::{ACCUMULATOR, Entry, Expr, Fold, Kind, Literal},
    check::Checked,
    declare::{Declared, Shape},
    environment::Environment,
    types::Type,
};

/// From at least to at most; of costs and of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// At least.
    pub min: u64,
    /// At most; `u64::MAX` when it has no bound.
    pub max: u64,
}

/// What traversing a character costs.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// What a character of a regular expression costs.
pub(crate) const REGEX: f64 = 0.25;
/// What making a list, a map and a message costs.
pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const STRUCT: u64 = 40;

impl Range {
    /// Nothing is known.
    pub(crate) const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

    pub(crate) const fn fixed(value: u64) -> Range {
        Range { min: value, max: value }
    }

    pub(crate) fn add(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn multiply(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// By a factor, rounded up.
    pub(crate) fn times(self, factor: f64) -> Range {
        Range { min: times(self.min, factor), max: times(self.max, factor) }
    }

    pub(crate) fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// A size by a factor, rounded up; casts saturate.
pub(crate) fn times(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

/// Estimates the cost of one evaluation.
pub(crate) fn estimate(checked: &Checked, environment: &Environment) -> Range {
    let mut coster = Coster {
        checked,
        environment,
        sizes: HashMap::new(),
        entries: HashMap::new(),
        places: HashMap::new(),
        locals: Vec::new(),
    };
    coster.cost(&checked.root)
}

/// The sizes of a container's keys and values.
#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(a: Option<Entries>, b: Option<Entries>) -> Option<Entries> {
        let (a, b) = (a?, b?);
        Some(Entries { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// A local variable.
struct Local<'e> {
    name: String,
    place: Place<'e>,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// Where in the declared types a value comes from.
#[derive(Clone, Copy, PartialEq)]
enum Place<'e> {
    /// From no variable.
    None,
    /// From a variable, but from nothing that is declared.
    Undeclared,
    Declared(&'e Declared),
}

impl PartialEq for Declared {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl<'e> Place<'e> {
    fn child(self, step: &str) -> Place<'e> {
        match self {
            Place::None => Place::None,
            Place::Undeclared => Place::Undeclared,
            Place::Declared(declared) => declared.child(step).map_or(Place::Undeclared, Place::Declared),
        }
    }

    fn size(self) -> Option<Range> {
        match self {
            Place::Declared(declared) => Some(Range { min: 0, max: max_elements(declared) }),
            _ => None,
        }
    }
}

/// Upstream knows no size of scalars and objects, and takes it for zero.
fn max_elements(declared: &Declared) -> u64 {
    match &declared.shape {
        Shape::Simple(Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Null) | Shape::Object(_) => {
            0
        }
        _ => declared.max_elements.unwrap_or(u64::MAX),
    }
}

struct Coster<'e> {
    checked: &'e Checked,
    environment: &'e Environment,
    sizes: HashMap<usize, Range>,
    entries: HashMap<usize, Entries>,
    places: HashMap<usize, Place<'e>>,
    locals: Vec<Local<'e>>,
}

impl<'e> Coster<'e> {
    fn cost(&mut self, expr: &'e Expr) -> Range {
        match &expr.kind {
            Kind::Literal(_) => Range::fixed(0),
            Kind::Ident(name) => {
                let place = match self.local(name) {
                    Some(local) => local.place,
                    None => self.variable(name),
                };
                self.places.insert(expr.id, place);
                Range::fixed(1)
            }
            Kind::Select { operand, field, test_only } => self.select(expr, operand, field, *test_only),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List { items } => self.list(expr, items),
            Kind::Map { entries } => self.map(expr, entries),
            Kind::Struct { fields, .. } => {
                let fields =
                    fields.iter().fold(Range::default(), |sum, field| sum.add(self.cost(&field.value)));
                fields.add(Range::fixed(STRUCT))
            }
            Kind::Fold(fold) if fold.is_bind() => self.bind(expr, fold),
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local<'e>> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn variable(&self, name: &str) -> Place<'e> {
        let slot = self.environment.find(name.trim_start_matches('.'));
        let declared = slot.and_then(|slot| self.environment.variable(slot));
        declared.map_or(Place::Undeclared, |(_, declared)| Place::Declared(declared))
    }

    fn place(&self, expr: &Expr) -> Place<'e> {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.place;
        }
        self.places.get(&expr.id).copied().unwrap_or(Place::None)
    }

    fn select(&mut self, expr: &'e Expr, operand: &'e Expr, field: &str, test_only: bool) -> Range {
        let mut sum = self.cost(operand);
        if test_only {
            return sum;
        }
        if matches!(
            self.checked.ty(operand),
            Type::Map(..) | Type::Object(_) | Type::Opaque(_) | Type::Param(_)
        ) {
            sum = sum.add(Range::fixed(1));
        }
        let place = self.place(operand).child(field);
        self.places.insert(expr.id, place);
        sum
    }

    fn list(&mut self, expr: &'e Expr, items: &'e [(Expr, bool)]) -> Range {
        let mut sum = Range::fixed(LIST);
        let mut value = Range { min: if items.is_empty() { 0 } else { u64::MAX }, max: 0 };
        for (item, _) in items {
            sum = sum.add(self.cost(item));
            value = value.union(self.size_or_unknown(item));
        }
        self.entries.insert(expr.id, Entries { list: true, key: Range::fixed(1), value });
        sum
    }

    fn map(&mut self, expr: &'e Expr, entries: &'e [Entry]) -> Range {
        let mut sum = Range::fixed(MAP);
        let none = Range { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
        let (mut key, mut value) = (none, none);
        for entry in entries {
            sum = sum.add(self.cost(&entry.key)).add(self.cost(&entry.value));
            key = key.union(self.size_or_unknown(&entry.key));
            value = value.union(self.size_or_unknown(&entry.value));
        }
        self.entries.insert(expr.id, Entries { list: false, key, value });
        sum
    }

    fn bind(&mut self, expr: &'e Expr, fold: &'e Fold) -> Range {
        let mut sum = self.cost(&fold.range).add(self.cost(&fold.init));
        self.push_local(&fold.accu, &fold.init);
        sum = sum.add(self.cost(&fold.result));
        let (size, entries) = (self.size(&fold.result), self.entries(&fold.result));
        self.locals.pop();
        self.keep(expr, size, entries);
        sum
    }

    fn keep(&mut self, expr: &Expr, size: Option<Range>, entries: Option<Entries>) {
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        if let Some(entries) = entries {
            self.entries.insert(expr.id, entries);
        }
    }

    fn push_local(&mut self, name: &str, value: &'e Expr) {
        let (size, entries) = (self.size(value), self.entries(value));
        // What comes from the accumulator comes from no variable.
        let place = if name == ACCUMULATOR { Place::None } else { self.place(value) };
        self.locals.push(Local { name: name.to_owned(), place, size, entries });
    }

    fn push_iteration(&mut self, name: &str, range: &'e Expr, value: bool) {
        let entries = self.entries(range);
        let list = entries.map_or(matches!(self.checked.ty(range), Type::List(_)), |entries| entries.list);
        let size = entries.map(|entries| if value { entries.value } else { entries.key });
        let place = self.place(range).child(match (list, value) {
            (true, true) => "@items",
            (true, false) => "@indices",
            (false, true) => "@values",
            (false, false) => "@keys",
        });
        self.locals.push(Local { name: name.to_owned(), place, size, entries: None });
    }

    fn fold(&mut self, expr: &'e Expr, fold: &'e Fold) -> Range {
        let mut sum = self.cost(&fold.range).add(self.cost(&fold.init));
        self.push_local(&fold.accu, &fold.init);
        match &fold.var2 {
            Some(second) => {
                self.push_iteration(&fold.var, &fold.range, false);
                self.push_iteration(second, &fold.range, true);
            }
            None => {
                let list = self
                    .entries(&fold.range)
                    .map_or(matches!(self.checked.ty(&fold.range), Type::List(_)), |entries| entries.list);
                self.push_iteration(&fold.var, &fold.range, list);
            }
        }
        let each = self.cost(&fold.cond).add(self.cost(&fold.step));
        self.locals.truncate(self.locals.len() - 1 - usize::from(fold.var2.is_some()));
        sum = sum.add(self.cost(&fold.result));
        self.locals.pop();
        let count = self.size_or_unknown(&fold.range);
        sum = sum.add(count.multiply(each));
        match &fold.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&fold.init);
                self.keep(expr, size, None);
            }
            Kind::List { .. } | Kind::Map { .. } => {
                let entries = self.entries(&fold.step);
                self.keep(expr, Some(count), entries);
            }
            _ => {}
        }
        sum
    }

    fn size_or_unknown(&mut self, expr: &'e Expr) -> Range {
        self.size(expr).unwrap_or(Range::UNKNOWN)
    }

    fn size(&mut self, expr: &'e Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(expr) {
            return Some(size);
        }
        if let Some(size) = self.place(expr).size() {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if scalar(self.checked.ty(expr)) {
            return Some(Range::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn entries(&self, expr: &Expr) -> Option<Entries> {
        self.entries.get(&expr.id).copied().or_else(|| match &expr.kind {
            Kind::Ident(name) => self.local(name)?.entries,
            _ => None,
        })
    }
}

fn literal_size(expr: &Expr) -> Option<Range> {
    let size = match &expr.kind {
        Kind::Literal(Literal::String(text)) => text.chars().count(),
        Kind::Literal(Literal::Bytes(bytes)) => bytes.len(),
        Kind::Literal(_) => 1,
        Kind::List { items } => items.len(),
        Kind::Map { entries } => entries.len(),
        _ => return None,
    };
    Some(Range::fixed(size as u64))
}

fn scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => scalar(inner),
        _ => false,
    }
}
