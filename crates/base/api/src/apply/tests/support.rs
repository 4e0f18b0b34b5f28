//! An object with its managers, written to as a server would.

use serde_json::{Value, json};

use crate::apply::{Reset, Root, Writer, apply, track};
use crate::kinds::Gvk;
use crate::status::Status;

/// An object under test.
pub(super) struct Store {
    pub(super) root: Root,
    pub(super) kind: Gvk,
    pub(super) live: Option<Value>,
    /// Seconds of the clock; each write takes one.
    pub(super) clock: u32,
}

pub(super) const DEPLOYMENT: Gvk = Gvk { group: "apps", version: "v1", kind: "Deployment" };

impl Store {
    pub(super) fn new(kind: Gvk) -> Store {
        let root = Root::builtin(kind.group, kind.version, kind.kind).unwrap();
        Store { root, kind, live: None, clock: 0 }
    }

    fn now(&mut self) -> String {
        self.clock += 1;
        format!("2026-01-01T00:{:02}:{:02}Z", self.clock / 60, self.clock % 60)
    }

    fn reset(&self, subresource: &str) -> Reset {
        Reset::of(self.kind.group, self.kind.kind, subresource, true)
    }

    fn whole(&self, body: Value) -> Value {
        let mut out =
            json!({"apiVersion": self.kind.api_version(), "kind": self.kind.kind, "metadata": {"name": "x"}});
        for (name, value) in body.as_object().unwrap() {
            match (name.as_str(), value.as_object()) {
                ("metadata", Some(members)) => {
                    out["metadata"].as_object_mut().unwrap().extend(members.clone());
                }
                _ => out[name] = value.clone(),
            }
        }
        out
    }

    pub(super) fn apply(&mut self, manager: &str, body: Value) -> Result<(), Status> {
        self.apply_as(manager, "", body, false)
    }

    pub(super) fn force(&mut self, manager: &str, body: Value) {
        self.apply_as(manager, "", body, true).unwrap();
    }

    pub(super) fn apply_as(
        &mut self,
        manager: &str,
        sub: &str,
        body: Value,
        force: bool,
    ) -> Result<(), Status> {
        let now = self.now();
        let api_version = self.kind.api_version();
        let writer = Writer { manager, api_version: &api_version, subresource: sub, now: &now };
        let config = self.whole(body);
        let reset = self.reset(sub);
        let applied = apply(&self.root, &self.kind, self.live.as_ref(), &config, &writer, force, &reset)?;
        self.live = Some(applied);
        Ok(())
    }

    pub(super) fn update(&mut self, manager: &str, body: Value) {
        self.update_as(manager, "", body);
    }

    pub(super) fn update_as(&mut self, manager: &str, sub: &str, body: Value) {
        let now = self.now();
        let api_version = self.kind.api_version();
        let writer = Writer { manager, api_version: &api_version, subresource: sub, now: &now };
        let mut new = self.whole(body);
        track(&self.root, self.live.as_ref(), &mut new, &writer, &self.reset(sub));
        self.live = Some(new);
    }

    /// Changes what is there.
    pub(super) fn edit(&mut self, manager: &str, change: impl FnOnce(&mut Value)) {
        let mut new = self.live.clone().unwrap();
        change(&mut new);
        self.update(manager, new);
    }

    pub(super) fn at(&self, pointer: &str) -> Value {
        self.live.as_ref().unwrap().pointer(pointer).cloned().unwrap_or_default()
    }

    /// What a manager owns; null when it owns nothing.
    pub(super) fn fields(&self, manager: &str) -> Value {
        self.entry(manager)["fieldsV1"].clone()
    }

    pub(super) fn entry(&self, manager: &str) -> Value {
        let entries = self.at("/metadata/managedFields");
        let found = entries.as_array().into_iter().flatten().find(|e| e["manager"] == manager);
        found.cloned().unwrap_or_default()
    }

    pub(super) fn managers(&self) -> Vec<String> {
        let entries = self.at("/metadata/managedFields");
        let name = |e: &Value| e["manager"].as_str().unwrap().to_owned();
        entries.as_array().into_iter().flatten().map(name).collect()
    }
}
