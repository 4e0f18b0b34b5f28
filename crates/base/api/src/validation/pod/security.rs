//! Security contexts of pods and containers.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::names;
use crate::validation::read::{Errors, flag, get, has, int, list, maybe, one_of_if_set, text, texts};

use super::{Context, all_containers, host_network, volumes};

fn id(out: &mut Errors, path: &FieldPath, id: Option<i64>) {
    if let Some(id) = id {
        out.extend(names::user_id(id).into_iter().map(|wrong| FieldError::invalid(path, id, wrong)));
    }
}

/// `spec.securityContext`.
pub(super) fn pod(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let context = get(spec, "securityContext");
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(out, &path.child(key), int(context, key));
    }
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(out, &path.child("supplementalGroups").index(i), group.as_i64());
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let sentence = "ShareProcessNamespace and HostPID cannot both be enabled";
        out.push(FieldError::invalid(path.child("shareProcessNamespace"), true, sentence));
    }
    sysctls(out, &path.child("sysctls"), spec);
    let enums: [(&str, &[&str]); 3] = [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
    ];
    for (key, supported) in enums {
        one_of_if_set(out, &path.child(key), get(context, key), supported);
    }
    seccomp(out, &path.child("seccompProfile"), get(context, "seccompProfile"));
    apparmor(out, &path.child("appArmorProfile"), get(context, "appArmorProfile"));
}

/// `securityContext` of a container.
pub(super) fn container(out: &mut Errors, path: &FieldPath, context: &Value, host_users: bool) {
    if context.is_null() {
        return;
    }
    for key in ["runAsUser", "runAsGroup"] {
        id(out, &path.child(key), int(context, key));
    }
    let at = path.child("procMount");
    one_of_if_set(out, &at, get(context, "procMount"), &["Default", "Unmasked"]);
    if host_users && text(context, "procMount") == "Unmasked" {
        let sentence = "`hostUsers` must be false to use `Unmasked`";
        out.push(FieldError::invalid(&at, "Unmasked", sentence));
    }
    seccomp(out, &path.child("seccompProfile"), get(context, "seccompProfile"));
    if maybe(context, "allowPrivilegeEscalation") == Some(false) {
        let mut refuse = |sentence: &str| out.push(FieldError::invalid(path, context.clone(), sentence));
        if flag(context, "privileged") {
            refuse("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if texts(get(context, "capabilities"), "add").contains(&"CAP_SYS_ADMIN") {
            refuse("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    apparmor(out, &path.child("appArmorProfile"), get(context, "appArmorProfile"));
}

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(out: &mut Errors, path: &FieldPath, profile: &Value) {
    if profile.is_null() {
        return;
    }
    let kind = text(profile, "type");
    if kind.is_empty() {
        out.push(FieldError::required(path.child("type"), "type is required when seccompProfile is set"));
    } else if !PROFILES.contains(&kind) {
        out.push(FieldError::not_supported(path.child("type"), kind, &PROFILES));
    }
    let at = path.child("localhostProfile");
    match (kind == "Localhost", has(profile, "localhostProfile")) {
        (true, false) => out.push(FieldError::required(at, "must be set when seccomp type is Localhost")),
        (true, true) => volumes::descending(out, &at, text(profile, "localhostProfile")),
        (false, true) => {
            let sentence = "can only be set when seccomp type is Localhost";
            out.push(FieldError::invalid(at, profile.clone(), sentence));
        }
        (false, false) => {}
    }
}

fn apparmor(out: &mut Errors, path: &FieldPath, profile: &Value) {
    const LONGEST: usize = 4095;
    if profile.is_null() {
        return;
    }
    let at = path.child("localhostProfile");
    let name = text(profile, "localhostProfile");
    match text(profile, "type") {
        "Localhost" => {
            if name.trim() != name {
                out.push(FieldError::invalid(&at, name, "must not be padded with whitespace"));
            } else if name.is_empty() {
                out.push(FieldError::required(&at, "must be set when AppArmor type is Localhost"));
            }
            if name.len() > LONGEST {
                out.push(FieldError::too_long(&at, LONGEST));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if has(profile, "localhostProfile") {
                out.push(FieldError::invalid(&at, name, "can only be set when AppArmor type is Localhost"));
            }
        }
        "" => {
            let sentence = "type is required when appArmorProfile is set";
            out.push(FieldError::required(path.child("type"), sentence));
        }
        other => out.push(FieldError::not_supported(path.child("type"), other, &PROFILES)),
    }
}

fn is_sysctl(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |part: &str| match part.as_bytes() {
        [] => false,
        [only] => plain(*only),
        [first, inner @ .., last] => {
            plain(*first) && plain(*last) && inner.iter().all(|c| plain(*c) || b"-_".contains(c))
        }
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, sysctl) in list(get(spec, "securityContext"), "sysctls").iter().enumerate() {
        let path = path.index(i).child("name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            out.push(FieldError::required(&path, ""));
        } else if !is_sysctl(name) {
            let sentence = "must have at most 253 characters and match regex \
                            ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            out.push(FieldError::invalid(&path, name, sentence));
        } else if seen.contains(&name) {
            out.push(FieldError::duplicate(&path, name));
        }
        seen.push(name);
        let dotted = name.replace('/', ".");
        if host_network(spec) && dotted.starts_with("net.") {
            let sentence = "may not be specified when 'hostNetwork' is true";
            out.push(FieldError::invalid(&path, name, sentence));
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix))
            || dotted == "kernel.sem";
        if flag(spec, "hostIPC") && ipc {
            out.push(FieldError::invalid(&path, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

/// A user namespace of its own goes with no other namespace of the host.
pub(super) fn host_users(out: &mut Errors, path: &FieldPath, context: &Context<'_>) {
    if context.host_users {
        return;
    }
    let spec = context.spec;
    let sentence = "when `hostUsers` is false";
    for (key, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, key) {
            out.push(FieldError::forbidden(path.child(shown), sentence));
        }
    }
    for (path, container) in all_containers(spec, path) {
        if !list(container, "volumeDevices").is_empty() {
            out.push(FieldError::forbidden(path.child("volumeDevices"), sentence));
        }
    }
}

/// `spec.os`, and that nothing of the other system is asked for.
pub(super) fn os(out: &mut Errors, path: &FieldPath, context: &Context<'_>) {
    let Some(os) = context.os() else { return };
    let at = path.child("os");
    match os {
        "" => out.push(FieldError::required(at.child("name"), "")),
        "windows" => {}
        "linux" => {
            let sentence = "windows options cannot be set for a linux pod";
            let windows = |holder: &Value| has(get(holder, "securityContext"), "windowsOptions");
            if windows(context.spec) {
                let path = path.child("securityContext.windowsOptions");
                out.push(FieldError::forbidden(path, sentence));
            }
            for (path, container) in all_containers(context.spec, path) {
                if windows(container) {
                    let path = path.child("securityContext.windowsOptions");
                    out.push(FieldError::forbidden(path, sentence));
                }
            }
        }
        other => out.push(FieldError::not_supported(at, other, &["linux", "windows"])),
    }
}
