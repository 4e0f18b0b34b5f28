//! Making sure that a container's image is here.

use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use sampan_image::{Credentials, ErrorKind, PullOptions, RegistryFailure, RootfsPlan};
use tokio_util::sync::CancellationToken;

use super::start::Failed;
use crate::context::Context;
use crate::events::Subject;
use crate::objects::Snapshot;
use crate::pod::env::Objects;

/// Hold an image under an id, pulling it first where the policy says so.
pub async fn ensure(
    ctx: &Context,
    pod: &Pod,
    (image, policy): (&str, &str),
    id: &str,
    objects: &Snapshot,
    events: &Subject,
    cancel: &CancellationToken,
) -> Result<RootfsPlan, Failed> {
    let images = &ctx.options.images;
    if policy != "Always" {
        match images.rootfs(image, id).await {
            Ok(plan) => {
                events.normal("Pulled", format!("Container image \"{image}\" already present on machine"));
                return Ok(plan);
            }
            Err(error) if error.kind() == ErrorKind::NotPresent && policy == "Never" => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                events.warning("ErrImageNeverPull", &*message);
                return Err(Failed::Config("ErrImageNeverPull", message));
            }
            Err(error) if error.kind() == ErrorKind::NotPresent => {}
            Err(error) => return Err(invalid_or_pull(image, &error, events)),
        }
    }
    pull(ctx, pod, image, objects, events, cancel).await?;
    images.rootfs(image, id).await.map_err(|error| invalid_or_pull(image, &error, events))
}

async fn pull(
    ctx: &Context,
    pod: &Pod,
    image: &str,
    objects: &Snapshot,
    events: &Subject,
    cancel: &CancellationToken,
) -> Result<(), Failed> {
    let waiting = Instant::now();
    let _slot = tokio::select! {
        slot = ctx.pulls.acquire() => slot,
        () = cancel.cancelled() => return Err(Failed::Cancelled),
    };
    events.normal("Pulling", format!("Pulling image \"{image}\""));
    let started = Instant::now();
    let options = PullOptions {
        credentials: credentials(pod, objects),
        cancel: cancel.clone(),
        ..PullOptions::default()
    };
    match ctx.options.images.pull(image, options).await {
        Ok(summary) => {
            let (took, all) = (started.elapsed(), waiting.elapsed());
            events.normal(
                "Pulled",
                format!(
                    "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
                    seconds(took),
                    seconds(all),
                    summary.size
                ),
            );
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Cancelled => Err(Failed::Cancelled),
        // A machine without its registry still runs what it has: offline is a normal state here.
        Err(error)
            if error.kind() == ErrorKind::Registry(RegistryFailure::Unavailable)
                && ctx.options.images.find(image).await.is_ok_and(|found| found.is_some()) =>
        {
            events.warning("Failed", format!("Failed to pull image \"{image}\": {error}"));
            events.normal("Pulled", format!("Container image \"{image}\" already present on machine"));
            Ok(())
        }
        Err(error) => Err(invalid_or_pull(image, &error, events)),
    }
}

fn invalid_or_pull(image: &str, error: &sampan_image::Error, events: &Subject) -> Failed {
    if error.kind() == ErrorKind::InvalidName {
        let message = format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        );
        events.warning("InspectFailed", &*message);
        events.warning("Failed", "Error: InvalidImageName");
        return Failed::Config("InvalidImageName", message);
    }
    let message = error.to_string();
    events.warning("Failed", format!("Failed to pull image \"{image}\": {message}"));
    events.warning("Failed", "Error: ErrImagePull");
    Failed::Pull(message)
}

fn credentials(pod: &Pod, objects: &Snapshot) -> Credentials {
    let mut all = Credentials::none();
    let references = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_ref());
    for reference in references.into_iter().flatten() {
        let Some(data) = objects.secret(&reference.name).and_then(|secret| secret.data.as_ref()) else {
            continue;
        };
        let parsed = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(json), _) => Credentials::from_docker_config(&json.0),
            (None, Some(json)) => Credentials::from_dockercfg(&json.0),
            (None, None) => continue,
        };
        match parsed {
            Ok(credentials) => all.extend(credentials),
            Err(error) => tracing::warn!(secret = reference.name, error, "image pull secret is unusable"),
        }
    }
    all
}

fn seconds(duration: std::time::Duration) -> String {
    if duration.as_secs() > 0 {
        format!("{:.3}s", duration.as_secs_f64())
    } else {
        format!("{}ms", duration.as_millis())
    }
}
