//! One rule, compiled.

use std::sync::Arc;

use sampan_cel::{Declared, Environment, Program, Type};
use serde_json::Value;

use super::{path, text};

/// What the rules of one schema may refer to.
pub(super) struct Scope {
    pub(super) declared: Arc<Declared>,
    pub(super) plain: Arc<Environment>,
    /// Where `oldSelf` is optional.
    pub(super) optional: Arc<Environment>,
}

impl Scope {
    pub(super) fn new(declared: &Declared) -> Scope {
        let own = || Environment::new().with("self", declared.clone());
        let optional = Declared::simple(Type::optional(declared.ty()));
        Scope {
            declared: Arc::new(declared.clone()),
            plain: own().with("oldSelf", declared.clone()).share(),
            optional: own().with("oldSelf", optional).share(),
        }
    }
}

/// One rule. What is empty is not compiled.
pub(super) struct Rule {
    pub(super) program: Option<Result<Program, String>>,
    pub(super) message_program: Option<Result<Program, String>>,
    /// It runs even when there is nothing old.
    pub(super) optional: bool,
    pub(super) uses_old: bool,
    /// Below the value, whereof it tells.
    pub(super) field: String,
    pub(super) reason: String,
    /// The message, if there is one.
    message: String,
    expression: String,
}

impl Rule {
    pub(super) fn compile(rule: &Value, scope: &Scope, schema: &Value) -> Rule {
        let optional = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
        let environment = if optional { &scope.optional } else { &scope.plain };
        let expression = text(rule, "rule");
        let program = (!expression.trim().is_empty()).then(|| {
            Program::compile(environment, expression, &[Type::Bool]).map_err(|error| {
                if error.wrong_result {
                    "cel expression must evaluate to a bool".to_owned()
                } else {
                    format!("compilation failed: {error}")
                }
            })
        });
        let message = text(rule, "messageExpression");
        let works = matches!(program, Some(Ok(_)));
        let message_program = (works && !message.is_empty()).then(|| {
            Program::compile(environment, message, &[Type::String]).map_err(|error| {
                if error.wrong_result {
                    "messageExpression must evaluate to a string".to_owned()
                } else {
                    format!("messageExpression compilation failed: {error}")
                }
            })
        });
        Rule {
            uses_old: matches!(&program, Some(Ok(program)) if program.uses("oldSelf")),
            program,
            message_program,
            optional,
            field: path::normalize(text(rule, "fieldPath"), schema).unwrap_or_default(),
            reason: text(rule, "reason").to_owned(),
            message: text(rule, "message").trim().to_owned(),
            expression: expression.trim().to_owned(),
        }
    }

    /// How errors call it.
    pub(super) fn name(&self) -> &str {
        if self.message.is_empty() { &self.expression } else { &self.message }
    }

    /// What is told when it does not hold and no expression says so better.
    pub(super) fn message(&self) -> String {
        if self.message.is_empty() {
            return format!("failed rule: {}", self.expression);
        }
        self.message.clone()
    }
}
