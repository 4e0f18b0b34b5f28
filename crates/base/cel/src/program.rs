//! An expression, compiled once.

use std::sync::Arc;

use crate::{
    authorizer::Authorizer,
    bindings::Bindings,
    check,
    environment::Environment,
    error::{CompileError, EvalError},
    estimate::{self, Range},
    eval, parse,
    plan::{self, Op},
    types::Type,
    value::Value,
};

/// A compiled expression; shared freely between threads.
#[derive(Debug)]
pub struct Program {
    op: Op,
    result: Type,
    cost: Range,
    /// Slots of variables that it refers to.
    uses: Vec<usize>,
    environment: Arc<Environment>,
    /// Local variables that are alive together at most.
    locals: usize,
}

impl Program {
    /// Compiles an expression. Its type has to be one of `results`, exactly; with none given any will do, and
    /// [`Type::Dyn`] among them accepts every type, too.
    ///
    /// # Errors
    /// What is wrong with the expression; see [`CompileError`] for how it is shown.
    pub fn compile(
        environment: &Arc<Environment>,
        source: &str,
        results: &[Type],
    ) -> Result<Program, CompileError> {
        let parsed = parse::parse(source).map_err(|issues| CompileError::new(source, issues))?;
        let checked =
            check::check(parsed, environment).map_err(|issues| CompileError::new(source, issues))?;
        let result = checked.result().clone();
        if !results.is_empty() && !results.iter().any(|r| *r == result || *r == Type::Dyn) {
            return Err(CompileError::wrong_result(source, expected(results, &result)));
        }
        let cost = estimate::estimate(&checked, environment);
        let plan = plan::plan(&checked, environment).map_err(|issues| CompileError::new(source, issues))?;
        let (op, uses, locals) = (plan.op, plan.uses, plan.locals);
        Ok(Program { op, result, cost, uses, environment: environment.clone(), locals })
    }

    /// The type of what it yields.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// What one evaluation costs, by estimation from the declared sizes.
    pub fn cost(&self) -> Range {
        self.cost
    }

    /// Whether it refers to the variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.environment.find(variable).is_some_and(|slot| self.uses.contains(&slot))
    }

    /// The environment it was compiled for.
    pub fn environment(&self) -> &Arc<Environment> {
        &self.environment
    }

    /// Runs it. The cost is taken from `budget`, which is left at zero when it did not suffice.
    ///
    /// # Errors
    /// The expression fails, or costs more than one call or the budget allows.
    pub fn evaluate<'a>(
        &'a self,
        bindings: &Bindings<'a>,
        budget: &mut u64,
        authorizer: Option<&dyn Authorizer>,
    ) -> Result<Value<'a>, EvalError> {
        let (result, cost) = eval::run(&self.op, self.locals, bindings, authorizer);
        match budget.checked_sub(cost) {
            Some(rest) => *budget = rest,
            None => {
                *budget = 0;
                return Err(EvalError::Budget);
            }
        }
        result
    }

    /// [`Program::evaluate`] of an expression that yields a truth value.
    ///
    /// # Errors
    /// Those of [`Program::evaluate`].
    pub fn holds<'a>(
        &'a self,
        bindings: &Bindings<'a>,
        budget: &mut u64,
        authorizer: Option<&dyn Authorizer>,
    ) -> Result<bool, EvalError> {
        match self.evaluate(bindings, budget, authorizer)? {
            Value::Bool(value) => Ok(value),
            other => Err(EvalError::new(format!("expected bool, got {}", other.type_of().name()))),
        }
    }
}

fn expected(results: &[Type], got: &Type) -> String {
    match results {
        [only] => format!("must evaluate to {only} but got {got}"),
        many => {
            let names: Vec<String> = many.iter().map(Type::to_string).collect();
            format!("must evaluate to one of [{}] but got {got}", names.join(" "))
        }
    }
}
