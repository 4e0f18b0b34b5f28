//! The API server in one process, as its clients see it. What needs a process of its own stands beside this folder.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/hook.rs"]
mod hook;
#[path = "../support/https.rs"]
mod https;
#[path = "../support/kubectl.rs"]
mod kubectl;
#[path = "../support/server.rs"]
mod support;

mod access;
mod addresses;
mod admission;
mod aggregation;
mod apply;
mod audit;
mod certificates;
mod conditions;
mod conversion;
mod custom;
mod custom_rules;
mod encryption;
mod evictions;
mod kinds;
mod kubectl_apply;
mod kubectl_custom;
mod kubectl_verbs;
mod lists;
mod negotiation;
mod node_authorizer;
mod nodes;
mod objects;
mod oidc;
mod policies;
mod policy_kinds;
mod protobuf;
mod proxy;
mod quota;
mod rbac;
mod subresources;
mod tokens;
mod usage;
mod watches;
mod watchlist;
mod webhooks;
