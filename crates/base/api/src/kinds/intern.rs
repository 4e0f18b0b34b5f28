//! Kinds that come while the program runs get `'static` names like built-in ones: each distinct row is kept for the
//! process's life, by value, so that a definition that comes again costs nothing. What is kept is bounded.

use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::{Resource, SelectableField, Subresource};

/// Distinct rows that are kept at most. A definition beyond it is not served, and says so.
pub const MAX_ROWS: usize = 20_000;

/// Bytes of distinct names that are kept at most.
pub const MAX_BYTES: usize = 32 << 20;

/// What has been kept so far.
#[derive(Default)]
struct Kept {
    texts: HashSet<&'static str>,
    bytes: usize,
    rows: HashMap<(&'static str, &'static str, &'static str), Vec<&'static Resource>>,
    count: usize,
}

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

/// A row as it is asked for; the fields are those of [`Resource`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The API group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The kind of lists.
    pub list_kind: String,
    /// The name in the path.
    pub plural: String,
    /// The singular name.
    pub singular: String,
    /// What kubectl users type instead of the plural.
    pub short_names: Vec<String>,
    /// Groups of kinds.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a status subresource.
    pub status: bool,
    /// Whether there is a scale subresource.
    pub scale: bool,
    /// Labels of field selectors; each is also the path of the value.
    pub fields: Vec<String>,
}

impl Kept {
    fn text(&mut self, text: &str) -> Option<&'static str> {
        if let Some(kept) = self.texts.get(text) {
            return Some(kept);
        }
        if self.bytes + text.len() > MAX_BYTES {
            return None;
        }
        self.bytes += text.len();
        let kept: &'static str = Box::leak(text.to_owned().into_boxed_str());
        self.texts.insert(kept);
        Some(kept)
    }

    fn texts(&mut self, texts: &[String]) -> Option<Vec<&'static str>> {
        texts.iter().map(|text| self.text(text)).collect()
    }

    fn resource(&mut self, row: &Row) -> Option<Resource> {
        const CHANGE: &[&str] = &["get", "patch", "update"];
        let (group, version) = (self.text(&row.group)?, self.text(&row.version)?);
        let kind = self.text(&row.kind)?;
        let mut subresources = Vec::new();
        if row.scale {
            let (group, version) = ("autoscaling", "v1");
            subresources.push(Subresource { name: "scale", group, version, kind: "Scale", verbs: CHANGE });
        }
        if row.status {
            subresources.push(Subresource { name: "status", group, version, kind, verbs: CHANGE });
        }
        let mut fields = Vec::new();
        for label in self.texts(&row.fields)? {
            fields.push(SelectableField { label, paths: leak(vec![label]), absent: "" });
        }
        Some(Resource {
            kind,
            listed_as: self.text(&row.list_kind)?,
            plural: self.text(&row.plural)?,
            singular: self.text(&row.singular)?,
            short_names: leak(self.texts(&row.short_names)?),
            categories: leak(self.texts(&row.categories)?),
            namespaced: row.namespaced,
            subresources: leak(subresources),
            fields: leak(fields),
            ..super::table::custom(group, version)
        })
    }
}

/// Nothing is leaked of an empty list.
fn leak<T>(items: Vec<T>) -> &'static [T] {
    if items.is_empty() { &[] } else { Box::leak(items.into_boxed_slice()) }
}

/// The row as a resource for the process's life; none when too much is kept already.
pub fn resource(row: &Row) -> Option<&'static Resource> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (kept.text(&row.group)?, kept.text(&row.version)?, kept.text(&row.plural)?);
    let known = kept.rows.get(&key).and_then(|rows| rows.iter().find(|kept| same(kept, row)).copied());
    if known.is_some() {
        return known;
    }
    if kept.count >= MAX_ROWS {
        return None;
    }
    let resource: &'static Resource = Box::leak(Box::new(kept.resource(row)?));
    kept.rows.entry(key).or_default().push(resource);
    kept.count += 1;
    Some(resource)
}

fn same(kept: &Resource, row: &Row) -> bool {
    kept.kind == row.kind
        && kept.singular == row.singular
        && kept.short_names == row.short_names
        && kept.categories == row.categories
        && kept.list_kind() == row.list_kind
        && kept.namespaced == row.namespaced
        && kept.subresource("status").is_some() == row.status
        && kept.subresource("scale").is_some() == row.scale
        && kept.fields.iter().map(|field| field.label).eq(row.fields.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_kept_once() {
        let row = Row {
            group: "example.com".into(),
            version: "v1".into(),
            kind: "Thing".into(),
            list_kind: "ThingList".into(),
            plural: "things".into(),
            singular: "thing".into(),
            namespaced: true,
            status: true,
            fields: vec!["spec.color".into()],
            ..Row::default()
        };
        let first = resource(&row).unwrap();
        assert!(std::ptr::eq(first, resource(&row).unwrap()));
        assert_eq!(first.api_version(), "example.com/v1");
        assert!(first.subresource("status").is_some() && first.subresource("scale").is_none());
        let other = resource(&Row { scale: true, ..row }).unwrap();
        assert!(!std::ptr::eq(first, other) && other.subresource("scale").is_some());
    }
}
