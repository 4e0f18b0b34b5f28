//! Container logs in the CRI format: parsing, tailing, following.
//!
//! A line is `2026-11-22T09:00:00.123456789Z stdout F text`, with `P` for a part of a longer line.

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// Longest entry of a log file: the shim writes parts of 16 KiB. What is longer is not ours, and left out.
const MAX_LINE: usize = 256 * 1024;

/// What to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with what is written later.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// End after this many bytes.
    pub limit: Option<usize>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<&'static str>,
}

/// One entry of a log file.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let text = parts.next().unwrap_or_default();
    Some(Line { time, stream, partial: tag.first() == Some(&b'P'), text })
}

/// Turns log entries into what a reader sees.
struct Printer {
    options: LogOptions,
    at_start: bool,
    left: usize,
}

impl Printer {
    fn new(options: LogOptions) -> Self {
        let left = options.limit.unwrap_or(usize::MAX);
        Self { options, at_start: true, left }
    }

    /// Append an entry to `out`. False once the limit is reached.
    fn print(&mut self, line: &[u8], out: &mut BytesMut) -> bool {
        let Some(entry) = parse(line) else { return true };
        if self.options.stream.is_some_and(|wanted| wanted.as_bytes() != entry.stream) {
            return true;
        }
        if let Some(since) = self.options.since {
            let time = std::str::from_utf8(entry.time).ok().and_then(|time| time.parse::<Timestamp>().ok());
            if time.is_some_and(|time| time < since) {
                return true;
            }
        }
        let mut piece = BytesMut::with_capacity(line.len() + 1);
        if self.options.timestamps && self.at_start {
            piece.extend_from_slice(entry.time);
            piece.extend_from_slice(b" ");
        }
        piece.extend_from_slice(entry.text);
        if !entry.partial {
            piece.extend_from_slice(b"\n");
        }
        self.at_start = !entry.partial;
        piece.truncate(self.left);
        self.left -= piece.len();
        out.extend_from_slice(&piece);
        self.left > 0
    }
}

/// Where the last `lines` lines of a file begin; reads backwards.
fn tail_offset(file: &mut std::fs::File, lines: usize) -> std::io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let (mut seen, mut first) = (0, true);
    let mut buffer = vec![0u8; CHUNK];
    while end > 0 {
        let size = usize::try_from(end).unwrap_or(CHUNK).min(CHUNK);
        let start = end - size as u64;
        file.seek(SeekFrom::Start(start))?;
        let chunk = &mut buffer[..size];
        file.read_exact(chunk)?;
        for (index, byte) in chunk.iter().enumerate().rev() {
            if *byte != b'\n' {
                first = false;
                continue;
            }
            // The newline that ends the file ends the last line; it does not begin another.
            if first {
                first = false;
                continue;
            }
            seen += 1;
            if seen == lines {
                return Ok(start + index as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// The end of a log as plain text, for termination messages.
#[must_use]
pub fn tail_text(path: &Path, lines: usize, bytes: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let offset = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut raw = Vec::new();
        file.take(4 << 20).read_to_end(&mut raw)?;
        Ok(raw)
    };
    let raw = read().unwrap_or_default();
    let mut printer = Printer::new(LogOptions::default());
    let mut out = BytesMut::new();
    for line in raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        printer.print(line, &mut out);
    }
    let start = out.len().saturating_sub(bytes);
    String::from_utf8_lossy(&out[start..]).into_owned()
}

/// Tells when a followed container has ended: nothing more will be written then.
pub trait Ended: Send {
    /// Resolves once it has ended.
    fn ended(&mut self) -> impl Future<Output = ()> + Send;
}

/// Read a log into `sender` until its end, the limit, or (when following) the end of the container.
pub async fn stream(
    path: PathBuf,
    options: LogOptions,
    mut ended: impl Ended,
    sender: mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let follow = options.follow;
    let watcher = if follow { Some(Watcher::new(&path)?) } else { None };
    let (mut file, mut inode) = open(&path, options.tail).await?;
    let mut printer = Printer::new(options);
    let mut partial = BytesMut::new();
    let mut over = false;
    loop {
        if !drain(&mut file, &mut partial, &mut printer, &sender).await? {
            return Ok(());
        }
        let Some(watcher) = &watcher else { return Ok(()) };
        // Rotation: the old file was read to its end; go on at the beginning of the new one.
        if let Ok(found) = tokio::fs::metadata(&path).await
            && found.ino() != inode
        {
            drain(&mut file, &mut partial, &mut printer, &sender).await?;
            (file, inode) = open(&path, None).await?;
            continue;
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            changed = watcher.changed() => changed?,
            () = ended.ended() => over = true,
            () = sender.closed() => return Ok(()),
        }
    }
}

async fn open(path: &Path, tail: Option<usize>) -> std::io::Result<(tokio::fs::File, u64)> {
    let mut file = tokio::fs::File::open(path).await?.into_std().await;
    let inode = file.metadata()?.ino();
    if let Some(lines) = tail {
        let offset = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(offset))?;
    }
    Ok((tokio::fs::File::from_std(file), inode))
}

/// Send everything up to the present end. False when the reader is gone or has enough.
async fn drain(
    file: &mut tokio::fs::File,
    partial: &mut BytesMut,
    printer: &mut Printer,
    sender: &mpsc::Sender<Bytes>,
) -> std::io::Result<bool> {
    loop {
        partial.reserve(CHUNK);
        if file.read_buf(partial).await? == 0 {
            return Ok(true);
        }
        let mut out = BytesMut::new();
        let mut more = true;
        while let Some(end) = partial.iter().position(|byte| *byte == b'\n') {
            let line = partial.split_to(end + 1);
            more = printer.print(&line[..end], &mut out);
            if !more {
                break;
            }
        }
        if partial.len() > MAX_LINE {
            partial.clear();
        }
        if !out.is_empty() && sender.send(out.freeze()).await.is_err() || !more {
            return Ok(false);
        }
    }
}

/// inotify on the directory of a log file.
struct Watcher {
    inotify: AsyncFd<Source>,
}

struct Source(Inotify);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watcher {
    fn new(path: &Path) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(path.parent().unwrap_or(path), flags)?;
        // SAFETY: the descriptor is owned by the source, is open for as long as that lives, and never changes.
        let inotify = unsafe { AsyncFd::register(Source(inotify)) }?;
        Ok(Self { inotify })
    }

    async fn changed(&self) -> std::io::Result<()> {
        let mut guard = self.inotify.readable().await?;
        let _ = guard.try_io(|inotify| inotify.get_ref().0.read_events().map_err(std::io::Error::from));
        guard.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Flag(tokio::sync::watch::Receiver<bool>);

    impl Ended for Flag {
        async fn ended(&mut self) {
            let _ = self.0.wait_for(|over| *over).await;
        }
    }

    fn entry(number: usize, tag: &str, text: &str) -> String {
        format!("2026-11-22T09:00:{number:02}.000000000Z stdout {tag} {text}\n")
    }

    async fn read(path: &Path, options: LogOptions) -> String {
        let (sender, mut receiver) = mpsc::channel(64);
        let (_keep, flag) = tokio::sync::watch::channel(true);
        stream(path.to_owned(), options, Flag(flag), sender).await.unwrap();
        let mut out = String::new();
        while let Ok(piece) = receiver.try_recv() {
            out.push_str(std::str::from_utf8(&piece).unwrap());
        }
        out
    }

    #[tokio::test]
    async fn selections() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let text: String = (0..5).map(|n| entry(n, "F", &format!("l{n}"))).collect();
        std::fs::write(&path, text + &entry(5, "P", "par") + &entry(6, "F", "tial")).unwrap();
        let with = |change: fn(&mut LogOptions)| {
            let mut options = LogOptions::default();
            change(&mut options);
            options
        };
        assert_eq!(read(&path, with(|_| {})).await, "l0\nl1\nl2\nl3\nl4\npartial\n");
        assert_eq!(read(&path, with(|o| o.tail = Some(3))).await, "l4\npartial\n");
        assert_eq!(read(&path, with(|o| o.tail = Some(0))).await, "");
        assert_eq!(read(&path, with(|o| o.tail = Some(99))).await.len(), 23);
        assert_eq!(read(&path, with(|o| o.limit = Some(4))).await, "l0\nl");
        assert_eq!(
            read(&path, with(|o| o.since = Some("2026-11-22T09:00:04Z".parse().unwrap()))).await,
            "l4\npartial\n"
        );
        let stamped = read(
            &path,
            with(|o| {
                o.timestamps = true;
                o.tail = Some(2);
            }),
        )
        .await;
        assert_eq!(stamped, "2026-11-22T09:00:05.000000000Z partial\n");
        assert_eq!(tail_text(&path, 80, 5), "tial\n");
    }

    #[tokio::test]
    async fn follows_through_rotation_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, entry(0, "F", "a")).unwrap();
        let (sender, mut receiver) = mpsc::channel(64);
        let (over, flag) = tokio::sync::watch::channel(false);
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let following = tokio::spawn(stream(path.clone(), options, Flag(flag), sender));
        assert_eq!(receiver.recv().await.unwrap(), "a\n");
        let append = |path: &Path, text: String| {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append(&path, entry(1, "F", "b"));
        assert_eq!(receiver.recv().await.unwrap(), "b\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        append(&path, entry(2, "F", "c"));
        assert_eq!(receiver.recv().await.unwrap(), "c\n");
        append(&path, entry(3, "F", "d"));
        over.send(true).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "d\n");
        assert!(receiver.recv().await.is_none());
        following.await.unwrap().unwrap();
    }
}
