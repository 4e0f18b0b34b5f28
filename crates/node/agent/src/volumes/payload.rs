//! The files of configMap, secret, downwardAPI and projected volumes, from what they refer to. Pure.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, PodSpec, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use super::atomic::{File, Payload};
use crate::pod::env::{self, Facts, Objects};
use crate::pod::spec;

/// Token lifetime when the projection names none.
pub const TOKEN_SECONDS: i64 = 3600;

/// A token that a volume shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// Audience; empty means the API server.
    pub audience: String,
    /// Lifetime asked for.
    pub seconds: i64,
}

impl TokenKey {
    fn of(projection: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: projection.audience.clone().unwrap_or_default(),
            seconds: projection.expiration_seconds.unwrap_or(TOKEN_SECONDS),
        }
    }
}

/// Where contents come from.
pub struct Sources<'a> {
    /// ConfigMaps and Secrets.
    pub objects: &'a dyn Objects,
    /// Addresses and defaults.
    pub facts: &'a Facts,
    /// Service account tokens by request.
    pub tokens: &'a HashMap<TokenKey, String>,
    /// Layers of the images that volumes are made of, uppermost first, by volume.
    pub images: &'a HashMap<String, Vec<PathBuf>>,
}

/// Every token that the pod's volumes need.
#[must_use]
pub fn token_requests(spec: &PodSpec) -> Vec<TokenKey> {
    let projected = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let mut keys: Vec<TokenKey> = Vec::new();
    for source in projected.flat_map(|projected| projected.sources.iter().flatten()) {
        if let Some(token) = &source.service_account_token {
            let key = TokenKey::of(token);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

/// The files of a volume; `None` when it is of another kind.
pub fn payload(pod: &Pod, volume: &Volume, sources: &Sources<'_>) -> Result<Option<Payload>, String> {
    let mut out = Payload::default();
    if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode);
        config_map(&source.name, source.items.as_deref(), source.optional, mode, sources, &mut out)?;
    } else if let Some(source) = &volume.secret {
        out.sensitive = true;
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(name, source.items.as_deref(), source.optional, mode(source.default_mode), sources, &mut out)?;
    } else if let Some(source) = &volume.downward_api {
        let mode = mode(source.default_mode);
        downward(pod, source.items.as_deref().unwrap_or_default(), mode, sources, &mut out)?;
    } else if let Some(source) = &volume.projected {
        out.sensitive = true;
        for projection in source.sources.iter().flatten() {
            project(pod, projection, mode(source.default_mode), sources, &mut out)?;
        }
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

fn mode(wanted: Option<i32>) -> u32 {
    wanted.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644)
}

fn project(
    pod: &Pod,
    projection: &VolumeProjection,
    mode: u32,
    sources: &Sources<'_>,
    out: &mut Payload,
) -> Result<(), String> {
    if let Some(source) = &projection.config_map {
        config_map(&source.name, source.items.as_deref(), source.optional, mode, sources, out)?;
    }
    if let Some(source) = &projection.secret {
        secret(&source.name, source.items.as_deref(), source.optional, mode, sources, out)?;
    }
    if let Some(source) = &projection.downward_api {
        downward(pod, source.items.as_deref().unwrap_or_default(), mode, sources, out)?;
    }
    if let Some(source) = &projection.service_account_token {
        let token = sources
            .tokens
            .get(&TokenKey::of(source))
            .ok_or_else(|| "service account token has not been issued yet".to_owned())?;
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let owner = common_user(spec);
        let grouped = spec.security_context.as_ref().is_some_and(|context| context.fs_group.is_some());
        let mode = if owner.is_some() || grouped { 0o600 } else { mode };
        put(out, &source.path, token.clone().into_bytes(), mode, owner)?;
    }
    Ok(())
}

/// The user that every container runs as, when they agree: tokens then belong to it.
fn common_user(spec: &PodSpec) -> Option<u32> {
    let pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = spec::containers(spec).map(|(_, container)| {
        container.security_context.as_ref().and_then(|context| context.run_as_user).or(pod)
    });
    let first = users.next().flatten()?;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn put(out: &mut Payload, path: &str, data: Vec<u8>, mode: u32, owner: Option<u32>) -> Result<(), String> {
    let clean = !path.is_empty()
        && !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.starts_with("..");
    if !clean {
        return Err(format!("invalid path {path:?} (hint: it must be relative and without \"..\")"));
    }
    out.files.insert(path.to_owned(), File { data, mode, owner });
    Ok(())
}

fn pick(
    kind: &str,
    all: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    out: &mut Payload,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return all.into_iter().try_for_each(|(key, data)| put(out, &key, data, mode, None));
    };
    for item in items {
        match all.get(&item.key) {
            Some(data) => {
                let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
                put(out, &item.path, data.clone(), mode, None)?;
            }
            None if optional => {}
            None => return Err(format!("{kind} references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

fn config_map(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    sources: &Sources<'_>,
    out: &mut Payload,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let Some(map) = sources.objects.config_map(name) else {
        return if optional { Ok(()) } else { Err(format!("configmap \"{name}\" not found")) };
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    pick("configmap", text.chain(binary).collect(), items, optional, mode, out)
}

fn secret(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    sources: &Sources<'_>,
    out: &mut Payload,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let Some(secret) = sources.objects.secret(name) else {
        return if optional { Ok(()) } else { Err(format!("secret \"{name}\" not found")) };
    };
    let all = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    pick("secret", all, items, optional, mode, out)
}

fn downward(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    sources: &Sources<'_>,
    out: &mut Payload,
) -> Result<(), String> {
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            env::field_path(pod, &field.field_path, sources.facts).map_err(|error| error.0)?
        } else if let Some(resource) = &item.resource_field_ref {
            let name = resource.container_name.as_deref().unwrap_or_default();
            let found = pod.spec.as_ref().and_then(|spec| spec::container(spec, name));
            let (_, container) = found.ok_or_else(|| format!("container {name} not found"))?;
            env::resource_field(container, resource, sources.facts).map_err(|error| error.0)?
        } else {
            String::new()
        };
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
        put(out, &item.path, value.into_bytes(), mode, None)?;
    }
    Ok(())
}
