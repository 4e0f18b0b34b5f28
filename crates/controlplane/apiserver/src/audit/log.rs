//! The audit log file: lines appended by a thread of its own, a new file when the old one is large enough.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

/// Where the log is written and how much of it is kept.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The file that is written now; older ones lie beside it with the time in their name.
    pub path: PathBuf,
    /// Bytes after which a new file is begun; 0 for never.
    pub max_size: u64,
    /// Older files than this go; zero for never.
    pub max_age: Duration,
    /// Older files that are kept at most; 0 for all.
    pub max_backups: usize,
}

/// Lines that wait to be written; more are dropped and counted, so that a slow disk holds up no request.
const QUEUE: usize = 10_000;

/// The writer's end that others hold. What was queued is written before it is gone.
pub(super) struct Log {
    queue: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

impl Log {
    /// Opens the file and starts the thread.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn open(options: LogOptions) -> io::Result<Self> {
        let mut writer = Writer::open(options)?;
        let (queue, lines) = sync_channel(QUEUE);
        let work = move || writer.run(&lines);
        Ok(Self { queue: Some(queue), writer: Some(sampan_daemon::task::thread("audit-log", work)?) })
    }

    /// Queues a line; false when there is no room.
    pub(super) fn push(&self, line: Vec<u8>) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.try_send(line).is_ok())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the audit log's writer panicked");
        }
    }
}

struct Writer {
    options: LogOptions,
    file: File,
    size: u64,
}

impl Writer {
    fn open(options: LogOptions) -> io::Result<Self> {
        if let Some(parent) = options.path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = append(&options.path)?;
        let size = file.metadata()?.len();
        Ok(Self { options, file, size })
    }

    fn run(&mut self, lines: &Receiver<Vec<u8>>) {
        let mut failed = false;
        while let Ok(mut all) = lines.recv() {
            // What else is there goes in the same write.
            while all.len() < 1 << 20
                && let Ok(line) = lines.try_recv()
            {
                all.extend_from_slice(&line);
            }
            match self.write(&all) {
                Ok(()) => failed = false,
                // Once, not for every line.
                Err(error) if !failed => {
                    failed = true;
                    tracing::error!(path = %self.options.path.display(), %error, "the audit log cannot be written");
                }
                Err(_) => {}
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let limit = self.options.max_size;
        if limit > 0 && self.size > 0 && self.size + bytes.len() as u64 > limit {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = self.options.path.clone();
        let stamp = sampan_daemon::clock::rfc3339_micro(sampan_daemon::clock::now()).replace(':', "-");
        let (stem, extension) = parts(&path);
        fs::rename(&path, path.with_file_name(format!("{stem}-{stamp}{extension}")))?;
        self.file = append(&path)?;
        self.size = 0;
        self.clean()
    }

    /// Removes what is too old or too much.
    fn clean(&self) -> io::Result<()> {
        let (stem, extension) = parts(&self.options.path);
        let prefix = format!("{stem}-");
        let mut old: Vec<PathBuf> = Vec::new();
        let directory = self.options.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        for entry in fs::read_dir(directory.unwrap_or(Path::new(".")))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) && name.ends_with(&extension) {
                old.push(entry.path());
            }
        }
        // The time in the name sorts them, the newest first.
        old.sort_unstable_by(|a, b| b.cmp(a));
        let LogOptions { max_age, max_backups, .. } = self.options;
        for (at, path) in old.iter().enumerate() {
            let age =
                fs::metadata(path)?.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            let aged = !max_age.is_zero() && age.is_some_and(|age| age > max_age);
            if aged || (max_backups > 0 && at >= max_backups) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Only the owner may read who asked for what.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let extension = text(path.extension()).map_or_else(String::new, |extension| format!(".{extension}"));
    (text(path.file_stem()).unwrap_or_default(), extension)
}
