//! Images against real tools: skopeo, umoci, tar, docker-registry, and the kernel's overlayfs.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod build;
mod builder;
mod crash;
mod features;
mod fetched;
mod hostile;
mod import;
mod kept;
mod manage;
mod pull;
mod slim;
mod support;
