//! Every message as a Kubernetes user knows it.

use serde_json::json;

use super::*;

#[test]
fn messages_read_as_kubernetes_words_them() {
    let pods = ("", "pods");
    let apps = ("apps", "deployments");
    let cases = [
        (Status::not_found(pods, "x"), 404, "NotFound", r#"pods "x" not found"#),
        (Status::not_found(apps, "x"), 404, "NotFound", r#"deployments.apps "x" not found"#),
        (Status::already_exists(pods, "x"), 409, "AlreadyExists", r#"pods "x" already exists"#),
        (
            Status::conflict(pods, "x"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your \
             changes to the latest version and try again",
        ),
        (Status::forbidden(pods, "x", "no"), 403, "Forbidden", r#"pods "x" is forbidden: no"#),
        (Status::forbidden(pods, "", "no"), 403, "Forbidden", "pods is forbidden: no"),
        (Status::forbidden(("", ""), "", "no"), 403, "Forbidden", "forbidden: no"),
        (Status::unauthorized(""), 401, "Unauthorized", "Unauthorized"),
        (
            Status::method_not_supported(pods, "create"),
            405,
            "MethodNotAllowed",
            r#"create is not supported on resources of kind "pods""#,
        ),
        (
            Status::too_large(3_145_728),
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 3145728",
        ),
        (
            Status::too_large_resource_version(5, 3),
            504,
            "Timeout",
            "Timeout: Too large resource version: 5, current: 3",
        ),
        (Status::internal("boom"), 500, "InternalError", "Internal error occurred: boom"),
    ];
    for (status, code, reason, message) in cases {
        assert_eq!((status.code, status.reason.as_str(), status.message.as_str()), (code, reason, message));
        assert_eq!(Status::from_value(&status.to_value()), Some(status));
    }
}

#[test]
fn invalid_carries_a_cause_for_each_error() {
    let path = FieldPath::new("spec").child("containers");
    let errors = [
        FieldError::required(&path, ""),
        FieldError::not_supported("spec.restartPolicy", "x", &["Always", "Never"]),
        FieldError::invalid(path.index(0).child("ports"), 70000, "must be between 1 and 65535, inclusive"),
        FieldError::required(&path, ""),
    ];
    let status = Status::invalid(("apps", "Deployment"), "a\"b", &errors);
    assert_eq!(
        status.message,
        "Deployment.apps \"a\\\"b\" is invalid: [spec.containers: Required value, spec.restartPolicy: \
         Unsupported value: \"x\": supported values: \"Always\", \"Never\", spec.containers[0].ports: \
         Invalid value: 70000: must be between 1 and 65535, inclusive]"
    );
    let value = status.to_value();
    assert_eq!(value["details"]["kind"], "Deployment");
    assert_eq!(
        value["details"]["causes"][1],
        json!({"reason": "FieldValueNotSupported", "field": "spec.restartPolicy",
               "message": "Unsupported value: \"x\": supported values: \"Always\", \"Never\""})
    );
    let one = Status::invalid(("", "Pod"), "x", &errors[..1]);
    assert_eq!(one.message, "Pod \"x\" is invalid: spec.containers: Required value");
}

#[test]
fn field_errors_print_values_as_upstream() {
    let cases = [
        (FieldError::invalid("a", json!(null), "d"), "a: Invalid value: null: d"),
        (FieldError::invalid("a", true, ""), "a: Invalid value: true"),
        (FieldError::invalid("a", json!({"b": [1]}), "d"), r#"a: Invalid value: {"b":[1]}: d"#),
        (FieldError::too_long("a", 63), "a: Too long: may not be more than 63 bytes"),
        (FieldError::too_many("a", 5, 1), "a: Too many: 5: must have at most 1 item"),
        (FieldError::forbidden("a", "no"), "a: Forbidden: no"),
        (FieldError::duplicate("a[1]", "x\n"), r#"a[1]: Duplicate value: "x\n""#),
        (FieldError::not_found("a", "x"), r#"a: Not found: "x""#),
    ];
    for (error, text) in cases {
        assert_eq!(error.to_string(), text);
    }
}
