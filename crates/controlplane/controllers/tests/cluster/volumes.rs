//! Claims get their volumes, by the real controllers and scheduler over a real API server.

use std::time::Duration;

use crate::counted::Counted;

use crate::support::Cluster;
use k8s_openapi::api::core::v1::{Event, Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

fn claim(name: &str, size: &str, more: Value) -> Value {
    let mut claim = json!({"metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}},
    }});
    for (key, value) in more.as_object().unwrap() {
        claim["spec"][key] = value.clone();
    }
    claim
}

fn pod(name: &str, claim: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}],
    }})
}

struct Storage {
    cluster: Cluster,
    claims: Api<PersistentVolumeClaim>,
    volumes: Api<PersistentVolume>,
    classes: Api<StorageClass>,
}

impl Storage {
    async fn start() -> Self {
        Self::over(Cluster::start().await)
    }

    fn over(cluster: Cluster) -> Self {
        let (claims, volumes) = (cluster.api("default"), Api::all(cluster.client.clone()));
        let classes = Api::all(cluster.client.clone());
        Self { cluster, claims, volumes, classes }
    }

    async fn claim(&self, name: &str, size: &str, more: Value) {
        let _: PersistentVolumeClaim = self.cluster.create("default", claim(name, size, more)).await;
    }

    async fn volume(&self, name: &str, size: &str, more: Value) {
        let mut spec = json!({
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"},
            "persistentVolumeReclaimPolicy": "Retain",
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let volume = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        self.volumes.create(&PostParams::default(), &volume).await.unwrap();
    }

    async fn class(&self, name: &str, more: Value) {
        let mut class = json!({"metadata": {"name": name}, "provisioner": "kubernetes.io/no-provisioner"});
        for (key, value) in more.as_object().unwrap() {
            class[key] = value.clone();
        }
        let class = serde_json::from_value(class).unwrap();
        self.classes.create(&PostParams::default(), &class).await.unwrap();
    }

    /// Waits until the claim is in a phase; its volume.
    async fn claim_is(&self, name: &str, phase: &str) -> PersistentVolumeClaim {
        let what = format!("claim {name} to be {phase}");
        self.cluster
            .until(&what, || async {
                let claim = self.claims.get(name).await.unwrap();
                let now = claim.status.as_ref().and_then(|s| s.phase.clone());
                (now.as_deref() == Some(phase)).then_some(claim)
            })
            .await
    }

    async fn volume_is(&self, name: &str, phase: &str) -> PersistentVolume {
        let what = format!("volume {name} to be {phase}");
        self.cluster
            .until(&what, || async {
                let volume = self.volumes.get(name).await.unwrap();
                let now = volume.status.as_ref().and_then(|s| s.phase.clone());
                (now.as_deref() == Some(phase)).then_some(volume)
            })
            .await
    }

    async fn event(&self, about: &str, reason: &str) -> Event {
        let events: Api<Event> = Api::all(self.cluster.client.clone());
        let what = format!("{reason} about {about}");
        let params = ListParams::default().fields(&format!("involvedObject.name={about},reason={reason}"));
        self.cluster
            .until(&what, || async { events.list(&params).await.unwrap().items.into_iter().next() })
            .await
    }

    async fn on_node(&self, name: &str) -> Pod {
        let pods: Api<Pod> = self.cluster.api("default");
        self.cluster
            .until(&format!("pod {name} on a node"), || async {
                let pod = pods.get(name).await.unwrap();
                pod.spec.as_ref().unwrap().node_name.is_some().then_some(pod)
            })
            .await
    }
}

fn bound_to(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().unwrap().volume_name.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn volumes_that_an_administrator_made() {
    let s = Storage::start().await;
    let plain = json!({"storageClassName": ""});
    s.volume("large", "10Gi", json!({})).await;
    s.volume("small", "2Gi", json!({})).await;
    s.volume("kept", "50Gi", json!({"claimRef": {"namespace": "default", "name": "mine"}})).await;
    s.volume_is("small", "Available").await;
    s.volume_is("large", "Available").await;
    s.volume_is("kept", "Available").await;
    s.claim("data", "1Gi", plain.clone()).await;
    let claim = s.claim_is("data", "Bound").await;
    assert_eq!(bound_to(&claim), "small");
    assert_eq!(claim.status.unwrap().capacity.unwrap()["storage"].0, "2Gi");
    let volume = s.volume_is("small", "Bound").await;
    assert_eq!(volume.metadata.annotations.unwrap()["pv.kubernetes.io/bound-by-controller"], "yes");
    s.claim("mine", "1Gi", plain.clone()).await;
    assert_eq!(bound_to(&s.claim_is("mine", "Bound").await), "kept");
    // Many at once for one volume: exactly one gets it.
    for number in 0..8 {
        s.claim(&format!("race-{number}"), "5Gi", plain.clone()).await;
    }
    s.volume_is("large", "Bound").await;
    let loser = s
        .cluster
        .until("one winner", || async {
            let all = s.claims.list(&ListParams::default()).await.unwrap().items;
            let races = |c: &PersistentVolumeClaim| c.metadata.name.as_ref().unwrap().starts_with("race-");
            let (winners, losers): (Vec<_>, Vec<_>) =
                all.into_iter().filter(races).partition(|claim| bound_to(claim) == "large");
            (winners.len() == 1 && losers.len() == 7).then(|| losers[0].metadata.name.clone().unwrap())
        })
        .await;
    s.event(&loser, "FailedBinding").await;
    // The next one is found at once.
    s.volume("late", "5Gi", json!({})).await;
    s.volume_is("late", "Bound").await;
    // Retain: nothing happens to it, whoever comes.
    s.claims.delete("data", &DeleteParams::default()).await.unwrap();
    s.volume_is("small", "Released").await;
    s.claim("again", "1Gi", json!({"storageClassName": "", "volumeName": "small"})).await;
    let event = s.event("again", "FailedBinding").await;
    assert_eq!(event.message.unwrap(), "volume \"small\" already bound to a different claim.");
    // A volume that nobody made cannot be deleted by us, and says so.
    let policy = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    s.volumes.patch("small", &PatchParams::default(), &Patch::Merge(policy)).await.unwrap();
    let failed = s.volume_is("small", "Failed").await;
    assert!(failed.status.unwrap().message.unwrap().contains("nobody made it"));
    s.event("small", "VolumeFailedDelete").await;
    // An administrator makes it free again.
    let free = json!({"spec": {"claimRef": null, "persistentVolumeReclaimPolicy": "Retain"}});
    s.volumes.patch("small", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    assert_eq!(bound_to(&s.claim_is("again", "Bound").await), "small");
    // A volume that is taken away by force is lost.
    let none = json!({"metadata": {"finalizers": null}});
    s.volumes.delete("small", &DeleteParams::default()).await.unwrap();
    s.volumes.patch("small", &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
    s.claim_is("again", "Lost").await;
    s.event("again", "ClaimLost").await;
}

#[tokio::test]
async fn the_default_class_comes_once_and_late_claims_get_it() {
    let s = Storage::start().await;
    let standard =
        s.cluster.until("the class", || async { s.classes.get_opt("standard").await.unwrap() }).await;
    assert_eq!(standard.provisioner, "sampan.io/host-path");
    let namespaces: Api<Namespace> = Api::all(s.cluster.client.clone());
    s.cluster
        .until("the mark", || async {
            let system = namespaces.get("kube-system").await.unwrap();
            system.metadata.annotations?.get("sampan.io/default-storage-class").map(drop)
        })
        .await;
    s.classes.delete("standard", &DeleteParams::default()).await.unwrap();
    // The API server learns that the default is gone on its own time.
    let early = s
        .cluster
        .until("a claim without class", || async {
            let made = s
                .claims
                .create(
                    &PostParams::default(),
                    &serde_json::from_value(claim("early", "1Gi", json!({}))).unwrap(),
                )
                .await;
            let made = made.ok()?;
            if made.spec.as_ref().unwrap().storage_class_name.is_none() {
                return Some(made);
            }
            s.claims.delete("early", &DeleteParams::default()).await.unwrap();
            None
        })
        .await;
    assert!(early.spec.unwrap().storage_class_name.is_none());
    s.event("early", "FailedBinding").await;
    let class = serde_json::from_value(json!({
        "metadata": {"name": "late", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "example.com/other",
    }));
    s.classes.create(&PostParams::default(), &class.unwrap()).await.unwrap();
    s.cluster
        .until("the class in the claim", || async {
            let claim = s.claims.get("early").await.unwrap();
            (claim.spec.unwrap().storage_class_name.as_deref() == Some("late")).then_some(())
        })
        .await;
    // Somebody else is asked to make it.
    s.event("early", "ExternalProvisioning").await;
    let asked = s.claims.get("early").await.unwrap().metadata.annotations.unwrap();
    assert_eq!(asked["volume.kubernetes.io/storage-provisioner"], "example.com/other");
    s.claim("odd", "1Gi", json!({"storageClassName": "nowhere"})).await;
    let event = s.event("odd", "ProvisioningFailed").await;
    assert_eq!(event.message.unwrap(), "storageclass.storage.k8s.io \"nowhere\" not found");
}

#[tokio::test]
async fn directories_are_made_where_the_first_pod_goes() {
    let s = Storage::start().await;
    s.cluster.until("the class", || async { s.classes.get_opt("standard").await.unwrap() }).await;
    s.cluster.node("one", "1").await;
    s.cluster.node("two", "4").await;
    s.claim("data", "1Gi", json!({"storageClassName": "standard"})).await;
    s.event("data", "WaitForFirstConsumer").await;
    let mut first = pod("first", "data");
    // Only one of the nodes has so much.
    first["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "3"}});
    let _: Pod = s.cluster.create("default", first).await;
    let first = s.on_node("first").await;
    assert_eq!(first.spec.unwrap().node_name.as_deref(), Some("two"));
    let claim = s.claim_is("data", "Bound").await;
    let annotations = claim.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["volume.kubernetes.io/selected-node"], "two");
    let volume = s.volume_is(bound_to(&claim), "Bound").await;
    let spec = volume.spec.unwrap();
    let path = spec.host_path.unwrap().path;
    assert!(path.starts_with("/var/lib/hollow/volumes/default_data_pvc-"), "{path}");
    assert!(volume.metadata.finalizers.unwrap().contains(&"kubernetes.io/pv-controller".to_owned()));
    s.event("data", "ProvisioningSucceeded").await;
    // The next pod goes where the data is, though the other node is emptier; and nowhere when that is closed.
    let _: Pod = s.cluster.create("default", pod("second", "data")).await;
    assert_eq!(s.on_node("second").await.spec.unwrap().node_name.as_deref(), Some("two"));
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(s.cluster.client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch("two", &PatchParams::default(), &cordon).await.unwrap();
    let _: Pod = s.cluster.create("default", pod("third", "data")).await;
    s.event("third", "FailedScheduling").await;
    // It grows.
    let more = json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}});
    s.claims.patch("data", &PatchParams::default(), &Patch::Merge(more)).await.unwrap();
    s.cluster
        .until("the claim to grow", || async {
            let capacity = s.claims.get("data").await.unwrap().status?.capacity?;
            (capacity["storage"].0 == "3Gi").then_some(())
        })
        .await;
    // Nobody on that node answers: the volume says why it is still there, and is not asked for in a hot loop.
    let pods: Api<Pod> = s.cluster.api("default");
    for name in ["first", "second", "third"] {
        pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    let name = bound_to(&claim).to_owned();
    s.claims.delete("data", &DeleteParams::default()).await.unwrap();
    let failed = s.volume_is(&name, "Failed").await;
    let message = failed.status.unwrap().message.unwrap();
    assert!(message.starts_with("node two did not remove the data"), "{message}");
    s.event(&name, "VolumeFailedDelete").await;
    let before = s.volumes.get(&name).await.unwrap().metadata.resource_version;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(s.volumes.get(&name).await.unwrap().metadata.resource_version, before, "written once");
}

#[tokio::test]
async fn local_volumes_and_claims_of_pods() {
    let s = Storage::start().await;
    for node in ["one", "two"] {
        s.cluster.node(node, "4").await;
    }
    s.class("local", json!({"volumeBindingMode": "WaitForFirstConsumer"})).await;
    let on = |host: &str| {
        json!({"storageClassName": "local", "hostPath": null, "local": {"path": "/mnt/x"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}})
    };
    s.volume("on-two", "5Gi", on("two")).await;
    s.volume_is("on-two", "Available").await;
    s.claim("db", "1Gi", json!({"storageClassName": "local"})).await;
    let _: Pod = s.cluster.create("default", pod("db", "db")).await;
    assert_eq!(s.on_node("db").await.spec.unwrap().node_name.as_deref(), Some("two"));
    assert_eq!(bound_to(&s.claim_is("db", "Bound").await), "on-two");
    // None is left for the next, until one comes.
    s.claim("more", "1Gi", json!({"storageClassName": "local"})).await;
    let _: Pod = s.cluster.create("default", pod("more", "more")).await;
    let event = s.event("more", "FailedScheduling").await;
    let message = event.message.unwrap();
    assert!(message.contains("node(s) didn't find available persistent volumes to bind"), "{message}");
    s.volume("on-one", "5Gi", on("one")).await;
    assert_eq!(s.on_node("more").await.spec.unwrap().node_name.as_deref(), Some("one"));

    // A pod brings its own claim, which goes with it.
    s.class("own", json!({"volumeBindingMode": "WaitForFirstConsumer", "provisioner": "sampan.io/host-path", "reclaimPolicy": "Retain"})).await;
    let template = claim("", "1Gi", json!({"storageClassName": "own"}));
    let scratch = json!({"metadata": {"name": "brings"}, "spec": {
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {
            "metadata": {"labels": {"of": "template"}}, "spec": template["spec"]}}}],
    }});
    let _: Pod = s.cluster.create("default", scratch).await;
    s.on_node("brings").await;
    let own = s.claim_is("brings-scratch", "Bound").await;
    assert_eq!(own.metadata.labels.unwrap()["of"], "template");
    let name = own.spec.unwrap().volume_name.unwrap();
    let pods: Api<Pod> = s.cluster.api("default");
    pods.delete("brings", &DeleteParams::default().grace_period(0)).await.unwrap();
    s.volume_is(&name, "Released").await;
    assert!(s.claims.get_opt("brings-scratch").await.unwrap().is_none());
    // Another claim of that name is in the way, and the pod says so.
    s.claim("blocked-scratch", "1Gi", json!({"storageClassName": "own"})).await;
    let blocked = json!({"metadata": {"name": "blocked"}, "spec": {
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": template["spec"]}}}],
    }});
    let _: Pod = s.cluster.create("default", blocked).await;
    let event = s.event("blocked", "FailedBinding").await;
    assert!(event.message.unwrap().contains("was not created for pod default/blocked (pod is not owner)"));
}

/// Each of these fails for ever, in its own way, and the API is asked ever more rarely.
#[tokio::test]
async fn what_cannot_be_bound_or_removed_costs_next_to_nothing() {
    let counted = Counted::default();
    let log = counted.clone();
    let cluster = Cluster::with(|options| options.client = log.around(options.client.clone())).await;
    let s = Storage::over(cluster);
    s.cluster.until("the class", || async { s.classes.get_opt("standard").await.unwrap() }).await;
    s.cluster.node("one", "4").await;
    for number in 0..10 {
        s.claim(&format!("odd-{number}"), "1Gi", json!({"storageClassName": "nowhere"})).await;
        s.claim(&format!("waits-{number}"), "1Gi", json!({"storageClassName": "standard"})).await;
    }
    s.class("block", json!({"provisioner": "sampan.io/host-path"})).await;
    s.claim("block", "1Gi", json!({"storageClassName": "block", "volumeMode": "Block"})).await;
    s.class("eager", json!({"provisioner": "sampan.io/host-path"})).await;
    s.claim("made", "1Gi", json!({"storageClassName": "eager"})).await;
    let made = bound_to(&s.claim_is("made", "Bound").await).to_owned();
    s.claims.delete("made", &DeleteParams::default()).await.unwrap();
    s.volume_is(&made, "Failed").await;
    for (about, reason) in [
        ("odd-0", "ProvisioningFailed"),
        ("waits-0", "WaitForFirstConsumer"),
        ("block", "ProvisioningFailed"),
    ] {
        s.event(about, reason).await;
    }
    let namespaces: Api<Namespace> = Api::all(s.cluster.client.clone());
    let held = json!({"metadata": {"name": "held", "finalizers": []}});
    namespaces.create(&PostParams::default(), &serde_json::from_value(held).unwrap()).await.unwrap();
    let map = json!({"metadata": {"name": "held", "finalizers": ["example.com/held"]}});
    let _: k8s_openapi::api::core::v1::ConfigMap = s.cluster.create("held", map).await;
    namespaces.delete("held", &DeleteParams::default()).await.unwrap();
    // What follows at once is done; from here on only what fails is tried again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    counted.take();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let asked = counted.take();
    let about = |word: &str| asked.iter().filter(|line| line.contains(word)).count();
    assert!(about("persistentvolume") + about("hostPathVolumes") <= 12, "{asked:#?}");
    // Two looks at what a namespace still holds, each asks for every kind once or twice.
    assert!(about("/namespaces/held") < 400, "{}: {asked:#?}", about("/namespaces/held"));
}

/// More pods wait for volumes that never come than there are writers; others are bound all the same.
#[tokio::test]
async fn volumes_that_never_come_hold_up_nobody_else() {
    let s = Storage::start().await;
    for node in ["a", "b", "c"] {
        s.cluster.node(node, "4").await;
    }
    s.class(
        "broken",
        json!({"provisioner": "example.com/never", "volumeBindingMode": "WaitForFirstConsumer"}),
    )
    .await;
    let waiting = 270;
    for at in 0..waiting {
        let name = format!("wait-{at}");
        s.claim(&name, "1Gi", json!({"storageClassName": "broken"})).await;
        let _: Pod = s.cluster.create("default", pod(&name, &name)).await;
    }
    s.cluster
        .until("all of them to have chosen a node", || async {
            let claims = s.claims.list(&ListParams::default()).await.unwrap();
            let chosen = |claim: &&PersistentVolumeClaim| {
                let annotations = claim.metadata.annotations.as_ref();
                annotations.is_some_and(|a| a.contains_key("volume.kubernetes.io/selected-node"))
            };
            (claims.iter().filter(chosen).count() == waiting).then_some(())
        })
        .await;
    let plain = json!({"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let _: Pod = s.cluster.create("default", plain).await;
    s.on_node("plain").await;
}

/// The members of a gang each get a volume of their own, where they can reach it, or none of them gets any.
#[tokio::test]
async fn gangs_with_volumes() {
    let s = Storage::start().await;
    s.cluster.node("a", "4").await;
    s.cluster.node("b", "4").await;
    s.class("local", json!({"volumeBindingMode": "WaitForFirstConsumer"})).await;
    let on = |host: &str| {
        let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [host]});
        json!({"storageClassName": "local", "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}})
    };
    s.volume("on-a", "1Gi", on("a")).await;
    for name in ["g-1", "g-2"] {
        s.claim(name, "1Gi", json!({"storageClassName": "local"})).await;
        let mut member = pod(name, name);
        member["metadata"]["labels"] = json!({"sampan.io/pod-group": "g"});
        member["metadata"]["annotations"] = json!({"sampan.io/pod-group-min": "2"});
        let _: Pod = s.cluster.create("default", member).await;
    }
    let text = "does not fit as a whole: 0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind";
    s.cluster
        .until("the gang to be refused", || async {
            let pod = s.cluster.api::<Pod>("default").get("g-2").await.unwrap();
            let said = pod.status?.conditions?.into_iter().find(|c| c.type_ == "PodScheduled")?.message?;
            said.contains(text).then_some(())
        })
        .await;
    s.volume("on-b", "1Gi", on("b")).await;
    let mut nodes = Vec::new();
    for name in ["g-1", "g-2"] {
        let volume = bound_to(&s.claim_is(name, "Bound").await).to_owned();
        let node = s.on_node(name).await.spec.unwrap().node_name.unwrap();
        assert_eq!(volume, format!("on-{node}"));
        nodes.push(node);
    }
    nodes.sort();
    assert_eq!(nodes, ["a", "b"]);
}
