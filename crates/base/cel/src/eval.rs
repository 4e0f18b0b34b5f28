//! The evaluator: walks a plan, and counts what it costs as it goes.

mod cost;

use std::sync::Arc;

use crate::{
    authorizer::Authorizer,
    bindings::Bindings,
    error::EvalError,
    estimate::{LIST, MAP, STRUCT},
    functions::Context,
    limits::PER_CALL_LIMIT,
    plan::{Call, Loop, Op},
    types::Type,
    value::{Map, OwnedMap, Value},
};

/// What an operation yields.
pub(crate) type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// Runs a plan, and says what it cost.
pub(crate) fn run<'a>(
    op: &'a Op,
    locals: usize,
    bindings: &Bindings<'a>,
    authorizer: Option<&dyn Authorizer>,
) -> (Evaluated<'a>, u64) {
    let locals = (0..locals).map(|_| Ok(Value::Null)).collect();
    let mut machine = Machine { bindings, authorizer, locals, cost: 0 };
    let result = machine.eval(op);
    (result, machine.cost)
}

struct Machine<'b, 'a> {
    bindings: &'b Bindings<'a>,
    authorizer: Option<&'b dyn Authorizer>,
    /// Errors are values too: only who looks at one fails.
    locals: Vec<Evaluated<'a>>,
    cost: u64,
}

/// What a value of a wrong type is answered with.
pub(crate) fn no_overload() -> EvalError {
    EvalError::new("no such overload")
}

impl<'a> Machine<'_, 'a> {
    fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > PER_CALL_LIMIT { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, op: &'a Op) -> Evaluated<'a> {
        match op {
            Op::Const(value) => Ok(value.clone()),
            Op::Variable(slot, cost) => {
                self.spend(*cost)?;
                self.bindings.get(*slot, self.authorizer)
            }
            Op::Local(slot) => {
                self.spend(1)?;
                self.locals.get(*slot).cloned().unwrap_or_else(|| Err(no_overload()))
            }
            Op::Take(slot) => {
                self.spend(1)?;
                self.locals
                    .get_mut(*slot)
                    .map_or(Err(no_overload()), |local| std::mem::replace(local, Ok(Value::Null)))
            }
            Op::Select { operand, field, optional } => self.select(operand, field, *optional),
            Op::Has { operand, field } => self.has(operand, field),
            Op::Index { operand, index, optional } => self.index(operand, index, *optional),
            Op::And(terms) => self.logical(terms, false),
            Op::Or(terms) => self.logical(terms, true),
            Op::Conditional(parts) => self.conditional(parts),
            Op::Otherwise { operand, other, value } => self.otherwise(operand, other, *value),
            Op::NotStrictlyFalse(operand) => {
                let value = self.eval(operand);
                self.spend(1)?;
                match value {
                    Ok(Value::Bool(value)) => Ok(Value::Bool(value)),
                    Err(error) if !error.absorbable() => Err(error),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Op::Call(call) => self.call(call),
            Op::List(items) => self.list(items),
            Op::Map(entries) => self.map(entries),
            Op::Struct { name, fields } => self.message(name, fields),
            Op::Fold(fold) => self.fold(fold),
            Op::Bind { slot, init, result } => {
                let value = self.eval(init);
                if let Err(error) = &value
                    && !error.absorbable()
                {
                    return value;
                }
                self.spend(LIST)?;
                self.locals[*slot] = value;
                self.eval(result)
            }
        }
    }

    /// An attribute costs one as a whole, which a name has paid for already.
    fn attribute(&mut self, operand: &Op) -> Result<(), EvalError> {
        match operand {
            Op::Call(_)
            | Op::List(_)
            | Op::Map(_)
            | Op::Struct { .. }
            | Op::Fold(_)
            | Op::Otherwise { .. } => self.spend(1),
            _ => Ok(()),
        }
    }

    fn select(&mut self, operand: &'a Op, field: &str, optional: bool) -> Evaluated<'a> {
        self.attribute(operand)?;
        let value = self.eval(operand)?;
        self.spend(1)?;
        match value {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => present(find(&inner, field)?),
            value if optional => present(find(&value, field)?),
            value => match find(&value, field)? {
                Some(found) => found,
                None => Err(EvalError::new(format!("no such key: {field}"))),
            },
        }
    }

    fn has(&mut self, operand: &'a Op, field: &str) -> Evaluated<'a> {
        let value = self.eval(operand)?;
        if matches!(operand, Op::Variable(..) | Op::Local(_) | Op::Select { .. } | Op::Index { .. }) {
            self.cost = self.cost.saturating_sub(1);
        }
        let found = match &value {
            Value::Optional(None) => false,
            Value::Optional(Some(inner)) => find(inner, field)?.is_some(),
            value => find(value, field)?.is_some(),
        };
        Ok(Value::Bool(found))
    }

    fn index(&mut self, operand: &'a Op, index: &'a Op, optional: bool) -> Evaluated<'a> {
        self.attribute(operand)?;
        let value = self.eval(operand)?;
        let index_value = self.eval(index)?;
        if !matches!(index, Op::Variable(..) | Op::Local(_)) {
            self.spend(1)?;
        }
        match value {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => present(element(&inner, &index_value)?),
            value if optional => present(element(&value, &index_value)?),
            value => match element(&value, &index_value)? {
                Some(found) => found,
                None => Err(missing(&value, &index_value)),
            },
        }
    }

    /// `&&` is decided by false, `||` by true; an error on one side does not matter when the other decides.
    fn logical(&mut self, terms: &'a [Op; 2], decides: bool) -> Evaluated<'a> {
        let mut failed = None;
        for term in terms {
            match self.eval(term) {
                Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failed = failed.or_else(|| Some(no_overload())),
                Err(error) if !error.absorbable() => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decides)), Err)
    }

    fn conditional(&mut self, parts: &'a [Op; 3]) -> Evaluated<'a> {
        match self.eval(&parts[0])? {
            Value::Bool(true) => self.eval(&parts[1]),
            Value::Bool(false) => self.eval(&parts[2]),
            _ => Err(no_overload()),
        }
    }

    fn otherwise(&mut self, operand: &'a Op, other: &'a Op, value: bool) -> Evaluated<'a> {
        match self.eval(operand)? {
            Value::Optional(None) => self.eval(other),
            Value::Optional(Some(inner)) if value => Ok((*inner).clone()),
            present @ Value::Optional(Some(_)) => Ok(present),
            _ => Err(no_overload()),
        }
    }

    fn call(&mut self, call: &'a Call) -> Evaluated<'a> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.eval(arg)?);
        }
        self.spend(cost::before(&call.name, call.overload, &args))?;
        let left = PER_CALL_LIMIT - self.cost;
        let context = Context { authorizer: self.authorizer, regex: call.regex.as_ref(), left };
        let result = (call.function)(&context, args);
        if let Ok(result) = &result {
            self.spend(cost::after(&call.name, result))?;
        }
        result
    }

    fn list(&mut self, items: &'a [(Op, bool)]) -> Evaluated<'a> {
        let mut values = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.eval(item)?, optional) {
                (Value::Optional(None), true) => {}
                (Value::Optional(Some(inner)), true) => values.push((*inner).clone()),
                (_, true) => {
                    let message = "cannot initialize optional list element from non-optional value";
                    return Err(EvalError::new(message));
                }
                (value, false) => values.push(value),
            }
        }
        self.spend(LIST)?;
        Ok(Value::list(values))
    }

    fn optional_entry(&mut self, op: &'a Op, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
        match (self.eval(op)?, optional) {
            (Value::Optional(None), true) => Ok(None),
            (Value::Optional(Some(inner)), true) => Ok(Some((*inner).clone())),
            (_, true) => Err(EvalError::new("cannot initialize optional entry from non-optional value")),
            (value, false) => Ok(Some(value)),
        }
    }

    fn map(&mut self, entries: &'a [(Op, Op, bool)]) -> Evaluated<'a> {
        let mut map = OwnedMap::default();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let Some(value) = self.optional_entry(value, *optional)? else { continue };
            let shown = key.clone();
            if !map.insert(key, value)? {
                let key = crate::functions::text(&shown).unwrap_or_default();
                return Err(EvalError::new(format!("Failed with repeated key {key}")));
            }
        }
        self.spend(MAP)?;
        Ok(map.into())
    }

    fn message(&mut self, name: &Arc<str>, fields: &'a [(Arc<str>, Op, bool)]) -> Evaluated<'a> {
        let mut map = OwnedMap::default();
        for (field, value, optional) in fields {
            if let Some(value) = self.optional_entry(value, *optional)? {
                map.insert(Value::string(field.clone()), value)?;
            }
        }
        self.spend(STRUCT)?;
        Ok(Value::Map(Map::Struct(name.clone(), Arc::new(map))))
    }

    fn fold(&mut self, fold: &'a Loop) -> Evaluated<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        self.locals[fold.slot] = init;
        match range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(item) = list.get(index) else { break };
                    let key = Ok(Value::Int(i64::try_from(index).unwrap_or(i64::MAX)));
                    let go_on = if fold.two {
                        self.turn(fold, key, Some(item))?
                    } else {
                        self.turn(fold, item, None)?
                    };
                    if !go_on {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let value = fold.two.then(|| map.find_key(&key).unwrap_or(Ok(Value::Null)));
                    if !self.turn(fold, Ok(key), value)? {
                        break;
                    }
                }
            }
            other => {
                let ty = other.type_of();
                return Err(EvalError::new(format!("got '{}', expected iterable type", ty.name())));
            }
        }
        self.eval(&fold.result)
    }

    /// One turn; false when the condition says that it is enough.
    fn turn(
        &mut self,
        fold: &'a Loop,
        first: Evaluated<'a>,
        second: Option<Evaluated<'a>>,
    ) -> Result<bool, EvalError> {
        self.locals[fold.slot + 1] = first;
        if let Some(second) = second {
            self.locals[fold.slot + 2] = second;
        }
        match self.eval(&fold.cond) {
            Ok(Value::Bool(false)) => return Ok(false),
            Err(error) if !error.absorbable() => return Err(error),
            _ => {}
        }
        let step = self.eval(&fold.step);
        if let Err(error) = &step
            && !error.absorbable()
        {
            return Err(error.clone());
        }
        self.locals[fold.slot] = step;
        // A turn costs even when its parts cost nothing: turns are bounded.
        self.spend(0)?;
        Ok(true)
    }
}

type Found<'a> = Result<Option<Evaluated<'a>>, EvalError>;

/// A field, when it is there.
fn find<'a>(value: &Value<'a>, field: &str) -> Found<'a> {
    match value {
        Value::Map(map) => Ok(map.find(field)),
        _ => Err(no_overload()),
    }
}

/// An element or entry, when it is there.
fn element<'a>(value: &Value<'a>, index: &Value<'_>) -> Found<'a> {
    match (value, index) {
        (Value::Map(map), index) => Ok(map.find_key(index)),
        (Value::List(list), index) => {
            let index = match index {
                Value::Int(index) => u64::try_from(*index).ok(),
                Value::Uint(index) => Some(*index),
                Value::Double(index) if index.fract() == 0.0 => (*index >= 0.0).then_some(*index as u64),
                other => {
                    let message = format!("unsupported index type '{}' in list", other.type_of().name());
                    return Err(EvalError::new(message));
                }
            };
            Ok(index.and_then(|index| list.get(index)))
        }
        _ => Err(no_overload()),
    }
}

fn missing(value: &Value<'_>, index: &Value<'_>) -> EvalError {
    let shown = crate::functions::text(index).unwrap_or_else(|| index.type_of().name().to_owned());
    EvalError::new(match value {
        Value::List(_) => format!("index out of bounds: {shown}"),
        _ => format!("no such key: {shown}"),
    })
}

fn present<'a>(found: Option<Evaluated<'a>>) -> Evaluated<'a> {
    Ok(Value::optional(found.transpose()?))
}

/// The type of a value, for messages.
pub(crate) fn type_name(value: &Value<'_>) -> String {
    match value.type_of() {
        Type::Object(object) => object.name.clone(),
        other => other.name().to_owned(),
    }
}
