//! What Kubernetes' own tests of its persistent volume controller and volume binder expect, as tables.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use serde_json::{Value, json};

use super::claim::{self, World};
use super::filter::VolumeFilter;
use super::listed::Listed;
use super::matching::{self, Taken};
use super::placement::{Choice, PodVolumes};
use super::volume;
use crate::scheduler::{Candidate, FilterSet, PodInfo};
use crate::selector::Labels;

fn merged(mut base: Value, more: Value) -> Value {
    fn into(base: &mut Value, more: Value) {
        match (base, more) {
            (Value::Object(base), Value::Object(more)) => {
                for (key, value) in more {
                    into(base.entry(key).or_insert(Value::Null), value);
                }
            }
            (base, more) => *base = more,
        }
    }
    into(&mut base, more);
    base
}

fn pv(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
    let base = json!({
        "metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"}},
        "status": {"phase": "Available"},
    });
    Arc::new(serde_json::from_value(merged(base, more)).unwrap())
}

fn pvc(name: &str, size: &str, more: Value) -> Arc<PersistentVolumeClaim> {
    let base = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}},
            "storageClassName": ""},
        "status": {"phase": "Pending"},
    });
    Arc::new(serde_json::from_value(merged(base, more)).unwrap())
}

fn class(name: &str, more: Value) -> Arc<StorageClass> {
    let base = json!({"metadata": {"name": name}, "provisioner": "sampan.io/host-path"});
    Arc::new(serde_json::from_value(merged(base, more)).unwrap())
}

fn lazy(name: &str, provisioner: &str) -> Arc<StorageClass> {
    class(name, json!({"provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"}))
}

fn claimed(name: &str, uid: &str) -> Value {
    json!({"spec": {"claimRef": {"namespace": "ns", "name": name, "uid": uid}}})
}

fn found(claim: &Arc<PersistentVolumeClaim>, volumes: &[Arc<PersistentVolume>], delayed: bool) -> String {
    matching::best(claim, volumes, delayed).map_or("none", |v| v.metadata.name.as_deref().unwrap()).to_owned()
}

type Case = (&'static str, Arc<PersistentVolumeClaim>, Vec<Arc<PersistentVolume>>, &'static str);

fn check(cases: Vec<Case>) {
    for (what, claim, volumes, want) in cases {
        assert_eq!(found(&claim, &volumes, false), want, "{what}");
    }
}

#[test]
fn the_best_volume() {
    let plain = || pvc("c", "5Gi", json!({}));
    let labelled = json!({"spec": {"selector": {"matchLabels": {"disk": "ssd"}}}});
    let wide = json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}});
    let cases: Vec<Case> = vec![
        (
            "the smallest that is large enough",
            plain(),
            vec![pv("a", "20Gi", json!({})), pv("b", "10Gi", json!({})), pv("c", "1Gi", json!({}))],
            "b",
        ),
        ("exactly as large", plain(), vec![pv("a", "5Gi", json!({}))], "a"),
        (
            "fewest access modes before size",
            plain(),
            vec![pv("a", "6Gi", wide.clone()), pv("b", "10Gi", json!({}))],
            "b",
        ),
        ("more access modes than asked for", plain(), vec![pv("a", "6Gi", wide)], "a"),
        (
            "too few access modes",
            pvc("c", "5Gi", json!({"spec": {"accessModes": ["ReadWriteMany"]}})),
            vec![pv("a", "6Gi", json!({}))],
            "none",
        ),
        (
            "another class",
            plain(),
            vec![pv("a", "6Gi", json!({"spec": {"storageClassName": "gold"}}))],
            "none",
        ),
        (
            "the class",
            pvc("c", "5Gi", json!({"spec": {"storageClassName": "gold"}})),
            vec![pv("a", "6Gi", json!({"spec": {"storageClassName": "gold"}}))],
            "a",
        ),
        (
            "the class by its old name",
            pvc(
                "c",
                "5Gi",
                json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "gold"}}}),
            ),
            vec![pv("a", "6Gi", json!({"spec": {"storageClassName": "gold"}}))],
            "a",
        ),
        (
            "labels",
            pvc("c", "5Gi", labelled.clone()),
            vec![pv("a", "6Gi", json!({})), pv("b", "9Gi", json!({"metadata": {"labels": {"disk": "ssd"}}}))],
            "b",
        ),
        ("no such labels", pvc("c", "5Gi", labelled), vec![pv("a", "6Gi", json!({}))], "none"),
    ];
    check(cases);
}

#[test]
fn the_best_volume_when_some_are_taken() {
    let plain = || pvc("c", "5Gi", json!({}));
    let cases: Vec<Case> = vec![
        (
            "reserved by name, larger",
            plain(),
            vec![pv("a", "6Gi", json!({})), pv("b", "50Gi", claimed("c", ""))],
            "b",
        ),
        (
            "reserved, but too small",
            plain(),
            vec![pv("a", "6Gi", json!({})), pv("b", "1Gi", claimed("c", ""))],
            "a",
        ),
        ("reserved for another", plain(), vec![pv("a", "6Gi", claimed("d", ""))], "none"),
        (
            "of an earlier claim of the name",
            plain(),
            vec![pv("a", "6Gi", claimed("c", "uid-before"))],
            "none",
        ),
        (
            "block and file system",
            plain(),
            vec![pv("a", "6Gi", json!({"spec": {"volumeMode": "Block"}}))],
            "none",
        ),
        (
            "block and block",
            pvc("c", "5Gi", json!({"spec": {"volumeMode": "Block"}})),
            vec![pv("a", "6Gi", json!({"spec": {"volumeMode": "Block"}}))],
            "a",
        ),
        (
            "released is not free",
            plain(),
            vec![pv("a", "6Gi", json!({"status": {"phase": "Released"}}))],
            "none",
        ),
        (
            "going away",
            plain(),
            vec![pv("a", "6Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))],
            "none",
        ),
        (
            "attributes class",
            plain(),
            vec![pv("a", "6Gi", json!({"spec": {"volumeAttributesClassName": "fast"}}))],
            "none",
        ),
    ];
    check(cases);
    let volumes = [pv("a", "6Gi", json!({})), pv("b", "50Gi", claimed("c", ""))];
    assert_eq!(found(&plain(), &volumes, true), "b", "waiting claims take what is reserved");
    assert_eq!(found(&plain(), &volumes[..1], true), "none", "and nothing else");
}

fn step(claim: &PersistentVolumeClaim, world: &World<'_>) -> String {
    let notice = |n: &crate::rollout::Notice| format!("{}: {}", n.reason, n.message);
    match claim::plan(claim, world) {
        claim::Step::Bind(volume) => format!("bind {}", volume.metadata.name.as_deref().unwrap()),
        claim::Step::Wait(None) => "wait".to_owned(),
        claim::Step::Wait(Some(n)) => format!("wait {}", notice(&n)),
        claim::Step::SetClass(name) => format!("class {name}"),
        claim::Step::Provision(class) => format!("provision {}", class.provisioner),
        claim::Step::NoClass(n) => format!("no class {}", notice(&n)),
        claim::Step::Lost(n) => format!("lost {}", notice(&n)),
        claim::Step::Contested(n) => format!("contested {}", notice(&n)),
    }
}

#[test]
fn claims() {
    let default = class(
        "standard",
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
    );
    let classes = [lazy("lazy", "sampan.io/host-path"), class("eager", json!({})), default];
    let of_class = |name: &str| pvc("c", "5Gi", json!({"spec": {"storageClassName": name}}));
    let selected = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}, "spec": {"storageClassName": "lazy"}});
    let mut unclassed = (*pvc("c", "5Gi", json!({}))).clone();
    unclassed.spec.as_mut().unwrap().storage_class_name = None;
    let named = |more: Value| merged(json!({"spec": {"volumeName": "v"}}), more);
    let small = pv("v", "1Gi", json!({}));
    let good = pv("v", "5Gi", json!({}));
    let ours = pv("v", "5Gi", claimed("c", "uid-c"));
    let others = pv("v", "5Gi", claimed("d", "uid-d"));
    let by_controller = json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}});
    type Case<'a> = (PersistentVolumeClaim, Option<&'a Arc<PersistentVolume>>, &'a [&'a str], &'a str);
    let cases: Vec<Case<'_>> = vec![
        (
            (*pvc("c", "5Gi", json!({}))).clone(),
            None,
            &[],
            "wait FailedBinding: no persistent volumes available for this claim and no storage class is set",
        ),
        (unclassed, None, &[], "class standard"),
        ((*of_class("eager")).clone(), None, &[], "provision sampan.io/host-path"),
        (
            (*of_class("none")).clone(),
            None,
            &[],
            "no class ProvisioningFailed: storageclass.storage.k8s.io \"none\" not found",
        ),
        (
            (*of_class("lazy")).clone(),
            None,
            &[],
            "wait WaitForFirstConsumer: waiting for first consumer to be created before binding",
        ),
        (
            (*of_class("lazy")).clone(),
            None,
            &["p"],
            "wait WaitForPodScheduled: waiting for pod p to be scheduled",
        ),
        (
            (*of_class("lazy")).clone(),
            None,
            &["p", "q"],
            "wait WaitForPodScheduled: waiting for pods p,q to be scheduled",
        ),
        ((*pvc("c", "5Gi", selected)).clone(), None, &["p"], "provision sampan.io/host-path"),
        ((*pvc("c", "5Gi", named(json!({})))).clone(), None, &[], "wait"),
        ((*pvc("c", "5Gi", named(json!({})))).clone(), Some(&good), &[], "bind v"),
        (
            (*pvc("c", "5Gi", named(json!({})))).clone(),
            Some(&small),
            &[],
            "wait VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small",
        ),
        ((*pvc("c", "5Gi", named(json!({})))).clone(), Some(&ours), &[], "bind v"),
        (
            (*pvc("c", "5Gi", named(json!({})))).clone(),
            Some(&others),
            &[],
            "wait FailedBinding: volume \"v\" already bound to a different claim.",
        ),
        (
            (*pvc("c", "5Gi", named(by_controller))).clone(),
            Some(&others),
            &[],
            "contested FailedBinding: volume \"v\" already bound to a different claim.",
        ),
    ];
    for (claim, volume, pods, want) in cases {
        let pods: Vec<String> = pods.iter().map(ToString::to_string).collect();
        let world = World { volumes: &[], named: volume, classes: &classes, waiting_pods: &pods };
        assert_eq!(step(&claim, &world), want);
    }
}

#[test]
fn claims_that_were_bound_before() {
    let done = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}});
    let named = |more: Value| merged(json!({"spec": {"volumeName": "v"}}), more);
    let good = pv("v", "5Gi", json!({}));
    let ours = pv("v", "5Gi", claimed("c", "uid-c"));
    let others = pv("v", "5Gi", claimed("d", "uid-d"));
    let cases: Vec<(PersistentVolumeClaim, Option<&Arc<PersistentVolume>>, &str)> = vec![
        (
            (*pvc("c", "5Gi", done.clone())).clone(),
            None,
            "lost ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (
            (*pvc("c", "5Gi", named(done.clone()))).clone(),
            None,
            "lost ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
        ((*pvc("c", "5Gi", named(done.clone()))).clone(), Some(&ours), "bind v"),
        ((*pvc("c", "5Gi", named(done.clone()))).clone(), Some(&good), "bind v"),
        (
            (*pvc("c", "5Gi", named(done))).clone(),
            Some(&others),
            "lost ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly",
        ),
    ];
    for (claim, volume, want) in cases {
        let world = World { volumes: &[], named: volume, classes: &[], waiting_pods: &[] };
        assert_eq!(step(&claim, &world), want);
    }
}

#[test]
fn both_say_so_when_they_are_bound() {
    let (claim, volume) = (pvc("c", "5Gi", json!({})), pv("v", "10Gi", json!({})));
    let bound = claim::bound_volume(&volume, &claim).unwrap();
    assert_eq!(bound.metadata.annotations.as_ref().unwrap()["pv.kubernetes.io/bound-by-controller"], "yes");
    assert!(claim::bound_volume(&bound, &claim).is_none());
    let after = claim::bound_claim(&claim, &bound).unwrap();
    let annotations = after.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations.len(), 2);
    assert!(claim::bound_claim(&after, &bound).is_none());
    let status = claim::status(&after, "Bound", Some(&bound)).unwrap();
    assert_eq!(status.capacity.as_ref().unwrap()["storage"].0, "10Gi");
    let done = PersistentVolumeClaim { status: Some(status), ..after };
    assert!(claim::status(&done, "Bound", Some(&bound)).is_none());
    // What a user reserved gets no mark of the controller.
    let reserved = pv("v", "10Gi", claimed("c", ""));
    assert!(claim::bound_volume(&reserved, &claim).unwrap().metadata.annotations.is_none());
    let naming = pvc("c", "5Gi", json!({"spec": {"volumeName": "v"}}));
    assert_eq!(claim::bound_claim(&naming, &bound).unwrap().metadata.annotations.unwrap().len(), 1);
}

#[test]
fn volumes() {
    let bound = pvc("c", "5Gi", json!({"spec": {"volumeName": "v"}}));
    let elsewhere = pvc("c", "5Gi", json!({"spec": {"volumeName": "w"}}));
    let open = pvc("c", "5Gi", json!({}));
    let with = |more: Value| pv("v", "5Gi", merged(claimed("c", "uid-c"), more));
    let made = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x"}},
        "spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    let mark = json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}});
    let cases: Vec<(Arc<PersistentVolume>, Option<&PersistentVolumeClaim>, &str)> = vec![
        (pv("v", "5Gi", json!({})), None, "Phase(\"Available\")"),
        (pv("v", "5Gi", claimed("c", "")), None, "Phase(\"Available\")"),
        (with(json!({})), None, "Reclaim(Retain)"),
        (with(json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})), None, "Reclaim(Delete)"),
        (with(json!({"spec": {"persistentVolumeReclaimPolicy": "Recycle"}})), None, "Reclaim(Recycle)"),
        (with(json!({"spec": {"persistentVolumeReclaimPolicy": "Odd"}})), None, "Reclaim(Unknown)"),
        (pv("v", "5Gi", claimed("c", "uid-before")), Some(&bound), "Reclaim(Retain)"),
        (with(json!({})), Some(&open), "LookAtClaim"),
        (with(json!({})), Some(&bound), "Phase(\"Bound\")"),
        (with(made), Some(&elsewhere), "Reclaim(Delete)"),
    ];
    for (volume, claim, want) in cases {
        assert_eq!(format!("{:?}", volume::plan(&volume, claim)), want);
    }
    let mismatch = volume::plan(&with(json!({"spec": {"volumeMode": "Block"}})), Some(&open));
    assert!(matches!(mismatch, volume::Step::Mismatch { .. }));
    let volume::Step::Unbind(free) = volume::plan(&with(mark), Some(&elsewhere)) else { panic!() };
    assert!(free.spec.unwrap().claim_ref.is_none());
    let volume::Step::Unbind(reserved) = volume::plan(&with(json!({})), Some(&elsewhere)) else { panic!() };
    let reference = reserved.spec.unwrap().claim_ref.unwrap();
    assert_eq!((reference.name.as_deref(), reference.uid), (Some("c"), None));
}

#[derive(Default)]
struct Known {
    claims: Vec<Arc<PersistentVolumeClaim>>,
    volumes: Vec<Arc<PersistentVolume>>,
    classes: Vec<Arc<StorageClass>>,
}

impl Known {
    fn listed(&self, nodes: Vec<CSINode>) -> Listed {
        fn own<T: Clone>(all: &[Arc<T>]) -> impl Iterator<Item = T> {
            all.iter().map(|one| (**one).clone())
        }
        Listed::new(own(&self.claims), own(&self.volumes), own(&self.classes), nodes)
    }
}

fn pod(claims: &[&str]) -> Pod {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    let spec = json!({"containers": [], "volumes": volumes});
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn on_host(host: &str) -> Value {
    let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [host]});
    json!({"spec": {"storageClassName": "local", "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
}

fn labels(host: &str) -> Labels {
    [("kubernetes.io/hostname".to_owned(), host.to_owned())].into()
}

fn told(choice: Result<Choice, super::placement::Conflict>) -> String {
    let choice = match choice {
        Ok(choice) => choice,
        Err(conflict) => return conflict.to_string(),
    };
    let name = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| meta.name.clone().unwrap();
    let bind = choice.bind.iter().map(|(c, v)| format!("{}={}", name(&c.metadata), name(&v.metadata)));
    bind.chain(choice.provision.iter().map(|c| format!("{}=new", name(&c.metadata))))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn pods_that_are_not_ready_to_be_placed() {
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    let known = Known {
        claims: vec![
            pvc("eager", "1Gi", json!({"spec": {"storageClassName": "eager"}})),
            pvc("going", "1Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            pvc("lost", "1Gi", merged(bound.clone(), json!({"status": {"phase": "Lost"}}))),
            pvc("done", "1Gi", bound),
            pvc("p-mine", "1Gi", json!({})),
        ],
        volumes: vec![],
        classes: vec![class("eager", json!({}))],
    };
    let known = known.listed(Vec::new());
    let said = |pod: &Pod| PodVolumes::of(pod, &known).unwrap_err().to_string();
    assert_eq!(said(&pod(&["none"])), "persistentvolumeclaim \"none\" not found");
    assert_eq!(said(&pod(&["going"])), "persistentvolumeclaim \"going\" is being deleted");
    assert_eq!(
        said(&pod(&["lost"])),
        "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"v\""
    );
    assert_eq!(said(&pod(&["eager"])), "pod has unbound immediate PersistentVolumeClaims");
    assert!(PodVolumes::of(&pod(&[]), &known).unwrap().is_none());
    let volumes = PodVolumes::of(&pod(&["done"]), &known).unwrap().unwrap();
    assert_eq!(
        told(volumes.on("n1", &labels("n1"), &Taken::new())),
        "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
    );
    let mut ephemeral = pod(&[]);
    ephemeral.spec.as_mut().unwrap().volumes =
        serde_json::from_value(json!([{"name": "mine", "ephemeral": {}}])).unwrap();
    assert_eq!(said(&ephemeral), "PVC ns/p-mine was not created for pod ns/p (pod is not owner)");
    ephemeral.spec.as_mut().unwrap().volumes =
        serde_json::from_value(json!([{"name": "other", "ephemeral": {}}])).unwrap();
    assert_eq!(
        said(&ephemeral),
        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-other\""
    );
}

#[test]
fn nodes_that_claims_allow() {
    let local = |name: &str, size: &str, more: Value| {
        pvc(name, size, merged(json!({"spec": {"storageClassName": "local"}}), more))
    };
    let lazily = |name: &str, more: Value| {
        pvc(name, "1Gi", merged(json!({"spec": {"storageClassName": "lazy"}}), more))
    };
    let known = Known {
        claims: vec![
            local("small", "1Gi", json!({})),
            local("large", "8Gi", json!({})),
            lazily("made", json!({})),
            lazily(
                "chosen",
                json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n2"}}}),
            ),
            local(
                "bound",
                "1Gi",
                json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "n2-big"}}),
            ),
        ],
        volumes: vec![
            pv("n1-big", "10Gi", on_host("n1")),
            pv("n2-big", "10Gi", on_host("n2")),
            pv("n2-little", "2Gi", on_host("n2")),
        ],
        classes: vec![lazy("local", "kubernetes.io/no-provisioner"), lazy("lazy", "sampan.io/host-path")],
    };
    let known = known.listed(Vec::new());
    let on = |claims: &[&str], node: &str, taken: &[&str]| {
        let volumes = PodVolumes::of(&pod(claims), &known).unwrap().unwrap();
        let taken = taken.iter().map(ToString::to_string).collect();
        told(volumes.on(node, &labels(node), &taken))
    };
    let nothing = "node(s) didn't find available persistent volumes to bind";
    assert_eq!(on(&["small"], "n1", &[]), "small=n1-big");
    assert_eq!(on(&["small"], "n2", &[]), "small=n2-little");
    assert_eq!(on(&["small"], "n3", &[]), nothing);
    assert_eq!(on(&["large", "small"], "n2", &[]), "small=n2-little large=n2-big");
    assert_eq!(on(&["large", "small"], "n1", &[]), nothing, "one volume for two claims");
    assert_eq!(on(&["small"], "n1", &["n1-big"]), nothing, "spoken for");
    assert_eq!(on(&["made"], "n3", &[]), "made=new");
    assert_eq!(on(&["chosen"], "n2", &[]), "chosen=new");
    assert_eq!(on(&["chosen"], "n1", &[]), nothing);
    assert_eq!(on(&["bound"], "n2", &[]), "");
    assert_eq!(on(&["bound"], "n1", &[]), "node(s) didn't match PersistentVolume's node affinity");
    assert_eq!(on(&["bound", "made"], "n2", &[]), "made=new");
}

#[test]
fn classes_name_where_volumes_may_be_made() {
    let zones = class(
        "z",
        json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["a", "b"]}]}]}),
    );
    let zone = |name: &str| Labels::from([("zone".to_owned(), name.to_owned())]);
    assert!(super::topology_allows(&zones, &zone("a")) && !super::topology_allows(&zones, &zone("c")));
    assert!(!super::topology_allows(&zones, &Labels::new()));
    let marked = |name: &str, time: &str| {
        class(
            name,
            json!({"metadata": {"creationTimestamp": time, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
        )
    };
    let classes =
        [marked("old", "2026-01-01T00:00:00Z"), marked("new", "2026-02-01T00:00:00Z"), class("x", json!({}))];
    let default = super::default_class(classes.iter().map(|c| &**c)).unwrap();
    assert_eq!(default.metadata.name.as_deref(), Some("new"));
}

fn bound_to(name: &str, volume: &str, modes: Value) -> Arc<PersistentVolumeClaim> {
    pvc(
        name,
        "1Gi",
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": volume, "accessModes": modes}}),
    )
}

fn disk(name: &str, labels: Value) -> Arc<PersistentVolume> {
    let csi = json!({"csi": {"driver": "disks.example.com", "volumeHandle": format!("handle-{name}")}});
    pv(name, "1Gi", json!({"metadata": {"labels": labels}, "spec": csi}))
}

/// What is said about a node with such labels, on which pods with these claims run.
fn said(known: &Listed, filters: &FilterSet, claim: &str, labels: Value, running: &[&[&str]]) -> String {
    let filter = match VolumeFilter::of(&pod(&[claim]), known, filters, |name| name == "used") {
        Ok(filter) => filter.unwrap(),
        Err(unready) => return unready.0,
    };
    let labels: Labels = serde_json::from_value(labels).unwrap();
    let pods: Vec<Arc<PodInfo>> = running.iter().map(|claims| Arc::new(PodInfo::of(&pod(claims)))).collect();
    let node = Candidate { name: "n1", labels: &labels, pods: &pods };
    filter.allow(node, &Taken::default(), known).err().unwrap_or_default()
}

#[test]
fn zones_by_their_old_names_and_their_new_ones() {
    let old = json!({"failure-domain.beta.kubernetes.io/zone": "a__b"});
    let known = Known {
        claims: vec![
            bound_to("c", "v", json!(["ReadWriteOnce"])),
            bound_to("d", "w", json!(["ReadWriteOnce"])),
        ],
        volumes: vec![disk("v", old), disk("w", json!({"topology.kubernetes.io/region": "r"}))],
        classes: vec![],
    };
    let known = known.listed(Vec::new());
    let zone = "node(s) had no available volume zone";
    let all = FilterSet::default();
    let none = FilterSet { volume_zone: false, ..all };
    for (claim, labels, want) in [
        ("c", json!({"failure-domain.beta.kubernetes.io/zone": "b"}), ""),
        ("c", json!({"topology.kubernetes.io/zone": "a"}), ""),
        ("c", json!({"topology.kubernetes.io/zone": "c"}), zone),
        ("c", json!({"topology.kubernetes.io/region": "a"}), zone),
        ("c", json!({"other": "label"}), ""),
        ("d", json!({"topology.kubernetes.io/region": "r"}), ""),
        ("d", json!({"failure-domain.beta.kubernetes.io/region": "r"}), zone),
    ] {
        assert_eq!(said(&known, &all, claim, labels.clone(), &[]), want, "{claim} {labels}");
        assert_eq!(said(&known, &none, claim, labels, &[]), "", "switched off");
    }
}

#[test]
fn a_node_takes_as_many_volumes_as_its_driver_can_attach() {
    let modes = || json!(["ReadWriteMany"]);
    let known = Known {
        claims: vec![
            bound_to("one", "one", modes()),
            bound_to("two", "two", modes()),
            bound_to("three", "three", modes()),
            bound_to("plain", "plain", modes()),
            pvc("open", "1Gi", json!({"spec": {"storageClassName": "disks"}})),
        ],
        volumes: vec![
            disk("one", json!({})),
            disk("two", json!({})),
            disk("three", json!({})),
            pv("plain", "1Gi", json!({})),
        ],
        classes: vec![lazy("disks", "disks.example.com")],
    };
    let node: CSINode = serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"drivers": [
        {"name": "disks.example.com", "nodeID": "n1", "allocatable": {"count": 2}},
        {"name": "other.example.com", "nodeID": "n1"}]}}))
    .unwrap();
    let known = known.listed(vec![node]);
    let full = "node(s) exceed max volume count";
    let all = FilterSet::default();
    let on = |claim: &str, running: &[&[&str]]| said(&known, &all, claim, json!({}), running);
    assert_eq!(on("one", &[]), "");
    assert_eq!(on("three", &[&["one"], &["one", "plain"]]), "", "a volume is attached once for all its pods");
    assert_eq!(on("three", &[&["one"], &["two"]]), full);
    assert_eq!(on("two", &[&["one"], &["two"]]), "", "it is there already");
    assert_eq!(on("open", &[&["one"], &["two"]]), full, "one that is yet to be made");
    assert_eq!(on("plain", &[&["one"], &["two"]]), "", "nothing is attached for it");
    let off = FilterSet { volume_limits: false, ..all };
    assert_eq!(said(&known, &off, "three", json!({}), &[&["one"], &["two"]]), "");
}

#[test]
fn volume_filters_can_be_switched_off() {
    let known = Known {
        claims: vec![bound_to("used", "v", json!(["ReadWriteOncePod"])), bound_to("gone", "none", json!([]))],
        volumes: vec![disk("v", json!({}))],
        classes: vec![],
    };
    let known = known.listed(Vec::new());
    let all = FilterSet::default();
    assert!(
        said(&known, &all, "used", json!({}), &[]).contains("ReadWriteOncePod access mode already in-use")
    );
    assert_eq!(said(&known, &FilterSet { volume_restrictions: false, ..all }, "used", json!({}), &[]), "");
    assert!(said(&known, &all, "gone", json!({}), &[]).contains("bound to non-existent pv(s)"));
    assert_eq!(said(&known, &FilterSet { volume_binding: false, ..all }, "gone", json!({}), &[]), "");
}
