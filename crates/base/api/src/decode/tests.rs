//! Bodies as clients send them, good and bad.

use serde_json::json;

use super::*;
use crate::kinds::by_kind;

fn resource(group: &str, kind: &str) -> &'static Resource {
    by_kind(group, "v1", kind).unwrap()
}

fn strict(group: &str, kind: &str, value: &Value) -> Result<Value, String> {
    let text = value.to_string();
    body(resource(group, kind), Format::Json, text.as_bytes(), FieldValidation::Strict)
        .map(|(value, _)| value)
        .map_err(|status| status.message)
}

fn raw(kind: &str, text: &str) -> String {
    let status =
        body(resource("", kind), Format::Json, text.as_bytes(), FieldValidation::Strict).unwrap_err();
    assert_eq!((status.code, status.reason.as_str()), (400, "BadRequest"));
    status.message
}

#[test]
fn kind_and_version_are_filled_in() {
    let out = strict("apps", "Deployment", &json!({"metadata": {"name": "a"}})).unwrap();
    assert_eq!(out, json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "a"}}));
}

#[test]
fn other_kinds_are_refused_in_upstreams_words() {
    let why = |value| strict("", "Pod", &value).unwrap_err();
    assert_eq!(
        why(json!({"apiVersion": "v1", "kind": "ConfigMap"})),
        "ConfigMap in version \"v1\" cannot be handled as a Pod: converting (v1.ConfigMap) to (core.Pod): unknown conversion"
    );
    assert_eq!(
        why(json!({"apiVersion": "v1", "kind": "Foo"})),
        "Foo in version \"v1\" cannot be handled as a Pod: no kind \"Foo\" is registered for version \"v1\" in scheme \"sampan\""
    );
    assert!(
        why(json!({"apiVersion": "v2", "kind": "Pod"}))
            .starts_with("Pod in version \"v2\" cannot be handled as a Pod: no kind")
    );
    assert_eq!(
        strict("", "Event", &json!({"apiVersion": "events.k8s.io/v1", "kind": "Event"})).unwrap_err(),
        "the API version in the data (events.k8s.io/v1) does not match the expected API version (v1)"
    );
    assert!(
        why(json!({"apiVersion": 1, "kind": "Pod"}))
            .contains("cannot unmarshal number into Go struct field .apiVersion of type string")
    );
    assert!(why(json!({"apiVersion": "a/b/c"})).contains("unexpected GroupVersion string: a/b/c"));
}

#[test]
fn unknown_and_duplicate_fields() {
    let text = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","name":"b"},"spec":{"foo":1,"containers":[{"name":"x","Image":"y","ports":[{"port":1}]}]}}"#;
    assert_eq!(
        raw("Pod", text),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: duplicate field \"metadata.name\", \
         unknown field \"spec.foo\", unknown field \"spec.containers[0].Image\", unknown field \"spec.containers[0].ports[0].port\""
    );
    let pods = resource("", "Pod");
    let (value, warnings) = body(pods, Format::Json, text.as_bytes(), FieldValidation::Warn).unwrap();
    assert_eq!(warnings.len(), 4);
    assert_eq!(warnings[1], "unknown field \"spec.foo\"");
    assert_eq!(value["spec"], json!({"containers": [{"name": "x", "ports": [{}]}]}));
    assert_eq!(value["metadata"]["name"], "b");
    let (_, warnings) = body(pods, Format::Json, text.as_bytes(), FieldValidation::Ignore).unwrap();
    assert!(warnings.is_empty());
}

#[test]
fn many_problems_are_bounded() {
    let members: Vec<String> = (0..5000).map(|i| format!("\"x{i}\":1")).collect();
    let text = format!("{{{}}}", members.join(","));
    let (_, warnings) =
        body(resource("", "Pod"), Format::Json, text.as_bytes(), FieldValidation::Warn).unwrap();
    assert_eq!(warnings.len(), MAX_PROBLEMS);
}

#[test]
fn wrong_types_are_told_as_go_tells_them() {
    let deployment = |spec: Value| {
        let why = strict("apps", "Deployment", &json!({ "spec": spec })).unwrap_err();
        why.strip_prefix("Deployment in version \"v1\" cannot be handled as a Deployment: ")
            .unwrap()
            .to_owned()
    };
    let pod = |spec: Value| deployment(json!({"template": {"spec": spec}}));
    let at = "json: cannot unmarshal";
    for (found, expected) in [
        (
            deployment(json!({"replicas": "3"})),
            "string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            deployment(json!({"replicas": 1.5})),
            "number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            deployment(json!({"replicas": 4294967296_u64})),
            "number 4294967296 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (deployment(json!([])), "array into Go struct field Deployment.spec of type v1.DeploymentSpec"),
        (
            pod(json!({"containers": {}})),
            "object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            pod(json!({"containers": ["x"]})),
            "string into Go struct field PodSpec.spec.template.spec.containers of type v1.Container",
        ),
        (
            pod(json!({"containers": [{"env": [{"name": "A", "value": 1}]}]})),
            "number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        ),
        (
            pod(json!({"restartPolicy": 1})),
            "number into Go struct field PodSpec.spec.template.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            pod(json!({"hostNetwork": "yes"})),
            "string into Go struct field PodSpec.spec.template.spec.hostNetwork of type bool",
        ),
        (
            pod(json!({"nodeSelector": {"a": true}})),
            "bool into Go struct field PodSpec.spec.template.spec.nodeSelector of type string",
        ),
        (
            pod(json!({"containers": [{"resources": {"limits": "1"}}]})),
            "string into Go struct field ResourceRequirements.spec.template.spec.containers.resources.limits of type v1.ResourceList",
        ),
    ] {
        assert_eq!(found, format!("{at} {expected}"));
    }
    let labels = strict("", "Pod", &json!({"metadata": {"labels": {"a": 1}}})).unwrap_err();
    assert!(labels.ends_with(
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"
    ));
}

#[test]
fn formats_are_checked_and_made_canonical() {
    let limits = |value: Value| {
        strict("", "Pod", &json!({"spec": {"containers": [{"resources": {"limits": {"cpu": value}}}]}}))
            .map(|out| out["spec"]["containers"][0]["resources"]["limits"]["cpu"].clone())
    };
    assert_eq!(limits(json!("1000m")).unwrap(), json!("1"));
    assert_eq!(limits(json!(0.5)).unwrap(), json!("500m"));
    assert_eq!(limits(json!(2)).unwrap(), json!("2"));
    assert_eq!(limits(Value::Null).unwrap(), json!("0"));
    assert!(limits(json!("1x")).unwrap_err().ends_with(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    ));
    assert!(limits(json!("1mm")).unwrap_err().ends_with("unable to parse quantity's suffix"));
    assert!(limits(json!(true)).unwrap_err().contains("quantities must match"));

    let time = |value: Value| {
        strict("", "Pod", &json!({"metadata": {"creationTimestamp": value}}))
            .map(|out| out["metadata"]["creationTimestamp"].clone())
    };
    assert_eq!(time(json!("2026-01-02T03:04:05Z")).unwrap(), json!("2026-01-02T03:04:05Z"));
    assert_eq!(time(json!("2026-01-02T03:04:05.678+01:00")).unwrap(), json!("2026-01-02T02:04:05Z"));
    assert_eq!(time(Value::Null).unwrap(), Value::Null);
    assert!(time(json!("soon")).unwrap_err().ends_with(
        "parsing time \"soon\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"soon\" as \"2006\""
    ));
    assert!(time(json!("2026-13-02T03:04:05Z")).is_err() && time(json!("2026-01-02T03:04:05")).is_err());
    assert!(
        time(json!(5)).unwrap_err().ends_with("json: cannot unmarshal number into Go value of type string")
    );
    let lease =
        strict("coordination.k8s.io", "Lease", &json!({"spec": {"renewTime": "2026-01-02T03:04:05.678Z"}}))
            .unwrap();
    assert_eq!(lease["spec"]["renewTime"], "2026-01-02T03:04:05.678000Z");

    let port =
        |value: Value| strict("", "Service", &json!({"spec": {"ports": [{"port": 1, "targetPort": value}]}}));
    assert!(port(json!(8080)).is_ok() && port(json!("http")).is_ok());
    assert!(
        port(json!(true)).unwrap_err().ends_with("json: cannot unmarshal bool into Go value of type int32")
    );
}

#[test]
fn base64_is_checked_as_go_does() {
    let data = |text: &str| {
        strict("", "Secret", &json!({"data": {"k": text}}))
            .map(|_| ())
            .map_err(|why| why.rsplit(": ").next().unwrap_or_default().to_owned())
    };
    for good in ["", "QUJD", "QUI=", "QQ==", "QU\nJD", "QUJD\n"] {
        assert_eq!(data(good), Ok(()), "{good:?}");
    }
    for (bad, at) in [
        ("QUJ", 0),
        ("not base64!", 3),
        ("Q", 0),
        ("Q===", 1),
        ("QQ=", 3),
        ("QQ=x", 3),
        ("QQ==x", 4),
        ("QUJDQ", 4),
    ] {
        assert_eq!(data(bad), Err(format!("illegal base64 data at input byte {at}")), "{bad:?}");
    }
    let number = strict("", "Secret", &json!({"data": {"k": 1}})).unwrap_err();
    assert!(
        number.ends_with("json: cannot unmarshal number into Go struct field Secret.data of type []uint8")
    );
}

#[test]
fn nulls_go_as_in_go() {
    let out = strict(
        "",
        "ConfigMap",
        &json!({"metadata": {"name": "a", "labels": null, "annotations": {"x": null}}, "data": null}),
    );
    let expected =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "annotations": {"x": ""}}});
    assert_eq!(out.unwrap(), expected);
    let out = strict("", "Pod", &json!({"spec": {"containers": [null]}})).unwrap();
    assert_eq!(out["spec"]["containers"], json!([{}]));
}

#[test]
fn broken_json_is_told() {
    let start = "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: ";
    for (text, expected) in [
        ("", "unexpected end of JSON input (<empty>)"),
        ("{\"kind\":", "unexpected end of JSON input ({\"kind\":)"),
        ("{\"kind\" 1}", "invalid character '1' after object key ({\"kind\" 1})"),
        ("{'a':1}", "invalid character ''' looking for beginning of object key string ({'a':1})"),
        ("{} x", "invalid character 'x' after top-level value ({} x)"),
        ("xyz", "invalid character 'x' looking for beginning of value (78797a)"),
    ] {
        assert_eq!(raw("Pod", text), format!("{start}{expected}"), "{text}");
    }
    assert!(raw("Pod", "[]").contains("cannot unmarshal array into Go value"));
    assert!(raw("Pod", &"[".repeat(100_000)).contains("recursion limit"));
}

#[test]
fn yaml_is_read() {
    let read =
        |text: &str| body(resource("", "ConfigMap"), Format::Yaml, text.as_bytes(), FieldValidation::Strict);
    let (out, _) = read("kind: ConfigMap\ndata:\n  a: \"1\"\n  1: x\n  true: y\n").unwrap();
    assert_eq!(out["data"], json!({"a": "1", "1": "x", "true": "y"}));
    assert!(read("data: {a: 1}").unwrap_err().message.contains("cannot unmarshal number"));
    assert!(read("a: 1\n---\nb: 2\n").unwrap_err().message.contains("several documents"));
    assert!(read("data: {a: b\n").unwrap_err().message.contains("error converting YAML to JSON"));
    assert!(read("data: {a: x, a: y}").unwrap_err().message.contains("duplicate field \"data.a\""));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
    assert!(read(bomb).is_err());
    assert!(read(&"[".repeat(100_000)).is_err());
}

#[test]
fn field_validation_words() {
    assert_eq!(FieldValidation::parse(""), Some(FieldValidation::Warn));
    assert_eq!(FieldValidation::parse("Strict"), Some(FieldValidation::Strict));
    assert_eq!(FieldValidation::parse("strict"), None);
}

#[test]
fn subresource_bodies_decode() {
    let scale = resource("apps", "Deployment").subresource("scale").unwrap().gvk();
    let out = body_of(scale, Format::Json, br#"{"spec":{"replicas":3}}"#, FieldValidation::Strict).unwrap().0;
    assert_eq!(out, json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "spec": {"replicas": 3}}));
    let options = Gvk { group: "", version: "v1", kind: "DeleteOptions" };
    let out =
        body_of(options, Format::Json, br#"{"gracePeriodSeconds":"x"}"#, FieldValidation::Warn).unwrap_err();
    assert!(out.message.contains("DeleteOptions.gracePeriodSeconds of type int64"));
    for version in ["v1", "apps/v1", "meta.k8s.io/v1"] {
        let text = json!({"kind": "DeleteOptions", "apiVersion": version, "propagationPolicy": "Orphan"})
            .to_string();
        assert!(
            body_of(options, Format::Json, text.as_bytes(), FieldValidation::Strict).is_ok(),
            "{version}"
        );
    }
}
