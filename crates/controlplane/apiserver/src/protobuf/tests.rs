//! Tests of `protobuf`.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Map, Value, json};

use super::{
    facts::{Kind, Shape},
    *,
};

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
    out.extend_from_slice(content);
    out
}

fn enclosed(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &meta), field(2, raw), field(3, b""), field(4, b"")].concat()
}

/// There and back.
fn there_and_back(object: &Value) -> Value {
    decode(&transcode(object.to_string().as_bytes()).expect("it has a protobuf form")).unwrap()
}

#[test]
fn a_secret_is_read() {
    let metadata =
        [field(1, b"s"), field(8, b""), field(11, &[field(1, b"k"), field(2, b"v")].concat())].concat();
    let data = [field(1, b"key"), field(2, &[0xff, 0])].concat();
    let secret = [field(1, &metadata), field(2, &data), field(3, b""), vec![5 << 3, 0]].concat();
    let value = decode(&enclosed("v1", "Secret", &secret)).unwrap();
    let expected = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"k": "v"}},
        "data": {"key": "/wA="}, "immutable": false,
    });
    assert_eq!(value, expected);
}

#[test]
fn inline_members_and_options_find_their_place() {
    let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
    let spec = field(1, &volume);
    let pod = decode(&enclosed("v1", "Pod", &field(2, &spec))).unwrap();
    assert_eq!(pod["spec"]["volumes"][0], json!({"name": "v", "emptyDir": {}}));
    let options = decode(&enclosed("apps/v1", "DeleteOptions", &[1 << 3, 0])).unwrap();
    assert_eq!(options["gracePeriodSeconds"], 0);
}

#[test]
fn damaged_bodies_are_refused() {
    let whole = enclosed("v1", "Pod", &field(2, &field(1, &field(1, b"v"))));
    for end in 0..whole.len() {
        // Whatever is cut off: an answer, never a panic.
        let _ = decode(&whole[..end]);
    }
    assert!(decode(b"{}").is_err());
    assert!(decode(&enclosed("v1", "Nonsense", b"")).is_err());
    assert!(decode(&enclosed("v1", "Pod", &[0xff; 20])).is_err());
}

#[test]
fn bytes_are_those_that_go_writes() {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "creationTimestamp": null},
        "data": {"a": "b"},
    });
    let metadata = field(1, b"m");
    let data = [field(1, b"a"), field(2, b"b")].concat();
    let expected = enclosed("v1", "ConfigMap", &[field(1, &metadata), field(2, &data)].concat());
    assert_eq!(transcode(object.to_string().as_bytes()).unwrap(), expected);
    // The stored form gets its resourceVersion at the end of the metadata.
    let mut out = Vec::new();
    let message = Message::find("v1", "ConfigMap").unwrap();
    let json = object.to_string();
    push_object(&mut out, ("v1", "ConfigMap"), message, json.as_bytes(), Some(42)).unwrap();
    let metadata = [metadata, field(6, b"42")].concat();
    assert_eq!(out, enclosed("v1", "ConfigMap", &[field(1, &metadata), field(2, &data)].concat()));
    assert_eq!(decode(&out).unwrap()["metadata"]["resourceVersion"], "42");
}

#[test]
fn every_kind_of_value_comes_back() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "p", "labels": {"a": "b", "c": ""}, "creationTimestamp": "2026-11-22T10:00:00Z",
            "managedFields": [{"manager": "m", "operation": "Apply", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}}}}}],
        },
        "spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "w", "secret": {"secretName": "s"}}],
            "containers": [{
                "name": "c", "image": "i\u{e9}\n\"", "args": ["", "x"], "stdin": true,
                "resources": {"limits": {"cpu": "100m", "memory": "1Mi"}},
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}],
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "initialDelaySeconds": 3},
                "readinessProbe": {"tcpSocket": {"port": 8080}},
            }],
            "ephemeralContainers": [{"name": "e", "image": "i", "targetContainerName": "c"}],
            "terminationGracePeriodSeconds": 0, "priority": -5, "hostNetwork": true,
        },
    });
    assert_eq!(there_and_back(&pod), pod);
    let others = [
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
            "spec": {"renewTime": "2026-11-22T10:00:00.123456Z", "leaseDurationSeconds": 40}}),
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r"},
            "data": {"spec": {"x": [1, 2.5, null, "y"]}}, "revision": 3}),
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {},
            "status": {"user": {"username": "u", "extra": {"k": ["a", "b"]}}, "authenticated": true}}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "v"}, "spec": {"matchConstraints": {"resourceRules": [{
                "resourceNames": ["n"], "operations": ["CREATE"], "apiGroups": [""], "scope": "*"}]}}, "status": {}}),
    ];
    for object in others {
        assert_eq!(there_and_back(&object), object);
    }
}

#[test]
fn schemas_come_back() {
    let schema = json!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true, "default": {"a": 1},
        "properties": {
            "list": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "map": {"additionalProperties": {"type": "integer", "maximum": 2.5}},
            "closed": {"additionalProperties": false}, "open": {"additionalProperties": true},
            "pair": {"items": [{"type": "string"}, {"type": "number"}]},
            "needs": {"dependencies": {"a": ["b"], "c": {"type": "string"}}},
        },
        "enum": ["a", 1, {"b": []}],
        "x-kubernetes-validations": [{"rule": "self.a", "optionalOldSelf": false}],
    });
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "c"},
        "spec": {"group": "g", "names": {"plural": "p", "kind": "K"}, "scope": "Namespaced", "versions": [{
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        }]},
        "status": {"conditions": [{"type": "Established", "status": "True"}], "acceptedNames": {"plural": "p", "kind": "K"}},
    });
    assert_eq!(there_and_back(&crd), crd);
}

#[test]
fn lists_and_refusals_have_their_form() {
    let item = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let list = json!({
        "kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "7", "remainingItemCount": 0},
        "items": [item("a"), item("b")],
    });
    let whole = transcode(list.to_string().as_bytes()).unwrap();
    let message = Message::find("v1", "ConfigMap").unwrap();
    let (mut items, mut out) = (Vec::new(), Vec::new());
    for name in ["a", "b"] {
        let json = item(name).to_string();
        nested(&mut items, 2, |out| write::object(out, message, json.as_bytes(), None)).unwrap();
    }
    let metadata = list["metadata"].to_string();
    push_list(&mut out, ("v1", "ConfigMapList"), metadata.as_bytes(), &items).unwrap();
    assert_eq!(out, whole);
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "reason": "NotFound",
        "details": {"name": "p", "kind": "pods", "causes": [{"reason": "r", "message": "m", "field": "f"}]}, "code": 404,
    });
    assert_eq!(there_and_back(&status), status);
    assert!(transcode(br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","rows":[]}"#).is_none());
    assert!(transcode(br#"{"kind":"Widget","apiVersion":"example.com/v1"}"#).is_none());
    assert!(transcode(br#"{"kind":"Pod","apiVersion":"v1","spec":7}"#).is_none());
}

#[test]
fn frames_say_how_long_they_are() {
    let mut out = Vec::new();
    push_frame(&mut out, "ADDED", &[5; 300]);
    let length = u32::from_be_bytes(out[..4].try_into().unwrap());
    assert_eq!(usize::try_from(length).unwrap(), out.len() - 4);
    let mut reader = wire::Reader(&out[4..]);
    assert!(matches!(reader.next(), Ok(Some((1, wire::Wire::Bytes(b"ADDED"))))));
    let Ok(Some((2, wire::Wire::Bytes(raw)))) = reader.next() else { panic!("no object") };
    let Ok(Some((1, wire::Wire::Bytes(object)))) = wire::Reader(raw).next() else { panic!("no bytes") };
    assert_eq!(object, [5; 300]);
}

/// Makes objects of any kind up, as deep as given.
struct Maker(SmallRng);

impl Maker {
    fn object(&mut self, message: Message, depth: usize) -> Map<String, Value> {
        let mut out = Map::new();
        for field in message.fields() {
            match field.kind {
                Kind::Message(inner) if field.name.is_empty() => out.extend(self.object(inner, depth)),
                // What the envelope says is not a member of its own.
                _ if self.0.random_ratio(1, 3) || (depth == 0 && field.name == "metadata") => {}
                kind => {
                    let value = self.field(field.shape, field.pointer, kind, depth);
                    out.extend(value.map(|value| (field.name.to_owned(), value)));
                }
            }
        }
        out
    }

    fn field(&mut self, shape: Shape, pointer: bool, kind: Kind, depth: usize) -> Option<Value> {
        let deep = depth == 0;
        let count = self.0.random_range(1..3);
        match shape {
            // A member that is there empty and one that is missing are the same where zero does not count.
            Shape::One => self.value(kind, pointer, depth),
            Shape::List => (0..count)
                .map(|_| self.value(kind, true, depth))
                .collect::<Option<Vec<_>>>()
                .map(Value::Array),
            Shape::Map => (0..count)
                .map(|n| Some((format!("key-{n}"), self.value(kind, true, depth)?)))
                .collect::<Option<Map<_, _>>>()
                .map(Value::Object),
        }
        .filter(|_| !deep || !matches!(kind, Kind::Message(_)))
    }

    fn value(&mut self, kind: Kind, zero: bool, depth: usize) -> Option<Value> {
        let rng = &mut self.0;
        let empty = zero && rng.random_ratio(1, 4);
        let number =
            if empty { 0 } else { rng.random_range(1..1_000_000_i64) * if rng.random() { 1 } else { -1 } };
        let text = if empty { String::new() } else { format!("t\u{e9}\"\n{number}") };
        let schema = |maker: &mut Self| {
            let message = Message::schema().filter(|_| depth > 1)?;
            Some(Value::Object(maker.object(message, depth - 1)))
        };
        Some(match kind {
            Kind::Text => text.into(),
            Kind::Flag => (!empty).into(),
            Kind::Number => number.into(),
            Kind::Float if empty => 0.into(),
            Kind::Float => (number as f64 / 8.0 + 0.0625).into(),
            Kind::Bytes => if empty { "" } else { "/wD/" }.into(),
            Kind::Time => "2026-11-22T10:00:00Z".into(),
            Kind::MicroTime => "2026-11-22T10:00:00.000001Z".into(),
            Kind::Duration => "1h0m0.5s".into(),
            Kind::Quantity => format!("{}m", number.abs() + 1).into(),
            Kind::IntOrString if rng.random() => number.into(),
            Kind::IntOrString => text.into(),
            Kind::Raw => json!({"a": [number, null, {"b": text}]}),
            Kind::Texts => json!(["a", text]),
            Kind::Schemas if rng.random() => json!([schema(self)?, schema(self)?]),
            Kind::SchemaOrTexts if rng.random() => json!(["a", "b"]),
            Kind::SchemaOrFlag if rng.random() => (!empty).into(),
            Kind::Schemas | Kind::SchemaOrTexts | Kind::SchemaOrFlag => schema(self)?,
            Kind::Message(message) => {
                let depth = depth.checked_sub(1).filter(|depth| *depth > 0)?;
                Value::Object(self.object(message, depth))
            }
        })
    }
}

#[test]
fn random_objects_of_every_kind_come_back() {
    let mut kinds = 0;
    for resource in sampan_api::kinds::resources() {
        let version = resource.api_version();
        let Some(message) = Message::find(&version, resource.kind) else {
            panic!("{version} {} has no message", resource.kind);
        };
        kinds += 1;
        for seed in 0..30 {
            let mut maker = Maker(SmallRng::seed_from_u64(seed));
            let mut object = Map::new();
            object.insert("apiVersion".to_owned(), version.as_str().into());
            object.insert("kind".to_owned(), resource.kind.into());
            object.extend(maker.object(message, 7));
            let object = Value::Object(object);
            assert_eq!(there_and_back(&object), object, "{version} {}, seed {seed}", resource.kind);
        }
    }
    assert!(kinds > 50);
}
