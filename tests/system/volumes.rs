//! Every kind of volume, with what a container sees in it; tokens that authenticate.

use crate::{
    pods::pod,
    support::{Cluster, until},
};

const ALL: &str = r#"
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 2000}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 4Mi}}
  - {name: host, hostPath: {path: WORK, type: Directory}}
  - {name: config, configMap: {name: settings, defaultMode: 0640, items: [{key: colour, path: deep/colour}, {key: size, path: size}]}}
  - {name: secret, secret: {secretName: keys, defaultMode: 0400}}
  - {name: maybe, configMap: {name: nosuch, optional: true}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}]}}
  - name: all
    projected:
      sources:
      - {configMap: {name: settings}}
      - {secret: {name: keys}}
      - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
      - {serviceAccountToken: {path: token, expirationSeconds: 3600}}
  containers:
  - name: main
    image: busybox:1
    command: [sleep, infinity]
    resources: {limits: {cpu: 250m, memory: 64Mi}}
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host}
    - {name: config, mountPath: /config}
    - {name: secret, mountPath: /secret, readOnly: true}
    - {name: maybe, mountPath: /maybe}
    - {name: down, mountPath: /down}
    - {name: all, mountPath: /all}
    - {name: config, mountPath: /etc/one, subPath: size}
"#;

#[test]
fn volumes_of_every_kind() {
    let c = Cluster::start();
    c.k("create configmap settings --from-literal=colour=blue --from-literal=size=big");
    c.k("create secret generic keys --from-literal=password=hunter2");
    c.file("here", "from the host");
    c.apply(&pod("volumes", &ALL.replace("WORK", c.work().to_str().unwrap())));
    c.wait_ready("volumes");
    let sees = |script: &str, what: &str| assert_eq!(c.exec("volumes", script).trim(), what, "{script}");
    sees("cat /config/deep/colour /config/size", "bluebig");
    sees("cat /etc/one", "big");
    sees("stat -L -c %a /config/size", "640");
    sees("cat /secret/password", "hunter2");
    sees("ls /maybe | wc -l", "0");
    sees("cat /down/labels /down/cpu", "app=\"volumes\"250");
    sees("cat /all/colour /all/password /all/name", "bluehunter2volumes");
    sees("cat /host/here", "from the host");
    c.exec("volumes", "echo back > /host/there; echo kept > /disk/file; echo x > /memory/file");
    assert_eq!(std::fs::read_to_string(c.work().join("there")).unwrap(), "back\n");
    sees("stat -f -c %T /memory", "tmpfs");
    sees("stat -f -c %T /secret", "tmpfs");
    sees("df -k /memory | tail -n 1 | awk '{print $2}'", "4096");
    c.sh("kubectl exec volumes -- dd if=/dev/zero of=/memory/big bs=1M count=8").fails(&["No space left"]);
    c.sh("kubectl exec volumes -- sh -c 'echo x > /secret/password'").fails(&["Read-only file system"]);
    sees("stat -c %g /disk", "2000");
    sees("id -G", "0 2000");

    // A container that is made anew finds what it left, in an emptyDir alone.
    c.exec("volumes", "echo lost > /gone");
    let first = c.processes(&c.pod("volumes"))[0];
    c.sh(&format!("kill -9 {first}")).ok();
    c.wait_pod("volumes", "restarted", |pod| {
        crate::pods::status(pod)["restartCount"] == 1 && crate::pods::status(pod)["ready"] == true
    });
    sees("cat /disk/file; ls /gone 2>&1 | grep -c 'No such'", "kept\n1");

    // ConfigMaps, secrets and labels change under a running pod; a subPath does not.
    c.k(r#"patch configmap settings -p '{"data":{"colour":"green","size":"small"}}'"#);
    c.k(r#"patch secret keys -p '{"stringData":{"password":"changed"}}'"#);
    c.k("label pod volumes extra=yes");
    until("the new content", || {
        let seen = c.exec("volumes", "cat /config/deep/colour /all/colour /secret/password /down/labels");
        let all = seen.starts_with("greengreenchanged") && seen.contains("extra=\"yes\"");
        if all { Ok(()) } else { Err(seen) }
    });
    sees("cat /etc/one", "big");
}

#[test]
fn volumes_that_cannot_be_mounted_say_why() {
    let c = Cluster::start();
    let with = |volume: &str| {
        format!(
            "  volumes: [{{name: v, {volume}}}]\n  containers: [{{name: main, image: 'busybox:1', command: [sleep, infinity], volumeMounts: [{{name: v, mountPath: /v}}]}}]"
        )
    };
    c.apply(
        &(pod("nosecret", &with("secret: {secretName: nosuch}"))
            + &pod("nodir", &with("hostPath: {path: /nosuch/dir, type: Directory}"))),
    );
    for (name, words) in [("nosecret", r#"secret "nosuch" not found"#), ("nodir", "/nosuch/dir")] {
        until("FailedMount", || {
            let events = c.k(&format!("get events --field-selector involvedObject.name={name}"));
            if events.contains("FailedMount") && events.contains(words) { Ok(()) } else { Err(events) }
        });
    }
    c.k("create secret generic nosuch --from-literal=a=b");
    c.wait_ready("nosecret");
}

#[test]
fn the_token_of_a_pod_authenticates_and_is_bound_to_it() {
    let c = Cluster::start();
    c.k("create serviceaccount robot");
    c.apply(&pod("robot", "  serviceAccountName: robot\n  terminationGracePeriodSeconds: 0\n  containers: [{name: main, image: 'busybox:1', command: [sleep, infinity]}]"));
    c.wait_ready("robot");
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(c.exec("robot", &format!("cat {dir}/namespace")), "default");
    let token = c.exec("robot", &format!("cat {dir}/token"));
    // The CA in the pod is the one that signed the server, which answers on its Service address.
    c.file("pod-ca.pem", c.exec("robot", &format!("cat {dir}/ca.crt")));
    let ask = |path: &str| {
        c.sh(&format!(
            "curl -sS --cacert pod-ca.pem -H 'Authorization: Bearer {token}' https://10.43.0.1/{path}"
        ))
    };
    let review = r#"apis/authentication.k8s.io/v1/selfsubjectreviews -H 'Content-Type: application/json' -d '{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'"#;
    ask(review).ok().says(&["system:serviceaccount:default:robot", "authentication.kubernetes.io/pod-name"]);
    ask("version").ok().says(&["v1.37"]);
    ask("api/v1/namespaces/default/secrets").ok().says(&[
        r#"secrets is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""#,
        "403",
    ]);
    c.k("delete pod robot --force --grace-period=0");
    until("the token ends with its pod", || {
        let answer = ask(review).out;
        if answer.contains("Unauthorized") { Ok(()) } else { Err(answer) }
    });
}
