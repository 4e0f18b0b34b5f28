//! `sampan store …`

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use sampan_store::{
    embedded::{self, Embedded},
    etcd::Etcd,
    migrate::{self, Moved},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    cli::{Format, Migrate, StoreArgs, StoreCommand},
    cluster,
    instance::{self, Instance},
    local, manage,
    store::{EMBEDDED, Remote},
    terminal,
};

/// What `status` and `verify` show.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    store: String,
    revision: i64,
    keys: usize,
    bytes: i64,
    members: Vec<ShownMember>,
    problems: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownMember {
    endpoint: String,
    version: String,
    leader: bool,
    bytes: i64,
    bytes_in_use: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<u32>,
    problems: Vec<String>,
}

pub(crate) async fn run(data_dir: &Path, command: StoreCommand) -> Result<ExitCode> {
    let instance = Instance::open(data_dir)?;
    match command {
        StoreCommand::Status(output) => show(&instance, output.output, false).await,
        StoreCommand::Verify(output) => show(&instance, output.output, true).await,
        StoreCommand::Compact => compact(&instance).await,
        StoreCommand::Salvage => salvage(&instance),
        StoreCommand::Migrate(options) => migrate(instance, options).await,
    }
}

async fn show(instance: &Instance, format: Format, verify: bool) -> Result<ExitCode> {
    let shown = match &instance.facts.store {
        Some(remote) => of_etcd(remote, verify).await?,
        None => of_embedded(instance, verify).await?,
    };
    terminal::print(format, &shown, || text(&shown))?;
    // As `etcdctl endpoint health`: a problem is a failure.
    Ok(ExitCode::from(u8::from(!shown.problems.is_empty())))
}

async fn of_embedded(instance: &Instance, verify: bool) -> Result<Shown> {
    let dir = instance.dir.join("store");
    let running = instance.running().is_some();
    let bytes = fs::read_dir(&dir).map_or(0, |files| {
        files.flatten().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum::<u64>()
    });
    let mut shown = Shown {
        store: format!("{EMBEDDED}, {}", dir.display()),
        revision: 0,
        keys: 0,
        bytes: bytes.try_into().unwrap_or(i64::MAX),
        members: Vec::new(),
        problems: Vec::new(),
    };
    if verify || !running {
        let report = embedded::verify(&dir)?;
        (shown.revision, shown.keys) = (report.revision, report.keys);
        if let Some((file, at)) = report.torn.filter(|_| !running) {
            // No problem: it was never acknowledged, and the next start removes it.
            eprintln!(
                "{} ends at byte {at} in a write that was cut off and never acknowledged",
                file.display()
            );
        }
    }
    if running {
        let request = http::Request::get(manage::STORE).body(Vec::new())?;
        let now: Value = local::client(instance)?.request(request).await?;
        shown.revision = now["revision"].as_i64().unwrap_or_default();
        shown.keys = now["keys"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or_default();
    }
    Ok(shown)
}

async fn of_etcd(remote: &Remote, verify: bool) -> Result<Shown> {
    let options = remote.options()?;
    let status = Etcd::connect(&options).await?.status(&options, verify).await?;
    let mut problems = Vec::new();
    for member in &status.members {
        problems.extend(member.problems.iter().map(|problem| format!("{}: {problem}", member.endpoint)));
    }
    let mut hashes = status.members.iter().filter_map(|member| member.hash);
    if let Some(first) = hashes.next()
        && hashes.any(|hash| hash != first)
    {
        problems
            .push("the members do not hold the same (hint: replace the one whose hash differs)".to_owned());
    }
    Ok(Shown {
        store: remote.url.clone(),
        revision: status.revision,
        keys: status.keys,
        bytes: status.members.iter().map(|member| member.size.0).max().unwrap_or_default(),
        members: status
            .members
            .into_iter()
            .map(|member| ShownMember {
                endpoint: member.endpoint,
                version: member.version,
                leader: member.leader,
                bytes: member.size.0,
                bytes_in_use: member.size.1,
                hash: member.hash,
                problems: member.problems,
            })
            .collect(),
        problems,
    })
}

fn size(bytes: i64) -> String {
    terminal::bytes(bytes.try_into().unwrap_or_default())
}

fn text(shown: &Shown) -> String {
    let mut text = format!(
        "store     {}\nrevision  {}\nkeys      {}\nsize      {}\n",
        shown.store,
        shown.revision,
        shown.keys,
        size(shown.bytes)
    );
    if !shown.members.is_empty() {
        let row = |m: &ShownMember| {
            let role = if m.leader { "leader" } else { "" };
            let hash = m.hash.map_or_else(String::new, |hash| format!("{hash:08x}"));
            vec![
                m.endpoint.clone(),
                m.version.clone(),
                role.to_owned(),
                size(m.bytes),
                size(m.bytes_in_use),
                hash,
            ]
        };
        let rows: Vec<_> = shown.members.iter().map(row).collect();
        text.push('\n');
        text.push_str(&terminal::table(&["MEMBER", "VERSION", "ROLE", "SIZE", "IN USE", "HASH"], &rows));
    }
    for problem in &shown.problems {
        text.push_str(&format!("problem   {problem}\n"));
    }
    text
}

async fn compact(instance: &Instance) -> Result<ExitCode> {
    if let Some(remote) = &instance.facts.store {
        let options = remote.options()?;
        Etcd::connect(&options).await?.tidy(&options).await?;
    } else if instance.running().is_some() {
        let request = http::Request::post(manage::TIDY_STORE).body(Vec::new())?;
        let _: Value = local::client(instance)?.request(request).await?;
    } else {
        Embedded::open(embedded::Options::new(instance.dir.join("store")))?.tidy().await?;
    }
    eprintln!("compacted");
    Ok(ExitCode::SUCCESS)
}

fn salvage(instance: &Instance) -> Result<ExitCode> {
    if instance.facts.store.is_some() {
        bail!("the state is on an etcd (hint: etcd's own tools repair it; see `etcdutl snapshot restore`)");
    }
    let _lock = instance.lock()?;
    let (dir, fresh) = (instance.dir.join("store"), instance.dir.join("store.new"));
    remove(&fresh)?;
    let (damage, report) = embedded::salvage(&dir, &fresh)?;
    let Some(damage) = damage else {
        remove(&fresh)?;
        eprintln!("nothing is damaged: {} keys at revision {}", report.keys, report.revision);
        return Ok(ExitCode::SUCCESS);
    };
    let kept = swap(&fresh, &dir, "damaged")?;
    eprintln!("{damage}");
    eprintln!(
        "saved {} keys at revision {}: what was written after that is lost, and so is what lay in damaged parts. The \
         damaged files are in {}",
        report.keys,
        report.revision,
        kept.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| dir.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Puts a directory where another is, in one step, and says where that one is kept.
fn swap(fresh: &Path, dir: &Path, why: &str) -> Result<PathBuf> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let kept = place_aside(dir, why);
    let failed = || format!("{} and {}", dir.display(), kept.display());
    // Under the name that the other will have: killed in between, both are still there.
    fs::rename(fresh, &kept).with_context(failed)?;
    renameat_with(CWD, &kept, CWD, dir, RenameFlags::EXCHANGE).with_context(failed)?;
    fs::File::open(dir.parent().unwrap_or(dir))?.sync_all()?;
    Ok(kept)
}

/// The next free name beside a directory.
fn place_aside(dir: &Path, why: &str) -> PathBuf {
    let number = (1..).find(|n| !dir.with_extension(format!("{why}-{n}")).exists()).unwrap_or(0_u32);
    dir.with_extension(format!("{why}-{number}"))
}

/// Moves a directory out of the way, and says where it is.
fn set_aside(dir: &Path, why: &str) -> Result<PathBuf> {
    let kept = place_aside(dir, why);
    fs::rename(dir, &kept).with_context(|| format!("{} to {}", dir.display(), kept.display()))?;
    Ok(kept)
}

async fn migrate(mut instance: Instance, options: Migrate) -> Result<ExitCode> {
    instance::require_root()?;
    // Nobody may serve it meanwhile.
    let _lock = instance.lock()?;
    let args = StoreArgs { store: Some(options.to), access: options.access };
    let to = Remote::of(&args)?.flatten();
    let moved = match (instance.facts.store.clone(), to) {
        (None, None) => {
            end_move(&mut instance).await?;
            eprintln!("the state is embedded already");
            return Ok(ExitCode::SUCCESS);
        }
        (Some(from), Some(to)) if from.url == to.url => {
            migrate::stay(&to.options()?, &instance.facts.id).await?;
            eprintln!("the state is there already");
            return Ok(ExitCode::SUCCESS);
        }
        (Some(_), Some(_)) => {
            bail!(
                "from etcd to etcd, etcd's own tools are better (hint: `etcdctl make-mirror`, or --to embedded first)"
            )
        }
        (None, Some(to)) => to_etcd(&mut instance, to).await?,
        (Some(from), None) => to_embedded(&mut instance, &from).await?,
    };
    eprintln!(
        "moved {} keys ({}), SHA-256 {}; the state is at revision {} now. Start the service again as before",
        moved.keys,
        terminal::bytes(moved.bytes),
        moved.checksum,
        moved.revision
    );
    Ok(ExitCode::SUCCESS)
}

async fn to_etcd(instance: &mut Instance, to: Remote) -> Result<Moved> {
    end_move(instance).await?;
    let dir = instance.dir.join("store");
    if !dir.exists() {
        bail!("{} holds no state (hint: start with --store {} right away)", dir.display(), to.url);
    }
    let moved = migrate::to_etcd(&dir, &to.options()?, &instance.facts.id, progress).await?;
    instance.facts.store = Some(to);
    instance.save()?;
    // From here on it is a backup and no more.
    let kept = set_aside(&dir, "before-etcd")?;
    eprintln!("what was in {} is kept in {}", dir.display(), kept.display());
    Ok(moved)
}

async fn to_embedded(instance: &mut Instance, from: &Remote) -> Result<Moved> {
    let (dir, fresh) = (instance.dir.join("store"), instance.dir.join("store.new"));
    // The rest of a move that was cut off.
    remove(&fresh)?;
    let options = from.options()?;
    let (moved, shared) = migrate::to_embedded(&options, &fresh, &instance.facts.id).await?;
    // Another server may have made new keys since this one ran.
    cluster::leave(instance, &shared)?;
    if dir.exists() {
        swap(&fresh, &dir, "before-embedded")?;
    } else {
        fs::rename(&fresh, &dir).with_context(|| dir.display().to_string())?;
    }
    instance.facts.leaving = instance.facts.store.take();
    instance.save()?;
    end_move(instance).await?;
    Ok(moved)
}

/// The last step of a move away from an etcd: it is told.
async fn end_move(instance: &mut Instance) -> Result<()> {
    let Some(left) = &instance.facts.leaving else { return Ok(()) };
    migrate::left_etcd(&left.options()?, &instance.facts.id).await?;
    instance.facts.leaving = None;
    instance.save()
}

fn progress(keys: usize) {
    use std::io::IsTerminal;
    if std::io::stderr().is_terminal() {
        eprint!("\r{keys} keys copied");
    }
}
