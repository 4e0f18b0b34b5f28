//! Images on one node: content store, pull, import, export, unpack, root file system plans, and building.
//!
//! [`Images`] is the handle. It needs no daemon: every process that opens the same directory works on the same
//! content, kept apart by short `flock` sections, so `sampan image …` works while `sampan up` runs and when it
//! does not. A kill -9 at any moment leaves only leftovers that the next [`Images::open`] removes.
//!
//! On disk (below [`Options::dir`]):
//! ```text
//! lock                      flock: shared to protect content, exclusive to change the index or to collect
//! index.json                name -> descriptor, replaced by rename
//! blobs/sha256/<hex>        manifests, configs, layers as they came (those that are compressed)
//! snapshots/<hex>/fs        a layer unpacked once, in overlayfs form; `meta.json` beside it says what it is
//! snapshots/<hex>/layer     what of an uncompressed layer is not in its files: such a layer is there only once
//! snapshots/<hex>/replaced  files of the layer that later entries of it replaced
//! l/<short>                 short symlinks to snapshots/<hex>/fs, so that many layers fit one mount option
//! uses/<holder>             what a running container needs; survives the process that wrote it
//! leases/<id>               what an operation in progress needs; dies with its process (flock)
//! tmp/<lease id>/           unfinished work of that operation
//! cache/<hex>               build steps that were done before
//! mounts/<hex>              directories of `RUN --mount=type=cache`, with a lock file beside each
//! ```
//! What is absent here: Pods, sandboxes and mounts. The container crate mounts what [`RootfsPlan`] says, and a
//! `RUN` of a Dockerfile goes through the [`RunStep`] that the caller brings.

mod analyze;
mod auth;
mod build;
mod compress;
mod digest;
mod error;
mod export;
mod import;
mod layers;
mod oci;
mod options;
mod packages;
mod progress;
mod pull;
mod push;
mod reference;
mod registry;
mod rootfs;
mod service;
mod slim;
mod store;
mod sys;
mod tar;

pub use analyze::{
    Analysis, DirectoryBytes, DuplicateFiles, ImageAnalysis, LayerAnalysis, RepeatedPackage, SharedLayer,
    WastedFile,
};
pub use auth::{Auth, Credentials};
pub use build::{
    BuildEvent, BuildOptions, BuildOutput, BuildResult, CacheTo, Compression, OutputKind, RunMount,
    RunMountSource, RunNetwork, RunOutput, RunRequest, RunStep, RunStepError, SecretSource,
};
pub use digest::Digest;
pub use error::{Error, ErrorKind, RegistryFailure, Result};
pub use export::ExportFormat;
pub use import::ImportOptions;
pub use oci::{Descriptor, Healthcheck, ImageConfig, Platform};
pub use options::{Limits, Options, Registries, RegistryOptions};
pub use packages::Package;
pub use progress::{LayerState, Progress, ProgressFn};
pub use pull::PullOptions;
pub use push::PushOptions;
pub use reference::{DEFAULT_REGISTRY, Reference};
pub use rootfs::{ResolvedUser, RootfsPlan};
pub use service::{
    DiskUsage, History, Holder, ImageDetails, ImageSummary, Images, LayerDetails, Pruned, Removed,
};
pub use slim::{
    Cause, Remaining, Removed as SlimRemoved, RemovedDirectory, RemovedFile, SlimOptions, SlimPlan,
    TrimmedFile, health,
};
