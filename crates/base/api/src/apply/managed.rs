//! `metadata.managedFields`, read and written.

use serde_json::{Map, Value};

use super::set::{Set, SetError};

/// Who owns fields: entries are the same manager's when all of this is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) applies: bool,
    /// Empty for who applies: it is one manager whatever version it writes.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Manager {
    pub(super) fn new(name: &str, applies: bool, api_version: &str, subresource: &str) -> Manager {
        let name = if name.is_empty() { "unknown" } else { name };
        let api_version = if applies { "" } else { api_version };
        Manager {
            name: name.to_owned(),
            applies,
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// The text by which upstream tells managers apart, which decides their order.
    pub(super) fn identifier(&self) -> String {
        let member = |name: &str, value: &str| match value {
            "" => None,
            value => Some(format!("\"{name}\":{}", Value::from(value))),
        };
        let operation = if self.applies { "Apply" } else { "Update" };
        let members = [
            member("manager", &self.name),
            member("operation", operation),
            member("apiVersion", &self.api_version),
            member("subresource", &self.subresource),
        ];
        format!("{{{}}}", members.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

/// What a manager owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: Manager,
    pub(super) api_version: String,
    /// RFC 3339 with whole seconds, in UTC.
    pub(super) time: Option<String>,
    pub(super) set: Set,
}

/// Why `managedFields` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagedError {
    /// Another operation.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// No version.
    #[error("apiVersion must not be empty")]
    ApiVersion,
    /// No format of the fields.
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    /// An unknown format of the fields.
    #[error("invalid fieldsType {0} in managed fields entry {1}")]
    FieldsType(String, usize),
    /// A set that cannot be read.
    #[error("error decoding versioned set from entry {0}: error decoding set: {1}")]
    Set(usize, SetError),
}

/// All entries of an object.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Managed(pub(super) Vec<Entry>);

impl Managed {
    pub(super) fn decode(entries: &[Value]) -> Result<Managed, ManagedError> {
        let mut out = Managed::default();
        for (index, value) in entries.iter().enumerate() {
            let entry = decode(index, value)?;
            match out.0.iter_mut().find(|e| e.manager == entry.manager) {
                Some(same) => *same = entry,
                None => out.0.push(entry),
            }
        }
        Ok(out)
    }

    /// What the object says, nothing when it cannot be read.
    pub(super) fn of(object: &Value) -> Managed {
        let entries = raw(object).and_then(Value::as_array);
        entries.and_then(|entries| Managed::decode(entries).ok()).unwrap_or_default()
    }

    pub(super) fn get(&self, manager: &Manager) -> Option<&Entry> {
        self.0.iter().find(|e| e.manager == *manager)
    }

    pub(super) fn remove(&mut self, manager: &Manager) -> Option<Entry> {
        let at = self.0.iter().position(|e| e.manager == *manager)?;
        Some(self.0.remove(at))
    }

    pub(super) fn put(&mut self, entry: Entry) {
        match self.0.iter_mut().find(|e| e.manager == entry.manager) {
            Some(same) => *same = entry,
            None => self.0.push(entry),
        }
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|e| !e.set.is_empty());
    }

    /// The array to store; none when there is no entry.
    pub(super) fn encode(&self) -> Option<Value> {
        let mut entries: Vec<Value> = self.0.iter().map(encode).collect();
        sort(&mut entries);
        (!entries.is_empty()).then_some(Value::Array(entries))
    }
}

/// `metadata.managedFields` as it is.
pub(super) fn raw(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields").filter(|v| !v.is_null())
}

/// Checks what an object says of its managers.
pub fn check_managed_fields(object: &Value) -> Result<(), ManagedError> {
    match raw(object).and_then(Value::as_array) {
        Some(entries) => Managed::decode(entries).map(|_| ()),
        None => Ok(()),
    }
}

/// Whether a client asks to forget all managers: an empty list, or one empty entry.
pub(super) fn is_reset(entries: &[Value]) -> bool {
    let empty = |entry: &Value| match entry {
        Value::Object(members) => members.values().all(|v| v.is_null() || v.as_str() == Some("")),
        _ => entry.is_null(),
    };
    match entries {
        [] => true,
        [one] => empty(one),
        _ => false,
    }
}

fn text<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn decode(index: usize, entry: &Value) -> Result<Entry, ManagedError> {
    let applies = match text(entry, "operation") {
        "Apply" => true,
        "Update" => false,
        _ => return Err(ManagedError::Operation),
    };
    let api_version = text(entry, "apiVersion");
    if api_version.is_empty() {
        return Err(ManagedError::ApiVersion);
    }
    match text(entry, "fieldsType") {
        "FieldsV1" => {}
        "" => return Err(ManagedError::NoFieldsType(index)),
        other => return Err(ManagedError::FieldsType(crate::status::go_quote(other), index)),
    }
    let set = entry.get("fieldsV1").map_or(Ok(Set::default()), Set::from_fields);
    let name = text(entry, "manager");
    let subresource = text(entry, "subresource");
    Ok(Entry {
        // An entry without a name keeps it: only who writes now is called unknown.
        manager: Manager { name: name.to_owned(), ..Manager::new(name, applies, api_version, subresource) },
        api_version: api_version.to_owned(),
        time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
        set: set.map_err(|e| ManagedError::Set(index, e))?,
    })
}

fn encode(entry: &Entry) -> Value {
    let mut out = Map::with_capacity(7);
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            out.insert(name.to_owned(), value.into());
        }
    };
    put("manager", &entry.manager.name);
    put("operation", if entry.manager.applies { "Apply" } else { "Update" });
    put("apiVersion", &entry.api_version);
    put("time", entry.time.as_deref().unwrap_or_default());
    put("fieldsType", "FieldsV1");
    out.insert("fieldsV1".to_owned(), entry.set.to_fields());
    if !entry.manager.subresource.is_empty() {
        out.insert("subresource".to_owned(), entry.manager.subresource.clone().into());
    }
    Value::Object(out)
}

/// By operation, time, manager, version, subresource.
pub(super) fn sort(entries: &mut [Value]) {
    let key = |entry: &Value, name: &str| text(entry, name).to_owned();
    if entries.len() > 1 {
        entries.sort_by_cached_key(|entry| {
            ["operation", "time", "manager", "apiVersion", "subresource"].map(|name| key(entry, name))
        });
    }
}
