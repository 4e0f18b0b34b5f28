//! What a kind does with its objects: by the schema facts for built-in kinds, by its definition for custom ones.

use sampan_api::{
    decode::{self, FieldValidation, Parsed},
    defaults, patch,
    status::{FieldError, Status},
    strategy, table, validation,
};
use serde_json::Value;

use super::Endpoint;
use crate::admission::policy;

impl Endpoint {
    /// Makes an object of this kind out of a body, with the warnings that earns.
    pub(crate) fn decode(
        &self,
        parsed: Parsed,
        validation: FieldValidation,
    ) -> Result<(Value, Vec<String>), Status> {
        match &self.custom {
            Some(kind) => kind.decode(parsed, validation),
            None => decode::decode(self.resource, parsed, validation),
        }
    }

    /// Makes an object of this kind out of the result of a patch; `duplicates` are those in the patch's own body.
    pub(crate) fn patched(
        &self,
        patched: Value,
        duplicates: Vec<String>,
        body: &[u8],
        validation: FieldValidation,
    ) -> Result<(Value, Vec<String>), Status> {
        match &self.custom {
            Some(kind) => kind.patched(Parsed { value: patched, duplicates }, validation, body),
            None => patch::checked(self.resource.gvk(), patched, duplicates, body, validation),
        }
    }

    /// Fills in defaults.
    pub(crate) fn defaults(&self, object: &mut Value) {
        match &self.custom {
            Some(kind) => kind.defaults(object),
            None => defaults::apply(self.resource, object),
        }
    }

    pub(crate) fn prepare_create(&self, object: &mut Value) {
        match &self.custom {
            Some(kind) => kind.prepare_create(object),
            None => strategy::prepare_create(self.resource, object),
        }
    }

    pub(crate) fn prepare_update(&self, new: &mut Value, old: &Value) {
        match &self.custom {
            Some(kind) => kind.prepare_update(new, old),
            None => strategy::prepare_update(self.resource, new, old),
        }
    }

    pub(crate) fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        match &self.custom {
            Some(kind) => kind.prepare_status_update(new, old),
            None => strategy::prepare_status_update(self.resource, new, old),
        }
    }

    pub(crate) fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        match &self.custom {
            Some(kind) => kind.validate_create(object),
            None => {
                let mut errors = validation::create(self.resource, object);
                errors.extend(policy::compile_errors(self.resource, object, None));
                errors
            }
        }
    }

    pub(crate) fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        match &self.custom {
            Some(kind) => kind.validate_update(new, old),
            None => {
                let mut errors = validation::update(self.resource, new, old);
                errors.extend(policy::compile_errors(self.resource, new, Some(old)));
                errors
            }
        }
    }

    pub(crate) fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        match &self.custom {
            Some(kind) => kind.validate_status_update(new, old),
            None => validation::update_status(self.resource, new, old),
        }
    }

    /// What a client is told of an object that is accepted.
    pub(crate) fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        match &self.custom {
            Some(kind) => kind.warnings(object, old),
            None => strategy::warnings(self.resource, object, old),
        }
    }

    /// The columns of a table.
    pub(crate) fn columns(&self) -> Value {
        match &self.custom {
            Some(kind) => kind.columns().into(),
            None => table::columns(self.resource).iter().map(|column| column.to_value()).collect(),
        }
    }

    /// The cells and the conditions of one object's row.
    pub(crate) fn row(&self, object: &Value) -> (Vec<Value>, Vec<Value>) {
        let now = sampan_daemon::clock::now();
        match &self.custom {
            Some(kind) => (kind.row(object, now), Vec::new()),
            None => (table::row(self.resource, object, now), table::row_conditions(self.resource, object)),
        }
    }
}
