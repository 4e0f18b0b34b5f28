//! From claims to a user: by naming claims, or by expressions over them.

use std::sync::Arc;

use sampan_cel::{Bindings, Declared, Environment, Program, Type, Value as Cel, limits::RUNTIME_BUDGET};
use serde_json::{Value, json};

use crate::user::UserInfo;

/// How one part of the user is found.
#[derive(Debug)]
pub(super) enum Source {
    /// A claim, and what is put before its value.
    Claim {
        name: String,
        prefix: String,
    },
    Expression(Expression),
}

/// An expression with its source.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) source: String,
    program: Program,
}

/// A rule that has to hold.
#[derive(Debug)]
pub(super) enum Rule {
    Claim { name: String, value: String },
    Expression { expression: Expression, message: String },
}

/// How claims become a user.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) username: Source,
    pub(super) groups: Option<Source>,
    pub(super) uid: Option<Source>,
    pub(super) extra: Vec<(String, Expression)>,
    pub(super) claim_rules: Vec<Rule>,
    pub(super) user_rules: Vec<Rule>,
}

/// `claims`, as expressions see them.
pub(super) fn of_claims() -> Arc<Environment> {
    Environment::new().with("claims", Declared::map(Declared::dynamic())).share()
}

/// `user`, as expressions see it.
pub(super) fn of_user() -> Arc<Environment> {
    let text = || Declared::simple(Type::String);
    let fields = [
        ("username".to_owned(), text()),
        ("uid".to_owned(), text()),
        ("groups".to_owned(), Declared::list(text())),
        ("extra".to_owned(), Declared::map(Declared::list(text()))),
    ];
    Environment::new().with("user", Declared::object("kubernetes.UserInfo", fields)).share()
}

impl Expression {
    pub(super) fn compile(
        environment: &Arc<Environment>,
        source: &str,
        results: &[Type],
    ) -> Result<Self, String> {
        let program = Program::compile(environment, source, results).map_err(|error| error.to_string())?;
        Ok(Self { source: source.to_owned(), program })
    }

    pub(super) fn uses(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// Texts: one, or those of a list; nothing for null.
    fn texts(&self, claims: &Value) -> Result<Vec<String>, String> {
        let mut bindings = Bindings::new(self.program.environment());
        bindings.json("claims", claims);
        let mut budget = RUNTIME_BUDGET;
        let value = self.program.evaluate(&bindings, &mut budget, None).map_err(|error| error.to_string())?;
        texts(&value)
    }

    fn holds(&self, name: &str, value: &Value) -> Result<bool, String> {
        let mut bindings = Bindings::new(self.program.environment());
        bindings.json(name, value);
        let mut budget = RUNTIME_BUDGET;
        self.program.holds(&bindings, &mut budget, None).map_err(|error| error.to_string())
    }
}

fn texts(value: &Cel<'_>) -> Result<Vec<String>, String> {
    match value {
        Cel::Null => Ok(Vec::new()),
        Cel::String(text) => Ok(vec![text.to_string()].into_iter().filter(|text| !text.is_empty()).collect()),
        Cel::List(list) => {
            let mut all = Vec::new();
            for item in list.iter() {
                match item.map_err(|error| error.to_string())? {
                    Cel::String(text) => all.push(text.to_string()),
                    other => return Err(format!("expected string, got {}", other.type_of())),
                }
            }
            Ok(all.into_iter().filter(|text| !text.is_empty()).collect())
        }
        other => Err(format!("expected string or list of strings, got {}", other.type_of())),
    }
}

impl Mapping {
    /// The user that the claims stand for.
    pub(super) fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let name = self.username(claims)?;
        for rule in &self.claim_rules {
            check(rule, claims)?;
        }
        let groups = match &self.groups {
            None => Vec::new(),
            Some(source) => groups(source, claims)?,
        };
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let mut user = UserInfo::new(name, &groups);
        user.uid = match &self.uid {
            None => None,
            Some(source) => Some(one(source, claims, "uid")?),
        };
        for (key, expression) in &self.extra {
            let values = expression
                .texts(claims)
                .map_err(|error| format!("oidc: error evaluating extra claim expression: {error}"))?;
            if !values.is_empty() {
                user.extra.push((key.clone(), values));
            }
        }
        self.check_user(&user)?;
        Ok(user)
    }

    fn username(&self, claims: &Value) -> Result<String, String> {
        let name = one(&self.username, claims, "username")?;
        if let Source::Claim { name: claim, .. } = &self.username
            && claim == "email"
            && claims.get("email_verified").is_some_and(|verified| verified != true)
        {
            return Err("oidc: email not verified".to_owned());
        }
        if name.is_empty() {
            return Err("oidc: username claim expression evaluated to an empty string".to_owned());
        }
        Ok(name)
    }

    fn check_user(&self, user: &UserInfo) -> Result<(), String> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        // The group of all who are known is added afterwards.
        let groups: Vec<&String> = user.groups.iter().filter(|g| *g != "system:authenticated").collect();
        let extra: serde_json::Map<String, Value> =
            user.extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
        let uid = user.uid.clone().unwrap_or_default();
        let shown = json!({"username": user.name, "uid": uid, "groups": groups, "extra": extra});
        for rule in &self.user_rules {
            let Rule::Expression { expression, message } = rule else { continue };
            let holds = expression.holds("user", &shown);
            if !holds.map_err(|error| format!("oidc: error evaluating user info validation rule: {error}"))? {
                return Err(format!(
                    "oidc: user validation expression '{}' failed: {message}",
                    expression.source
                ));
            }
        }
        Ok(())
    }
}

/// A single text.
fn one(source: &Source, claims: &Value, what: &str) -> Result<String, String> {
    match source {
        Source::Claim { name, prefix } => match claims.get(name) {
            Some(Value::String(text)) => Ok(format!("{prefix}{text}")),
            Some(_) => Err(format!("oidc: parse {what} claims \"{name}\": not a string")),
            None => Err(format!("oidc: parse {what} claims \"{name}\": claim not present")),
        },
        Source::Expression(expression) => {
            let texts = expression.texts(claims);
            let texts = texts.map_err(|e| format!("oidc: error evaluating {what} claim expression: {e}"))?;
            Ok(texts.into_iter().next().unwrap_or_default())
        }
    }
}

fn groups(source: &Source, claims: &Value) -> Result<Vec<String>, String> {
    match source {
        Source::Claim { name, prefix } => {
            let list = match claims.get(name) {
                // Optional: not everybody belongs to a group.
                None | Some(Value::Null) => return Ok(Vec::new()),
                Some(Value::String(one)) => vec![one.as_str()],
                Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                    list.iter().filter_map(Value::as_str).collect()
                }
                Some(_) => {
                    return Err(format!(
                        "oidc: parse groups claim \"{name}\": not a string or list of strings"
                    ));
                }
            };
            Ok(list.into_iter().map(|group| format!("{prefix}{group}")).collect())
        }
        Source::Expression(expression) => expression
            .texts(claims)
            .map_err(|e| format!("oidc: error evaluating group claim expression: {e}")),
    }
}

fn check(rule: &Rule, claims: &Value) -> Result<(), String> {
    match rule {
        Rule::Claim { name, value } => match claims.get(name) {
            None => Err(format!("oidc: required claim {name} not present in ID token")),
            Some(Value::String(got)) if got == value => Ok(()),
            Some(Value::String(got)) => {
                Err(format!("oidc: required claim {name} value does not match. Got = {got}, want = {value}"))
            }
            Some(_) => Err(format!("oidc: parse claim {name}: not a string")),
        },
        Rule::Expression { expression, message } => {
            let holds = expression.holds("claims", claims);
            if holds.map_err(|e| format!("oidc: error evaluating claim validation expression: {e}"))? {
                Ok(())
            } else {
                Err(format!("oidc: validation expression '{}' failed: {message}", expression.source))
            }
        }
    }
}
