//! Hostile inputs for every decoder of this crate.

use sampan_fuzz::{Counting, Target};
use serde_json::{Value, json};

use crate::{
    apply::{self, Reset, Root, Set, Writer},
    custom::{Definition, JsonPath, schema::compile_pattern},
    decode::{self, FieldValidation, Format},
    kinds::{self, Gvk},
    patch,
    quantity::Quantity,
    selector::{FieldSelector, LabelSelector},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WORDS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "labels",
    "annotations",
    "managedFields",
    "fieldsV1",
    "finalizers",
    "ownerReferences",
    "spec",
    "status",
    "template",
    "containers",
    "initContainers",
    "ports",
    "containerPort",
    "protocol",
    "env",
    "value",
    "resources",
    "limits",
    "100m",
    "1Gi",
    "$patch",
    "delete",
    "replace",
    "merge",
    "$retainKeys",
    "$setElementOrder/containers",
    "$setElementOrder/ports",
    "$deleteFromPrimitiveList/finalizers",
    "f:spec",
    "k:{\"name\":\"a\"}",
    "v:1",
    "i:0",
    ".",
    "op",
    "add",
    "remove",
    "move",
    "copy",
    "test",
    "path",
    "from",
    "/spec/-",
    "/metadata/labels/a~1b",
    "&a ",
    "*a",
    "<<",
    "!!binary ",
    "!!float ",
    "!!map",
    "? ",
    "- ",
    "|\n  ",
    ">-\n ",
    "---\n",
    "%YAML 1.1\n",
    "0x7f",
    "0o7",
    ".inf",
    ".nan",
    "~",
    "yes",
    "2026-01-02",
];

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "default", "labels": {"app": "a"}, "finalizers": ["example.com/a"],
            "managedFields": [{"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "time": "2026-01-02T03:04:05Z",
                "fieldsV1": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}}}}]},
        "spec": {"containers": [
            {"name": "a", "image": "a:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
             "env": [{"name": "A", "value": "b"}], "resources": {"limits": {"cpu": "100m", "memory": "1Gi"}}},
            {"name": "b", "image": "b"}], "tolerations": [{"operator": "Exists"}], "volumes": []},
    })
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "default"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}}, "strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": pod()["spec"]}},
    })
}

fn objects() -> Vec<String> {
    vec![pod().to_string(), deployment().to_string(), definition(&schema()).to_string()]
}

fn text(input: &[u8]) -> &str {
    std::str::from_utf8(input).unwrap_or_default()
}

fn gvk(kind: &'static str) -> Gvk {
    kinds::resources().iter().find(|resource| resource.kind == kind).expect("a built-in kind").gvk()
}

#[test]
fn fuzz_json() {
    let run = |input: &[u8]| {
        let Ok(parsed) = decode::parse_json(input) else { return };
        let again = decode::parse_json(parsed.value.to_string().as_bytes()).expect("what is written is read");
        assert_eq!(again.value, parsed.value);
        let yaml = decode::to_yaml(parsed.value.to_string().as_bytes()).expect("it is JSON");
        if let Ok(read) = decode::parse_yaml(yaml.as_bytes()) {
            assert_eq!(read.value, parsed.value, "{yaml}");
        }
    };
    let seeds =
        objects().into_iter().chain(["[".repeat(126), "1.0e10 ".to_owned(), r#""\u00e4\n""#.to_owned()]);
    Target::new("fuzz_json").seeds(seeds).words(WORDS).allocates(1 << 20, 4000).run(run);
}

#[test]
fn fuzz_yaml() {
    let seeds = objects().into_iter().filter_map(|object| decode::to_yaml(object.as_bytes())).chain(
        [
            "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
            "- 'a'\n- \"b\\x41\"\n- |\n  c\n- >-\n  d\n- 0x1f\n- 1_000\n- .inf\n- ~\n- !!str 1\n",
            "? a\n: b\n<<: {c: d}\n---\n...\n",
        ]
        .map(str::to_owned),
    );
    let run = |input: &[u8]| {
        let Ok(parsed) = decode::parse_yaml(input) else { return };
        let written = parsed.value.to_string();
        assert!(written.len() <= (4 << 20) + input.len() * 600, "{} bytes of JSON", written.len());
        let again = decode::parse_json(written.as_bytes()).expect("what is written is read");
        assert_eq!(again.value, parsed.value);
    };
    Target::new("fuzz_yaml").seeds(seeds).words(WORDS).allocates(32 << 20, 20_000).run(run);
}

#[test]
fn fuzz_bodies() {
    let run = |input: &[u8]| {
        for kind in ["Pod", "Deployment", "CustomResourceDefinition"] {
            for validation in [FieldValidation::Strict, FieldValidation::Warn] {
                let _ = decode::body_of(gvk(kind), Format::Json, input, validation);
            }
            let Ok((mut object, _)) =
                decode::body_of(gvk(kind), Format::Json, input, FieldValidation::Ignore)
            else {
                continue;
            };
            let resource =
                kinds::resources().iter().find(|resource| resource.kind == kind).expect("a built-in kind");
            crate::defaults::apply(resource, &mut object);
            let once = object.clone();
            crate::defaults::apply(resource, &mut object);
            assert_eq!(object, once, "defaults of defaults");
            let _ = crate::validation::create(resource, &object);
            let _ = crate::validation::update(resource, &object, &once);
        }
    };
    let target = Target::new("fuzz_bodies").seeds(objects()).words(WORDS).inputs(200);
    target.allocates(8 << 20, 40_000).run(run);
}

#[test]
fn fuzz_patches() {
    let live = deployment();
    let seeds = [
        r#"[{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"c"}},{"op":"test","path":"/kind","value":"Deployment"}]"#,
        r#"[{"op":"copy","from":"/spec","path":"/spec/a"},{"op":"move","from":"/spec/replicas","path":"/b"},{"op":"remove","path":"/metadata/name"}]"#,
        r#"{"spec":{"replicas":null,"template":{"spec":{"containers":[{"name":"a","image":"c"},{"name":"b","$patch":"delete"}],"$setElementOrder/containers":[{"name":"b"},{"name":"a"}]}},"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"finalizers":["b"]},"$patch":"replace"}"#,
    ];
    let run = |input: &[u8]| {
        let kind = gvk("Deployment");
        if let Ok(patched) = patch::json(&live, input) {
            let _ = patch::checked(kind, patched, Vec::new(), input, FieldValidation::Strict);
        }
        let Ok(parsed) = patch::parse(input) else { return };
        if let Ok(merged) = patch::merge(&live, &parsed.value) {
            assert_eq!(patch::merge(&merged, &parsed.value).ok(), Some(merged.clone()), "merged twice");
            let _ = patch::checked(kind, merged, parsed.duplicates.clone(), input, FieldValidation::Warn);
        }
        if let Ok(merged) = patch::strategic_of(kind, &live, &parsed.value) {
            let _ = patch::checked(kind, merged, parsed.duplicates, input, FieldValidation::Strict);
        }
    };
    Target::new("fuzz_patches").seeds(seeds).words(WORDS).allocates(64 << 20, 60_000).run(run);
}

#[test]
fn fuzz_applies() {
    let live = deployment();
    let root = Root::builtin("apps", "v1", "Deployment").expect("its type is known");
    let run = |input: &[u8]| {
        let Ok(parsed) = decode::parse_yaml(input) else { return };
        let writer =
            Writer { manager: "m", api_version: "apps/v1", subresource: "", now: "2026-01-02T03:04:05Z" };
        let (kind, reset) = (gvk("Deployment"), Reset::of("apps", "Deployment", "", true));
        let Ok(applied) = apply::apply(&root, &kind, Some(&live), &parsed.value, &writer, true, &reset)
        else {
            return;
        };
        let again = apply::apply(&root, &kind, Some(&applied), &parsed.value, &writer, true, &reset);
        assert_eq!(again.ok(), Some(applied), "applied twice");
        let _ = apply::field_set(&Root::deduced(), &parsed.value);
    };
    let seeds = [deployment().to_string(), pod().to_string()];
    Target::new("fuzz_applies").seeds(seeds).words(WORDS).inputs(200).allocates(64 << 20, 60_000).run(run);
}

#[test]
fn fuzz_field_sets() {
    let seeds = [
        r#"{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{}}},"f:a":{"v:1":{},"i:0":{},"v:\"x\"":{}}}}"#,
    ];
    let run = |input: &[u8]| {
        let Ok(parsed) = decode::parse_json(input) else { return };
        let Ok(set) = Set::from_fields(&parsed.value) else { return };
        assert_eq!(Set::from_fields(&set.to_fields()).ok(), Some(set));
    };
    Target::new("fuzz_field_sets").seeds(seeds).words(WORDS).allocates(1 << 20, 20_000).run(run);
}

#[test]
fn fuzz_selectors() {
    let words = &[
        "in",
        "notin",
        "!",
        "==",
        "!=",
        ">",
        "<",
        "(a,b)",
        ",",
        "metadata.name",
        "spec.nodeName",
        "\\,",
        "\\=",
    ];
    let seeds =
        ["a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2", "metadata.name=a,spec.nodeName!=b", "a in (,b,)"];
    let pods = kinds::resources().iter().find(|resource| resource.kind == "Pod").expect("a built-in kind");
    let object = pod();
    let run = |input: &[u8]| {
        if let Ok(selector) = LabelSelector::parse(text(input)) {
            let shown = selector.to_string();
            let again = LabelSelector::parse(&shown).unwrap_or_else(|_| panic!("{shown} is not read"));
            assert_eq!(again, selector, "{shown}");
            let _ = selector.matches_object(&object);
        }
        if let Ok(selector) = FieldSelector::parse(pods, text(input)) {
            let _ = selector.matches(&object);
        }
        if let Ok(parsed) = decode::parse_json(input) {
            let _ = LabelSelector::from_object(&parsed.value);
        }
    };
    Target::new("fuzz_selectors").seeds(seeds).words(words).inputs(3000).allocates(1 << 20, 3000).run(run);
}

#[test]
fn fuzz_quantities() {
    let seeds = ["1", "100m", "1.5Gi", "-2e3", "+1E-6", "12345678901234567890123456789n", ".5k", "5.", "1Ei"];
    let words =
        &["n", "u", "m", "k", "Ki", "M", "Mi", "G", "Gi", "T", "Ti", "P", "Pi", "E", "Ei", "e", "e-", "."];
    let run = |input: &[u8]| {
        let Ok(quantity) = Quantity::parse(text(input)) else { return };
        let canonical = quantity.canonical();
        let again = Quantity::parse(&canonical).unwrap_or_else(|_| panic!("{canonical} is not read"));
        assert_eq!(again, quantity, "{canonical}");
        assert_eq!(again.canonical(), canonical);
        let _ = (quantity.to_units(), quantity.to_bytes(), quantity.to_milli(), quantity.to_f64());
        let _ = (quantity + quantity, quantity - quantity);
    };
    Target::new("fuzz_quantities").seeds(seeds).words(words).inputs(5000).allocates(4096, 8).run(run);
}

#[test]
fn fuzz_json_paths() {
    let seeds = [
        ".spec.containers[0].image",
        "$.spec.containers[*].name",
        "..name",
        ".spec.containers[-1:0:-1]",
        ".status.conditions[?(@.type==\"Ready\")].status",
        ".spec['containers','volumes'][0,1]",
        "{.a.b}",
    ];
    let words = &["..", "[*]", ".*", "[?(", ")]", "@.", "==", "!=", ">=", "[0:", "['", "']", ".name"];
    let object = pod();
    let run = |input: &[u8]| {
        if let Some(path) = JsonPath::parse(text(input)) {
            assert!(path.find(&object).len() <= 10_000);
        }
    };
    Target::new("fuzz_json_paths").seeds(seeds).words(words).inputs(1500).allocates(512 << 20, 4000).run(run);
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 9, "enum": ["a", "b"], "default": "a"},
        "b": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}},
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]},
        "c": {"type": "object", "additionalProperties": {"type": "integer", "format": "int32", "minimum": 1}},
        "d": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "e": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "nullable": true},
        "f": {"type": "number", "multipleOf": 0.5, "exclusiveMaximum": true, "maximum": 5},
    }, "x-kubernetes-validations": [{"rule": "self.a != ''", "message": "no"}]}}})
}

fn definition(schema: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.fuzz.example.com"},
        "spec": {"group": "fuzz.example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".spec.a"}]}]},
    })
}

#[test]
fn fuzz_custom_schemas() {
    let words = &[
        "type",
        "object",
        "array",
        "properties",
        "additionalProperties",
        "items",
        "x-kubernetes-list-type",
        "map",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-preserve-unknown-fields",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "pattern",
        "(a{1000}){1000}",
        "(?i)[^\\\\p{L}]",
        "default",
        "format",
        "date-time",
        "cidr",
        "spec",
        "$ref",
    ];
    let resource =
        kinds::resources().iter().find(|r| r.kind == "CustomResourceDefinition").expect("a built-in kind");
    let object = json!({"apiVersion": "fuzz.example.com/v1", "kind": "Thing", "metadata": {"name": "a"},
        "spec": {"a": "b", "b": [{"k": "x"}, {}], "c": {"x": 0}, "d": "5%", "e": null, "f": 1.25, "g": 1}});
    let run = |input: &[u8]| {
        let _ = compile_pattern(text(input));
        let Ok(parsed) = decode::parse_json(input) else { return };
        let whole = definition(&parsed.value);
        let _ = crate::validation::create(resource, &whole);
        let _ = Root::structural(&parsed.value, false);
        let Ok(compiled) = Definition::compile(&whole) else { return };
        let kind = &compiled.versions[0].kind;
        let Ok((mut thing, _)) = kind.decode(object.clone().into(), FieldValidation::Ignore) else { return };
        kind.defaults(&mut thing);
        let _ = kind.validate_create(&thing);
        let _ = kind.validate_update(&thing, &object);
    };
    let target = Target::new("fuzz_custom_schemas").seeds([schema().to_string()]).words(words).inputs(200);
    target.allocates(128 << 20, 200_000).run(run);
}
