//! `sampan image build`.

use std::{
    collections::HashMap,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use sampan_image::{
    BuildOptions, BuildOutput, CacheTo, Compression, OutputKind, Platform, PullOptions, RunNetwork,
    SecretSource,
};
use tokio_util::sync::CancellationToken;

use super::{compression_of, credentials, open, output_path, progress, push_one};
use crate::{
    cli::{Build, Network, ProgressStyle},
    platform::build_steps::BuildSteps,
    terminal,
};

/// A Dockerfile from stdin larger than this is refused.
const MAX_STDIN: u64 = 4 << 20;

pub(super) async fn run(data_dir: &Path, options: Build) -> Result<ExitCode> {
    if options.push && options.tag.is_empty() {
        bail!("--push needs a name to push to (hint: -t registry/name:tag)");
    }
    let images = open(data_dir, &options.access.insecure_registry)?;
    // Keeps what stdin gave until the end.
    let (dir, mut build) = arguments(data_dir, &options)?;
    build.run = Some(Arc::new(BuildSteps::new()?));
    if !options.quiet {
        let live = options.progress == ProgressStyle::Auto && progress::is_live();
        build.events = Some(progress::printer(live));
    }
    let data_on_stdout = build.outputs.iter().any(|output| output.dest == Path::new("/dev/stdout"));
    let cancel = build.cancel.clone();
    let work = images.build(build);
    tokio::pin!(work);
    let result = tokio::select! {
        result = &mut work => result,
        ended = terminal::interrupted() => {
            ended?;
            // Steps end and unmount what they have mounted; who cannot wait says so once more.
            cancel.cancel();
            tokio::select! {
                result = work => result,
                _ = terminal::interrupted() => bail!("interrupted before everything was put away"),
            }
        }
    };
    drop(dir);
    let result = result?;
    if !options.quiet {
        eprintln!(
            "{} steps, {} from the cache, {}",
            result.steps,
            result.cached_steps,
            terminal::bytes(result.image.size)
        );
    }
    if let Some(path) = &options.iidfile {
        let written = std::fs::write(path, result.image.image_id.to_string());
        written.with_context(|| format!("write {}", path.display()))?;
    }
    if !data_on_stdout {
        terminal::write(&format!("{}\n", result.image.reference))?;
    }
    if options.push {
        for tag in &options.tag {
            push_one(data_dir, &images, (tag, tag), &options.access).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn arguments(data_dir: &Path, options: &Build) -> Result<(Option<tempfile::TempDir>, BuildOptions)> {
    let (dir, context, dockerfile) = stdin(options)?;
    let progress = (!options.quiet).then(terminal::layer_progress);
    let first = options.tag.first().map_or("docker.io/library/x", String::as_str);
    let credentials = credentials(data_dir, &options.access, first)?;
    let secrets = options.secret.iter().map(|text| secret(text)).collect::<Result<_>>()?;
    let outputs = options.output.iter().map(|text| output(text)).collect::<Result<_>>()?;
    let platforms = options.platform.iter().map(|text| {
        Platform::parse(text)
            .with_context(|| format!("--platform {text:?} is no platform (hint: linux/amd64)"))
    });
    let contexts = options.build_context.iter();
    let network = options.network == Network::None || options.no_network;
    let build = BuildOptions {
        dockerfile,
        tags: options.tag.clone(),
        build_args: options.build_arg.iter().filter_map(|text| argument(text)).collect(),
        target: options.target.clone(),
        labels: options.label.clone(),
        no_cache: options.no_cache,
        platforms: platforms.collect::<Result<_>>()?,
        secrets,
        ssh: options.ssh.iter().map(|text| agent(text)).collect::<Result<_>>()?,
        contexts: contexts.map(|(name, dir)| (name.clone(), PathBuf::from(dir))).collect(),
        cache_from: options.cache_from.iter().map(|text| cache_from(text)).collect::<Result<_>>()?,
        cache_to: options.cache_to.iter().map(|text| cache_to(text)).collect::<Result<_>>()?,
        always_pull: options.pull,
        outputs,
        network: if network { RunNetwork::None } else { RunNetwork::Host },
        source_date_epoch: options.source_date_epoch,
        compression: compression_of(options.compression),
        pull: Some(PullOptions { progress, credentials, ..PullOptions::default() }),
        cancel: CancellationToken::new(),
        ..BuildOptions::new(context)
    };
    Ok((dir, build))
}

/// A Dockerfile that comes from stdin lies in a directory of its own meanwhile.
fn stdin(options: &Build) -> Result<(Option<tempfile::TempDir>, PathBuf, Option<PathBuf>)> {
    let dash = Path::new("-");
    if options.context != dash && options.file.as_deref() != Some(dash) {
        return Ok((None, options.context.clone(), options.file.clone()));
    }
    let mut text = Vec::new();
    std::io::stdin().lock().take(MAX_STDIN + 1).read_to_end(&mut text).context("read stdin")?;
    if text.len() as u64 > MAX_STDIN {
        bail!("the Dockerfile on stdin is larger than {MAX_STDIN} bytes");
    }
    if text.starts_with(&[0x1f, 0x8b]) || text.get(257..262) == Some(b"ustar") {
        bail!("stdin holds an archive, not a Dockerfile (hint: unpack it and give the directory)");
    }
    let dir = tempfile::tempdir().context("make a temporary directory")?;
    let path = dir.path().join("Dockerfile");
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    let context = match options.context == dash {
        true => {
            let empty = dir.path().join("context");
            std::fs::create_dir(&empty).with_context(|| format!("create {}", empty.display()))?;
            empty
        }
        false => options.context.clone(),
    };
    Ok((Some(dir), context, Some(path)))
}

/// `NAME=VALUE`, or `NAME` with the environment's value where there is one.
fn argument(text: &str) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text).ok().map(|value| (text.to_owned(), value)),
    }
}

/// `key=value,…`.
fn pairs(text: &str) -> HashMap<&str, &str> {
    text.split(',').filter_map(|pair| pair.split_once('=')).collect()
}

fn secret(text: &str) -> Result<(String, SecretSource)> {
    let pairs = pairs(text);
    let usage = || format!("--secret {text} (hint: id=NAME,src=FILE or id=NAME,env=VARIABLE)");
    let id = *pairs.get("id").with_context(usage)?;
    let file = pairs.get("src").or(pairs.get("source"));
    let variable = |name: &str| -> Result<SecretSource> {
        let value = std::env::var_os(name).with_context(|| format!("--secret {id}: {name} is not set"))?;
        Ok(SecretSource::Bytes(std::os::unix::ffi::OsStringExt::into_vec(value)))
    };
    let source = match (file, pairs.get("env"), pairs.get("type").copied()) {
        (Some(name), None, Some("env")) => variable(name)?,
        (Some(path), None, None | Some("file")) => SecretSource::File(PathBuf::from(path)),
        (None, Some(name), _) => variable(name)?,
        (None, None, _) if std::env::var_os(id).is_some() => variable(id)?,
        _ => bail!(usage()),
    };
    Ok((id.to_owned(), source))
}

fn cache_from(text: &str) -> Result<String> {
    let pairs = pairs(text);
    match (pairs.get("type").copied(), pairs.get("ref")) {
        (None, None) if pairs.is_empty() && !text.is_empty() => Ok(text.to_owned()),
        (None | Some("registry"), Some(reference)) => Ok((*reference).to_owned()),
        _ => bail!("--cache-from {text} is not known (hint: NAME, or type=registry,ref=NAME)"),
    }
}

fn cache_to(text: &str) -> Result<CacheTo> {
    let pairs = pairs(text);
    let all = match pairs.get("mode").copied() {
        None | Some("min") => false,
        Some("max") => true,
        Some(mode) => bail!("--cache-to {text}: mode {mode} is not known (hint: min, max)"),
    };
    match (pairs.get("type").copied(), pairs.get("ref")) {
        (Some("inline"), None) => Ok(CacheTo::Inline),
        (Some("registry"), Some(reference)) => {
            Ok(CacheTo::Registry { reference: (*reference).to_owned(), all })
        }
        _ => {
            bail!("--cache-to {text} is not known (hint: type=inline, or type=registry,ref=NAME[,mode=max])")
        }
    }
}

/// `default` is the caller's agent.
fn agent(text: &str) -> Result<(String, PathBuf)> {
    let (id, socket) = match text.split_once('=') {
        Some((id, path)) => (id, PathBuf::from(path)),
        None => {
            let variable = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
            let hint = || {
                format!("--ssh {text}: SSH_AUTH_SOCK is not set (hint: start ssh-agent, or {text}=SOCKET)")
            };
            (text, PathBuf::from(variable.with_context(hint)?))
        }
    };
    let metadata =
        std::fs::metadata(&socket).with_context(|| format!("--ssh {text}: {}", socket.display()))?;
    if !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) {
        bail!(
            "--ssh {text}: {} is no socket of an agent (hint: ssh-add KEY, and --ssh default)",
            socket.display()
        );
    }
    let socket = std::path::absolute(socket)?;
    Ok((id.to_owned(), socket))
}

fn output(text: &str) -> Result<BuildOutput> {
    let pairs = pairs(text);
    let usage = "(hint: type=oci|docker,dest=FILE, or type=local,dest=DIR)";
    if pairs.is_empty() {
        let kind = if text == "-" { OutputKind::Docker } else { OutputKind::Local };
        let dest = output_path(Path::new(text)).to_owned();
        return Ok(BuildOutput { kind, dest, compression: Compression::None });
    }
    let kind = match pairs.get("type").copied() {
        Some("oci") => OutputKind::Oci,
        Some("docker") => OutputKind::Docker,
        Some("local") => OutputKind::Local,
        other => bail!("--output {text}: type {} is not known {usage}", other.unwrap_or("none")),
    };
    let dest = pairs.get("dest").with_context(|| format!("--output {text}: there is no dest {usage}"))?;
    let compression = match pairs.get("compression").copied() {
        None => super::by_name(Path::new(dest)),
        Some("none" | "uncompressed") => Compression::None,
        Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        Some(other) => bail!("--output {text}: compression {other} is not known (hint: none, gzip, zstd)"),
    };
    Ok(BuildOutput { kind, dest: output_path(Path::new(dest)).to_owned(), compression })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed() {
        assert_eq!(argument("A=b=c"), Some(("A".into(), "b=c".into())));
        assert_eq!(argument("SAMPAN_NO_SUCH_VARIABLE"), None);
        let oci = output("type=oci,dest=x.tar.zst").unwrap();
        assert_eq!((oci.kind, oci.compression), (OutputKind::Oci, Compression::Zstd));
        assert_eq!(output("out").unwrap().kind, OutputKind::Local);
        assert_eq!(cache_from("type=registry,ref=h/x:1").unwrap(), cache_from("h/x:1").unwrap());
        assert_eq!(cache_to("type=inline").unwrap(), CacheTo::Inline);
        assert!(
            cache_to("type=gha").is_err()
                && cache_to("h/x").is_err()
                && cache_from("type=local,src=x").is_err()
        );
        for bad in ["type=oci", "type=image,dest=x", "type=oci,dest=x,compression=xz"] {
            assert!(output(bad).unwrap_err().to_string().contains("hint"), "{bad}");
        }
        assert!(
            matches!(secret("id=a,src=/f").unwrap().1, SecretSource::File(path) if path == Path::new("/f"))
        );
        assert!(secret("src=/f").is_err() && secret("id=a,env=SAMPAN_NO_SUCH_VARIABLE").is_err());
    }
}
