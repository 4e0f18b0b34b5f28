//! What hollow nodes know of a pod, read from a line of a watch without looking at the rest.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use serde::Deserialize;
use serde_json::value::RawValue;

/// The annotation, or label, that says what a pod does.
pub const BEHAVIOUR: &str = "hollow.sampan.io/behaviour";
/// The annotation, or label, that says after how many seconds a pod ends that ends by itself.
const SECONDS: &str = "hollow.sampan.io/seconds";

/// What a pod does once it has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// `run`: it gets ready and stays. Usual where containers are always restarted.
    Run,
    /// `succeed`: it ends well. Usual where they are not, as in Jobs.
    Succeed,
    /// `fail`: its containers end with code 1, again and again where they are restarted.
    Fail,
    /// `hang`: it runs and is never ready.
    Hang,
    /// `stay`: it gets ready, and does not end when it is deleted.
    Stay,
}

impl Behaviour {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "run" => Self::Run,
            "succeed" => Self::Succeed,
            "fail" => Self::Fail,
            "hang" => Self::Hang,
            "stay" => Self::Stay,
            _ => return None,
        })
    }
}

/// A container as its status shows it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Container {
    pub(crate) name: Box<str>,
    pub(crate) image: Box<str>,
    /// JSON.
    pub(crate) resources: Option<Box<str>>,
    pub(crate) role: Role,
}

/// When a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Init,
    Sidecar,
    Main,
}

/// Facts that many pods have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) containers: Vec<Container>,
    pub(crate) host_network: bool,
    /// Containers that end stay so, at least after ending well.
    pub(crate) ends: bool,
    /// Also after failing.
    pub(crate) never_again: bool,
}

/// A pod as the API shows it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Arc<str>,
    pub(crate) node: Box<str>,
    pub(crate) generation: i64,
    pub(crate) deleting: bool,
    /// It ran to its end.
    pub(crate) finished: bool,
    pub(crate) running: bool,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) ready: bool,
    pub(crate) behaviour: Option<Behaviour>,
    pub(crate) seconds: Option<u32>,
    pub(crate) shape: Arc<Shape>,
}

/// Shapes that were seen, each kept once; at most [`SHAPES`], then it begins anew.
#[derive(Default)]
pub(crate) struct Shapes(HashSet<Arc<Shape>>);

const SHAPES: usize = 1024;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    word: Cow<'a, str>,
    /// What it is depends on the word.
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Of a `Status`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Failed {
    code: u16,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Object<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow)]
    status: Status<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    #[serde(borrow)]
    deletion_timestamp: Option<&'a RawValue>,
    generation: i64,
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    node_name: Cow<'a, str>,
    #[serde(borrow)]
    restart_policy: Cow<'a, str>,
    host_network: bool,
    #[serde(borrow)]
    containers: Vec<ContainerSpec<'a>>,
    #[serde(borrow)]
    init_containers: Vec<ContainerSpec<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ContainerSpec<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    image: Cow<'a, str>,
    #[serde(borrow)]
    resources: Option<&'a RawValue>,
    #[serde(borrow)]
    restart_policy: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow, rename = "podIP")]
    pod_ip: Option<Cow<'a, str>>,
    #[serde(borrow)]
    phase: Cow<'a, str>,
    #[serde(borrow)]
    conditions: Vec<Condition<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
}

/// What a line of a watch says.
#[derive(Debug)]
pub(crate) enum Line {
    /// A pod is so now.
    Pod(Seen),
    /// The pod of this uid is gone.
    Gone(Box<str>),
    /// Everything up to the version was told.
    Mark,
    /// The watch cannot go on.
    Ended(u16, String),
}

/// Reads a line of a watch; with it the version up to which everything was told.
pub(crate) fn line(bytes: &[u8], shapes: &mut Shapes) -> Result<(Line, String), serde_json::Error> {
    let Event { word, object } = serde_json::from_slice(bytes)?;
    if word == "ERROR" {
        let Failed { code, message } = serde_json::from_str(object.get())?;
        return Ok((Line::Ended(code, message), String::new()));
    }
    let object: Object<'_> = serde_json::from_str(object.get())?;
    let line = match &*word {
        "DELETED" => Line::Gone((*object.metadata.uid).into()),
        "BOOKMARK" => Line::Mark,
        _ => Line::Pod(shapes.seen(&object)),
    };
    Ok((line, object.metadata.resource_version.into_owned()))
}

/// One page of a list.
pub(crate) struct Page {
    pub(crate) pods: Vec<Seen>,
    pub(crate) version: String,
    pub(crate) more: String,
}

/// Reads a page of a list.
pub(crate) fn page(bytes: &[u8], shapes: &mut Shapes) -> Result<Page, serde_json::Error> {
    #[derive(Deserialize)]
    struct List<'a> {
        metadata: ListMeta,
        #[serde(borrow, default)]
        items: Vec<Object<'a>>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct ListMeta {
        resource_version: String,
        #[serde(rename = "continue")]
        more: String,
    }
    let list: List<'_> = serde_json::from_slice(bytes)?;
    let ListMeta { resource_version, more } = list.metadata;
    Ok(Page {
        pods: list.items.iter().map(|pod| shapes.seen(pod)).collect(),
        version: resource_version,
        more,
    })
}

/// The value of a label or annotation.
fn tagged(meta: &Meta<'_>, key: &str) -> Option<String> {
    [meta.annotations, meta.labels].into_iter().flatten().find_map(|raw| {
        // Hardly ever there: only then it is worth a map.
        let there = raw.get().contains(key);
        let map: HashMap<String, String> = there.then(|| serde_json::from_str(raw.get()).ok())??;
        map.get(key).cloned()
    })
}

impl Shapes {
    fn seen(&mut self, object: &Object<'_>) -> Seen {
        let Object { metadata: meta, spec, status, .. } = object;
        Seen {
            namespace: (*meta.namespace).into(),
            name: (*meta.name).into(),
            uid: (*meta.uid).into(),
            node: (*spec.node_name).into(),
            generation: meta.generation,
            deleting: meta.deletion_timestamp.is_some(),
            finished: matches!(&*status.phase, "Succeeded" | "Failed"),
            running: status.phase == "Running",
            address: status.pod_ip.as_ref().and_then(|ip| ip.parse().ok()),
            ready: status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True"),
            behaviour: tagged(meta, BEHAVIOUR).and_then(|name| Behaviour::named(&name)),
            seconds: tagged(meta, SECONDS).and_then(|text| text.parse().ok()),
            shape: self.shape(spec),
        }
    }

    fn shape(&mut self, spec: &Spec<'_>) -> Arc<Shape> {
        let container = |c: &ContainerSpec<'_>, role| Container {
            name: (*c.name).into(),
            image: (*c.image).into(),
            resources: c.resources.map(|raw| raw.get().into()),
            role,
        };
        let init = spec
            .init_containers
            .iter()
            .map(|c| container(c, if c.restart_policy == "Always" { Role::Sidecar } else { Role::Init }));
        let main = spec.containers.iter().map(|c| container(c, Role::Main));
        let shape = Shape {
            containers: init.chain(main).collect(),
            host_network: spec.host_network,
            ends: matches!(&*spec.restart_policy, "Never" | "OnFailure"),
            never_again: spec.restart_policy == "Never",
        };
        if let Some(known) = self.0.get(&shape) {
            return known.clone();
        }
        if self.0.len() >= SHAPES {
            self.0.clear();
        }
        let shape = Arc::new(shape);
        self.0.insert(shape.clone());
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_pages_are_read() {
        let pod = r#"{"kind":"Pod","metadata":{"name":"a","namespace":"ns","uid":"u","resourceVersion":"7","generation":2,
            "labels":{"app":"x \"y\""},"annotations":{"hollow.sampan.io/behaviour":"fail","hollow.sampan.io/seconds":"3"}},
            "spec":{"nodeName":"hollow-1","restartPolicy":"Never","initContainers":[{"name":"i","image":"i","restartPolicy":"Always"}],
            "containers":[{"name":"c","image":"im\u0061ge","resources":{"requests":{"cpu":"1"}}}]},
            "status":{"phase":"Pending","conditions":[{"type":"Ready","status":"True"}]}}"#;
        let text = format!(r#"{{"type":"ADDED","object":{pod}}}"#);
        let mut shapes = Shapes::default();
        let (Line::Pod(seen), version) = line(text.as_bytes(), &mut shapes).unwrap() else {
            panic!("no pod")
        };
        assert_eq!((&*seen.name, &*seen.node, &*version, seen.generation), ("a", "hollow-1", "7", 2));
        assert_eq!((seen.behaviour, seen.seconds, seen.ready), (Some(Behaviour::Fail), Some(3), true));
        assert_eq!(
            seen.shape.containers.iter().map(|c| c.role).collect::<Vec<_>>(),
            [Role::Sidecar, Role::Main]
        );
        assert_eq!((&*seen.shape.containers[1].image, seen.shape.never_again), ("image", true));
        let list = format!(
            r#"{{"kind":"PodList","metadata":{{"resourceVersion":"9","continue":"c"}},"items":[{pod}]}}"#
        );
        let page = page(list.as_bytes(), &mut shapes).unwrap();
        assert_eq!((page.pods.len(), page.version.as_str(), page.more.as_str()), (1, "9", "c"));
        assert!(Arc::ptr_eq(&page.pods[0].shape, &seen.shape));
        let mut read = |text: &str| line(text.as_bytes(), &mut shapes);
        let error = r#"{"type":"ERROR","object":{"kind":"Status","metadata":{},"status":"Failure","message":"old","code":410}}"#;
        assert!(matches!(read(error), Ok((Line::Ended(410, why), _)) if why == "old"));
        let mark = r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"12"}}}"#;
        assert!(matches!(read(mark), Ok((Line::Mark, version)) if version == "12"));
        assert!(read("{\"type\":").is_err());
    }
}
