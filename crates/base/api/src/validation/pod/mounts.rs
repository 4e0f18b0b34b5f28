//! Where containers see volumes.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::read::{Errors, flag, get, has, list, text};

use super::{Context, privileged, volumes};

pub(super) fn mounts(out: &mut Errors, path: &FieldPath, container: &Value, context: &Context<'_>) {
    let devices = list(container, "volumeDevices");
    let mut seen: Vec<&str> = Vec::new();
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        let item = path.index(i);
        let (name, at) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            out.push(FieldError::required(item.child("name"), ""));
        }
        if context.volume(name).is_none() {
            out.push(FieldError::not_found(item.child("name"), name));
        }
        if at.is_empty() {
            out.push(FieldError::required(item.child("mountPath"), ""));
        }
        if seen.contains(&at) {
            out.push(FieldError::invalid(item.child("mountPath"), at, "must be unique"));
        }
        seen.push(at);
        if devices.iter().any(|d| text(d, "name") == name) {
            let sentence = "must not already exist in volumeDevices";
            out.push(FieldError::invalid(item.child("name"), name, sentence));
        }
        if devices.iter().any(|d| text(d, "devicePath") == at) {
            let sentence = "must not already exist as a path in volumeDevices";
            out.push(FieldError::invalid(item.child("mountPath"), at, sentence));
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() {
            volumes::descending(out, &path.child("subPath"), sub);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let sentence = "subPathExpr and subPath are mutually exclusive";
                out.push(FieldError::invalid(item.child("subPathExpr"), expression, sentence));
            }
            volumes::descending(out, &path.child("subPathExpr"), expression);
        }
        propagation(out, path, mount, container);
    }
}

fn propagation(out: &mut Errors, path: &FieldPath, mount: &Value, container: &Value) {
    let at = path.child("mountPropagation");
    let propagation = text(mount, "mountPropagation");
    if has(mount, "mountPropagation") {
        let modes = ["Bidirectional", "HostToContainer", "None"];
        if !modes.contains(&propagation) {
            out.push(FieldError::not_supported(&at, propagation, &modes));
        }
        if propagation == "Bidirectional" && !privileged(container) {
            let sentence = "Bidirectional mount propagation is available only to privileged containers";
            out.push(FieldError::forbidden(&at, sentence));
        }
    }
    let at = path.child("recursiveReadOnly");
    match get(mount, "recursiveReadOnly").as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !flag(mount, "readOnly") {
                out.push(FieldError::forbidden(&at, "may only be specified when readOnly is true"));
            }
            if !matches!(propagation, "" | "None") {
                let sentence = "may only be specified when mountPropagation is None or not specified";
                out.push(FieldError::forbidden(&at, sentence));
            }
        }
        Some(other) => {
            out.push(FieldError::not_supported(&at, other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
}

pub(super) fn devices(out: &mut Errors, path: &FieldPath, container: &Value, context: &Context<'_>) {
    let mounts = list(container, "volumeMounts");
    let (mut names, mut paths): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (i, device) in list(container, "volumeDevices").iter().enumerate() {
        let (name, at) = (text(device, "name"), text(device, "devicePath"));
        let (name_path, at_path) = (path.index(i).child("name"), path.index(i).child("devicePath"));
        if name.is_empty() {
            out.push(FieldError::required(&name_path, ""));
        }
        let mut wrong_name = |sentence: &str| out.push(FieldError::invalid(&name_path, name, sentence));
        if names.contains(&name) {
            wrong_name("must be unique");
        }
        match context.volume(name) {
            Some(volume) if !has(volume, "persistentVolumeClaim") && !has(volume, "ephemeral") => {
                wrong_name(
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            Some(_) => {}
            None => out.push(FieldError::not_found(&name_path, name)),
        }
        if at.is_empty() {
            out.push(FieldError::required(&at_path, ""));
        }
        if paths.contains(&at) {
            out.push(FieldError::invalid(&at_path, at, "must be unique"));
        }
        if at.split('/').any(|part| part == "..") {
            out.push(FieldError::invalid(&at_path, at, "can not contain backsteps ('..')"));
        } else {
            paths.push(at);
        }
        if mounts.iter().any(|m| text(m, "name") == name) {
            out.push(FieldError::invalid(&name_path, name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|m| text(m, "mountPath") == at) {
            let sentence = "must not already exist as a path in volumeMounts";
            out.push(FieldError::invalid(&at_path, at, sentence));
        }
        if !name.is_empty() {
            names.push(name);
        }
    }
}
