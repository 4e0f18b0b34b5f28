//! kubectl and custom kinds: columns, explanations, waiting, applies that merge, patches, scale, and the end of a kind.

use crate::kubectl::Kubectl;
use crate::support::Server;

/// The definition that the example chart comes with.
const BOATS: &str = include_str!("../../../../../examples/charts/fleet/crds/boats.yaml");

/// One with a list that is merged by key, and a schema with a level more.
const FERRIES: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ferries.harbour.example}
spec:
  group: harbour.example
  scope: Namespaced
  names: {plural: ferries, singular: ferry, kind: Ferry}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        description: A boat that goes to and fro.
        type: object
        properties:
          spec:
            description: Where it goes.
            type: object
            properties:
              engine:
                description: What drives it.
                type: object
                properties:
                  power: {description: In kilowatts., type: integer}
              stops:
                description: Where it stops.
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, minutes: {type: integer}}
";

fn boat(name: &str, spec: &str) -> String {
    format!("apiVersion: harbour.example/v1\nkind: Boat\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

async fn bad(kubectl: &Kubectl, args: &[&str], input: &str) -> String {
    let (code, out, err) = kubectl.run(args, input).await;
    assert_ne!(code, 0, "kubectl {args:?}: {out}{err}");
    err
}

/// A server with a definition that is established.
async fn with(definition: &str, name: &str) -> (Server, Kubectl) {
    let server = Server::start().await;
    let kubectl = Kubectl::admin(&server);
    let out = kubectl.ok(&["create", "-f", "-"], definition).await;
    assert_eq!(out, format!("customresourcedefinition.apiextensions.k8s.io/{name} created\n"));
    let crd = format!("crd/{name}");
    let out = kubectl.ok(&["wait", "--for=condition=Established", &crd, "--timeout=30s"], "").await;
    assert!(out.contains("condition met"), "{out}");
    (server, kubectl)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boats_are_shown_selected_scaled_and_kept_to_their_rule() {
    let (_server, kubectl) = with(BOATS, "boats.harbour.example").await;
    let boats = format!("{}---\n{}", boat("kon-tiki", "{planks: 9, crew: 6}"), boat("raft", "{planks: 2}"));
    kubectl.ok(&["apply", "-f", "-"], &boats).await;
    let out = kubectl.ok(&["get", "bo", "--no-headers"], "").await;
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["kon-tiki", "9", "6"], ["raft", "2", "1"]], "{out}");
    let out = kubectl.ok(&["get", "boats"], "").await;
    let header: Vec<&str> = out.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NAME", "PLANKS", "CREW", "STATE"]);
    let out = kubectl.ok(&["get", "boats", "--field-selector=spec.planks=9", "-o", "name"], "").await;
    assert_eq!(out, "boat.harbour.example/kon-tiki\n");
    let err = bad(&kubectl, &["get", "boats", "--field-selector=spec.crew=6"], "").await;
    assert!(err.contains("field label not supported: spec.crew"), "{err}");

    let err = bad(&kubectl, &["create", "-f", "-"], &boat("ark", "{planks: 1, crew: 8}")).await;
    assert_eq!(err, "The Boat \"ark\" is invalid: spec: Invalid value: too many people for so few planks\n");
    let patch = ["patch", "boat", "raft", "--type=merge", "-p"];
    let err = bad(&kubectl, &[&patch[..], &["{\"spec\":{\"crew\":5}}"]].concat(), "").await;
    assert!(err.contains("too many people for so few planks"), "{err}");
    kubectl.ok(&[&patch[..], &["{\"spec\":{\"planks\":4}}"]].concat(), "").await;
    kubectl.ok(&["scale", "boat/raft", "--replicas=5"], "").await;
    let out = kubectl.ok(&["get", "boat", "raft", "-o", "jsonpath={.spec.planks} {.spec.crew}"], "").await;
    assert_eq!(out, "4 5");
    let status = ["patch", "boat", "raft", "--subresource=status", "--type=merge", "-p"];
    kubectl.ok(&[&status[..], &["{\"status\":{\"state\":\"Afloat\"}}"]].concat(), "").await;
    let wait = ["wait", "--for=jsonpath={.status.state}=Afloat", "boat/raft", "--timeout=30s"];
    kubectl.ok(&wait, "").await;
    let out = kubectl.ok(&["get", "all", "-o", "name"], "").await;
    assert!(out.contains("boat.harbour.example/raft"), "{out}");

    kubectl.ok(&["delete", "crd", "boats.harbour.example"], "").await;
    let err = bad(&kubectl, &["get", "boats"], "").await;
    // Whether it asks what there is depends on how old its own notes are.
    let gone = ["the server doesn't have a resource type \"boats\"", "could not find the requested resource"];
    assert!(gone.iter().any(|sentence| err.contains(sentence)), "{err}");
    kubectl.ok(&["create", "-f", "-"], BOATS).await;
    let wait = ["wait", "--for=condition=Established", "crd/boats.harbour.example", "--timeout=30s"];
    kubectl.ok(&wait, "").await;
    assert_eq!(kubectl.ok(&["get", "boats", "-o", "name"], "").await, "", "its objects went along");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_are_explained() {
    let (_server, kubectl) = with(FERRIES, "ferries.harbour.example").await;
    // The newer form comes out of version 3, the older one out of version 2 in protobuf.
    for output in ["plaintext", "plaintext-openapiv2"] {
        let form = format!("--output={output}");
        let out = kubectl.ok(&["explain", "ferries", &form], "").await;
        assert!(out.contains("A boat that goes to and fro."), "{out}");
        assert!(out.contains("metadata") && out.contains("spec"), "{out}");
        let out = kubectl.ok(&["explain", "ferry.spec.engine.power", &form], "").await;
        assert!(out.contains("In kilowatts.") && out.contains("<integer>"), "{out}");
        let out = kubectl.ok(&["explain", "ferry.spec", "--recursive", &form], "").await;
        assert!(out.contains("minutes") && out.contains("power"), "{out}");
        let out = kubectl.ok(&["explain", "pods.spec.containers.ports.containerPort", &form], "").await;
        assert!(out.contains("<integer>"), "{out}");
        let err = bad(&kubectl, &["explain", "ferry.spec.sails", &form], "").await;
        assert!(err.contains("field \"sails\" does not exist"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applies_merge_lists_by_key() {
    let (_server, kubectl) = with(FERRIES, "ferries.harbour.example").await;
    let ferry = |stops: &str| {
        format!(
            "apiVersion: harbour.example/v1\nkind: Ferry\nmetadata: {{name: a}}\nspec: {{stops: [{stops}]}}\n"
        )
    };
    let apply = |manager: &'static str| ["apply", "--server-side", "-f", "-", "--field-manager", manager];
    kubectl.ok(&apply("one"), &ferry("{name: north, minutes: 5}")).await;
    kubectl.ok(&apply("two"), &ferry("{name: south, minutes: 7}")).await;
    let names = ["get", "ferry", "a", "-o", "jsonpath={.spec.stops[*].name}"];
    assert_eq!(kubectl.ok(&names, "").await, "north south");
    let err = bad(&kubectl, &apply("two"), &ferry("{name: north, minutes: 6}")).await;
    assert!(err.contains("conflict with \"one\": .spec.stops[name=\"north\"].minutes"), "{err}");
    kubectl.ok(&apply("one"), &ferry("{name: east}")).await;
    assert_eq!(kubectl.ok(&names, "").await, "south east");
    let json =
        ["patch", "ferry", "a", "--type=json", "-p", "[{\"op\":\"remove\",\"path\":\"/spec/stops/0\"}]"];
    kubectl.ok(&json, "").await;
    assert_eq!(kubectl.ok(&names, "").await, "east");
    let err = bad(&kubectl, &["patch", "ferry", "a", "--type=strategic", "-p", "{}"], "").await;
    assert!(err.contains("application/strategic-merge-patch+json is not supported"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_checked_with_full_schemas() {
    let (_server, kubectl) = with(FERRIES, "ferries.harbour.example").await;
    let list = |field: &str| {
        format!(
            "apiVersion: v1\nkind: List\nitems:\n\
             - {{apiVersion: v1, kind: ConfigMap, metadata: {{name: a}}, data: {{a: b}}}}\n\
             - {{apiVersion: harbour.example/v1, kind: Ferry, metadata: {{name: a}}, spec: {{engine: {{{field}: 3}}}}}}\n"
        )
    };
    let out = kubectl.ok(&["apply", "-f", "-"], &list("power")).await;
    assert_eq!(out, "configmap/a created\nferry.harbour.example/a created\n");
    let (code, out, err) = kubectl.run(&["apply", "-f", "-"], &list("powers")).await;
    assert_ne!(code, 0, "{out}{err}");
    assert!(err.contains("powers"), "{err}");
}
