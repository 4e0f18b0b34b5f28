//! `sampan image …`: works on the data directory itself, whether or not `sampan up` runs on it.

mod analyze;
mod build;
mod progress;
mod slim;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use sampan_image::{
    Auth, Compression, Credentials, ExportFormat, ImageDetails, ImageSummary, Images, ImportOptions, Options,
    PullOptions, PushOptions, Reference, RegistryOptions,
};
use serde::Serialize;

use crate::{
    cli::{self, Access, Format, Image, Pull, Push},
    instance, terminal,
};

/// Images as they are printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    digest: String,
    image_id: String,
    created: Option<String>,
    size: u64,
    platform: String,
}

pub(crate) async fn run(data_dir: &Path, command: Image) -> Result<ExitCode> {
    instance::require_root()?;
    match command {
        Image::Build(options) => return build::run(data_dir, *options).await,
        Image::Import { file, name, cmd } => {
            let options = ImportOptions {
                name,
                cmd,
                progress: Some(terminal::layer_progress()),
                ..ImportOptions::default()
            };
            for image in open(data_dir, &[])?.import(&file, options).await? {
                terminal::write(&format!("{}\n", image.reference))?;
            }
        }
        Image::Pull(options) => pull(data_dir, options).await?,
        Image::List(output) => list(&open(data_dir, &[])?.list().await?, output.output)?,
        Image::Inspect { image, output } => {
            inspect(&open(data_dir, &[])?.inspect(&image).await?, output.output)?
        }
        Image::Tag { source, target } => {
            let image = open(data_dir, &[])?.tag(&source, &target).await?;
            terminal::write(&format!("{}\n", image.reference))?;
        }
        Image::Push(options) => push(data_dir, options).await?,
        Image::Analyze(options) => analyze::run(data_dir, options).await?,
        Image::Slim(options) => return slim::run(data_dir, options).await,
        Image::Save { images, file, oci, compression } => {
            let format = if oci { ExportFormat::Oci } else { ExportFormat::Docker };
            let compression = compression.map_or_else(|| by_name(&file), compression_of);
            open(data_dir, &[])?.save(&images, output_path(&file), format, compression).await?;
        }
        Image::Rm { images, force } => remove(data_dir, &images, force).await?,
        Image::Prune { cache } => {
            let pruned = open(data_dir, &[])?.prune(cache).await?;
            eprintln!("{} freed", terminal::bytes(pruned.freed));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where an instance keeps its images, and how its own registry is known.
pub(crate) fn options(data_dir: &Path, insecure: &[String]) -> Options {
    let mut options = Options::new(data_dir.join("images"));
    for host in insecure {
        let registry = RegistryOptions { insecure: true, ..RegistryOptions::default() };
        options.registries.hosts.insert(host.clone(), registry);
    }
    for host in super::registry::hosts(data_dir) {
        // It shows a certificate of the instance's own authority.
        options.registries.hosts.entry(host).or_default().ca_file = Some(data_dir.join("tls/ca.crt"));
    }
    options
}

fn open(data_dir: &Path, insecure: &[String]) -> Result<Images> {
    Ok(Images::open(options(data_dir, insecure))?)
}

/// A file to write; `-` is stdout.
fn output_path(path: &Path) -> &Path {
    if path == Path::new("-") { Path::new("/dev/stdout") } else { path }
}

/// Compression that a file's name asks for.
fn by_name(path: &Path) -> Compression {
    match path.extension().and_then(|end| end.to_str()) {
        Some("gz" | "tgz") => Compression::Gzip,
        Some("zst" | "tzst") => Compression::Zstd,
        _ => Compression::None,
    }
}

fn compression_of(asked: cli::Compression) -> Compression {
    match asked {
        cli::Compression::None => Compression::None,
        cli::Compression::Gzip => Compression::Gzip,
        cli::Compression::Zstd => Compression::Zstd,
    }
}

/// Credentials for the registry of an image: what was typed; else what `docker login` keeps, and for the registry of the
/// instance its first administrator's.
fn credentials(data_dir: &Path, access: &Access, image: &str) -> Result<Credentials> {
    let registry = Reference::parse(image)?.registry().to_owned();
    let mut credentials = Credentials::none();
    if let Some(pair) = &access.auth {
        let (user, password) = pair.split_once(':').context("--auth must have the form USER:PASSWORD")?;
        let auth = Auth::Basic { username: user.to_owned(), password: password.to_owned() };
        credentials.add(&registry, auth);
        return Ok(credentials);
    }
    if let Some(file) = docker_config()
        && let Ok(json) = std::fs::read(&file)
    {
        let known = Credentials::from_docker_config(&json)
            .map_err(|why| anyhow::anyhow!("{}: {why} (hint: --auth USER:PASSWORD)", file.display()))?;
        credentials.extend(known);
    }
    if super::registry::hosts(data_dir).contains(&registry)
        && let Some(password) = super::registry::admin_password(data_dir)
    {
        credentials.add(&registry, Auth::Basic { username: "admin".to_owned(), password });
    }
    Ok(credentials)
}

/// Where docker keeps credentials.
fn docker_config() -> Option<PathBuf> {
    let dir = match std::env::var_os("DOCKER_CONFIG") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => Path::new(&std::env::var_os("HOME")?).join(".docker"),
    };
    Some(dir.join("config.json"))
}

async fn pull(data_dir: &Path, options: Pull) -> Result<()> {
    let images = open(data_dir, &options.access.insecure_registry)?;
    let pull = PullOptions {
        credentials: credentials(data_dir, &options.access, &options.image)?,
        progress: Some(terminal::layer_progress()),
        ..PullOptions::default()
    };
    let image = images.pull(&options.image, pull).await?;
    terminal::write(&format!("{}@{}\n", image.reference, image.digest))
}

async fn push(data_dir: &Path, options: Push) -> Result<()> {
    let target = options.target.as_deref().unwrap_or(&options.image);
    let images = open(data_dir, &options.access.insecure_registry)?;
    push_one(data_dir, &images, (&options.image, target), &options.access).await
}

async fn push_one(
    data_dir: &Path,
    images: &Images,
    (image, target): (&str, &str),
    access: &Access,
) -> Result<()> {
    let push = PushOptions {
        credentials: credentials(data_dir, access, target)?,
        progress: Some(terminal::layer_progress()),
        ..PushOptions::default()
    };
    let digest = tokio::select! {
        digest = images.push(image, target, push) => digest?,
        ended = terminal::interrupted() => {
            ended?;
            anyhow::bail!("interrupted; {target} is as it was")
        }
    };
    terminal::write(&format!("{}@{digest}\n", Reference::parse(target)?.name()))
}

fn list(images: &[ImageSummary], format: Format) -> Result<()> {
    let rows: Vec<Row> = images.iter().map(row).collect();
    terminal::print(format, &rows, || {
        let cells = |row: &Row| {
            let age = row.created.as_deref().map_or_else(|| "<unknown>".to_owned(), age);
            let id: String = row.image_id.chars().skip(7).take(12).collect();
            let mut cells = vec![row.name.clone(), id, terminal::bytes(row.size), age];
            if format == Format::Wide {
                cells.extend([row.digest.clone(), row.platform.clone()]);
            }
            cells
        };
        let mut header = vec!["NAME", "IMAGE ID", "SIZE", "AGE"];
        if format == Format::Wide {
            header.extend(["DIGEST", "PLATFORM"]);
        }
        terminal::table(&header, &rows.iter().map(cells).collect::<Vec<_>>())
    })
}

fn row(image: &ImageSummary) -> Row {
    Row {
        name: image.reference.clone(),
        digest: image.digest.to_string(),
        image_id: image.image_id.to_string(),
        created: image.created.clone(),
        size: image.size,
        platform: format!("{}/{}", image.platform.os, image.platform.architecture),
    }
}

fn age(created: &str) -> String {
    let Ok(created) = created.parse::<jiff::Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = sampan_daemon::clock::now().as_second() - created.as_second();
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn inspect(image: &ImageDetails, format: Format) -> Result<()> {
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|l| serde_json::json!({"digest": l.digest.to_string(), "diffId": l.diff_id.to_string(), "size": l.size, "unpacked": l.unpacked}))
        .collect();
    let value = serde_json::json!({
        "names": image.names,
        "digest": image.summary.digest.to_string(),
        "imageId": image.summary.image_id.to_string(),
        "mediaType": image.media_type,
        "size": image.summary.size,
        "layers": layers,
        "usedBy": image.holders,
        "config": image.config_json,
    });
    // A tree has no better form for people than YAML.
    let format = if format == Format::Json { format } else { Format::Yaml };
    terminal::print(format, &value, String::new)
}

async fn remove(data_dir: &Path, images: &[String], force: bool) -> Result<()> {
    let store = open(data_dir, &[])?;
    for image in images {
        let removed = store.remove(image, force).await?;
        for name in removed.untagged {
            terminal::write(&format!("{name}\n"))?;
        }
        eprintln!("{image}: {} freed", terminal::bytes(removed.freed));
    }
    Ok(())
}
