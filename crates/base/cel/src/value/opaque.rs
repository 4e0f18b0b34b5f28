//! What values of Kubernetes' library hold.

use std::net::IpAddr;

use sampan_api::quantity::Quantity;

use crate::{
    authorizer::{Decision, ServiceAccount},
    functions::{format::Format, semver::Semver, url::Url},
    types::Opaque,
};

/// A value of Kubernetes' library.
#[derive(Debug, Clone, PartialEq)]
pub enum Inner {
    /// A quantity.
    Quantity(Quantity),
    /// A URL.
    Url(Url),
    /// An address.
    Ip(IpAddr),
    /// A network: any of its addresses, and the length of the prefix.
    Cidr(IpAddr, u8),
    /// A semantic version.
    Semver(Semver),
    /// A named format.
    Format(&'static Format),
    /// The authorizer, perhaps for a service account.
    Authorizer(Option<ServiceAccount>),
    /// A check of a path.
    PathCheck(Option<ServiceAccount>, String),
    /// A check in a group.
    GroupCheck(Option<ServiceAccount>, String),
    /// A check of a resource.
    ResourceCheck(Box<ResourceCheck>),
    /// The answer to a check.
    Decision(Decision),
}

/// A check of a resource.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResourceCheck {
    pub(crate) account: Option<ServiceAccount>,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) field_selector: String,
    pub(crate) label_selector: String,
}

impl Inner {
    pub(crate) fn opaque(&self) -> Opaque {
        match self {
            Inner::Quantity(_) => Opaque::Quantity,
            Inner::Url(_) => Opaque::Url,
            Inner::Ip(_) => Opaque::Ip,
            Inner::Cidr(..) => Opaque::Cidr,
            Inner::Semver(_) => Opaque::Semver,
            Inner::Format(_) => Opaque::Format,
            Inner::Authorizer(_) => Opaque::Authorizer,
            Inner::PathCheck(..) => Opaque::PathCheck,
            Inner::GroupCheck(..) => Opaque::GroupCheck,
            Inner::ResourceCheck(_) => Opaque::ResourceCheck,
            Inner::Decision(_) => Opaque::Decision,
        }
    }

    pub(crate) fn same(&self, other: &Inner) -> bool {
        match (self, other) {
            (Inner::Semver(a), Inner::Semver(b)) => a.compare(b).is_eq(),
            (Inner::Format(a), Inner::Format(b)) => a.name == b.name,
            (a, b) => a == b,
        }
    }
}
