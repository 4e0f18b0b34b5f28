//! Kubernetes REST over the store: discovery, objects, watches, authentication, and the way to the nodes.
//!
//! [`Options`] -> [`ApiServer`] -> [`Handle`]. The store keeps the canonical JSON of each object once; answers and
//! watches splice the resourceVersion into those bytes and send them without encoding again. Clients in this process
//! use [`Handle::client`], a `tower::Service` bound to a user.

mod admission;
mod aggregate;
mod allocate;
mod audit;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod cache;
mod call;
mod certificates;
mod compact;
mod core;
mod crypt;
mod custom;
mod discovery;
mod encode;
mod endpoint;
mod events;
mod fairness;
mod fixed;
#[cfg(test)]
mod fuzz;
mod gate;
mod handler;
mod impersonate;
mod jose;
mod jwt;
mod local;
mod managers;
mod metrics;
mod mirror;
mod negotiate;
mod options;
mod peers;
mod protobuf;
mod request;
mod respond;
mod reviews;
mod select;
mod serve;
mod server;
mod storage;
mod subresource;
mod usage;
mod user;
mod verbs;
mod watch;

pub use audit::{
    AuditError, Level as AuditLevel, LogOptions as AuditLog, Policy as AuditPolicy,
    WebhookOptions as AuditWebhook,
};
pub use authn::Authentication;
pub use body::{Body, BoxError};
pub use crypt::{ConfigError, Encrypted, Encryption, Rules as EncryptionRules};
pub use fixed::GIT_VERSION;
pub use jwt::{Error as KeyError, SigningKey};
pub use local::LocalService;
pub use options::{Cidr, FrontProxy, Limits, Options};
pub use server::{ApiServer, Error, Handle};
pub use user::UserInfo;
