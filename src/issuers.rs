//! Whose tokens are believed besides our own: a file, or the flags that `kube-apiserver` has.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cli::Oidc;

/// The `AuthenticationConfiguration` that the arguments stand for.
pub(crate) fn configuration(file: Option<&Path>, flags: &Oidc) -> Result<Option<Value>> {
    if let Some(file) = file {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        return Ok(Some(serde_yaml_ng::from_str(&text).with_context(|| file.display().to_string())?));
    }
    let Some(url) = &flags.oidc_issuer_url else { return Ok(None) };
    let ca = match &flags.oidc_ca_file {
        Some(file) => fs::read_to_string(file).with_context(|| file.display().to_string())?,
        None => String::new(),
    };
    let claim = &flags.oidc_username_claim;
    let prefix = match flags.oidc_username_prefix.as_deref() {
        Some("-") => String::new(),
        Some(prefix) => prefix.to_owned(),
        None if claim == "email" => String::new(),
        None => format!("{url}#"),
    };
    let groups = flags.oidc_groups_claim.as_ref();
    let groups = groups.map(|claim| json!({"claim": claim, "prefix": flags.oidc_groups_prefix}));
    let required = flags.oidc_required_claim.iter();
    let rules: Vec<Value> =
        required.map(|(claim, value)| json!({"claim": claim, "requiredValue": value})).collect();
    Ok(Some(json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": url, "audiences": [flags.oidc_client_id], "certificateAuthority": ca},
            "claimMappings": {"username": {"claim": claim, "prefix": prefix}, "groups": groups},
            "claimValidationRules": rules,
        }],
    })))
}
