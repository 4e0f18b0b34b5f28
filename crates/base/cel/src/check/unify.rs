//! Which types stand for which parameters.

use crate::types::Type;

/// What type parameters stand for, so far.
#[derive(Default)]
pub(super) struct Mapping {
    bound: Vec<Option<Type>>,
    /// What was bound before, by when it was changed.
    trail: Vec<(u32, Option<Type>)>,
}

/// Types nest at most this deep; deeper ones fit nothing.
const MAX_TYPE_DEPTH: usize = 300;

impl Mapping {
    /// A parameter that stands for nothing yet.
    pub(super) fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Param(u32::try_from(self.bound.len() - 1).unwrap_or(u32::MAX))
    }

    /// As many, the first of which is returned.
    pub(super) fn reserve(&mut self, count: u32) -> u32 {
        let first = u32::try_from(self.bound.len()).unwrap_or(u32::MAX);
        self.bound.extend((0..count).map(|_| None));
        first
    }

    fn find(&self, ty: &Type) -> Option<&Type> {
        match ty {
            Type::Param(id) => self.bound.get(*id as usize)?.as_ref(),
            _ => None,
        }
    }

    fn bind(&mut self, id: u32, ty: Type) {
        if let Some(slot) = self.bound.get_mut(id as usize) {
            self.trail.push((id, slot.replace(ty)));
        }
    }

    /// Whether `b` may be used where `a` is asked for; parameters are bound when it may, and only then.
    pub(super) fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        self.all_assignable(std::iter::once((a, b)))
    }

    /// The same of many pairs at once.
    pub(super) fn all_assignable<'t>(&mut self, pairs: impl Iterator<Item = (&'t Type, &'t Type)>) -> bool {
        self.trail.clear();
        for (a, b) in pairs {
            if !self.unify(a, b, 0) {
                while let Some((id, before)) = self.trail.pop() {
                    self.bound[id as usize] = before;
                }
                return false;
            }
        }
        true
    }

    fn unify(&mut self, a: &Type, b: &Type, depth: usize) -> bool {
        if depth > MAX_TYPE_DEPTH {
            return false;
        }
        if let Type::Param(_) = b {
            let (valid, known) = self.substitutes(a, b, depth);
            if valid || known {
                return valid;
            }
        }
        if let Type::Param(_) = a {
            return self.substitutes(b, a, depth).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null
                    | Type::Object(_)
                    | Type::Opaque(_)
                    | Type::Optional(_)
                    | Type::Duration
                    | Type::Timestamp
            ),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
                self.unify(a, b, depth + 1)
            }
            (Type::Map(a, b), Type::Map(c, d)) => self.unify(a, c, depth + 1) && self.unify(b, d, depth + 1),
            (Type::Type(_), Type::Type(_)) => true,
            (a, b) => a == b,
        }
    }

    /// Whether the parameter may stand for the type, and whether it stood for something already.
    fn substitutes(&mut self, ty: &Type, param: &Type, depth: usize) -> (bool, bool) {
        if ty == param {
            return (true, true);
        }
        let Type::Param(id) = param else { return (false, false) };
        if let Some(known) = self.find(param).cloned() {
            if known == *ty {
                return (true, true);
            }
            if !self.unify(ty, &known, depth + 1) {
                return (false, true);
            }
            let general = most_general(ty, &known).clone();
            if !self.occurs(param, &general, 0) {
                self.bind(*id, general);
            }
            return (true, true);
        }
        if self.occurs(param, ty, 0) {
            return (false, false);
        }
        self.bind(*id, ty.clone());
        (true, false)
    }

    fn occurs(&self, param: &Type, within: &Type, depth: usize) -> bool {
        if depth > MAX_TYPE_DEPTH || param == within {
            return true;
        }
        match within {
            Type::Param(_) => self.find(within).is_some_and(|known| self.occurs(param, known, depth + 1)),
            Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => {
                self.occurs(param, inner, depth + 1)
            }
            Type::Map(keys, values) => {
                self.occurs(param, keys, depth + 1) || self.occurs(param, values, depth + 1)
            }
            _ => false,
        }
    }

    /// The type with what its parameters stand for; those that stand for nothing stay, or become dynamic.
    pub(super) fn substitute(&self, ty: &Type, to_dyn: bool) -> Type {
        self.replace(ty, to_dyn, 0)
    }

    fn replace(&self, ty: &Type, to_dyn: bool, depth: usize) -> Type {
        if depth > MAX_TYPE_DEPTH {
            return Type::Dyn;
        }
        if let Some(known) = self.find(ty) {
            return self.replace(known, to_dyn, depth + 1);
        }
        let inner = |inner: &Type| self.replace(inner, to_dyn, depth + 1);
        match ty {
            Type::Param(_) if to_dyn => Type::Dyn,
            Type::List(items) => Type::list(inner(items)),
            Type::Optional(value) => Type::optional(inner(value)),
            Type::Type(of) => Type::Type(inner(of).into()),
            Type::Map(keys, values) => Type::map(inner(keys), inner(values)),
            other => other.clone(),
        }
    }
}

/// The more general of two types that fit each other.
pub(super) fn most_general<'t>(a: &'t Type, b: &'t Type) -> &'t Type {
    if less_specific(a, b) { a } else { b }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::Map(a, b), Type::Map(c, d)) => less_specific(a, c) && less_specific(b, d),
        (Type::Type(_), Type::Type(_)) => true,
        (a, b) => a == b,
    }
}

/// A signature's type, whose parameters are numbered from `first` on.
pub(super) fn instantiate(ty: &Type, first: u32) -> Type {
    match ty {
        Type::Param(id) => Type::Param(first + id),
        Type::List(items) => Type::list(instantiate(items, first)),
        Type::Optional(inner) => Type::optional(instantiate(inner, first)),
        Type::Type(inner) => Type::Type(instantiate(inner, first).into()),
        Type::Map(keys, values) => Type::map(instantiate(keys, first), instantiate(values, first)),
        other => other.clone(),
    }
}
