//! The part of the administration that is about projects and what is in them.

use std::collections::HashMap;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Answer, Ask,
    admin::{HIDDEN, create, patch, read, remove},
    json_response, refuse_admin,
};
use crate::{
    auth::{Action, random_secret},
    core::Access,
    digest::{Digest, hex},
    error::{ApiError, ApiResult},
    meta::{self, Change, Member, Project, Repository, Robot, Role, Webhook, keys},
    name::{Selector, check_simple},
};

pub(super) async fn answer(ask: &Ask, method: &str, parts: &[&str], body: Value) -> Answer {
    let value = match (method, parts) {
        ("GET", ["projects"]) => list(ask).await?,
        ("POST", ["projects"]) => make(ask, body).await?,
        (_, ["projects", name]) => one(ask, method, name, body).await?,
        ("GET", ["projects", name, "repositories"]) => repositories(ask, name).await?,
        (_, ["projects", name, "members", user]) => member(ask, method, name, user, body).await?,
        (_, ["projects", name, "robots", rest @ ..]) => robots(ask, method, name, rest, body).await?,
        // For all projects.
        (_, ["robots", rest @ ..]) => robots(ask, method, "", rest, body).await?,
        (_, ["projects", name, "webhooks", rest @ ..]) => webhooks(ask, method, name, rest, body).await?,
        (_, ["artifacts"]) => artifacts(ask, method, body).await?,
        (_, ["repositories"]) => repository(ask, method, body).await?,
        _ => {
            return Err(ApiError::not_found("there is no such thing to manage (hint: see docs/registry.md)"));
        }
    };
    let created = super::admin::is(method, &Method::POST);
    Ok(json_response(if created { StatusCode::CREATED } else { StatusCode::OK }, &value))
}

/// A project in which the caller has a role.
async fn project(ask: &Ask, name: &str, role: Role) -> ApiResult<Project> {
    let found = ask.core.meta.project(name).await?.map(|(project, _)| project);
    if !ask.caller.may(Action::Manage(role), &format!("{name}/x"), found.as_ref()) {
        return Err(if ask.caller.is_anonymous() {
            refuse_admin(&ask.caller)
        } else {
            ApiError::denied(format!("{} may not do this in project {name}", ask.caller.name()))
        });
    }
    found.ok_or_else(|| ApiError::not_found(format!("project {name} does not exist")))
}

fn shown(ask: &Ask, name: &str, project: &Project) -> Value {
    let mut value = json!(project);
    value["name"] = name.into();
    value["used"] = ask.core.counts.usage(name).into();
    value["made"] = meta::time(project.made).into();
    if project.proxy.as_ref().is_some_and(|proxy| !proxy.password.is_empty()) {
        value["proxy"]["password"] = HIDDEN.into();
    }
    value
}

async fn list(ask: &Ask) -> ApiResult<Value> {
    let all = ask.core.meta.records::<Project>("p/").await?;
    let visible = |(name, project): &&(String, Project)| {
        ask.caller.may(Action::Pull, &format!("{name}/x"), Some(project))
    };
    let what = |(name, project): &(String, Project)| {
        if ask.caller.may(Action::Manage(Role::Guest), &format!("{name}/x"), Some(project)) {
            return shown(ask, name, project);
        }
        // Who is in it, and where it comes from, is for its members.
        json!({ "name": name, "public": project.public, "labels": project.labels })
    };
    Ok(all.iter().filter(visible).map(what).collect())
}

async fn make(ask: &Ask, body: Value) -> ApiResult<Value> {
    if !ask.caller.is_admin() {
        return Err(refuse_admin(&ask.caller));
    }
    let name = body["name"].as_str().unwrap_or_default().to_owned();
    check_simple("project", &name)?;
    let project = Project { made: meta::now(), ..read(body)? };
    create(ask, keys::project(&name), &format!("project {name}"), &project).await?;
    ask.core.audit.record(&ask.caller, ask.from, "create-project", &name, "");
    Ok(shown(ask, &name, &project))
}

async fn one(ask: &Ask, method: &str, name: &str, mut body: Value) -> ApiResult<Value> {
    match method {
        "GET" => Ok(shown(ask, name, &project(ask, name, Role::Guest).await?)),
        "PATCH" => {
            project(ask, name, Role::Admin).await?;
            // What costs others is for administrators of the whole.
            if !ask.caller.is_admin() && (body.get("quota").is_some() || body.get("proxy").is_some()) {
                return Err(refuse_admin(&ask.caller));
            }
            // What was read is written back.
            if body["proxy"]["password"] == HIDDEN
                && let Some(proxy) = body["proxy"].as_object_mut()
            {
                proxy.remove("password");
            }
            let changed: Project = patch(ask, keys::project(name), &format!("project {name}"), body).await?;
            ask.core.audit.record(&ask.caller, ask.from, "change-project", name, "");
            Ok(shown(ask, name, &changed))
        }
        "DELETE" => {
            if !ask.caller.is_admin() {
                return Err(refuse_admin(&ask.caller));
            }
            for (repository, record) in ask.core.meta.repositories_of(name).await? {
                if !ask.core.meta.is_empty_repository(record.id).await? {
                    let message = format!(
                        "project {name} has images, for example in {repository} (hint: delete them first)"
                    );
                    return Err(ApiError::conflict(message));
                }
            }
            remove(ask, keys::project(name), &format!("project {name}")).await?;
            // Whoever gets the name next does not get the robots and webhooks.
            let mut change = Change::default();
            for (robot, record) in ask.core.meta.records::<Robot>("k/").await? {
                if record.project == *name {
                    change.delete(keys::named("k/", &robot));
                }
            }
            for (webhook, _) in ask.core.meta.records::<Webhook>(&format!("w/{name}/")).await? {
                change.delete(keys::named(&format!("w/{name}/"), &webhook));
            }
            ask.core.meta.commit(change).await?;
            ask.core.outbox.rouse();
            ask.core.audit.record(&ask.caller, ask.from, "delete-project", name, "");
            Ok(json!({}))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn repositories(ask: &Ask, name: &str) -> ApiResult<Value> {
    let found = ask.core.meta.project(name).await?.map(|(project, _)| project);
    if !ask.caller.may(Action::Pull, &format!("{name}/x"), found.as_ref()) {
        return Err(refuse_admin(&ask.caller));
    }
    let mut all = Vec::new();
    for (repository, record) in ask.core.meta.repositories_of(name).await? {
        let tags = ask.core.meta.tags(record.id, "", 0).await?.len();
        all.push(json!({
            "name": repository,
            "tags": tags,
            "labels": record.labels,
            "description": record.description,
            "made": meta::time(record.made),
        }));
    }
    Ok(all.into())
}

async fn member(ask: &Ask, method: &str, name: &str, user: &str, body: Value) -> ApiResult<Value> {
    project(ask, name, Role::Admin).await?;
    let change = match method {
        "PUT" => {
            let member: Member = read(body)?;
            if ask.core.meta.get(keys::named("u/", user)).await?.is_none() {
                return Err(ApiError::not_found(format!("user {user} does not exist")));
            }
            json!({ "members": { user: member.role } })
        }
        "DELETE" => json!({ "members": { user: null } }),
        _ => return Err(ApiError::method_not_allowed()),
    };
    let changed: Project = patch(ask, keys::project(name), &format!("project {name}"), change).await?;
    ask.core.audit.record(&ask.caller, ask.from, "change-member", name, user);
    Ok(shown(ask, name, &changed))
}

async fn robots(ask: &Ask, method: &str, name: &str, rest: &[&str], body: Value) -> ApiResult<Value> {
    if name.is_empty() {
        if !ask.caller.is_admin() {
            return Err(refuse_admin(&ask.caller));
        }
    } else {
        project(ask, name, Role::Maintainer).await?;
    }
    let full = |robot: &str| {
        if name.is_empty() { format!("robot${robot}") } else { format!("robot${name}+{robot}") }
    };
    match (method, rest) {
        ("GET", []) => {
            let all = ask.core.meta.records::<Robot>("k/").await?;
            let mine = all.iter().filter(|(_, robot)| robot.project == name);
            Ok(mine
                .map(|(name, robot)| {
                    let expires = if robot.expires == 0 { String::new() } else { meta::time(robot.expires) };
                    json!({ "name": name, "actions": robot.actions, "expires": expires, "disabled": robot.disabled, "made": meta::time(robot.made) })
                })
                .collect())
        }
        ("POST", []) => {
            let short = body["name"].as_str().unwrap_or_default().to_owned();
            check_simple("robot", &short)?;
            let actions: Vec<String> = match &body["actions"] {
                Value::Null => vec!["pull".to_owned()],
                actions => read(actions.clone())?,
            };
            if let Some(other) =
                actions.iter().find(|action| !["pull", "push", "delete"].contains(&action.as_str()))
            {
                return Err(ApiError::bad_request(format!(
                    "{other:?} is no action (hint: pull, push, delete)"
                )));
            }
            let expires = match body["ttlSeconds"].as_i64() {
                None | Some(0) => 0,
                Some(ttl) => meta::now().saturating_add(ttl),
            };
            let secret = random_secret();
            let hashed = hex(Digest::of(secret.as_bytes()).bytes());
            let robot = Robot {
                project: name.to_owned(),
                actions,
                secret: hashed,
                expires,
                disabled: false,
                made: meta::now(),
            };
            let full = full(&short);
            create(ask, keys::named("k/", &full), &format!("robot {full}"), &robot).await?;
            ask.core.audit.record(&ask.caller, ask.from, "create-robot", name, &full);
            Ok(json!({ "name": full, "secret": secret }))
        }
        ("PATCH", [short]) => {
            let only = json!({ "disabled": body["disabled"].as_bool().unwrap_or(false) });
            let robot: Robot = patch(ask, keys::named("k/", &full(short)), "the robot", only).await?;
            ask.core.audit.record(&ask.caller, ask.from, "change-robot", name, short);
            Ok(json!({ "name": full(short), "disabled": robot.disabled }))
        }
        ("DELETE", [short]) => {
            remove(ask, keys::named("k/", &full(short)), &format!("robot {}", full(short))).await?;
            ask.core.audit.record(&ask.caller, ask.from, "delete-robot", name, short);
            Ok(json!({}))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn webhooks(ask: &Ask, method: &str, name: &str, rest: &[&str], body: Value) -> ApiResult<Value> {
    project(ask, name, Role::Maintainer).await?;
    let key = |id: &str| keys::named("w/", &format!("{name}/{id}"));
    let shown =
        |id: &str, webhook: &Webhook| json!({ "name": id, "url": webhook.url, "events": webhook.events });
    match (method, rest) {
        ("GET", []) => {
            let all = ask.core.meta.records::<Webhook>(&format!("w/{name}/")).await?;
            Ok(all.iter().map(|(id, webhook)| shown(id, webhook)).collect())
        }
        ("PUT", [id]) => {
            check_simple("webhook", id)?;
            let webhook = Webhook { project: name.to_owned(), trusted: ask.caller.is_admin(), ..read(body)? };
            let address = webhook
                .url
                .parse::<http::Uri>()
                .ok()
                .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
            if address.is_none() {
                return Err(ApiError::bad_request(format!("{:?} is no http or https address", webhook.url)));
            }
            let mut change = meta::Change::default();
            change.put_json(key(id), &webhook);
            ask.core.meta.commit(change).await?;
            ask.core.audit.record(&ask.caller, ask.from, "set-webhook", name, &webhook.url);
            Ok(shown(id, &webhook))
        }
        ("DELETE", [id]) => {
            remove(ask, key(id), &format!("webhook {id}")).await?;
            ask.core.outbox.rouse();
            ask.core.audit.record(&ask.caller, ask.from, "delete-webhook", name, id);
            Ok(json!({}))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// The repository that the query names, for somebody who may do this there.
async fn named(ask: &Ask, parameter: &str, action: Action) -> ApiResult<Access> {
    let name = ask.query.get(parameter).unwrap_or_default();
    ask.access(name, action).await
}

async fn artifacts(ask: &Ask, method: &str, body: Value) -> ApiResult<Value> {
    let labels = method == "PATCH";
    let action = if labels { Action::Manage(Role::Maintainer) } else { Action::Pull };
    let access = named(ask, "repository", action).await?;
    let repo = ask.core.repo(&access.repository).await?;
    if labels {
        let selector = Selector::parse(ask.query.get("reference").unwrap_or_default())?;
        let found = ask.core.resolve(&access, &selector).await?;
        let only = json!({ "l": read::<Vec<String>>(body["labels"].clone())? });
        let changed: meta::Manifest =
            patch(ask, keys::manifest(repo, &found.digest), "the manifest", only).await?;
        return Ok(json!({ "digest": found.digest, "labels": changed.labels }));
    }
    if method != "GET" {
        return Err(ApiError::method_not_allowed());
    }
    let mut tags: HashMap<Digest, Vec<String>> = HashMap::new();
    for (name, tag) in ask.core.meta.tags(repo, "", 0).await? {
        tags.entry(tag.digest).or_default().push(name);
    }
    let mut all = Vec::new();
    for (digest, manifest) in ask.core.meta.manifests(repo).await? {
        let mut size = manifest.size;
        for blob in &manifest.blobs {
            size += ask.core.meta.link(repo, blob).await?.map_or(0, |(link, _)| link.size);
        }
        all.push(json!({
            "digest": digest,
            "mediaType": manifest.media_type,
            "artifactType": manifest.artifact_type,
            "tags": tags.get(&digest).map_or(&[][..], Vec::as_slice),
            "size": size,
            "labels": manifest.labels,
            "pushed": meta::time(manifest.made),
            "pulled": if manifest.pulled == 0 { String::new() } else { meta::time(manifest.pulled) },
        }));
    }
    Ok(all.into())
}

async fn repository(ask: &Ask, method: &str, body: Value) -> ApiResult<Value> {
    match method {
        "PATCH" => {
            let access = named(ask, "name", Action::Manage(Role::Maintainer)).await?;
            let mut only = json!({});
            for field in ["labels", "description"] {
                if let Some(value) = body.get(field) {
                    only[field] = value.clone();
                }
            }
            let key = keys::repository(&access.repository);
            let changed: Repository =
                patch(ask, key, &format!("repository {}", access.repository), only).await?;
            Ok(
                json!({ "name": access.repository, "labels": changed.labels, "description": changed.description }),
            )
        }
        "DELETE" => {
            let access = named(ask, "name", Action::Delete).await?;
            let repo = ask.core.repo(&access.repository).await?;
            let mut count = 0;
            for (digest, _) in ask.core.meta.manifests(repo).await? {
                ask.core.delete_manifest(&access, &Selector::Digest(digest)).await?;
                count += 1;
            }
            Ok(json!({ "deleted": count }))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}
