//! Events, in the words of the core group or of events.k8s.io.

use serde_json::Value;

use crate::kinds::Resource;
use crate::status::{FieldError, FieldPath};

use super::read::{Errors, get, has, immutable, invalid_each, number, text};
use super::{meta, names};

/// An event, whichever group's words it uses.
struct Event<'a> {
    object: &'a Value,
    /// In the words of events.k8s.io.
    new: bool,
}

impl<'a> Event<'a> {
    fn either(&self, core: &str, new: &str) -> &'a Value {
        let value = get(self.object, if self.new { new } else { core });
        if value.is_null() { get(self.object, if self.new { core } else { new }) } else { value }
    }

    fn about(&self) -> &'a Value {
        self.either("involvedObject", "regarding")
    }

    fn controller(&self) -> &'a str {
        self.either("reportingComponent", "reportingController").as_str().unwrap_or_default()
    }

    fn note(&self) -> &'a str {
        self.either("message", "note").as_str().unwrap_or_default()
    }
}

pub(super) fn create(out: &mut Errors, resource: &Resource, object: &Value) {
    let event = Event { object, new: resource.group == "events.k8s.io" };
    legacy(out, &event);
    if !event.new {
        let metadata = get(object, "metadata");
        if text(metadata, "name").is_empty() {
            out.push(FieldError::required("metadata.name", "name or generateName is required"));
        }
        return;
    }
    meta::create(out, resource, object);
    series(out, object);
    if !has(object, "eventTime") {
        out.push(FieldError::required("eventTime", ""));
    }
    let kind = text(object, "type");
    if !matches!(kind, "Normal" | "Warning") {
        out.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
    }
    let unset = [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ];
    for (key, shown) in unset {
        let value = get(object, key);
        let empty = match value {
            Value::Null => true,
            Value::Object(fields) => fields.values().all(|v| v == ""),
            Value::Number(number) => number.as_i64() == Some(0),
            _ => false,
        };
        if !empty {
            out.push(FieldError::invalid(shown, "", "needs to be unset"));
        }
    }
}

pub(super) fn update(out: &mut Errors, resource: &Resource, object: &Value, old: &Value) {
    let event = Event { object, new: resource.group == "events.k8s.io" };
    legacy(out, &event);
    if !event.new {
        return;
    }
    meta::update(out, object, old);
    if get(object, "series") != get(old, "series") {
        series(out, object);
    }
    let before = Event { object: old, new: true };
    let path = FieldPath::new;
    immutable(out, &path("involvedObject"), event.about(), before.about());
    let note = "note";
    immutable(out, &path("message"), event.either("message", note), before.either("message", note));
    for key in ["reason", "type", "eventTime", "action", "related", "reportingInstance"] {
        immutable(out, &path(key), get(object, key), get(old, key));
    }
    let (now, was) = (Value::from(event.controller()), Value::from(before.controller()));
    immutable(out, &path("reportingController"), &now, &was);
}

fn series(out: &mut Errors, object: &Value) {
    let series = get(object, "series");
    if series.is_null() {
        return;
    }
    if number(series, "count") < 2 {
        out.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if !has(series, "lastObservedTime") {
        out.push(FieldError::required("series.lastObservedTime", ""));
    }
}

/// What holds for events of both groups.
fn legacy(out: &mut Errors, event: &Event<'_>) {
    let namespace = text(get(event.object, "metadata"), "namespace");
    let about = text(event.about(), "namespace");
    let timed = has(event.object, "eventTime");
    let matches = match (timed, about.is_empty()) {
        (false, true) => matches!(namespace, "" | "default"),
        (false, false) => namespace == about,
        (true, true) => matches!(namespace, "default" | "kube-system"),
        (true, false) => true,
    };
    if !matches {
        let sentence = "does not match event.namespace";
        out.push(FieldError::invalid("involvedObject.namespace", about, sentence));
    }
    if timed {
        timed_fields(out, event);
    }
    invalid_each(out, &FieldPath::new("namespace"), namespace, names::dns1123_subdomain(namespace));
}

/// Events with a time of their own say who noticed what.
fn timed_fields(out: &mut Errors, event: &Event<'_>) {
    let shown = FieldPath::new(if event.new { "reportingController" } else { "reportingComponent" });
    let controller = event.controller();
    if controller.is_empty() {
        out.push(FieldError::required(&shown, ""));
    }
    invalid_each(out, &shown, controller, names::qualified(controller));
    let mut bounded = |key: &str, value: &str, max: usize, needed: bool| {
        if needed && value.is_empty() {
            out.push(FieldError::required(key, ""));
        }
        if value.len() > max {
            out.push(FieldError::invalid(key, "", format!("can have at most {max} characters")));
        }
    };
    bounded("reportingInstance", text(event.object, "reportingInstance"), 128, true);
    bounded("action", text(event.object, "action"), 128, true);
    bounded("reason", text(event.object, "reason"), 128, true);
    bounded("message", event.note(), 1024, false);
}
