//! `/v2/token`: tokens as Docker's clients ask for them, by `GET` with Basic or by `POST` as OAuth 2.

use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::{Answer, Ask, Query, json_response, only, whole};
use crate::{
    auth::{Access, Action, Caller, TOKEN_LIFE},
    error::ApiError,
    meta,
    name::{is_repository, project_of},
};

/// Scopes of one token.
const SCOPES: usize = 32;

pub(super) async fn answer(ask: &Ask, body: Incoming) -> Answer {
    only(ask, &[Method::GET, Method::POST])?;
    let mut form = None;
    let mut caller = ask.caller.clone();
    if ask.parts.method == Method::POST {
        let bytes = whole(ask, body, 16 << 10, ApiError::bad_request).await?;
        let parsed = Query::parse(std::str::from_utf8(&bytes).unwrap_or_default());
        if parsed.get("grant_type").is_some_and(|kind| kind != "password") {
            return Err(ApiError::bad_request("only grant_type=password is supported"));
        }
        if let (Some(user), Some(password)) = (parsed.get("username"), parsed.get("password")) {
            caller = ask.core.auth.login(&ask.core.meta, user, password, ask.from).await?;
        }
        form = Some(parsed);
    }
    // A token is no way to a newer token.
    if let Caller::Token { .. } = caller {
        return Err(crate::auth::unauthorized("a token is asked for with a password"));
    }
    let query = form.as_ref().unwrap_or(&ask.query);
    let mut access = Vec::new();
    for scope in query.all("scope").flat_map(|scope| scope.split(' ')).filter(|s| !s.is_empty()).take(SCOPES)
    {
        access.extend(granted(ask, &caller, scope).await?);
    }
    let subject = if matches!(caller, Caller::System(_)) { "" } else { caller.name() };
    let token = ask.core.auth.token(subject, access);
    let value = json!({
        "token": token,
        "access_token": token,
        "expires_in": TOKEN_LIFE,
        "issued_at": meta::time(meta::now()),
    });
    Ok(json_response(StatusCode::OK, &value))
}

/// `repository:<name>:<action>,…`; what is not allowed is left out, as the protocol wants it.
async fn granted(ask: &Ask, caller: &Caller, scope: &str) -> crate::error::ApiResult<Option<Access>> {
    let Some((kind, rest)) = scope.split_once(':') else { return Ok(None) };
    let Some((name, actions)) = rest.rsplit_once(':') else { return Ok(None) };
    if kind != "repository" || !is_repository(name) {
        return Ok(None);
    }
    let project = ask.core.meta.project(project_of(name)).await?.map(|(project, _)| project);
    let mut allowed = Vec::new();
    for action in [Action::Pull, Action::Push, Action::Delete] {
        let asked = actions.split(',').any(|asked| asked == action.name() || asked == "*");
        if asked && caller.may(action, name, project.as_ref()) {
            allowed.push(action.name().to_owned());
        }
    }
    Ok(Some(Access { kind: kind.to_owned(), name: name.to_owned(), actions: allowed }))
}
