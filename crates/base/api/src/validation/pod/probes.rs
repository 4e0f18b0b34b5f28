//! Probes and lifecycle hooks, and the handlers that both have.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::names;
use crate::validation::read::{Errors, get, has, int, invalid_each, list, not_negative, number, text};

use super::Context;

pub(super) fn probes(out: &mut Errors, path: &FieldPath, container: &Value, context: &Context<'_>) {
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = get(container, key);
        if probe.is_null() {
            continue;
        }
        let path = path.child(key);
        handler(out, &path, probe, &["exec", "httpGet", "tcpSocket", "grpc"], context);
        let numbers = [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ];
        for field in numbers {
            not_negative(out, &path, probe, field);
        }
        let grace = int(probe, "terminationGracePeriodSeconds");
        if key == "readinessProbe" {
            if grace.is_some() {
                let sentence = "must not be set for readinessProbes";
                let at = path.child("terminationGracePeriodSeconds");
                out.push(FieldError::invalid(at, grace.unwrap_or(0), sentence));
            }
            continue;
        }
        if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
            let at = path.child("terminationGracePeriodSeconds");
            out.push(FieldError::invalid(at, seconds, "must be greater than 0"));
        }
        let successes = number(probe, "successThreshold");
        if successes != 1 {
            out.push(FieldError::invalid(path.child("successThreshold"), successes, "must be 1"));
        }
    }
}

pub(super) fn lifecycle(out: &mut Errors, path: &FieldPath, container: &Value, context: &Context<'_>) {
    let lifecycle = get(container, "lifecycle");
    let path = path.child("lifecycle");
    for hook in ["postStart", "preStop"] {
        if has(lifecycle, hook) {
            let kinds = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(out, &path.child(hook), get(lifecycle, hook), &kinds, context);
        }
    }
    if has(lifecycle, "stopSignal") {
        stop_signal(out, &path.child("stopSignal"), text(lifecycle, "stopSignal"), context.os());
    }
}

const SIGNALS: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT RTMAX \
    RTMAX-1 RTMAX-10 RTMAX-11 RTMAX-12 RTMAX-13 RTMAX-14 RTMAX-2 RTMAX-3 RTMAX-4 RTMAX-5 RTMAX-6 RTMAX-7 \
    RTMAX-8 RTMAX-9 RTMIN RTMIN+1 RTMIN+10 RTMIN+11 RTMIN+12 RTMIN+13 RTMIN+14 RTMIN+15 RTMIN+2 RTMIN+3 \
    RTMIN+4 RTMIN+5 RTMIN+6 RTMIN+7 RTMIN+8 RTMIN+9 SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 \
    USR2 VTALRM WINCH XCPU XFSZ";

fn stop_signal(out: &mut Errors, path: &FieldPath, signal: &str, os: Option<&str>) {
    let Some(os) = os else {
        let sentence = "may not be set for containers with empty `spec.os.name`";
        out.push(FieldError::forbidden(path, sentence));
        return;
    };
    let supported: Vec<String> = match os {
        "linux" => SIGNALS.split_whitespace().map(|name| format!("SIG{name}")).collect(),
        "windows" => vec!["SIGKILL".to_owned(), "SIGTERM".to_owned()],
        _ => return,
    };
    let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
    if !supported.contains(&signal) {
        out.push(FieldError::not_supported(path, signal, &supported));
    }
}

/// Exactly one way to ask or to tell the container.
fn handler(out: &mut Errors, path: &FieldPath, handler: &Value, kinds: &[&str], context: &Context<'_>) {
    let mut found = false;
    for kind in kinds.iter().filter(|kind| has(handler, kind)) {
        let path = path.child(kind);
        if found {
            out.push(FieldError::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        found = true;
        let action = get(handler, kind);
        match *kind {
            "exec" => {
                if list(action, "command").is_empty() {
                    out.push(FieldError::required(path.child("command"), ""));
                }
            }
            "httpGet" => http_get(out, &path, action),
            "tcpSocket" => port(out, &path.child("port"), get(action, "port")),
            "grpc" => {
                let number = number(action, "port");
                let at = path.child("port");
                out.extend(
                    names::port_number(number)
                        .into_iter()
                        .map(|wrong| FieldError::invalid(&at, number, wrong)),
                );
            }
            _ => sleep(out, &path, action, context.grace),
        }
    }
    if !found {
        out.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn sleep(out: &mut Errors, path: &FieldPath, action: &Value, grace: Option<i64>) {
    let seconds = number(action, "seconds");
    if let Some(grace) = grace
        && !(0..=grace).contains(&seconds)
    {
        let sentence = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        out.push(FieldError::invalid(path, seconds, sentence));
    }
}

fn http_get(out: &mut Errors, path: &FieldPath, get_: &Value) {
    if text(get_, "path").is_empty() {
        out.push(FieldError::required(path.child("path"), ""));
    }
    port(out, &path.child("port"), get(get_, "port"));
    let (scheme, schemes) = (text(get_, "scheme"), ["HTTP", "HTTPS"]);
    if !schemes.contains(&scheme) {
        out.push(FieldError::not_supported(path.child("scheme"), scheme, &schemes));
    }
    for header in list(get_, "httpHeaders") {
        let name = text(header, "name");
        invalid_each(out, &path.child("httpHeaders"), name, names::header_name(name));
    }
}

/// A port by number or by name.
pub(crate) fn port(out: &mut Errors, path: &FieldPath, port: &Value) {
    if let Some(name) = port.as_str() {
        invalid_each(out, path, name, names::port_name(name));
        return;
    }
    let number = port.as_i64().unwrap_or(0);
    out.extend(names::port_number(number).into_iter().map(|wrong| FieldError::invalid(path, number, wrong)));
}
