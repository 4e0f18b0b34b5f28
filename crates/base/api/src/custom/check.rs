//! Whether a value is what a schema says, in the words and the order of kube-openapi's validator. An update is checked
//! only where it changes something: what was wrong before may stay.

use serde_json::Value;

use super::formats::Format;
use super::schema::{Additional, Checks, ListType, Schema, Type};
use crate::status::{FieldError, go_quote};

/// Errors told of one object at most.
pub const MAX_ERRORS: usize = 100;

/// Where a value stands; written out only when there is something to tell.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root,
    Member(&'a Place<'a>, &'a str),
    /// Below `additionalProperties` or `required`, where even a name at the root begins with a dot.
    Dotted(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Place::Root => {}
            Place::Member(parent, name) => {
                parent.write(out);
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Place::Dotted(parent, name) => {
                parent.write(out);
                out.push('.');
                out.push_str(name);
            }
            Place::Item(parent, index) => {
                parent.write(out);
                out.push_str(&format!("[{index}]"));
            }
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }
}

/// What a check found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) errors: Vec<FieldError>,
    /// How much fitted: among alternatives that all fail, the one that fitted most is told of.
    matches: u32,
}

impl Found {
    fn add(&mut self, error: FieldError) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Found) {
        self.matches = self.matches.saturating_add(other.matches);
        for error in other.errors {
            self.add(error);
        }
    }

    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Errors are told of the field itself; upstream names it again in the sentence.
struct Teller<'a> {
    /// What precedes the path in the name of the field: `status` when only that is checked.
    base: &'a str,
    place: &'a Place<'a>,
}

impl Teller<'_> {
    fn path(&self) -> String {
        self.place.text()
    }

    fn field_of(&self, path: &str) -> String {
        let path = path.trim_start_matches('.');
        match (self.base.is_empty(), path.is_empty()) {
            (true, true) => "<nil>".to_owned(),
            (true, false) => path.to_owned(),
            (false, true) => self.base.to_owned(),
            (false, false) => format!("{}.{path}", self.base),
        }
    }

    fn field(&self) -> String {
        self.field_of(&self.path())
    }

    fn invalid(&self, bad: Value, sentence: &str) -> FieldError {
        let path = self.path();
        FieldError::invalid(self.field_of(&path), bad, format!("{path} in body {sentence}"))
    }

    /// A sentence that names the path itself and no field.
    fn whole(&self, sentence: &str) -> FieldError {
        let field = if self.base.is_empty() { "<nil>" } else { self.base };
        FieldError::invalid(field, "", format!("{} {sentence}", go_quote(&self.path())))
    }

    fn wrong_type(&self, expected: &str, found: &str) -> FieldError {
        let path = self.path();
        let sentence = format!("{path} in body must be of type {expected}: {}", go_quote(found));
        FieldError::type_invalid(self.field_of(&path), found, sentence)
    }
}

/// Checks a whole object, or a part that is called `base`.
pub(super) fn check(schema: &Schema, value: &Value, old: Option<&Value>, base: &str) -> Vec<FieldError> {
    let mut found = Found::default();
    schema_at(schema, value, old, base, &Place::Root, &mut found);
    found.errors
}

fn schema_at(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    base: &str,
    place: &Place<'_>,
    found: &mut Found,
) {
    if old == Some(value) {
        return;
    }
    let tell = Teller { base, place };
    if value.is_null() {
        kind(schema, value, &tell, found);
        enumeration(schema, value, &tell, found);
        return;
    }
    kind(schema, value, &tell, found);
    let checks = schema.checks.as_deref();
    if let Some(checks) = checks {
        combined(checks, value, old, base, place, found);
    } else {
        found.matches += 2;
    }
    match value {
        Value::String(text) => {
            found.matches += 1;
            if let Some(checks) = checks {
                text_at(checks, text, &tell, found);
            }
        }
        Value::Number(_) => {
            found.matches += 2;
            if let Some(checks) = checks {
                number(schema, checks, value, &tell, found);
            }
        }
        Value::Array(items) => {
            found.matches += 2;
            list(schema, items, old, base, place, found);
        }
        _ => {}
    }
    enumeration(schema, value, &tell, found);
    found.matches += 1;
    if let Value::Object(members) = value {
        found.matches += 1;
        object(schema, members, old, base, place, found);
    }
    found.matches += 1;
}

/// The name of a value's type, and the format that goes with it.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(n) if n.is_i64() => ("integer", "int64"),
        Value::Number(_) => ("number", "float64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

fn kind(schema: &Schema, value: &Value, tell: &Teller<'_>, found: &mut Found) {
    let expected: &[Type] = match schema.kind {
        _ if schema.int_or_string => &[Type::Integer, Type::String],
        Some(Type::Object) => &[Type::Object],
        Some(Type::Array) => &[Type::Array],
        Some(Type::String) => &[Type::String],
        Some(Type::Integer) => &[Type::Integer],
        Some(Type::Number) => &[Type::Number],
        Some(Type::Boolean) => &[Type::Boolean],
        None => &[],
    };
    let format = schema.checks.as_ref().and_then(|c| c.format.as_ref());
    if expected.is_empty() && format.is_none() {
        return;
    }
    let names = || expected.iter().map(|t| t.name()).collect::<Vec<_>>().join(",");
    if value.is_null() {
        if !expected.is_empty() && !schema.nullable {
            found.add(tell.wrong_type(&names(), "null"));
        }
        return;
    }
    let (name, own_format) = type_of(value);
    let is = |kind: Type| expected.contains(&kind);
    let whole = value.as_f64().is_some_and(|n| n.fract() == 0.0);
    let fits = expected.iter().any(|t| t.name() == name)
        || (name == "number" && whole && is(Type::Integer))
        || (name == "integer" && is(Type::Number));
    let texts = matches!(value, Value::String(_) | Value::Array(_));
    if let Some((_, format)) = format {
        if !texts && !fits && own_format != format {
            found.add(tell.wrong_type(format, own_format));
            return;
        }
        if texts && !is(Type::Number) && !is(Type::Integer) {
            found.matches += 2;
            return;
        }
    }
    if fits { found.matches += 2 } else { found.add(tell.wrong_type(&names(), name)) }
}

fn combined(
    checks: &Checks,
    value: &Value,
    old: Option<&Value>,
    base: &str,
    place: &Place<'_>,
    found: &mut Found,
) {
    let tell = Teller { base, place };
    let run = |schema: &Schema| {
        let mut own = Found::default();
        schema_at(schema, value, old, base, place, &mut own);
        own
    };
    if !checks.any_of.is_empty() {
        let mut best: Option<Found> = None;
        let mut success = None;
        for result in checks.any_of.iter().map(run) {
            if result.is_valid() {
                success = Some(result);
                break;
            }
            if best.as_ref().is_none_or(|b| result.matches > b.matches) {
                best = Some(result);
            }
        }
        match success {
            Some(result) => found.merge(result),
            None => {
                found.add(tell.whole("must validate at least one schema (anyOf)"));
                found.merge(best.unwrap_or_default());
            }
        }
    }
    if !checks.one_of.is_empty() {
        one_of(checks.one_of.iter().map(run), &tell, found);
    }
    if !checks.all_of.is_empty() {
        let mut valid = 0;
        for result in checks.all_of.iter().map(run) {
            valid += usize::from(result.is_valid());
            found.merge(result);
        }
        if valid != checks.all_of.len() {
            let more = if valid == 0 { ". None validated" } else { "" };
            found.add(tell.whole(&format!("must validate all the schemas (allOf){more}")));
        }
    }
    if let Some(not) = &checks.not
        && run(not).is_valid()
    {
        found.add(tell.whole("must not validate the schema (not)"));
    }
    found.matches += 2;
}

fn one_of(results: impl Iterator<Item = Found>, tell: &Teller<'_>, found: &mut Found) {
    let (mut valid, mut best, mut first) = (0, None::<Found>, None);
    for result in results {
        if result.is_valid() {
            valid += 1;
            best = None;
            first = first.or(Some(result));
        } else if valid == 0 && best.as_ref().is_none_or(|b| result.matches > b.matches) {
            best = Some(result);
        }
    }
    if valid == 1 {
        found.merge(first.unwrap_or_default());
        return;
    }
    let more = match valid {
        0 => "Found none valid".to_owned(),
        n => format!("Found {n} valid alternatives"),
    };
    found.add(tell.whole(&format!("must validate one and only one schema (oneOf). {more}")));
    found.merge(best.unwrap_or_default());
}

fn text_at(checks: &Checks, text: &str, tell: &Teller<'_>, found: &mut Found) {
    if let Some(error) = text_error(checks, text, tell) {
        found.add(error);
    }
    if let Some((format, name)) = checks.format.as_ref().filter(|(f, _)| f.is_text()) {
        if format.accepts(text) {
            found.matches += 1;
        } else {
            found.add(tell.wrong_type(name, text));
        }
    }
}

fn text_error(checks: &Checks, text: &str, tell: &Teller<'_>) -> Option<FieldError> {
    let length = || text.chars().count() as u64;
    if let Some(most) = checks.max_length.filter(|most| text.len() as u64 > *most && length() > *most) {
        return Some(FieldError::too_long(tell.field(), usize::try_from(most).unwrap_or(usize::MAX)));
    }
    if let Some(least) = checks.min_length.filter(|least| length() < *least) {
        return Some(tell.invalid(text.into(), &format!("should be at least {least} chars long")));
    }
    let (pattern, compiled) = checks.pattern.as_ref()?;
    match compiled {
        Some(regex) if regex.is_match(text) => None,
        Some(_) => Some(tell.invalid(text.into(), &format!("should match '{pattern}'"))),
        None => Some(tell.invalid(
            text.into(),
            &format!("should match '{pattern}, but pattern is invalid: error parsing regexp'"),
        )),
    }
}

/// Go's `%v` of a float64.
pub(super) fn go_float(n: f64) -> String {
    if n == 0.0 {
        return "0".to_owned();
    }
    let science = format!("{n:e}");
    let (digits, exponent) = science.split_once('e').unwrap_or((&science, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..21).contains(&exponent) {
        return format!("{n}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn number(schema: &Schema, checks: &Checks, value: &Value, tell: &Teller<'_>, found: &mut Found) {
    let n = value.as_f64().unwrap_or_default();
    let whole = value.as_i64();
    // Bounds of whole numbers are compared and told as such.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a bound that is no i64 saturates, as upstream's does"
    )]
    let shown = |limit: f64| if whole.is_some() { (limit as i64).to_string() } else { go_float(limit) };
    if let Some((format, name)) = &checks.format
        && schema.kind == Some(Type::Integer)
        && *format == Format::Int32
        && (n.fract() != 0.0 || n.abs() > 2_147_483_647.0 && n != -2_147_483_648.0)
    {
        let field = if tell.base.is_empty() { "<nil>" } else { tell.base };
        let path = tell.path();
        let sentence = format!("Checked value must be of type integer with format {name} in {path}");
        found.add(FieldError::invalid(field, "", sentence));
    }
    if let Some(factor) = checks.multiple_of {
        let quotient = if factor < 1.0 { 1.0 / factor * n } else { n / factor };
        let even = (quotient - quotient.round()).abs() < 1e-9;
        if !even {
            let sentence = format!("should be a multiple of {}", shown(factor));
            found.add(tell.invalid(value.clone(), &sentence));
        }
    }
    if let Some(most) = checks.maximum {
        let beyond = if checks.exclusive_maximum { n >= most } else { n > most };
        if beyond {
            let or_equal = if checks.exclusive_maximum { "" } else { "or equal to " };
            found.add(tell.invalid(value.clone(), &format!("should be less than {or_equal}{}", shown(most))));
        }
    }
    if let Some(least) = checks.minimum {
        let below = if checks.exclusive_minimum { n <= least } else { n < least };
        if below {
            let or_equal = if checks.exclusive_minimum { "" } else { "or equal to " };
            let sentence = format!("should be greater than {or_equal}{}", shown(least));
            found.add(tell.invalid(value.clone(), &sentence));
        }
    }
}

fn enumeration(schema: &Schema, value: &Value, tell: &Teller<'_>, found: &mut Found) {
    let Some(allowed) = schema.checks.as_ref().and_then(|c| c.enumeration.as_ref()) else { return };
    let same = |a: &Value| {
        a == value
            || (a.is_number() && value.is_number() && a.as_f64() == value.as_f64())
            || (schema.nullable && value.is_null() && a.is_null())
    };
    if allowed.iter().any(same) {
        return;
    }
    let names: Vec<String> =
        allowed.iter().map(|a| a.as_str().map_or_else(|| a.to_string(), str::to_owned)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    found.add(FieldError::not_supported(tell.field(), value.clone(), &names));
}

/// What an element of a list was before, when one can tell.
fn before<'a>(schema: &Schema, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    if schema.list != ListType::Map {
        return None;
    }
    let key = |item: &'a Value, key: &str| item.get(key);
    let same = |other: &&'a Value| schema.keys.iter().all(|k| item.get(k) == key(other, k));
    old?.as_array()?.iter().find(same)
}

fn list(
    schema: &Schema,
    items: &[Value],
    old: Option<&Value>,
    base: &str,
    place: &Place<'_>,
    found: &mut Found,
) {
    if let Some(element) = &schema.items {
        for (index, item) in items.iter().enumerate() {
            if found.errors.len() >= MAX_ERRORS {
                return;
            }
            schema_at(element, item, before(schema, item, old), base, &Place::Item(place, index), found);
        }
    }
    let Some(checks) = schema.checks.as_deref() else { return };
    let tell = Teller { base, place };
    let size = items.len() as u64;
    if let Some(least) = checks.min_items.filter(|least| size < *least) {
        found.add(tell.invalid(size.into(), &format!("should have at least {least} items")));
    }
    if let Some(most) = checks.max_items.filter(|most| size > *most) {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        found.add(FieldError::too_many(tell.field(), items.len(), most));
    }
    if checks.unique_items && super::lists::first_duplicates(items).next().is_some() {
        found.add(tell.invalid("".into(), "shouldn't contain duplicates"));
    }
}

fn object(
    schema: &Schema,
    members: &serde_json::Map<String, Value>,
    old: Option<&Value>,
    base: &str,
    place: &Place<'_>,
    found: &mut Found,
) {
    let tell = Teller { base, place };
    let old_of = |name: &str| old.and_then(|o| o.get(name));
    if let Some(checks) = schema.checks.as_deref() {
        let size = members.len() as u64;
        if let Some(least) = checks.min_properties.filter(|least| size < *least) {
            found.add(tell.invalid(size.into(), &format!("should have at least {least} properties")));
        }
        if let Some(most) = checks.max_properties.filter(|most| size > *most) {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            found.add(FieldError::too_many(tell.field(), members.len(), most));
        }
    }
    for (name, value) in members {
        if found.errors.len() >= MAX_ERRORS {
            return;
        }
        match (schema.properties.get(name), &schema.additional) {
            (Some(property), _) => {
                schema_at(property, value, old_of(name), base, &Place::Member(place, name), found);
            }
            (None, Additional::Schema(other)) => {
                schema_at(other, value, old_of(name), base, &Place::Dotted(place, name), found);
            }
            (None, Additional::Nothing) => {
                let path = tell.path();
                let sentence = format!("{path}.{name} in body is a forbidden property");
                found.add(FieldError::invalid(tell.field_of(&path), name.as_str(), sentence));
            }
            _ => {}
        }
    }
    let required = schema.checks.as_deref().map(|c| c.required.as_slice()).unwrap_or_default();
    for name in required.iter().filter(|name| !members.contains_key(*name)) {
        let path = Place::Dotted(place, name).text();
        found.add(FieldError::required(tell.field_of(&path), ""));
    }
}
