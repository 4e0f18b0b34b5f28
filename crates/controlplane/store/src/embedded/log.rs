//! The files of the embedded store: a log of commit groups, and snapshots that let old log go.
//!
//! `log-<n>` holds frames in commit order; `snapshot-<n>` holds the state before the first frame of `log-<n>`.
//! Opening reads the newest snapshot and every log from it on. Each file starts with a magic line that carries
//! the format version.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::codec::{self, Frame, Record};
use crate::{Error, Result};

const LOG_MAGIC: &[u8; 16] = b"sampan-log-00001";
const SNAPSHOT_MAGIC: &[u8; 16] = b"sampan-snp-00001";
/// A snapshot is cut into frames of about this many bytes, so that a reader checks as it goes.
const SNAPSHOT_FRAME: usize = 1 << 20;

/// The log file that is being appended to.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    number: u64,
    file: File,
    length: u64,
}

/// What opening found: the log to append to, and the records to replay, in order.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) records: Vec<Vec<Record>>,
}

impl Log {
    /// Read what is there; a torn last frame is cut off, any other damage is an error that names the place.
    pub(super) fn open(dir: &Path) -> Result<Opened> {
        fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
        let Contents { base, last, length, records, torn, .. } = read(dir)?;
        if let Some((file, at)) = torn {
            tracing::warn!(file = %file.display(), offset = at, "cut off a torn, unacknowledged write");
        }
        let number = last.or(base).unwrap_or(1);
        let file_path = path(dir, "log", number);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&file_path);
        let file = file.map_err(|e| failed(&file_path, &e))?;
        let mut log = Self { dir: dir.to_owned(), number, file, length };
        if length == 0 {
            log.start_file()?;
        } else {
            log.file.set_len(length).map_err(|e| failed(&file_path, &e))?;
        }
        remove_before(dir, base.unwrap_or(0));
        Ok(Opened { log, records })
    }

    fn start_file(&mut self) -> Result<()> {
        let here = path(&self.dir, "log", self.number);
        self.file
            .write_all_at(LOG_MAGIC, 0)
            .and_then(|()| self.file.set_len(LOG_MAGIC.len() as u64))
            .and_then(|()| self.file.sync_all())
            .map_err(|e| failed(&here, &e))?;
        self.length = LOG_MAGIC.len() as u64;
        sync_dir(&self.dir)
    }

    /// Bytes in the current file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Append one whole frame and make it durable. On an error nothing of it will be read again.
    pub(super) fn append(&mut self, frame: &[u8]) -> Result<()> {
        let here = || path(&self.dir, "log", self.number);
        if let Err(error) = self.file.write_all_at(frame, self.length) {
            // Nothing was acknowledged; a rest that stays behind is overwritten by the next frame or cut as torn.
            let _ = self.file.set_len(self.length);
            return Err(failed(&here(), &error));
        }
        if let Err(error) = self.file.sync_data() {
            // After a failed sync the kernel may drop the dirty pages and report success the next time, so the
            // frame's fate is unknown; `Unavailable` makes the committer stop for good.
            return Err(Error::Unavailable(format!("sync {}: {error}", here().display())));
        }
        self.length += frame.len() as u64;
        Ok(())
    }

    /// Begin the next log file. Returns its number, under which a snapshot of the state now is to be written.
    pub(super) fn rotate(&mut self) -> Result<u64> {
        let number = self.number + 1;
        let here = path(&self.dir, "log", number);
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&here);
        let mut next =
            Self { dir: self.dir.clone(), number, file: file.map_err(|e| failed(&here, &e))?, length: 0 };
        if let Err(error) = next.start_file() {
            // Behind an empty one, a torn end of the log that goes on would look like damage.
            let _ = fs::remove_file(&here);
            return Err(error);
        }
        *self = next;
        Ok(number)
    }
}

/// What the files of a store hold.
#[derive(Default)]
pub(super) struct Contents {
    /// Number of the snapshot that counts.
    base: Option<u64>,
    /// Number of the last log.
    last: Option<u64>,
    /// Bytes of that log that are good.
    pub(super) length: u64,
    /// Everything, in order.
    pub(super) records: Vec<Vec<Record>>,
    /// Bytes of all files that count.
    pub(super) bytes: u64,
    /// The log whose last frame is torn, and where.
    pub(super) torn: Option<(PathBuf, u64)>,
}

/// Read and check everything; changes nothing.
pub(super) fn read(dir: &Path) -> Result<Contents> {
    let mut contents = Contents::default();
    read_into(dir, &mut contents, &mut |damage| Err(damage))?;
    Ok(contents)
}

/// Read what can be read beside the damage, of which the first is told: of a snapshot everything but its damaged
/// parts, of the logs what was written before their first.
pub(super) fn read_undamaged(dir: &Path) -> Result<(Contents, Option<Error>)> {
    let (mut contents, mut first) = (Contents::default(), None);
    let whole = read_into(dir, &mut contents, &mut |damage| {
        first.get_or_insert(damage);
        Ok(())
    });
    match whole {
        Err(error @ Error::Corrupt(_)) => first = first.or(Some(error)),
        other => other?,
    }
    Ok((contents, first))
}

fn read_into(dir: &Path, contents: &mut Contents, damage: &mut dyn FnMut(Error) -> Result<()>) -> Result<()> {
    let (snapshots, logs) = numbered_files(dir)?;
    contents.base = snapshots.last().copied();
    if let Some(number) = contents.base {
        let file = path(dir, "snapshot", number);
        read_snapshot(&file, &mut contents.records, damage)?;
        contents.bytes += fs::metadata(&file).map_err(|e| failed(&file, &e))?.len();
    }
    let base = contents.base;
    let live: Vec<u64> = logs.iter().copied().filter(|n| *n >= base.unwrap_or(0)).collect();
    for (index, number) in live.iter().enumerate() {
        let expected = base.unwrap_or(1) + index as u64;
        if *number != expected {
            return Err(Error::Corrupt(format!("{} is missing", path(dir, "log", expected).display())));
        }
        let file = path(dir, "log", *number);
        let last = index + 1 == live.len();
        contents.length = read_log(&file, last, &mut contents.records)?;
        contents.bytes += contents.length;
        let size = fs::metadata(&file).map_err(|e| failed(&file, &e))?.len();
        contents.torn = (size > contents.length).then_some((file, contents.length));
    }
    contents.last = live.last().copied();
    Ok(())
}

/// Make a store that holds exactly this snapshot, in a directory that must not have one.
pub(super) fn create(dir: &Path, records: &[Record]) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
    let (snapshots, logs) = numbered_files(dir)?;
    if !snapshots.is_empty() || !logs.is_empty() {
        return Err(Error::Unavailable(format!("{} holds a store already", dir.display())));
    }
    let mut all = Some(records);
    write_snapshot(dir, 1, || all.take())
}

/// Write `snapshot-<number>` so that it appears whole or not at all, then remove what it replaces. `next` gives pages of
/// records until there are no more.
pub(super) fn write_snapshot<R: AsRef<[Record]>>(
    dir: &Path,
    number: u64,
    mut next: impl FnMut() -> Option<R>,
) -> Result<()> {
    let target = path(dir, "snapshot", number);
    let temporary = target.with_extension("tmp");
    let mut write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(SNAPSHOT_MAGIC)?;
        let mut buffer = Vec::with_capacity(SNAPSHOT_FRAME + SNAPSHOT_FRAME / 4);
        let mut start = codec::begin_frame(&mut buffer);
        while let Some(records) = next() {
            for record in records.as_ref() {
                record.encode(&mut buffer);
                if buffer.len() >= SNAPSHOT_FRAME {
                    codec::finish_frame(&mut buffer, start);
                    file.write_all(&buffer)?;
                    // Whoever syncs the log at this moment waits for what was written here: let it be little.
                    file.sync_data()?;
                    buffer.clear();
                    start = codec::begin_frame(&mut buffer);
                }
            }
        }
        if buffer.len() > codec::FRAME_HEADER {
            codec::finish_frame(&mut buffer, start);
            file.write_all(&buffer)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &target)
    };
    write().map_err(|e| {
        // Where the disk is full, what was written of it must not stay.
        let _ = fs::remove_file(&temporary);
        failed(&target, &e)
    })?;
    sync_dir(dir)?;
    remove_before(dir, number);
    Ok(())
}

/// Reads what is whole of a snapshot; `damage` says whether to go on beside the rest.
fn read_snapshot(
    file_path: &Path,
    groups: &mut Vec<Vec<Record>>,
    damage: &mut dyn FnMut(Error) -> Result<()>,
) -> Result<()> {
    let content = match read_file(file_path, SNAPSHOT_MAGIC) {
        // Each part has a checksum of its own: they may be good behind a damaged beginning.
        Err(error @ Error::Corrupt(_)) => {
            damage(error)?;
            Bytes::from(fs::read(file_path).map_err(|e| failed(file_path, &e))?)
        }
        other => other?,
    };
    let mut at = SNAPSHOT_MAGIC.len().min(content.len());
    let (mut keys, mut closing) = (0, None);
    loop {
        match codec::read_frame(&content, at) {
            Frame::Good(payload, next) => {
                let group = parse(file_path, at, payload)?;
                keys += group.iter().filter(|r| matches!(r, Record::Key { .. })).count() as i64;
                closing = match group.last() {
                    Some(Record::Bounds { keys, .. }) => Some(*keys),
                    _ => None,
                };
                groups.push(group);
                at = next;
            }
            Frame::End => break,
            Frame::Bad(next) => {
                damage(damaged(file_path, at))?;
                match next {
                    Some(next) => at = next,
                    None => break,
                }
            }
        }
    }
    // The closing bounds say how many keys there must be: a file cut at a frame's edge is caught too.
    if closing != Some(keys) {
        damage(damaged(file_path, at))?;
    }
    Ok(())
}

/// Replay one log; returns how many bytes of it are good.
fn read_log(file_path: &Path, last: bool, records: &mut Vec<Vec<Record>>) -> Result<u64> {
    let size = fs::metadata(file_path).map_err(|e| failed(file_path, &e))?.len();
    if last && size < LOG_MAGIC.len() as u64 {
        return Ok(0); // The crash came while the file was being started.
    }
    let content = read_file(file_path, LOG_MAGIC)?;
    let mut at = LOG_MAGIC.len();
    loop {
        match codec::read_frame(&content, at) {
            Frame::Good(payload, next) => {
                records.push(parse(file_path, at, payload)?);
                at = next;
            }
            Frame::End => return Ok(at as u64),
            Frame::Bad(next) => {
                let followed =
                    next.is_some_and(|n| matches!(codec::read_frame(&content, n), Frame::Good(..)));
                if !last || followed {
                    return Err(damaged(file_path, at));
                }
                return Ok(at as u64);
            }
        }
    }
}

fn read_file(file_path: &Path, magic: &[u8; 16]) -> Result<Bytes> {
    let content = Bytes::from(fs::read(file_path).map_err(|e| failed(file_path, &e))?);
    let found = content.get(..magic.len()).unwrap_or_default();
    if found == magic {
        return Ok(content);
    }
    if found.starts_with(&magic[..11]) {
        let (theirs, ours) = (String::from_utf8_lossy(&found[11..]), String::from_utf8_lossy(&magic[11..]));
        // Not damaged: nothing here is for `salvage` to throw away.
        return Err(Error::Unavailable(format!(
            "{} has format {theirs}, this build reads {ours} (hint: run the newer version that wrote it)",
            file_path.display()
        )));
    }
    Err(damaged(file_path, 0))
}

fn parse(file_path: &Path, at: usize, payload: Bytes) -> Result<Vec<Record>> {
    Record::decode_all(payload).ok_or_else(|| damaged(file_path, at))
}

fn damaged(file_path: &Path, at: usize) -> Error {
    Error::Corrupt(format!(
        "{} at byte {at}: checksum does not match (hint: restore the data directory from a backup; \
         the file is left as it is)",
        file_path.display()
    ))
}

fn failed(file_path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::NoSpace(file_path.display().to_string())
        }
        _ => Error::Unavailable(format!("{}: {error}", file_path.display())),
    }
}

fn path(dir: &Path, kind: &str, number: u64) -> PathBuf {
    dir.join(format!("{kind}-{number:012}"))
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed(dir, &e))
}

/// Numbers of the snapshots and logs in `dir`, ascending. Another answer means that a log was begun or removed meanwhile.
pub(super) fn numbered_files(dir: &Path) -> Result<(Vec<u64>, Vec<u64>)> {
    let Files { snapshots, logs, .. } = files(dir)?;
    Ok((snapshots, logs))
}

/// What is in a store's directory.
#[derive(Default)]
struct Files {
    /// Their numbers, ascending.
    snapshots: Vec<u64>,
    logs: Vec<u64>,
    /// Snapshots that are being written, or that a crash cut short.
    unfinished: Vec<PathBuf>,
}

fn files(dir: &Path) -> Result<Files> {
    let mut files = Files::default();
    for entry in fs::read_dir(dir).map_err(|e| failed(dir, &e))? {
        let entry = entry.map_err(|e| failed(dir, &e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let number = |prefix| name.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
        files.snapshots.extend(number("snapshot-"));
        files.logs.extend(number("log-"));
        if name.starts_with("snapshot-") && name.ends_with(".tmp") {
            files.unfinished.push(entry.path());
        }
    }
    files.snapshots.sort_unstable();
    files.logs.sort_unstable();
    Ok(files)
}

/// Remove what a snapshot made superfluous, and snapshots that a crash cut short: no other is being written meanwhile.
/// Failing is harmless: the next start tries again.
fn remove_before(dir: &Path, number: u64) {
    let Ok(Files { snapshots, logs, unfinished }) = files(dir) else { return };
    let old = |kind: &'static str, all: Vec<u64>| {
        all.into_iter().filter(move |n| *n < number).map(move |n| path(dir, kind, n)).collect::<Vec<_>>()
    };
    for file in old("log", logs).into_iter().chain(old("snapshot", snapshots)).chain(unfinished) {
        if let Err(error) = fs::remove_file(&file) {
            tracing::warn!(file = %file.display(), "could not remove: {error}");
        }
    }
}
