//! Label selectors, as text (`app=web,tier in (a,b),!old`) and as objects (`matchLabels`, `matchExpressions`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::{Map, Value};

use super::lexer::{Lexer, Token};
use crate::status::{Status, go_quote};

/// A selector of more requirements is refused.
const MAX_REQUIREMENTS: usize = 1000;
/// A requirement with more values is refused.
const MAX_VALUES: usize = 10_000;

/// Something that has labels.
pub trait Labels {
    /// The label's value.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// An object of labels; anything else has none.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<S: std::hash::BuildHasher> Labels for HashMap<String, String, S> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for [(String, String)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

impl<T: Labels + ?Sized> Labels for Option<&T> {
    fn label(&self, key: &str) -> Option<&str> {
        self.and_then(|labels| labels.label(key))
    }
}

/// What is asked of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The value is the one given: `=`.
    Equals,
    /// The label is absent or has another value: `!=`.
    NotEquals,
    /// The value is one of those given.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The value is a larger whole number.
    GreaterThan,
    /// The value is a smaller whole number.
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked.
    pub operator: Operator,
    /// The values; sorted.
    pub values: Vec<String>,
}

/// A conjunction of requirements. The default one selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Selects nothing: what an absent LabelSelector object means.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Reads the query parameter `labelSelector`; empty selects everything.
    pub fn parse(text: &str) -> Result<LabelSelector, Status> {
        let requirements = Parser::new(text)
            .requirements()
            .map_err(|why| Status::bad_request(format!("unable to parse requirement: {why}")))?;
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector` object; null selects nothing, an empty one everything.
    pub fn from_object(selector: &Value) -> Result<LabelSelector, Status> {
        from_object(selector).map_err(Status::bad_request)
    }

    /// Reads a map of labels that all must be there, as Services and ReplicationControllers have it.
    pub fn from_map(labels: &Value) -> LabelSelector {
        let pairs = labels.as_object().into_iter().flatten();
        let equal = pairs.filter_map(|(k, v)| v.as_str().map(|v| requirement(k, Operator::Equals, &[v])));
        LabelSelector { requirements: equal.collect(), nothing: false }
    }

    /// Whether the labels (an object of texts, or a map) meet every requirement.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether an object's `metadata.labels` meet every requirement.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|m| m.get("labels"));
        self.matches(&labels)
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl Requirement {
    fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        let found = labels.label(&self.key);
        let among = |value: &str| self.values.binary_search_by(|v| v.as_str().cmp(value)).is_ok();
        match self.operator {
            Operator::Equals | Operator::In => found.is_some_and(among),
            Operator::NotEquals | Operator::NotIn => !found.is_some_and(among),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let pair = found
                    .and_then(|f| Some((f.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?)));
                pair.is_some_and(|(found, limit)| match self.operator {
                    Operator::GreaterThan => found > limit,
                    _ => found < limit,
                })
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
    let mut values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
    values.sort_unstable();
    values.dedup();
    Requirement { key: key.to_owned(), operator, values }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Parser<'a> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next();
        Parser { lexer, token }
    }

    fn advance(&mut self) -> Token<'a> {
        std::mem::replace(&mut self.token, self.lexer.next())
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            match &self.token {
                Token::End => return Ok(out),
                Token::Word(_) | Token::Sign("!") => out.push(self.requirement()?),
                other => {
                    return Err(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    ));
                }
            }
            if out.len() > MAX_REQUIREMENTS {
                return Err(format!("more than {MAX_REQUIREMENTS} requirements"));
            }
            match self.advance() {
                Token::End => return Ok(out),
                Token::Comma if matches!(self.token, Token::Word(_) | Token::Sign("!")) => {}
                Token::Comma => {
                    return Err(format!("found '{}', expected: identifier after ','", self.token.text()));
                }
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.token == Token::Sign("!");
        if negated {
            self.advance();
        }
        let key = match self.advance() {
            Token::Word(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        check_key(key)?;
        if negated {
            return Ok(requirement(key, Operator::DoesNotExist, &[]));
        }
        if matches!(self.token, Token::End | Token::Comma) {
            return Ok(requirement(key, Operator::Exists, &[]));
        }
        let operator = match self.advance() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Sign("=" | "==") => Operator::Equals,
            Token::Sign("!=") => Operator::NotEquals,
            Token::Sign(">") => Operator::GreaterThan,
            Token::Sign("<") => Operator::LessThan,
            other => {
                return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text()));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        for (index, value) in values.iter().enumerate() {
            match operator {
                Operator::GreaterThan | Operator::LessThan => check_number(value, index)?,
                _ => check_value(key, value, index)?,
            }
        }
        Ok(requirement(key, operator, &values))
    }

    /// The one value after `=`; nothing before the end or a comma is the empty value.
    fn exact_value(&mut self) -> Result<&'a str, String> {
        match &self.token {
            Token::End | Token::Comma => Ok(""),
            Token::Word(value) => {
                let value = *value;
                self.advance();
                Ok(value)
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    /// `(a,b)`: a comma without a value beside it stands for the empty value.
    fn values(&mut self) -> Result<Vec<&'a str>, String> {
        match self.advance() {
            Token::Open => {}
            other => return Err(format!("found '{}', expected: '('", other.text())),
        }
        let mut out = Vec::new();
        let mut expects_value = true;
        loop {
            if out.len() > MAX_VALUES {
                return Err(format!("more than {MAX_VALUES} values"));
            }
            match self.advance() {
                Token::Word(value) if expects_value => {
                    out.push(value);
                    expects_value = false;
                }
                Token::Comma => {
                    if expects_value {
                        out.push("");
                    }
                    expects_value = true;
                }
                Token::Close => {
                    if expects_value {
                        out.push("");
                    }
                    return Ok(out);
                }
                other if expects_value => {
                    return Err(format!("found '{}', expected: ',', ')' or identifier", other.text()));
                }
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

const NAME_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const PREFIX_RULE: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
    validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|label| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

/// What is wrong with a label's key, if anything.
fn key_problem(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        None => (None, key),
        Some((_, rest)) if rest.contains('/') => {
            return Some(
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
                 an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
                    .to_owned(),
            );
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    match prefix {
        Some("") => return Some("prefix part must be non-empty".to_owned()),
        Some(prefix) if prefix.len() > 253 => {
            return Some("prefix part must be no more than 253 bytes".to_owned());
        }
        Some(prefix) if !is_subdomain(prefix) => return Some(PREFIX_RULE.to_owned()),
        _ => {}
    }
    match name {
        "" => Some("name part must be non-empty".to_owned()),
        name if name.len() > 63 => Some("name part must be no more than 63 bytes".to_owned()),
        name if !is_name(name) => Some(NAME_RULE.to_owned()),
        _ => None,
    }
}

fn check_key(key: &str) -> Result<(), String> {
    key_problem(key).map_or(Ok(()), |why| Err(format!("key: Invalid value: {}: {why}", go_quote(key))))
}

fn check_value(key: &str, value: &str, index: usize) -> Result<(), String> {
    let why = match value {
        "" => return Ok(()),
        value if value.len() > 63 => "must be no more than 63 bytes",
        value if !is_name(value) => VALUE_RULE,
        _ => return Ok(()),
    };
    Err(format!("values[{index}][{key}]: Invalid value: {}: {why}", go_quote(value)))
}

fn check_number(value: &str, index: usize) -> Result<(), String> {
    match value.parse::<i64>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "values[{index}]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
            go_quote(value)
        )),
    }
}

fn from_object(selector: &Value) -> Result<LabelSelector, String> {
    let Value::Object(members) = selector else {
        return if selector.is_null() {
            Ok(LabelSelector::nothing())
        } else {
            Err("a label selector must be an object".to_owned())
        };
    };
    let mut out = Vec::new();
    for (key, value) in members.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        check_key(key)?;
        check_value(key, value, 0)?;
        out.push(requirement(key, Operator::Equals, &[value]));
    }
    let expressions = members.get("matchExpressions").and_then(Value::as_array).map(Vec::as_slice);
    for expression in expressions.unwrap_or_default() {
        out.push(expression_requirement(expression)?);
    }
    if out.len() > MAX_REQUIREMENTS {
        return Err(format!("more than {MAX_REQUIREMENTS} requirements"));
    }
    Ok(LabelSelector { requirements: out, nothing: false })
}

fn expression_requirement(expression: &Value) -> Result<Requirement, String> {
    let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
    let key = text("key");
    let operator = match text("operator") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(format!("{} is not a valid label selector operator", go_quote(other))),
    };
    let values: Vec<&str> = expression
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    check_key(key)?;
    let wants_values = matches!(operator, Operator::In | Operator::NotIn);
    if wants_values && values.is_empty() {
        return Err(
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned()
        );
    }
    if !wants_values && !values.is_empty() {
        return Err(format!(
            "values: Invalid value: {values:?}: values set must be empty for exists and does not exist"
        ));
    }
    for (index, value) in values.iter().enumerate() {
        check_value(key, value, index)?;
    }
    Ok(requirement(key, operator, &values))
}

#[cfg(test)]
mod tests;
