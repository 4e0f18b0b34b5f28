//! The type checker: after cel-go's, message for message. It rewrites the expression where a qualified name turns out
//! to be one variable or one function.

mod unify;

use std::{fmt, sync::Arc};

use crate::{
    ast::{Entry, Expr, Fold, Kind, Literal, Parsed, StructField},
    declare::ObjectType,
    environment::Environment,
    error::Issue,
    signatures::{self, Overload},
    types::Type,
};
use unify::{Mapping, instantiate, most_general};

/// An expression with the types of its nodes.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) root: Expr,
    /// By node.
    pub(crate) types: Vec<Type>,
    /// What each name stands for, by node.
    pub(crate) names: Vec<Option<Name>>,
    /// The overloads that each call may be of, by node.
    pub(crate) overloads: Vec<Vec<&'static Overload>>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Name {
    Variable(usize),
    Local,
    Type(Type),
}

impl Checked {
    /// The type of the whole.
    pub(crate) fn result(&self) -> &Type {
        self.ty(&self.root)
    }

    pub(crate) fn ty(&self, expr: &Expr) -> &Type {
        self.types.get(expr.id).unwrap_or(&Type::Dyn)
    }

    /// The overloads of a call.
    pub(crate) fn overloads(&self, expr: &Expr) -> &[&'static Overload] {
        self.overloads.get(expr.id).map_or(&[], Vec::as_slice)
    }
}

/// Checks an expression.
pub(crate) fn check(parsed: Parsed, environment: &Environment) -> Result<Checked, Vec<Issue>> {
    let Parsed { mut root, nodes } = parsed;
    let mut checker = Checker {
        environment,
        types: vec![Type::Error; nodes],
        names: vec![None; nodes],
        overloads: vec![Vec::new(); nodes],
        mapping: Mapping::default(),
        locals: Vec::new(),
        issues: Vec::new(),
    };
    checker.check(&mut root);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let types = checker.types.iter().map(|ty| checker.mapping.substitute(ty, true)).collect();
    Ok(Checked { root, types, names: checker.names, overloads: checker.overloads })
}

struct Checker<'e> {
    environment: &'e Environment,
    types: Vec<Type>,
    names: Vec<Option<Name>>,
    overloads: Vec<Vec<&'static Overload>>,
    mapping: Mapping,
    locals: Vec<(String, Type)>,
    issues: Vec<Issue>,
}

/// A type as messages show it.
struct Shown<'t>(&'t Type);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Type::Duration => f.write_str("duration"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Null => f.write_str("null"),
            Type::List(items) => write!(f, "list({})", Shown(items)),
            Type::Map(keys, values) => write!(f, "map({}, {})", Shown(keys), Shown(values)),
            Type::Optional(inner) => write!(f, "optional_type({})", Shown(inner)),
            Type::Type(inner) => write!(f, "type({})", Shown(inner)),
            other => write!(f, "{other}"),
        }
    }
}

impl Checker<'_> {
    fn report(&mut self, offset: usize, message: String) {
        self.issues.push(Issue { message, offset });
    }

    fn mismatch(&mut self, offset: usize, expected: &Type, found: &Type) {
        let expected = self.mapping.substitute(expected, false);
        let found = self.mapping.substitute(found, false);
        self.report(offset, format!("expected type '{}' but found '{}'", Shown(&expected), Shown(&found)));
    }

    fn ty(&self, expr: &Expr) -> Type {
        self.types.get(expr.id).cloned().unwrap_or_default()
    }

    fn check(&mut self, expr: &mut Expr) {
        let (id, offset) = (expr.id, expr.offset);
        let ty = match &mut expr.kind {
            Kind::Literal(literal) => literal_type(literal),
            Kind::Ident(_) => return self.ident(expr),
            Kind::Select { .. } => return self.select(expr),
            Kind::Call { .. } => return self.call(expr),
            Kind::List { items } => self.list(items),
            Kind::Map { entries } => self.map(entries),
            Kind::Struct { name, fields } => self.message(offset, name, fields),
            Kind::Fold(fold) => self.fold(fold),
        };
        self.types[id] = ty;
    }

    fn lookup(&self, name: &str) -> Option<(Name, Type)> {
        let rooted = name.strip_prefix('.');
        if rooted.is_none()
            && let Some((_, ty)) = self.locals.iter().rev().find(|(local, _)| local == name)
        {
            return Some((Name::Local, ty.clone()));
        }
        let name = rooted.unwrap_or(name);
        if let Some(slot) = self.environment.find(name) {
            let (_, declared) = self.environment.variable(slot)?;
            return Some((Name::Variable(slot), declared.ty()));
        }
        let ty = signatures::type_value(name)?;
        Some((Name::Type(ty.clone()), Type::Type(ty.into())))
    }

    fn ident(&mut self, expr: &mut Expr) {
        let Kind::Ident(name) = &expr.kind else { return };
        match self.lookup(name) {
            Some((what, ty)) => {
                self.names[expr.id] = Some(what);
                self.types[expr.id] = ty;
            }
            None => {
                let name = name.trim_start_matches('.').to_owned();
                self.undeclared(expr.offset, &name);
            }
        }
    }

    fn undeclared(&mut self, offset: usize, name: &str) {
        self.report(offset, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn select(&mut self, expr: &mut Expr) {
        if let Some(qualified) = expr.qualified()
            && let Some((what, ty)) = self.qualified(&qualified)
        {
            expr.kind = Kind::Ident(qualified);
            self.names[expr.id] = Some(what);
            self.types[expr.id] = ty;
            return;
        }
        let (id, offset) = (expr.id, expr.offset);
        let Kind::Select { operand, field, test_only } = &mut expr.kind else { return };
        let ty = self.field(offset, operand, field, false);
        self.types[id] = if *test_only { Type::Bool } else { self.mapping.substitute(&ty, false) };
    }

    /// A qualified name that is one variable, unless its first part is a local one.
    fn qualified(&self, name: &str) -> Option<(Name, Type)> {
        let first = name.split('.').next().unwrap_or(name);
        if self.locals.iter().any(|(local, _)| local == first) {
            return None;
        }
        self.lookup(name)
    }

    /// The type of a field of an operand that is checked first.
    fn field(&mut self, offset: usize, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand = self.mapping.substitute(&self.ty(operand), false);
        let (target, was_optional) = match &operand {
            Type::Optional(inner) => ((**inner).clone(), true),
            other => (other.clone(), false),
        };
        let result = match &target {
            Type::Map(_, values) => (**values).clone(),
            Type::Object(object) => self.object_field(offset, object, field),
            Type::Param(_) => {
                self.mapping.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Opaque(_) if !was_optional => {
                self.report(offset, format!("undefined field '{field}'"));
                Type::Error
            }
            other => {
                if !other.is_dyn_or_error() {
                    let message = format!("type '{}' does not support field selection", Shown(other));
                    self.report(offset, message);
                }
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(result) } else { result }
    }

    fn object_field(&mut self, offset: usize, object: &ObjectType, field: &str) -> Type {
        if let Some(field) = object.fields.get(field) {
            return field.declared.ty();
        }
        if self.environment.patches()
            && let Some(ty) = patch_field(&object.name, field)
        {
            return ty;
        }
        self.report(offset, format!("undefined field '{field}'"));
        Type::Error
    }

    fn call(&mut self, expr: &mut Expr) {
        let (id, offset) = (expr.id, expr.offset);
        let Kind::Call { function, target, args } = &mut expr.kind else { return };
        if function == "_?._" {
            return self.optional_select(id, offset, args);
        }
        for arg in args.iter_mut() {
            self.check(arg);
        }
        if let Some(receiver) = target {
            let qualified = receiver.qualified().map(|prefix| format!("{prefix}.{function}"));
            if let Some(qualified) =
                qualified.filter(|name| signatures::find(name).is_some() && self.offered(name))
            {
                *function = qualified;
                *target = None;
            }
        }
        if let Some(receiver) = target {
            self.check(receiver);
        }
        let name = function.trim_start_matches('.').to_owned();
        let Some(overloads) = signatures::find(&name).filter(|_| self.offered(&name)) else {
            return self.undeclared(offset, &name);
        };
        *function = name;
        let receiver = target.as_deref();
        let types: Vec<Type> = receiver.into_iter().chain(args.iter()).map(|arg| self.ty(arg)).collect();
        let member = receiver.is_some();
        let literals = literal_issue(function, target.as_deref(), args);
        if matches!(function.as_str(), "_&&_" | "_||_") {
            let offsets: Vec<usize> = args.iter().map(|arg| arg.offset).collect();
            return self.logical(id, overloads, &types, &offsets);
        }
        match self.resolve(overloads, &types, member) {
            Some((ty, chosen)) => {
                self.types[id] = ty;
                self.overloads[id] = chosen;
                if let Some(issue) = literals {
                    self.issues.push(issue);
                }
            }
            None => {
                let shown = applied(
                    &types.iter().map(|ty| self.mapping.substitute(ty, true)).collect::<Vec<_>>(),
                    member,
                );
                let message = format!("found no matching overload for '{}' applied to '{shown}'", function);
                self.report(offset, message);
            }
        }
    }

    /// Whether the environment has the function.
    fn offered(&self, function: &str) -> bool {
        function != "jsonpatch.escapeKey" || self.environment.patches()
    }

    fn logical(&mut self, id: usize, overloads: &'static [Overload], types: &[Type], offsets: &[usize]) {
        let mut wrong = false;
        for (ty, offset) in types.iter().zip(offsets) {
            if !self.mapping.assignable(ty, &Type::Bool) {
                self.mismatch(*offset, &Type::Bool, ty);
                wrong = true;
            }
        }
        if !wrong {
            self.types[id] = Type::Bool;
            self.overloads[id] = overloads.iter().collect();
        }
    }

    fn optional_select(&mut self, id: usize, offset: usize, args: &mut [Expr]) {
        let [operand, field] = args else { return };
        let Kind::Literal(Literal::String(name)) = &field.kind else { return };
        let name = name.clone();
        self.types[field.id] = Type::String;
        let ty = self.field(offset, operand, &name, true);
        self.types[id] = self.mapping.substitute(&ty, false);
        self.overloads[id] = signatures::find("_?._").into_iter().flatten().collect();
    }

    /// The result, and every overload that the arguments fit.
    fn resolve(
        &mut self,
        overloads: &'static [Overload],
        types: &[Type],
        member: bool,
    ) -> Option<(Type, Vec<&'static Overload>)> {
        let mut result: Option<Type> = None;
        let mut chosen = Vec::new();
        for overload in overloads.iter().filter(|o| o.member == member && o.params.len() == types.len()) {
            let first = self.mapping.reserve(overload.generics);
            let params: Vec<Type> = overload.params.iter().map(|ty| instantiate(ty, first)).collect();
            if !self.mapping.all_assignable(types.iter().zip(&params)) {
                continue;
            }
            chosen.push(overload);
            let ty = self.mapping.substitute(&instantiate(&overload.result, first), false);
            result = Some(match result {
                None => ty,
                Some(known) if known == Type::Dyn || known == ty => known,
                Some(_) => Type::Dyn,
            });
        }
        result.map(|ty| (ty, chosen))
    }

    fn unwrapped(&mut self, value: &Expr, optional: bool) -> Type {
        let ty = self.ty(value);
        if !optional {
            return ty;
        }
        match self.mapping.substitute(&ty, false) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                self.mismatch(value.offset, &Type::optional(other.clone()), &other);
                other
            }
        }
    }

    /// The type of both a known type and one more; literals do not mix types.
    fn join(&mut self, offset: usize, known: Option<Type>, ty: Type) -> Option<Type> {
        let Some(known) = known else { return Some(ty) };
        if self.mapping.assignable(&known, &ty) {
            return Some(most_general(&known, &ty).clone());
        }
        self.mismatch(offset, &known, &ty);
        Some(Type::Error)
    }

    fn list(&mut self, items: &mut [(Expr, bool)]) -> Type {
        let mut joined = None;
        for (item, optional) in items {
            self.check(item);
            let ty = self.unwrapped(item, *optional);
            joined = self.join(item.offset, joined, ty);
        }
        Type::list(joined.unwrap_or_else(|| self.mapping.fresh()))
    }

    fn map(&mut self, entries: &mut [Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let ty = self.ty(&entry.key);
            keys = self.join(entry.key.offset, keys, ty);
            self.check(&mut entry.value);
            let ty = self.unwrapped(&entry.value, entry.optional);
            values = self.join(entry.value.offset, values, ty);
        }
        let keys = keys.unwrap_or_else(|| self.mapping.fresh());
        let values = values.unwrap_or_else(|| self.mapping.fresh());
        Type::map(keys, values)
    }

    fn message(&mut self, offset: usize, name: &str, fields: &mut [StructField]) -> Type {
        let known = self.environment.patches() && (name == "JSONPatch" || is_object(name));
        if !known {
            self.undeclared(offset, name);
        }
        for StructField { name: field, offset, value, optional } in fields {
            self.check(value);
            if !known {
                continue;
            }
            let Some(expected) = patch_field(name, field) else {
                self.report(*offset, format!("undefined field '{field}'"));
                continue;
            };
            let ty = self.unwrapped(value, *optional);
            if !self.mapping.assignable(&expected, &ty) {
                let ty = self.mapping.substitute(&ty, false);
                let message = format!(
                    "expected type of field '{field}' is '{}' but provided type is '{}'",
                    Shown(&expected),
                    Shown(&ty)
                );
                self.report(*offset, message);
            }
        }
        if !known {
            return Type::Error;
        }
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), ..ObjectType::default() }))
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        self.check(&mut fold.range);
        self.check(&mut fold.init);
        let range = self.mapping.substitute(&self.ty(&fold.range), false);
        let accu = self.ty(&fold.init);
        let depth = self.locals.len();
        self.locals.push((fold.accu.clone(), accu.clone()));
        let two = fold.var2.is_some();
        let (first, second) = match &range {
            Type::List(items) if two => (Type::Int, (**items).clone()),
            Type::List(items) => ((**items).clone(), Type::Error),
            Type::Map(keys, values) => ((**keys).clone(), (**values).clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.mapping.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    Shown(other)
                );
                self.report(fold.range.offset, message);
                (Type::Error, Type::Error)
            }
        };
        self.locals.push((fold.var.clone(), first));
        self.locals.extend(fold.var2.clone().map(|name| (name, second)));
        self.check(&mut fold.cond);
        self.assert(&fold.cond, &Type::Bool);
        self.check(&mut fold.step);
        self.assert(&fold.step, &accu);
        self.locals.truncate(depth + 1);
        self.check(&mut fold.result);
        self.locals.truncate(depth);
        self.mapping.substitute(&self.ty(&fold.result), false)
    }

    fn assert(&mut self, expr: &Expr, expected: &Type) {
        let ty = self.ty(expr);
        if !self.mapping.assignable(expected, &ty) {
            self.mismatch(expr.offset, expected, &ty);
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

/// Literals that can be seen to be wrong: durations, times, regular expressions.
fn literal_issue(function: &str, target: Option<&Expr>, args: &[Expr]) -> Option<Issue> {
    let arg = match (function, target) {
        ("duration" | "timestamp", None) => args.first()?,
        ("matches", Some(_)) => args.first()?,
        ("matches", None) => args.get(1)?,
        _ => return None,
    };
    let Kind::Literal(Literal::String(text)) = &arg.kind else { return None };
    let right = match function {
        "duration" => crate::value::time::parse_duration(text).is_some(),
        "timestamp" => crate::value::time::parse_timestamp(text).is_some(),
        _ => crate::functions::regex::compile(text).is_ok(),
    };
    (!right).then(|| Issue { message: format!("invalid {function} argument"), offset: arg.offset })
}

/// Whether it names the object that a mutation makes, or a part of it.
pub(crate) fn is_object(name: &str) -> bool {
    name == "Object" || name.starts_with("Object.")
}

fn patch_field(name: &str, field: &str) -> Option<Type> {
    match (name, field) {
        ("JSONPatch", "op" | "path" | "from") => Some(Type::String),
        ("JSONPatch", "value") => Some(Type::Dyn),
        (name, _) if is_object(name) => Some(Type::Dyn),
        _ => None,
    }
}

fn applied(types: &[Type], member: bool) -> String {
    let shown = |types: &[Type]| types.iter().map(|ty| Shown(ty).to_string()).collect::<Vec<_>>().join(", ");
    match (types, member) {
        ([target, args @ ..], true) => format!("{}.({})", Shown(target), shown(args)),
        (types, _) => format!("({})", shown(types)),
    }
}
