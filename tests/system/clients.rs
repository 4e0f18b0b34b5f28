//! Other people's clients against the real binary: helm with the charts of `examples/charts`, an operator written with
//! kopf, the Python client and the JavaScript client. `scripts/install-tools test` fetches them.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::support::{Cluster, Ran, eventually, until};

/// Where `scripts/install-tools` puts the clients.
fn clients() -> PathBuf {
    let chosen = env::var_os("SAMPAN_CLIENTS").map(PathBuf::from);
    chosen.unwrap_or_else(|| Path::new(&env::var_os("HOME").unwrap()).join(".cache/sampan/clients"))
}

/// The package's folder, where cargo runs tests.
fn here() -> PathBuf {
    std::env::current_dir().unwrap()
}

fn charts() -> PathBuf {
    here().join("examples/charts")
}

/// `helm LINE` among the charts.
fn helm(c: &Cluster, line: &str) -> Ran {
    c.sh(&format!("cd {} && {}/helm/helm {line}", charts().display(), clients().display()))
}

/// A script of `tests/system/clients`, with what it needs to find the client it is for.
fn script(program: &str, name: &str) -> String {
    let dir = here().join("tests/system/clients");
    let clients = clients();
    format!(
        "env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={clients}/python NODE_PATH={clients}/node/node_modules {program} {}/{name}",
        dir.display(),
        clients = clients.display(),
    )
}

/// What the window of the release `s` shows through its Service.
fn window(c: &Cluster) -> String {
    let address = c.k("get service s-window -o jsonpath='{.spec.clusterIP}'");
    c.sh(&format!("curl -s -m 5 http://{address}/")).out
}

#[test]
fn helm_installs_upgrades_rolls_back_tests_and_removes() {
    let c = Cluster::start();
    let said = helm(&c, "install s shop --wait --timeout 80s").ok();
    said.says(&["STATUS: deployed", "The shop says welcome at http://s-window.default."]);
    eventually("the window shows the first greeting", || window(&c) == "welcome");
    assert!(c.k("logs job/s-migrate").contains("migrated to welcome"), "the hook ran before the install");
    helm(&c, "test s --timeout 60s").ok().says(&["Phase:          Succeeded"]);

    helm(&c, "upgrade s shop --set greeting=ahoy --set replicas=3 --wait --timeout 80s").ok();
    eventually("the window shows the new greeting", || window(&c) == "ahoy");
    assert_eq!(c.k("get deployment s-window -o jsonpath='{.status.readyReplicas}'"), "3");
    assert!(c.k("logs job/s-migrate").contains("migrated to ahoy"));

    helm(&c, "rollback s 1 --wait --timeout 80s").ok();
    eventually("the window shows the first greeting again", || window(&c) == "welcome");
    let history = helm(&c, "history s").ok().out;
    assert_eq!(history.lines().count(), 4, "{history}");
    assert!(history.contains("Rollback to 1"), "{history}");

    helm(&c, "uninstall s --wait").ok();
    until("nothing of the release is left", || {
        let left = c.k("get deployments,statefulsets,services,configmaps,pods -o name");
        let left: Vec<&str> = left.lines().filter(|name| name.contains("/s-")).collect();
        // What hooks made belongs to whoever looks at it afterwards.
        let left: Vec<&&str> =
            left.iter().filter(|n| !n.contains("migrate") && !n.contains("visit")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    helm(&c, "status s").fails(&["not found"]);
}

#[test]
fn a_chart_brings_kinds_of_its_own() {
    let c = Cluster::start();
    helm(&c, "install f fleet --wait --timeout 60s").ok();
    let table = c.k("get boats");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "PLANKS", "CREW", "STATE"], "{table}");
    assert_eq!(rows[1], ["heron", "3", "2"], "{table}");
    assert_eq!(rows[2], ["teal", "4", "1"], "the default of the schema: {table}");
    assert_eq!(c.k("get bo --field-selector spec.planks=4 -o name").trim(), "boat.harbour.example/teal");
    c.k("scale boat teal --replicas=4");
    assert_eq!(c.k("get boat teal -o jsonpath='{.spec.crew}'"), "4");
    assert!(c.k("explain boat.spec.planks").contains("What the boat is made of."));

    // Who may look after boats may, and nothing else.
    let warden = "--as=system:serviceaccount:default:f-warden";
    assert_eq!(c.k(&format!("auth can-i list boats {warden}")).trim(), "yes");
    c.sh(&format!("kubectl auth can-i delete boats {warden}")).fails(&["no"]);
    c.sh(&format!("kubectl delete boat teal {warden}")).fails(&["cannot delete resource \"boats\""]);

    // A boat against the rules: refused, and nothing of the upgrade stays.
    let crowded = "upgrade f fleet --set 'boats[0].name=heron,boats[0].planks=1,boats[0].crew=9' --rollback-on-failure --timeout 60s";
    helm(&c, crowded).fails(&["too many people for so few planks"]);
    until("the release is as before", || {
        let status = helm(&c, "status f -o json").ok().out;
        let planks = c.k("get boat heron -o jsonpath='{.spec.planks}'");
        if status.contains("\"status\":\"deployed\"") && planks == "3" { Ok(()) } else { Err(status) }
    });
    helm(&c, "uninstall f").ok();
    assert_eq!(c.k("get boats -o name"), "");
    c.k("delete crd boats.harbour.example --wait --timeout=30s");
    // kubectl itself may still remember that there was such a kind.
    c.sh("kubectl get boats --cache-dir=anew").fails(&["the server doesn't have a resource type \"boats\""]);
}

#[test]
fn a_chart_with_all_that_surrounds_a_server_keeps_its_secret() {
    let c = Cluster::start();
    helm(&c, "install w web --set replicas=0").fails(&["minimum"]);
    helm(&c, "install w web --wait --timeout 80s").ok();
    let key = |c: &Cluster| c.k("get secret w-session -o jsonpath='{.data.key}'");
    let first = key(&c);
    assert!(first.len() > 20, "{first}");
    helm(&c, "upgrade w web --set host=other.example --wait --timeout 80s").ok();
    assert_eq!(key(&c), first, "lookup found the secret of the first install");
    assert_eq!(c.k("get ingress w -o jsonpath='{.spec.rules[0].host}'"), "other.example");
    for kind in ["networkpolicy", "poddisruptionbudget", "hpa", "cronjob/w-tidy", "serviceaccount"] {
        let object = if kind.contains('/') { kind.to_owned() } else { format!("{kind}/w") };
        c.k(&format!("get {object}"));
    }
    helm(&c, "get manifest w").ok().says(&["kind: NetworkPolicy"]);
    helm(&c, "uninstall w").ok();
}

#[test]
fn the_python_client_works() {
    let c = Cluster::start();
    c.sh(&script("python3", "client.py")).ok().says(&["all went well"]);
}

#[test]
fn the_javascript_client_works() {
    let c = Cluster::start();
    c.sh(&script("node", "client.cjs")).ok().says(&["all went well"]);
}

#[test]
fn an_operator_written_with_kopf_keeps_its_objects() {
    let c = Cluster::start();
    c.k(&format!("apply -f {}/fleet/crds/boats.yaml", charts().display()));
    c.k("wait crd/boats.harbour.example --for=condition=Established --timeout=30s");
    let operator = script("python3 -m kopf run --namespace default --verbose", "operator.py");
    let operator = c.spawn("operator.log", &operator);
    c.apply("apiVersion: harbour.example/v1\nkind: Boat\nmetadata: {name: ibis}\nspec: {planks: 5, crew: 2}");
    let state = |c: &Cluster| c.k("get boat ibis -o jsonpath='{.status.state}'");
    until("the operator saw the boat", || {
        if state(&c) == "manned by 2" { Ok(()) } else { Err(operator.output()) }
    });
    assert_eq!(c.k("get configmap ibis-log -o jsonpath='{.data.crew}'"), "2", "made by the operator");
    c.k("patch boat ibis --type=merge -p '{\"spec\":{\"crew\":3}}'");
    until("the operator saw the change", || {
        if state(&c) == "manned by 3" { Ok(()) } else { Err(operator.output()) }
    });
    // The operator's finalizer holds the boat until it has done its part.
    c.k("delete boat ibis --timeout=60s");
    assert_eq!(c.k("get configmap farewell -o jsonpath='{.data.boat}'"), "ibis");
    until("the boat's own map went with it", || {
        let ran = c.sh("kubectl get configmap ibis-log");
        if ran.code != 0 { Ok(()) } else { Err(ran.out) }
    });
}
