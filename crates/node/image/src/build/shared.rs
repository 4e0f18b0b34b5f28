//! Steps that other machines did: a list of steps in the config of an image whose layers are their results.
//!
//! `--cache-to type=inline` puts the list into the built image itself, `type=registry` makes an image of its own with
//! the layers of every step. `--cache-from` reads the list; a layer is fetched when a step asks for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::cache::{self, NewLayer, Step};
use super::output::write_image;
use super::run::Build;
use super::{BuildEvent, BuildOptions};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::ingest;
use crate::oci::{ConfigJson, Descriptor, ImageFile, Platform, RootFs};
use crate::pull::download::Download;
use crate::pull::{PullOptions, peek};
use crate::push::{PushOptions, push_image};
use crate::reference::Reference;
use crate::registry::Registry;
use crate::service::Images;
use crate::store::lease::Lease;
use crate::store::locked;

/// Where the list is.
pub(super) const LABEL: &str = "io.sampan.build.cache";
/// Steps of a list.
const MAX_STEPS: usize = 10_000;

/// Where the results of a build's steps are kept for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheTo {
    /// In the built image.
    Inline,
    /// In an image of its own, which is pushed.
    Registry {
        /// Its name.
        reference: String,
        /// Of every step, not only of those that the image consists of.
        all: bool,
    },
}

/// Steps of a build, by key.
pub(super) type Kept = Arc<Mutex<BTreeMap<Digest, Step>>>;

/// One step of a list.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(rename = "k")]
    key: Digest,
    /// Which of the image's layers it made.
    #[serde(rename = "l", skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
    #[serde(rename = "c")]
    created: String,
}

/// What was found at registries.
#[derive(Default)]
pub(super) struct Imported {
    steps: BTreeMap<Digest, (Step, usize)>,
    places: Vec<Arc<Registry>>,
}

impl Imported {
    /// A cache that cannot be read is one that knows nothing.
    pub(super) async fn read(images: &Images, options: &BuildOptions, platform: &Platform) -> Self {
        let mut imported = Self::default();
        if options.no_cache {
            return imported;
        }
        for reference in &options.cache_from {
            let mut pull = options.pull.clone().unwrap_or_default();
            pull.platform = Some(platform.clone());
            let read = tokio::select! {
                read = imported.add(images, reference, &pull) => read,
                () = options.cancel.cancelled() => return imported,
            };
            if let (Err(error), Some(events)) = (read, &options.events) {
                events(BuildEvent::Warning { message: format!("--cache-from {reference}: {error}") });
            }
        }
        imported
    }

    async fn add(&mut self, images: &Images, reference: &str, pull: &PullOptions) -> Result<()> {
        let (place, info) = peek(images, reference, pull).await?;
        let labels = info.file.config.as_ref().and_then(|config| config.labels.as_ref());
        let Some(text) = labels.and_then(|labels| labels.get(LABEL)) else {
            let hint = "(hint: build it with --cache-to type=inline)";
            return Err(Error::archive(reference, format!("the image lists no steps {hint}")));
        };
        let bad =
            |error: &dyn std::fmt::Display| Error::archive(reference, format!("its list of steps: {error}"));
        let lines: Vec<Line> = serde_json::from_str(text).map_err(|error| bad(&error))?;
        for line in lines.into_iter().take(MAX_STEPS) {
            let layer = match line.layer {
                None => None,
                Some(at) => {
                    let descriptor = info.manifest.layers.get(at).ok_or_else(|| bad(&"no such layer"))?;
                    Some(NewLayer { descriptor: descriptor.clone(), diff_id: info.file.rootfs.diff_ids[at] })
                }
            };
            let step = Step { layer, created: line.created };
            self.steps.entry(line.key).or_insert((step, self.places.len()));
        }
        self.places.push(place);
        Ok(())
    }
}

impl Build {
    /// What others remember of a step, with its layer.
    pub(super) async fn ask_others(&self, key: &Digest) -> Result<Option<Step>> {
        let Some((step, place)) = self.imported.steps.get(key) else { return Ok(None) };
        let mut staged = None;
        if let Some(layer) = &step.layer {
            let download = Download {
                images: self.images.clone(),
                registry: self.imported.places[*place].clone(),
                lease: self.lease.clone(),
                layer: layer.descriptor.clone(),
                diff_id: layer.diff_id,
                progress: Arc::new(|_| ()),
            };
            let (lease, digests) = (self.lease.clone(), [layer.descriptor.digest, layer.diff_id]);
            self.images.blocking(move |inner| inner.store.protect(&lease, digests)).await?;
            let fetched = tokio::select! {
                fetched = download.run() => fetched,
                () = self.options.cancel.cancelled() => {
                    return Err(Error::Cancelled { what: "the build".into() });
                }
            };
            match fetched {
                Ok(fetched) => staged = fetched,
                Err(error) => {
                    self.say(BuildEvent::Warning {
                        message: format!("a remembered step was not fetched: {error}"),
                    });
                    return Ok(None);
                }
            }
        }
        let (lease, cancel) = (self.lease.clone(), self.options.cancel.clone());
        let (step, key) = (step.clone(), *key);
        let known = self.images.blocking(move |inner| {
            if let (Some(staged), Some(layer)) = (staged, &step.layer) {
                // What cannot be shown is unpacked once more below, and what fails there too is done anew.
                let _ = ingest::show(&inner.store, &lease, staged, cache::place(&layer.diff_id));
            }
            cache::put(&inner.store, &key, &step)?;
            Ok(cache::get(&inner.store, &lease, &key, &cancel))
        });
        known.await
    }
}

/// The list of those steps whose layers are among these.
pub(super) fn list(kept: &Kept, layers: &[Descriptor]) -> String {
    let at = |layer: &NewLayer| layers.iter().position(|other| other.digest == layer.descriptor.digest);
    let kept = locked(kept);
    let lines = kept.iter().filter_map(|(key, step)| {
        let layer = match &step.layer {
            None => None,
            Some(layer) => Some(at(layer)?),
        };
        Some(Line { key: *key, layer, created: step.created.clone() })
    });
    // Plain data always has a JSON form.
    serde_json::to_string(&lines.take(MAX_STEPS).collect::<Vec<_>>()).unwrap_or_default()
}

/// Push an image that holds what was kept, or of it what the built images consist of.
pub(super) async fn export(
    images: &Images,
    lease: &Arc<Lease>,
    kept: &Kept,
    reference: &str,
    only: Option<&[Descriptor]>,
    options: &BuildOptions,
) -> Result<()> {
    let target = Reference::parse(reference)?;
    let most = images.inner.store.options.limits.layers;
    let mut layers: Vec<NewLayer> = locked(kept).values().filter_map(|step| step.layer.clone()).collect();
    layers.sort_by_key(|layer| layer.descriptor.digest);
    layers.dedup_by_key(|layer| layer.descriptor.digest);
    if let Some(only) = only {
        layers.retain(|layer| only.iter().any(|other| other.digest == layer.descriptor.digest));
    }
    layers.truncate(most);
    let (descriptors, diff_ids): (Vec<Descriptor>, Vec<Digest>) =
        layers.into_iter().map(|layer| (layer.descriptor, layer.diff_id)).unzip();
    let labels = BTreeMap::from([(LABEL.to_owned(), list(kept, &descriptors))]);
    let platform = Platform::host();
    let file = ImageFile {
        created: None,
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        config: Some(ConfigJson { labels: Some(labels), ..ConfigJson::default() }),
        rootfs: RootFs { kind: "layers".into(), diff_ids },
        history: None,
    };
    let holder = lease.clone();
    let info = images
        .blocking(move |inner| write_image(&inner, &holder, file, descriptors, Path::new("the build cache")))
        .await?;
    let pull = options.pull.clone().unwrap_or_default();
    let push = PushOptions {
        credentials: pull.credentials,
        progress: pull.progress,
        cancel: options.cancel.clone(),
    };
    push_image(images, target, Arc::new(info), push).await
}
