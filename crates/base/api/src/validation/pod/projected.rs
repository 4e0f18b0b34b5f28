//! Projected volumes: several sources in one directory.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::labels;
use crate::validation::read::{Errors, get, has, int, list, number, text};

use super::volumes::{downward_file, key_to_path, local_path, mode};

const KINDS: [&str; 6] =
    ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

/// Paths that some source fills already.
struct Taken<'a> {
    volume: &'a FieldPath,
    paths: Vec<String>,
}

impl Taken<'_> {
    /// Notes the path; a second one of the same name is refused, blaming `blame`.
    fn take(&mut self, out: &mut Errors, target: &str, blame: &str) {
        if target.is_empty() {
            return;
        }
        if self.paths.iter().any(|taken| taken == target) {
            out.push(FieldError::invalid(self.volume, blame, "conflicting duplicate paths"));
        } else {
            self.paths.push(target.to_owned());
        }
    }
}

pub(super) fn projected(out: &mut Errors, path: &FieldPath, volume: &Value) {
    mode(out, &path.child("defaultMode"), int(volume, "defaultMode"));
    let mut taken = Taken { volume: path, paths: Vec::new() };
    for (i, source) in list(volume, "sources").iter().enumerate() {
        let item = path.child("sources").index(i);
        for kind in KINDS.iter().filter(|kind| has(source, kind)) {
            let (at, part) = (item.child(kind), get(source, kind));
            match *kind {
                "secret" | "configMap" => keys(out, &at, part, &mut taken),
                "downwardAPI" => {
                    for file in list(part, "items") {
                        downward_file(out, &at, file);
                        taken.take(out, text(file, "path"), text(file, "path"));
                    }
                }
                "serviceAccountToken" => token(out, path, &at, part),
                "clusterTrustBundle" => trust_bundle(out, &at, part, &mut taken),
                _ => certificate(out, &at, part, &mut taken),
            }
        }
        if KINDS.iter().filter(|kind| has(source, kind)).count() > 1 {
            out.push(FieldError::forbidden(&item, "may not specify more than 1 volume type per source"));
        }
    }
}

fn keys(out: &mut Errors, path: &FieldPath, source: &Value, taken: &mut Taken<'_>) {
    let name = text(source, "name");
    if name.is_empty() {
        out.push(FieldError::required(path.child("name"), ""));
    }
    for (i, item) in list(source, "items").iter().enumerate() {
        key_to_path(out, &path.child("items").index(i), item);
        taken.take(out, text(item, "path"), name);
    }
}

fn token(out: &mut Errors, volume: &FieldPath, path: &FieldPath, source: &Value) {
    const SHORTEST: i64 = 600;
    const LONGEST: i64 = 1 << 32;
    let seconds = number(source, "expirationSeconds");
    let mut wrong = |sentence: &str| {
        out.push(FieldError::invalid(path.child("expirationSeconds"), seconds, sentence));
    };
    if seconds < SHORTEST {
        wrong("may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST {
        wrong("may not specify a duration larger than 2^32 seconds");
    }
    // The path in these two lacks the source, as in Kubernetes' own messages.
    let target = text(source, "path");
    if target.is_empty() {
        out.push(FieldError::required(volume.child("path"), ""));
    } else {
        local_path(out, &volume.child("path"), target);
    }
}

fn trust_bundle(out: &mut Errors, path: &FieldPath, source: &Value, taken: &mut Taken<'_>) {
    match (has(source, "name"), has(source, "signerName")) {
        (true, true) => {
            let sentence = "only one of name and signerName may be used";
            out.push(FieldError::invalid(path, source.clone(), sentence));
        }
        (true, false) => {
            if text(source, "name").is_empty() {
                out.push(FieldError::required(path.child("name"), "must be a valid object name"));
            }
            if has(source, "labelSelector") {
                let selector = get(source, "labelSelector").clone();
                let sentence = "labelSelector must be unset if name is specified";
                out.push(FieldError::invalid(path.child("labelSelector"), selector, sentence));
            }
        }
        (false, true) => {
            if text(source, "signerName").is_empty() {
                out.push(FieldError::required(path.child("signerName"), "must be a valid signer name"));
            }
            labels::selector(out, &path.child("labelSelector"), get(source, "labelSelector"));
        }
        (false, false) => {
            out.push(FieldError::required(path, "either name or signerName must be specified"));
        }
    }
    let target = text(source, "path");
    if target.is_empty() {
        out.push(FieldError::required(path.child("path"), ""));
    }
    local_path(out, &path.child("path"), target);
    taken.take(out, target, target);
}

fn certificate(out: &mut Errors, path: &FieldPath, source: &Value, taken: &mut Taken<'_>) {
    const TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    if text(source, "signerName").is_empty() {
        out.push(FieldError::required(path.child("signerName"), ""));
    }
    let kind = text(source, "keyType");
    if !TYPES.contains(&kind) {
        out.push(FieldError::not_supported(path.child("keyType"), kind, &TYPES));
    }
    if let Some(seconds) = int(source, "maxExpirationSeconds").filter(|seconds| *seconds < 3600) {
        let sentence = "if provided, maxExpirationSeconds must be >= 3600";
        out.push(FieldError::invalid(path.child("maxExpirationSeconds"), seconds, sentence));
    }
    let mut paths = 0;
    for key in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let target = text(source, key);
        if !target.is_empty() {
            paths += 1;
            local_path(out, &path.child(key), target);
            taken.take(out, target, target);
        }
    }
    if paths == 0 {
        let sentence = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        out.push(FieldError::required(path, sentence));
    }
}
