//! What the variables of an environment stand for in one evaluation.

use std::cell::{Cell, OnceCell};

use serde_json::Value as Json;

use crate::{
    authorizer::Authorizer, environment::Environment, error::EvalError, program::Program, value::Value,
};

/// Values of variables; what is not bound is an error when it is used. Nothing is copied.
pub struct Bindings<'a> {
    environment: &'a Environment,
    slots: Vec<Slot<'a>>,
    lazy_cost: Cell<u64>,
}

enum Slot<'a> {
    Unbound,
    Value(Value<'a>),
    /// Evaluated when it is first used, with these same bindings.
    Lazy(&'a Program, OnceCell<Result<Value<'a>, EvalError>>),
}

impl<'a> Bindings<'a> {
    /// For programs of this environment, or of ones that it extends.
    pub fn new(environment: &'a Environment) -> Bindings<'a> {
        let slots = (0..environment.len()).map(|_| Slot::Unbound).collect();
        Bindings { environment, slots, lazy_cost: Cell::new(0) }
    }

    /// Binds a variable to JSON, read as its declared type. Names that are not declared are ignored.
    pub fn json(&mut self, name: &str, json: &'a Json) -> &mut Self {
        let environment = self.environment;
        if let Some(slot) = environment.find(name)
            && let Some((_, declared)) = environment.variable(slot)
        {
            self.slots[slot] = Slot::Value(Value::read(json, declared).unwrap_or(Value::Null));
        }
        self
    }

    /// Binds a variable to a value.
    pub fn value(&mut self, name: &str, value: Value<'a>) -> &mut Self {
        if let Some(slot) = self.environment.find(name) {
            self.slots[slot] = Slot::Value(value);
        }
        self
    }

    /// Binds a variable to what a program yields with these bindings; it runs when the variable is first used, once.
    pub fn lazy(&mut self, name: &str, program: &'a Program) -> &mut Self {
        if let Some(slot) = self.environment.find(name) {
            self.slots[slot] = Slot::Lazy(program, OnceCell::new());
        }
        self
    }

    /// What lazily evaluated variables have cost so far, beyond the evaluations themselves; counted from zero again.
    pub fn take_lazy_cost(&self) -> u64 {
        self.lazy_cost.take()
    }

    pub(crate) fn get(
        &self,
        slot: usize,
        authorizer: Option<&dyn Authorizer>,
    ) -> Result<Value<'a>, EvalError> {
        match self.slots.get(slot) {
            Some(Slot::Value(value)) => Ok(value.clone()),
            Some(Slot::Lazy(program, cell)) => cell
                .get_or_init(|| {
                    let mut budget = u64::MAX;
                    let result = program.evaluate(self, &mut budget, authorizer);
                    self.lazy_cost.set(self.lazy_cost.get().saturating_add(u64::MAX - budget));
                    result.map_err(|error| self.failed(slot, &error))
                })
                .clone(),
            Some(Slot::Unbound) | None => {
                Err(EvalError::new(format!("no such attribute(s): {}", self.name(slot))))
            }
        }
    }

    fn failed(&self, slot: usize, error: &EvalError) -> EvalError {
        let name = self.name(slot);
        let name = name.rsplit('.').next().unwrap_or(name);
        EvalError::new(format!("composited variable \"{name}\" fails to evaluate: {error}"))
    }

    fn name(&self, slot: usize) -> &'a str {
        self.environment.variable(slot).map_or("", |(name, _)| name)
    }
}
