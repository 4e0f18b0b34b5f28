//! PersistentVolumeClaims with real pods: data that outlives its pod, goes with its claim, and is seen as asked for.

use crate::{
    pods::pod,
    support::{Cluster, eventually, until},
};

fn claim(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}{spec}}}\n"
    )
}

/// A pod that sleeps with the claim under /data.
fn user(name: &str, claim: &str, more: &str, mount: &str) -> String {
    pod(
        name,
        &format!(
            "  terminationGracePeriodSeconds: 0\n{more}  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]\n  containers: [{{name: main, image: 'busybox:1', command: [sleep, infinity], volumeMounts: [{{name: data, mountPath: /data{mount}}}]}}]"
        ),
    )
}

#[test]
fn data_outlives_its_pod_and_goes_with_its_claim() {
    let c = Cluster::start();
    c.k("get storageclass standard");
    c.apply(&claim("data", ""));
    until("it waits for its first pod", || {
        let events = c.k("get events --field-selector involvedObject.name=data");
        if events.contains("WaitForFirstConsumer") { Ok(()) } else { Err(events) }
    });
    c.apply(&user("writer", "data", "", ""));
    c.wait_ready("writer");
    c.exec("writer", "echo precious > /data/file; mkdir /data/sub; echo inner > /data/sub/x");
    let volume = c.k("get pvc data -o jsonpath={.spec.volumeName}");
    let path = c.k(&format!("get pv {volume} -o jsonpath={{.spec.hostPath.path}}"));
    assert!(path.starts_with(c.data().to_str().unwrap()), "{path}");
    assert_eq!(std::fs::read_to_string(format!("{path}/file")).unwrap(), "precious\n");
    c.k("delete pod writer");

    // The next pod finds it; a part of it; read only; as its own group's.
    c.apply(
        &(user("reader", "data", "  securityContext: {fsGroup: 2000, runAsUser: 1000}\n", "")
            + &user("part", "data", "", ", subPath: sub")
            + &user("looks", "data", "", ", readOnly: true")),
    );
    for name in ["reader", "part", "looks"] {
        c.wait_ready(name);
    }
    assert_eq!(
        c.exec("reader", "cat /data/file; echo more >> /data/file; stat -c %g /data/file /data/sub"),
        "precious\n2000\n2000\n"
    );
    assert_eq!(c.exec("part", "ls /data"), "x\n");
    assert_eq!(c.exec("looks", "cat /data/file"), "precious\nmore\n");
    c.sh("kubectl exec looks -- sh -c 'echo x > /data/y'").fails(&["Read-only file system"]);

    // It grows when asked to, and is kept while it is in use.
    c.k(r#"patch pvc data -p '{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}'"#);
    c.k("wait pvc/data --for=jsonpath={.status.capacity.storage}=2Gi --timeout=60s");
    c.k("delete pvc data --wait=false");
    c.k("delete pod reader part");
    assert!(std::path::Path::new(&path).join("file").exists(), "a pod still looks at it");
    c.k("delete pod looks");
    c.k(&format!("wait pv/{volume} --for=delete --timeout=60s"));
    assert!(!std::path::Path::new(&path).exists(), "the data is gone");
    assert_eq!(c.sh("kubectl get pvc data").code, 1);

    // Another of the same name starts empty.
    c.apply(&(claim("data", "") + &user("writer", "data", "", "")));
    c.wait_ready("writer");
    assert_eq!(c.exec("writer", "ls /data"), "");
}

#[test]
fn sets_with_volumes_and_pods_that_bring_their_own() {
    let c = Cluster::start();
    c.apply(
        "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Retain}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sh, -c, 'test -e /data/me || hostname > /data/me; exec sleep infinity'], volumeMounts: [{name: data, mountPath: /data}]}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
",
    );
    c.k("rollout status statefulset/db --timeout=60s");
    // Each has its own, and finds it again.
    c.exec("db-1", "echo again >> /data/me");
    c.k("delete pod db-1");
    c.k("rollout status statefulset/db --timeout=60s");
    c.wait_ready("db-1");
    assert_eq!(c.exec("db-1", "cat /data/me"), "db-1\nagain\n");
    assert_eq!(c.exec("db-0", "cat /data/me"), "db-0\n");
    let volumes = c.data().join("volumes");
    let kept = || std::fs::read_dir(&volumes).map_or(0, Iterator::count);
    assert_eq!(kept(), 2);

    c.apply(&pod("own", "  terminationGracePeriodSeconds: 0
  volumes: [{name: scratch, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}}]
  containers: [{name: main, image: 'busybox:1', command: [sleep, infinity], volumeMounts: [{name: scratch, mountPath: /s}]}]"));
    c.wait_ready("own");
    c.exec("own", "echo x > /s/x");
    assert_eq!(kept(), 3);
    c.k("delete pod own");
    eventually("its claim, volume and data go with it", || {
        kept() == 2 && c.sh("kubectl get pvc own-scratch").code == 1
    });
    c.k("delete statefulset db");
    eventually("all data goes with the set", || kept() == 0);
}

#[test]
fn what_cannot_be_mounted_says_why() {
    let c = Cluster::start();
    let says = |about: &str, words: &str| {
        until(words, || {
            let events = c.k(&format!("get events --field-selector involvedObject.name={about}"));
            if events.contains(words) { Ok(()) } else { Err(events) }
        });
    };
    // Placed by hand, before its claim is bound.
    c.apply(
        &(claim("never", ", storageClassName: nowhere")
            + &user("early", "never", "  nodeName: node-a\n", "")),
    );
    says("early", "error processing PVC default/never: PVC is not bound");
    says("never", "storageclass.storage.k8s.io \"nowhere\" not found");
    // A volume of the node, once its directory is there.
    let dir = c.work().join("local");
    let local = format!(
        "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: here}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], storageClassName: local, persistentVolumeReclaimPolicy: Retain, local: {{path: {}}}, nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [node-a]}}]}}]}}}}}}\n---\napiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: local}}\nprovisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: WaitForFirstConsumer\n",
        dir.display()
    );
    c.apply(&(local + &claim("local", ", storageClassName: local") + &user("uses", "local", "", "")));
    says("uses", "No such file or directory");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("f"), "local data").unwrap();
    c.wait_ready("uses");
    assert_eq!(c.exec("uses", "cat /data/f"), "local data");
    c.k("delete pod uses");
    c.k("delete pvc local");
    c.k("wait pv/here --for=jsonpath={.status.phase}=Released --timeout=60s");
    assert!(dir.join("f").exists(), "what is retained stays");
    // Nothing that a claim could be for.
    c.apply("apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: far}\nspec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], nfs: {server: 192.0.2.1, path: /x}, claimRef: {namespace: default, name: far}}\n");
    c.apply(&(claim("far", ", storageClassName: ''") + &user("remote", "far", "", "")));
    says("remote", "is not supported by this node (hint: hostPath and local are)");
}
