//! Who may take what is held.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{Owner, POLICY, RESERVATION, Terms};
use crate::scheduler::PodInfo;
use crate::selector::Selector;

/// How much a pod wants reserved room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Where there is some.
    #[default]
    Preferred,
    /// Or none at all.
    Required,
    /// Not at all.
    Never,
}

/// What a pod says of reservations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Wish {
    /// The only one that it may use: namespace and name.
    pub only: Option<(Box<str>, Box<str>)>,
    /// How much it wants that.
    pub policy: Policy,
}

impl Wish {
    /// Reads it; nothing when the pod says nothing. A policy that nobody knows is the strictest: the pod says why it waits.
    pub(crate) fn of(meta: &ObjectMeta) -> Option<Box<Self>> {
        let annotations = meta.annotations.as_ref()?;
        let (named, policy) = (annotations.get(RESERVATION), annotations.get(POLICY));
        if named.is_none() && policy.is_none() {
            return None;
        }
        let own = meta.namespace.as_deref().unwrap_or_default();
        let only = named.map(|text| text.split_once('/').unwrap_or((own, text)));
        Some(Box::new(Self {
            only: only.map(|(namespace, name)| (namespace.into(), name.into())),
            policy: match policy.map(String::as_str) {
                None | Some("Preferred") => Policy::Preferred,
                Some("Never") => Policy::Never,
                Some(_) => Policy::Required,
            },
        }))
    }
}

/// What made a pod: `Kind/name`. Pods with the same owner's uid have the same, so shapes need not look at it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Maker(Option<Box<str>>);

impl Maker {
    pub fn of(owner: Option<&OwnerReference>) -> Self {
        Self(owner.map(|owner| [&*owner.kind, "/", &owner.name].concat().into()))
    }
}

impl PartialEq for Maker {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Maker {}

impl std::hash::Hash for Maker {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// An [`Owner`], read once.
#[derive(Debug, Clone)]
pub(crate) struct Matcher {
    namespace: Box<str>,
    selector: Option<Selector>,
    maker: Option<(String, String)>,
}

impl Matcher {
    pub fn new(owner: &Owner, namespace: &str) -> Result<Self, String> {
        let maker = match &owner.controller {
            Some(of) if of.kind.is_empty() || of.name.is_empty() => {
                return Err("spec.owners: a controller has a kind and a name".to_owned());
            }
            of => of.as_ref().map(|of| (of.kind.clone(), of.name.clone())),
        };
        Ok(Self {
            namespace: owner.namespace.as_deref().unwrap_or(namespace).into(),
            selector: owner.label_selector.as_ref().map(|selector| Selector::new(Some(selector))),
            maker,
        })
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn matches(&self, pod: &PodInfo) -> bool {
        *self.namespace == *pod.namespace()
            && self.selector.as_ref().is_none_or(|selector| selector.matches(Some(pod.labels())))
            && self.maker.as_ref().is_none_or(|(kind, name)| made_by(pod, kind, name))
    }
}

fn made_by(pod: &PodInfo, kind: &str, name: &str) -> bool {
    let Some((of, maker)) = pod.maker().0.as_deref().and_then(|maker| maker.split_once('/')) else {
        return false;
    };
    if of == kind {
        return maker == name;
    }
    // A Deployment's pods belong to its ReplicaSets, which are called after it and the hash that their pods carry.
    let hash = pod.labels().get("pod-template-hash");
    kind == "Deployment"
        && of == "ReplicaSet"
        && hash.is_some_and(|hash| maker.strip_suffix(hash.as_str()) == Some(&format!("{name}-")))
}

impl Terms {
    /// The namespaces whose pods may be owners.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.owners.iter().map(Matcher::namespace).chain(std::iter::once(&*self.namespace))
    }

    /// Whether the pod may take what is held.
    pub fn is_for(&self, pod: &PodInfo) -> bool {
        let wish = pod.wish();
        if wish.is_some_and(|wish| wish.policy == Policy::Never) {
            return false;
        }
        let only = wish.and_then(|wish| wish.only.as_ref());
        let named = only.is_some_and(|(namespace, name)| *namespace == self.namespace && *name == self.name);
        if only.is_some() && !named {
            return false;
        }
        // A pod of somebody else's namespace is not drawn anywhere that it did not ask for.
        if !named && *self.namespace != *pod.namespace() {
            return false;
        }
        if self.owners.is_empty() {
            return named && *self.namespace == *pod.namespace();
        }
        self.owners.iter().any(|owner| owner.matches(pod))
    }
}
