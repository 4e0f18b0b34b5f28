//! `ListOptions`, as lists, watches and deletecollection take them from the query.

use std::time::Duration;

use sampan_api::status::{FieldError, Status};
use sampan_store::Revision;

use crate::call::Call;

const MATCH: &str = "resourceVersionMatch";

/// What may be asked of a list or a watch besides selectors.
pub(crate) struct ListOptions {
    /// Most objects in the answer; 0 for all.
    pub(crate) limit: usize,
    /// Where an earlier answer stopped.
    pub(crate) token: Option<String>,
    /// `resourceVersion`; none when the query does not say.
    pub(crate) revision: Option<Revision>,
    /// `resourceVersionMatch=Exact`.
    pub(crate) exact: bool,
    /// `sendInitialEvents`.
    pub(crate) initial_events: Option<bool>,
    /// `allowWatchBookmarks`.
    pub(crate) bookmarks: bool,
    /// `timeoutSeconds`.
    pub(crate) timeout: Option<Duration>,
}

impl ListOptions {
    /// Reads and checks them; a watch knows others than a list.
    pub(crate) fn read(call: &Call, watch: bool) -> Result<Self, Status> {
        let query = &call.query;
        let limit = query.number("limit")?.unwrap_or(0);
        let seconds = query.number("timeoutSeconds")?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
        let initial_events = query.flag("sendInitialEvents");
        let errors =
            if watch { watch_errors(call, initial_events) } else { list_errors(call, initial_events) };
        if !errors.is_empty() {
            return Err(Status::invalid(("meta.k8s.io", "ListOptions"), "", &errors));
        }
        Ok(Self {
            limit: usize::try_from(limit).unwrap_or(0),
            token: query.get("continue").map(str::to_owned),
            revision: revision_of(call)?,
            exact: query.get(MATCH) == Some("Exact"),
            initial_events,
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            timeout: seconds.map(Duration::from_secs),
        })
    }
}

/// The revision that `resourceVersion` says; none when it says nothing.
pub(crate) fn revision_of(call: &Call) -> Result<Option<Revision>, Status> {
    let Some(text) = call.query.get("resourceVersion") else { return Ok(None) };
    text.parse::<u64>().ok().and_then(|n| Revision::try_from(n).ok()).map(Some).ok_or_else(|| {
        let why = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
        let error = FieldError::invalid("resourceVersion", text, why);
        Status::bad_request(format!("invalid resource version: {}", error))
    })
}

fn list_errors(call: &Call, initial_events: Option<bool>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(matching) = call.query.get(MATCH) {
        let revision = call.query.get("resourceVersion");
        if revision.is_none() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        errors.extend(with_token(call));
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(MATCH, matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && revision == Some("0") {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(MATCH, why));
        }
    }
    if initial_events.is_some() {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    errors
}

fn watch_errors(call: &Call, initial_events: Option<bool>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let matching = call.query.get(MATCH);
    if initial_events.is_some() && matching != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(MATCH, why));
    }
    if let Some(matching) = matching {
        if initial_events.is_none() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        if matching != "NotOlderThan" {
            errors.push(FieldError::not_supported(MATCH, matching, &["NotOlderThan"]));
        }
        errors.extend(with_token(call));
    }
    errors
}

fn with_token(call: &Call) -> Option<FieldError> {
    let why = "resourceVersionMatch is forbidden when continue is provided";
    call.query.get("continue").map(|_| FieldError::forbidden(MATCH, why))
}
