//! Log files in CRI format: `2026-11-22T10:00:00.000000000Z stdout F text`, partial lines with `P`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::LogConfig;
use crate::error::{Error, Result};
use crate::status::UnixNanos;

/// Longer lines are logged in parts.
const MAX_LINE: usize = 16 << 10;

/// The log of one container.
#[derive(Debug)]
pub(super) struct Log {
    config: LogConfig,
    file: File,
    size: u64,
    /// What came without the end of its line, of stdout and stderr.
    pending: [Vec<u8>; 2],
}

fn open(path: &Path) -> Result<(File, u64)> {
    let failed = |source| Error::File { what: "open log", path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    Ok((file, size))
}

impl Log {
    pub(super) fn open(config: &LogConfig) -> Result<Self> {
        let (file, size) = open(&config.path)?;
        Ok(Self { config: config.clone(), file, size, pending: [Vec::new(), Vec::new()] })
    }

    /// Opens the file anew, after it was moved away.
    pub(super) fn reopen(&mut self) -> Result<()> {
        (self.file, self.size) = open(&self.config.path)?;
        Ok(())
    }

    /// Logs output of a stream (0 stdout, 1 stderr). What cannot be written is lost: the container must not wait for a
    /// full disk.
    pub(super) fn write(&mut self, stream: usize, data: &[u8], now: UnixNanos) {
        let stamp = Stamp::new(now);
        let mut out = Vec::with_capacity(data.len() + 64);
        let mut pending = std::mem::take(&mut self.pending[stream]);
        let mut rest = data;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            pending.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            put_line(&mut out, &stamp, stream, &pending, true);
            pending.clear();
        }
        pending.extend_from_slice(rest);
        while pending.len() >= MAX_LINE {
            put(&mut out, &stamp, stream, b'P', &pending[..MAX_LINE]);
            pending.drain(..MAX_LINE);
        }
        self.pending[stream] = pending;
        self.append(&out);
    }

    /// A stream ended: what it left without the end of a line is logged as a partial one.
    pub(super) fn finish(&mut self, stream: usize, now: UnixNanos) {
        let pending = std::mem::take(&mut self.pending[stream]);
        if !pending.is_empty() {
            let mut out = Vec::with_capacity(pending.len() + 64);
            put_line(&mut out, &Stamp::new(now), stream, &pending, false);
            self.append(&out);
        }
    }

    /// Writes whole lines; between them the file may change.
    fn append(&mut self, out: &[u8]) {
        let mut rest = out;
        while !rest.is_empty() {
            let room = match self.config.max_size {
                0 => u64::MAX,
                max => max.saturating_sub(self.size),
            };
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let fits = match rest.get(..room) {
                None => rest.len(),
                Some(part) => part.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1),
            };
            let fits = match fits {
                // Even an empty file has no room for it, or the file cannot be changed: losing it would be worse.
                0 if self.size == 0 || self.rotate().is_err() => {
                    rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1)
                }
                0 => continue,
                fits => fits,
            };
            let (now, later) = rest.split_at(fits);
            if self.file.write_all(now).is_ok() {
                self.size += fits as u64;
            }
            rest = later;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| -> PathBuf {
            let mut name = self.config.path.clone().into_os_string();
            name.push(format!(".{number}"));
            name.into()
        };
        let kept = self.config.max_files.max(1) - 1;
        if kept == 0 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        for number in (1..kept).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.config.path, numbered(1))?;
        (self.file, self.size) =
            open(&self.config.path).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(())
    }
}

/// A whole line, or the end of a stream's last one, in parts of at most [`MAX_LINE`].
fn put_line(out: &mut Vec<u8>, stamp: &Stamp, stream: usize, line: &[u8], ended: bool) {
    let mut line = line;
    while line.len() > MAX_LINE {
        put(out, stamp, stream, b'P', &line[..MAX_LINE]);
        line = &line[MAX_LINE..];
    }
    put(out, stamp, stream, if ended { b'F' } else { b'P' }, line);
}

fn put(out: &mut Vec<u8>, stamp: &Stamp, stream: usize, tag: u8, text: &[u8]) {
    out.extend_from_slice(&stamp.0);
    out.extend_from_slice(if stream == 0 { b" stdout " } else { b" stderr " });
    out.extend_from_slice(&[tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// A time as RFC 3339 with nanoseconds.
struct Stamp([u8; 30]);

impl Stamp {
    fn new(now: UnixNanos) -> Self {
        let (seconds, nanos) = (now.div_euclid(1_000_000_000), now.rem_euclid(1_000_000_000));
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let mut put = |at: usize, width: usize, mut value: i64| {
            for place in (at..at + width).rev() {
                text[place] = b'0' + (value % 10) as u8;
                value /= 10;
            }
        };
        put(0, 4, year);
        put(5, 2, month);
        put(8, 2, day);
        put(11, 2, second / 3600);
        put(14, 2, second / 60 % 60);
        put(17, 2, second % 60);
        put(20, 9, nanos);
        Self(text)
    }
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar counted in eras of 400 years from March on.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::{Log, MAX_LINE, Stamp};
    use crate::config::LogConfig;

    fn stamp(nanos: i64) -> String {
        String::from_utf8(Stamp::new(nanos).0.to_vec()).unwrap()
    }

    #[test]
    fn times_are_calendar_times() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(stamp(951_782_400_123_456_789), "2000-02-29T00:00:00.123456789Z");
        assert_eq!(stamp(1_795_341_599_000_000_001), "2026-11-22T09:59:59.000000001Z");
    }

    fn log(max_size: u64, max_files: u32) -> (tempfile::TempDir, LogConfig, Log) {
        let dir = tempfile::tempdir().unwrap();
        let config = LogConfig { path: dir.path().join("pod/0.log"), max_size, max_files };
        let log = Log::open(&config).unwrap();
        (dir, config, log)
    }

    #[test]
    fn lines_are_whole_or_marked_partial() {
        let (_dir, config, mut log) = log(0, 1);
        log.write(0, b"one\ntw", 0);
        log.write(1, b"error\n", 0);
        log.write(0, b"o\n", 0);
        log.write(0, &vec![b'x'; MAX_LINE + 3], 0);
        log.finish(0, 0);
        let text = std::fs::read_to_string(&config.path).unwrap();
        let at = "1970-01-01T00:00:00.000000000Z";
        let want = format!(
            "{at} stdout F one\n{at} stderr F error\n{at} stdout F two\n{at} stdout P {}\n{at} stdout P xxx\n",
            "x".repeat(MAX_LINE)
        );
        assert_eq!(text, want);
    }

    #[test]
    fn files_rotate_by_size_and_number() {
        let (dir, config, mut log) = log(100, 3);
        for number in 0..10 {
            log.write(0, format!("{number} {}\n", "y".repeat(30)).as_bytes(), 0);
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path().join("pod"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        assert!(std::fs::read_to_string(&config.path).unwrap().contains("F 9 "));
    }
}
