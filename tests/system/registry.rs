//! The registry inside: a node runs what was pushed to it, and the commands manage it.

use serde_json::Value;

use crate::support::{Cluster, eventually};

#[test]
fn pods_run_what_was_pushed_to_the_registry_inside() {
    let c = Cluster::start();
    c.sampan(&["status"]).ok();
    let port = c.sh("cat $SAMPAN_DATA_DIR/registry/port").ok().out.trim().to_owned();
    let password = c.sh("cat $SAMPAN_DATA_DIR/registry/admin-password").ok().out.trim().to_owned();
    c.sampan(&["image", "save", "busybox:1", "-f", "busybox.tar"]).ok();
    let target = format!("docker://localhost:{port}/library/pushed:v1");
    c.sh(&format!("mkdir certs && cp $SAMPAN_DATA_DIR/tls/ca.crt certs/ && skopeo --insecure-policy copy --dest-cert-dir certs --dest-creds admin:{password} docker-archive:busybox.tar {target}")).ok();
    c.sh(&format!("skopeo --insecure-policy copy --dest-cert-dir certs docker-archive:busybox.tar {target}"))
        .fails(&["authentication required"]);
    // The instance's own commands know its registry and may write to it.
    let own = format!("localhost:{port}/library/own:v1");
    c.sampan(&["image", "push", "busybox:1", &own]).ok().says(&["library/own@sha256:"]);
    c.sampan(&["image", "pull", &own]).ok().says(&[&own]);
    c.sampan(&["image", "push", "busybox:1", &own, "--auth", "admin:wrong"])
        .fails(&["wrong user or password", "hint:"]);
    c.k(&format!("run pushed --image=localhost:{port}/library/pushed:v1 --command -- sleep infinity"));
    c.wait_ready("pushed");
    let ran = c.sampan(&["registry", "projects", "-o", "json"]).ok();
    let projects: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (projects[0]["name"].as_str(), projects[0]["public"].as_bool()),
        (Some("library"), Some(true))
    );
    c.sampan(&["registry", "project-create", "team"]).ok().says(&["team"]);
    c.sampan(&["registry", "project-create", "team"]).fails(&["exists already"]);
    c.sampan(&["registry", "robot-create", "team", "ci", "--actions", "pull,push"])
        .ok()
        .says(&["robot$team+ci"]);
    c.sampan(&["registry", "search", "pushed"]).ok().says(&["library/pushed"]);
    c.sampan(&["registry", "scrub", "-o", "json"]).ok().says(&["\"damaged\": []"]);
    c.sampan(&["registry", "status", "--dir", "/nosuch"]).fails(&["no registry runs", "hint:"]);
    c.k("delete pod pushed --force --grace-period=0");
    // It is there again after a restart, on the same port.
    c.sampan(&["down"]).ok();
    c.up();
    eventually("the registry answers", || {
        c.sh(&format!("skopeo inspect --cert-dir certs --creds admin:{password} {target}")).code == 0
    });
}
