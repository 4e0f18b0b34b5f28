//! `/api/v1/…`: administration, as JSON.
//!
//! ```text
//! GET    status, search?q=, audit?limit=&on=, gc          POST gc, scrub
//! GET    projects, users, replications                    POST projects, users
//! GET    projects/P, users/U, replications/R              PATCH, DELETE; PUT replications/R, POST replications/R/run
//! GET    projects/P/repositories, projects/P/robots, projects/P/webhooks
//! PUT    projects/P/members/U, projects/P/webhooks/W      DELETE
//! POST   projects/P/robots (robots for all projects)      DELETE projects/P/robots/R
//! GET    artifacts?repository=                            PATCH artifacts?repository=&reference= (labels)
//! PATCH  repositories?name= (labels, description)         DELETE
//! ```

use std::time::Duration;

use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{ADMIN_BODY, Answer, Ask, json_response, projects, refuse_admin, whole};
use crate::{
    auth::{Action, Caller, hash_password},
    error::{ApiError, ApiResult},
    gc::Task,
    meta::{self, Change, Project, Replication, User, keys},
    name::{check_simple, project_of},
};

pub(super) async fn answer(ask: &Ask, path: &str, body: Incoming) -> Answer {
    // A token says what may be done in repositories, and nothing about this.
    if matches!(ask.caller, Caller::Token { .. }) {
        return Err(crate::auth::unauthorized("a token is not good for this (hint: a user and a password)"));
    }
    let body = whole(ask, body, ADMIN_BODY, ApiError::bad_request).await?;
    let body: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| ApiError::bad_request(format!("the body is no JSON: {error}")))?
    };
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let method = ask.parts.method.as_str();
    let value = match (method, &parts[..]) {
        ("GET", ["status"]) => status(ask).await?,
        ("GET", ["search"]) => search(ask).await?,
        ("GET", ["audit"]) => audit(ask)?,
        ("GET", ["gc"]) => admin(ask, || Ok(json!(ask.core.upkeep.last())))?,
        ("POST", ["gc"]) => collect(ask, &body).await?,
        ("POST", ["scrub"]) => {
            admin(ask, || Ok(Value::Null))?;
            json!(ask.core.scrub().await?)
        }
        (_, ["projects" | "robots" | "artifacts" | "repositories", ..]) => {
            return projects::answer(ask, method, &parts, body).await;
        }
        (_, ["users", rest @ ..]) => users(ask, method, rest, body).await?,
        (_, ["replications", rest @ ..]) => replications(ask, method, rest, body).await?,
        _ => {
            return Err(ApiError::not_found(format!(
                "there is no {method} {path} (hint: see docs/registry.md)"
            )));
        }
    };
    Ok(json_response(if method == "POST" { StatusCode::CREATED } else { StatusCode::OK }, &value))
}

/// Stands for a password that is there.
pub(super) const HIDDEN: &str = "***";

fn admin<T>(ask: &Ask, then: impl FnOnce() -> ApiResult<T>) -> ApiResult<T> {
    if ask.caller.is_admin() { then() } else { Err(refuse_admin(&ask.caller)) }
}

/// A part of a request, as it must be.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> ApiResult<T> {
    serde_json::from_value(value)
        .map_err(|error| ApiError::bad_request(format!("the body cannot be understood: {error}")))
}

/// RFC 7386.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    if let Value::Object(target) = target {
        for (name, value) in patch {
            if value.is_null() {
                target.remove(&name);
            } else {
                merge(target.entry(name).or_insert(Value::Null), value);
            }
        }
    }
}

/// Change a record; it must exist.
pub(super) async fn patch<T: Serialize + DeserializeOwned>(
    ask: &Ask,
    key: Vec<u8>,
    what: &str,
    change_by: Value,
) -> ApiResult<T> {
    loop {
        let found = ask.core.meta.record::<T>(key.clone()).await?;
        let (record, revision) =
            found.ok_or_else(|| ApiError::not_found(format!("{what} does not exist")))?;
        let mut value = json!(record);
        merge(&mut value, change_by.clone());
        let record: T = read(value)?;
        let mut change = Change::default();
        change.at(key.clone(), revision).put_json(key.clone(), &record);
        if ask.core.meta.commit(change).await? {
            return Ok(record);
        }
    }
}

/// Make a record; it must not exist.
pub(super) async fn create(ask: &Ask, key: Vec<u8>, what: &str, record: &impl Serialize) -> ApiResult<()> {
    let mut change = Change::default();
    change.at(key.clone(), 0).put_json(key, record);
    if ask.core.meta.commit(change).await? {
        Ok(())
    } else {
        Err(ApiError::conflict(format!("{what} exists already")))
    }
}

/// Remove a record; it must exist.
pub(super) async fn remove(ask: &Ask, key: Vec<u8>, what: &str) -> ApiResult<()> {
    if ask.core.meta.get(key.clone()).await?.is_none() {
        return Err(ApiError::not_found(format!("{what} does not exist")));
    }
    let mut change = Change::default();
    change.delete(key);
    ask.core.meta.commit(change).await?;
    Ok(())
}

async fn status(ask: &Ask) -> ApiResult<Value> {
    admin(ask, || Ok(()))?;
    let core = &ask.core;
    let (mut blobs, mut bytes, mut packed) = (0, 0, 0);
    let mut contents = core.meta.pages(vec![b'c']);
    while let Some(page) = contents.next().await? {
        for content in page.iter().filter_map(|kv| meta::Content::decode(&kv.value)) {
            blobs += 1;
            bytes += content.size;
            packed += u64::from(content.packed);
        }
    }
    let mut stored = 0;
    for prefix in ["blobs", "packs", "recipes"] {
        stored += core.contents.objects.list(prefix).await?.iter().map(|found| found.size).sum::<u64>();
    }
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "repositories": core.meta.repositories("", usize::MAX).await?.len(),
        "contents": blobs,
        "packedContents": packed,
        "bytes": bytes,
        "storedBytes": stored,
        "hotBytes": core.contents.hot.bytes(),
        "uploads": core.uploads.count(),
        "lastCollection": core.upkeep.last(),
    }))
}

/// Projects, repositories and tags with a word in their name or labels, as far as the caller may pull.
async fn search(ask: &Ask) -> ApiResult<Value> {
    const MOST: usize = 200;
    // It looks at everything, which is not for anybody who comes along.
    if ask.caller.is_anonymous() {
        return Err(refuse_admin(&ask.caller));
    }
    let word = ask.query.get("q").unwrap_or_default().to_lowercase();
    if word.is_empty() {
        return Err(ApiError::bad_request("search wants ?q=<word>"));
    }
    let matches = |name: &str, labels: &[String]| {
        name.to_lowercase().contains(&word) || labels.iter().any(|l| l.to_lowercase().contains(&word))
    };
    let (mut projects, mut repositories, mut tags) = (Vec::new(), Vec::new(), Vec::new());
    let all: std::collections::BTreeMap<String, Project> =
        ask.core.meta.records("p/").await?.into_iter().collect();
    for (name, project) in &all {
        if matches(name, &project.labels) && ask.caller.may(Action::Pull, &format!("{name}/x"), Some(project))
        {
            projects.push(name.clone());
        }
    }
    for (name, repository) in ask.core.meta.repositories("", usize::MAX).await? {
        if !ask.caller.may(Action::Pull, &name, all.get(project_of(&name))) {
            continue;
        }
        if matches(&name, &repository.labels) || repository.description.to_lowercase().contains(&word) {
            repositories.push(name.clone());
        }
        for (tag, _) in ask.core.meta.tags(repository.id, "", 0).await? {
            if tags.len() < MOST && tag.to_lowercase().contains(&word) {
                tags.push(format!("{name}:{tag}"));
            }
        }
        for (digest, manifest) in ask.core.meta.manifests(repository.id).await? {
            if tags.len() < MOST && manifest.labels.iter().any(|label| label.to_lowercase().contains(&word)) {
                tags.push(format!("{name}@{digest}"));
            }
        }
    }
    projects.truncate(MOST);
    repositories.truncate(MOST);
    Ok(json!({ "projects": projects, "repositories": repositories, "artifacts": tags }))
}

fn audit(ask: &Ask) -> ApiResult<Value> {
    admin(ask, || {
        let limit = ask.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(100);
        let on = ask.query.get("on").unwrap_or_default();
        Ok(json!(ask.core.audit.recent(limit, |entry| entry.on.starts_with(on))))
    })
}

/// `{"graceSeconds", "pack"}`: at once, with a shorter grace when it is given.
async fn collect(ask: &Ask, body: &Value) -> ApiResult<Value> {
    admin(ask, || Ok(()))?;
    let grace = body["graceSeconds"].as_u64().map(Duration::from_secs);
    let pack = body["pack"].as_bool().unwrap_or(false);
    ask.core.audit.record(&ask.caller, ask.from, "gc", "", "");
    Ok(json!(ask.core.clean(Task { grace, pack }).await?))
}

async fn users(ask: &Ask, method: &str, rest: &[&str], body: Value) -> ApiResult<Value> {
    let shown = |name: &str, user: &User| json!({ "name": name, "admin": user.admin, "disabled": user.disabled, "made": meta::time(user.made) });
    // Everybody may change their own password.
    if let ("PATCH", [name]) = (method, rest)
        && !ask.caller.is_admin()
        && ask.caller.name() == *name
        && body.as_object().is_some_and(|fields| fields.keys().all(|field| field == "password"))
    {
        return change_user(ask, name, body).await;
    }
    admin(ask, || Ok(()))?;
    match (method, rest) {
        ("GET", []) => {
            let all = ask.core.meta.records::<User>("u/").await?;
            Ok(all.iter().map(|(name, user)| shown(name, user)).collect())
        }
        ("POST", []) => {
            let name = body["name"].as_str().unwrap_or_default().to_owned();
            check_simple("user", &name)?;
            let password = body["password"].as_str().map_or_else(crate::auth::random_secret, str::to_owned);
            check_password(&password)?;
            let hashed = password.clone();
            let hashed = ask.core.supervisor.blocking(move || hash_password(&hashed)).await;
            let admin = body["admin"].as_bool().unwrap_or(false);
            let user = User { password: hashed, admin, made: meta::now(), ..User::default() };
            create(ask, keys::named("u/", &name), &format!("user {name}"), &user).await?;
            ask.core.audit.record(&ask.caller, ask.from, "create-user", &name, "");
            Ok(json!({ "name": name, "password": password }))
        }
        ("PATCH", [name]) => change_user(ask, name, body).await,
        ("DELETE", [name]) => {
            remove(ask, keys::named("u/", name), &format!("user {name}")).await?;
            // Whoever gets the name next does not get the roles.
            for (project, record) in ask.core.meta.records::<Project>("p/").await? {
                if record.members.contains_key(*name) {
                    let change = json!({ "members": { *name: null } });
                    let _: Project = patch(ask, keys::project(&project), &project, change).await?;
                }
            }
            ask.core.audit.record(&ask.caller, ask.from, "delete-user", name, "");
            Ok(json!({}))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn check_password(password: &str) -> ApiResult<()> {
    if (8..=128).contains(&password.len()) {
        Ok(())
    } else {
        Err(ApiError::bad_request("a password has 8 to 128 bytes"))
    }
}

async fn change_user(ask: &Ask, name: &str, mut body: Value) -> ApiResult<Value> {
    if body.get("password").is_some_and(|password| !password.is_string()) {
        return Err(ApiError::bad_request("password must be a string"));
    }
    if let Some(password) = body["password"].as_str().map(str::to_owned) {
        check_password(&password)?;
        body["password"] = ask.core.supervisor.blocking(move || hash_password(&password)).await.into();
    }
    let user: User = patch(ask, keys::named("u/", name), &format!("user {name}"), body).await?;
    ask.core.audit.record(&ask.caller, ask.from, "change-user", name, "");
    Ok(json!({ "name": name, "admin": user.admin, "disabled": user.disabled }))
}

async fn replications(ask: &Ask, method: &str, rest: &[&str], body: Value) -> ApiResult<Value> {
    admin(ask, || Ok(()))?;
    let core = &ask.core;
    let shown = |name: &str, rule: Replication| {
        let mut value = json!(rule);
        value["name"] = name.into();
        if !rule.password.is_empty() {
            value["password"] = HIDDEN.into();
        }
        value["last"] = json!(core.replicator.last(name));
        value
    };
    match (method, rest) {
        ("GET", []) => {
            let all = core.meta.records::<Replication>("x/").await?;
            Ok(all.into_iter().map(|(name, rule)| shown(&name, rule)).collect())
        }
        ("GET", [name]) => {
            let found = core.meta.record::<Replication>(keys::named("x/", name)).await?;
            let (rule, _) = found
                .ok_or_else(|| ApiError::not_found(format!("replication rule {name} does not exist")))?;
            Ok(shown(name, rule))
        }
        ("PUT", [name]) => {
            check_simple("rule", name)?;
            let mut rule: Replication = read(body)?;
            if rule.password == HIDDEN {
                // What was read is written back.
                let found = core.meta.record::<Replication>(keys::named("x/", name)).await?;
                rule.password = found.map(|(rule, _)| rule.password).unwrap_or_default();
            }
            // The address must make sense now, not at the first run.
            crate::upstream::Upstream::new(core.client.clone(), &rule.remote, "", "")
                .map_err(|refusal| ApiError::bad_request(refusal.to_string()))?;
            let mut change = Change::default();
            change.put_json(keys::named("x/", name), &rule);
            core.meta.commit(change).await?;
            core.replicator.changed.notify_one();
            core.audit.record(&ask.caller, ask.from, "set-replication", name, &rule.remote);
            Ok(shown(name, rule))
        }
        ("DELETE", [name]) => {
            remove(ask, keys::named("x/", name), &format!("replication rule {name}")).await?;
            core.replicator.forget(name);
            core.outbox.rouse();
            core.audit.record(&ask.caller, ask.from, "delete-replication", name, "");
            Ok(json!({}))
        }
        ("POST", [name, "run"]) => Ok(json!(core.run_rule(name).await?)),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Used where only the method matters.
pub(super) fn is(method: &str, wanted: &Method) -> bool {
    method == wanted.as_str()
}
