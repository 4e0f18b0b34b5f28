//! From a checked expression to what the evaluator runs: names become places, functions their implementations,
//! constant regular expressions are compiled.

use std::sync::Arc;

use regex::Regex;

use crate::{
    ast::{ACCUMULATOR, Expr, Fold, Kind, Literal},
    check::{Checked, Name},
    environment::Environment,
    error::Issue,
    functions::{self, Implementation, regex::compile},
    value::Value,
};

/// What is run.
#[derive(Debug)]
pub(crate) enum Op {
    Const(Value<'static>),
    /// A variable of the environment, and what it costs.
    Variable(usize, u64),
    Local(usize),
    /// A local variable that nobody looks at again: its value moves.
    Take(usize),
    /// A field; of what is no attribute it costs one more.
    Select {
        operand: Box<Op>,
        field: Box<str>,
        optional: bool,
    },
    Has {
        operand: Box<Op>,
        field: Box<str>,
    },
    Index {
        operand: Box<Op>,
        index: Box<Op>,
        optional: bool,
    },
    And(Box<[Op; 2]>),
    Or(Box<[Op; 2]>),
    Conditional(Box<[Op; 3]>),
    /// `a.or(b)` and `a.orValue(b)`: the other is evaluated only when the first is absent.
    Otherwise {
        operand: Box<Op>,
        other: Box<Op>,
        value: bool,
    },
    NotStrictlyFalse(Box<Op>),
    Call(Box<Call>),
    List(Vec<(Op, bool)>),
    Map(Vec<(Op, Op, bool)>),
    Struct {
        name: Arc<str>,
        fields: Vec<(Arc<str>, Op, bool)>,
    },
    Fold(Box<Loop>),
    Bind {
        slot: usize,
        init: Box<Op>,
        result: Box<Op>,
    },
}

/// A call of a function.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: Implementation,
    pub(crate) name: Box<str>,
    /// The overload, when there is only one.
    pub(crate) overload: Option<&'static str>,
    pub(crate) args: Vec<Op>,
    pub(crate) regex: Option<Regex>,
}

/// A comprehension; its variables have places one after the other from `slot` on, the accumulator first.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) slot: usize,
    pub(crate) two: bool,
    pub(crate) range: Op,
    pub(crate) init: Op,
    pub(crate) cond: Op,
    pub(crate) step: Op,
    pub(crate) result: Op,
}

/// A plan, and what running it takes.
pub(crate) struct Plan {
    pub(crate) op: Op,
    /// Places of the variables that it refers to.
    pub(crate) uses: Vec<usize>,
    /// Local variables alive together.
    pub(crate) locals: usize,
}

/// Plans a checked expression.
pub(crate) fn plan(checked: &Checked, environment: &Environment) -> Result<Plan, Vec<Issue>> {
    let mut planner =
        Planner { checked, environment, locals: Vec::new(), most: 0, uses: Vec::new(), taking: false };
    let op = planner.op(&checked.root).map_err(|issue| vec![issue])?;
    Ok(Plan { op, uses: planner.uses, locals: planner.most })
}

/// Whether the evaluator knows the function.
#[cfg(test)]
pub(crate) fn implemented(name: &str) -> bool {
    const OWN: [&str; 10] =
        ["_?_:_", "_&&_", "_||_", "@not_strictly_false", "_[_]", "_[?_]", "_?._", "or", "orValue", "dyn"];
    OWN.contains(&name) || functions::find(name).is_some()
}

struct Planner<'p> {
    checked: &'p Checked,
    environment: &'p Environment,
    locals: Vec<String>,
    most: usize,
    uses: Vec<usize>,
    /// In a loop's step, where the accumulator is looked at once.
    taking: bool,
}

type Planned = Result<Op, Issue>;

impl Planner<'_> {
    fn boxed(&mut self, expr: &Expr) -> Result<Box<Op>, Issue> {
        self.op(expr).map(Box::new)
    }

    fn op(&mut self, expr: &Expr) -> Planned {
        Ok(match &expr.kind {
            Kind::Literal(literal) => Op::Const(constant(literal)),
            Kind::Ident(name) => self.name(expr, name)?,
            Kind::Select { operand, field, test_only } => {
                if *test_only
                    && let Some(qualified) = operand.qualified()
                    && let Some(slot) = self.environment.find(&format!("{qualified}.{field}"))
                {
                    // A qualified variable is there as soon as it is declared.
                    self.uses.push(slot);
                    return Ok(Op::Const(Value::Bool(true)));
                }
                let operand = self.boxed(operand)?;
                let field: Box<str> = field.as_str().into();
                if *test_only {
                    Op::Has { operand, field }
                } else {
                    Op::Select { operand, field, optional: false }
                }
            }
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args)?,
            Kind::List { items } => {
                let items = items.iter().map(|(item, optional)| Ok((self.op(item)?, *optional)));
                Op::List(items.collect::<Result<_, Issue>>()?)
            }
            Kind::Map { entries } => {
                let entries = entries.iter().map(|e| Ok((self.op(&e.key)?, self.op(&e.value)?, e.optional)));
                Op::Map(entries.collect::<Result<_, Issue>>()?)
            }
            Kind::Struct { name, fields } => {
                let fields =
                    fields.iter().map(|f| Ok((f.name.as_str().into(), self.op(&f.value)?, f.optional)));
                Op::Struct { name: name.as_str().into(), fields: fields.collect::<Result<_, Issue>>()? }
            }
            Kind::Fold(fold) if fold.is_bind() => self.bind(fold)?,
            Kind::Fold(fold) => self.fold(fold)?,
        })
    }

    fn name(&mut self, expr: &Expr, name: &str) -> Planned {
        let unknown = || Issue {
            message: format!("undeclared reference to '{name}' (in container '')"),
            offset: expr.offset,
        };
        match self.checked.names.get(expr.id).and_then(Option::as_ref).ok_or_else(unknown)? {
            Name::Variable(slot) => {
                self.uses.push(*slot);
                let parts = if name.starts_with("variables.") { 2 } else { 1 };
                Ok(Op::Variable(*slot, parts))
            }
            Name::Local => {
                let slot = self.locals.iter().rposition(|local| local == name).ok_or_else(unknown)?;
                if self.taking && name == ACCUMULATOR { Ok(Op::Take(slot)) } else { Ok(Op::Local(slot)) }
            }
            Name::Type(ty) => Ok(Op::Const(Value::Type(ty.clone()))),
        }
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Planned {
        let text = |arg: &Expr| match &arg.kind {
            Kind::Literal(Literal::String(text)) => Some(text.clone()),
            _ => None,
        };
        Ok(match (function, target, args) {
            ("_&&_", None, [a, b]) => Op::And(Box::new([self.op(a)?, self.op(b)?])),
            ("_||_", None, [a, b]) => Op::Or(Box::new([self.op(a)?, self.op(b)?])),
            ("_?_:_", None, [c, a, b]) => {
                // The condition comes from the expression itself, which cannot name the accumulator.
                Op::Conditional(Box::new([self.op(c)?, self.op(a)?, self.op(b)?]))
            }
            ("@not_strictly_false", None, [arg]) => Op::NotStrictlyFalse(self.boxed(arg)?),
            ("_[_]" | "_[?_]", None, [operand, index]) => {
                let optional = function == "_[?_]";
                Op::Index { operand: self.boxed(operand)?, index: self.boxed(index)?, optional }
            }
            ("_?._", None, [operand, field]) => {
                let field = text(field).unwrap_or_default().into();
                Op::Select { operand: self.boxed(operand)?, field, optional: true }
            }
            ("or" | "orValue", Some(operand), [other]) => {
                let value = function == "orValue";
                Op::Otherwise { operand: self.boxed(operand)?, other: self.boxed(other)?, value }
            }
            _ => {
                let unknown = || Issue {
                    message: format!("undeclared reference to '{function}' (in container '')"),
                    offset: expr.offset,
                };
                let implementation = functions::find(function).ok_or_else(unknown)?;
                let pattern = match (function, target, args) {
                    ("matches" | "find" | "findAll", Some(_), [pattern, ..]) => text(pattern),
                    ("matches", None, [_, pattern]) => text(pattern),
                    _ => None,
                };
                let regex = match pattern.map(|pattern| compile(&pattern)) {
                    Some(Ok(regex)) => Some(regex),
                    Some(Err(error)) => {
                        return Err(Issue { message: error.to_string(), offset: expr.offset });
                    }
                    None => None,
                };
                let overload = match self.checked.overloads(expr) {
                    [only] => Some(only.id.as_str()),
                    _ => None,
                };
                let args =
                    target.into_iter().chain(args).map(|arg| self.op(arg)).collect::<Result<_, _>>()?;
                Op::Call(Box::new(Call {
                    function: implementation,
                    name: function.into(),
                    overload,
                    args,
                    regex,
                }))
            }
        })
    }

    fn push(&mut self, name: &str) {
        self.locals.push(name.to_owned());
        self.most = self.most.max(self.locals.len());
    }

    fn bind(&mut self, fold: &Fold) -> Planned {
        let taking = std::mem::replace(&mut self.taking, false);
        let init = self.boxed(&fold.init)?;
        let slot = self.locals.len();
        self.push(&fold.accu);
        let result = self.boxed(&fold.result)?;
        self.locals.pop();
        self.taking = taking;
        Ok(Op::Bind { slot, init, result })
    }

    fn fold(&mut self, fold: &Fold) -> Planned {
        let taking = std::mem::replace(&mut self.taking, false);
        let (range, init) = (self.op(&fold.range)?, self.op(&fold.init)?);
        let slot = self.locals.len();
        self.push(&fold.accu);
        self.push(&fold.var);
        if let Some(second) = &fold.var2 {
            self.push(second);
        }
        let cond = self.op(&fold.cond)?;
        self.taking = true;
        let step = self.op(&fold.step)?;
        self.taking = false;
        self.locals.truncate(slot + 1);
        let result = self.op(&fold.result)?;
        self.locals.truncate(slot);
        self.taking = taking;
        Ok(Op::Fold(Box::new(Loop { slot, two: fold.var2.is_some(), range, init, cond, step, result })))
    }
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::string(text.as_str()),
        Literal::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
    }
}
