//! The reader: one entry after another, then its data.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::pax::{self, Records};
use super::{BLOCK, Entry, Kind, TarError, sparse};

/// Bytes of one long name or PAX header.
const MAX_EXTENSION: u64 = 1 << 20;

/// A source that can skip bytes faster than by reading them.
pub(crate) trait Source: Read {
    /// Skip exactly this many bytes.
    fn skip(&mut self, bytes: u64) -> io::Result<()>
    where
        Self: Sized,
    {
        let copied = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if copied == bytes { Ok(()) } else { Err(truncated()) }
    }

    /// The next `bytes` are data that the reader writes to this file. For sources that keep the rest.
    fn data_lies_in(&mut self, _path: &[u8], _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    /// What lay at this path was moved away under a number.
    fn replaced(&mut self, _path: &[u8], _number: u32) -> io::Result<()> {
        Ok(())
    }
}

impl Source for File {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).map_err(|_| truncated())?;
        self.seek(SeekFrom::Current(bytes)).map(drop)
    }
}

impl<R: Read> Source for crate::compress::Decoder<R> {}
impl Source for &[u8] {}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle (truncated)")
}

/// Reads entries from a stream.
pub(crate) struct TarReader<R> {
    input: R,
    position: u64,
    remaining: u64,
    padding: u64,
    ended: bool,
}

impl<R: Source> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, position: 0, remaining: 0, padding: 0, ended: false }
    }

    /// The end marker was seen: the archive is whole.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Offset of the next byte of the current entry's data in the stream.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Say to the source that the data of the current entry goes to this file.
    pub(crate) fn data_lies_in(&mut self, path: &[u8]) -> io::Result<()> {
        self.input.data_lies_in(path, self.remaining)
    }

    /// Say to the source that what lay at this path was moved away.
    pub(crate) fn replaced(&mut self, path: &[u8], number: u32) -> io::Result<()> {
        self.input.replaced(path, number)
    }

    /// The next entry, or `None` at the end. Data of the last one that was not read is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_data()?;
        let mut records = Records::new();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            let mut header = [0; BLOCK];
            if self.ended || !read_block(&mut self.input, &mut header)? {
                return Ok(None);
            }
            self.position += BLOCK as u64;
            if header.iter().all(|byte| *byte == 0) {
                self.ended = true;
                return Ok(None);
            }
            check_sum(&header)?;
            let size = number(&header[124..136])?;
            match header[156] {
                b'x' => records = pax::parse(&self.extension(size)?)?,
                b'g' => drop(self.extension(size)?),
                b'L' => long_path = Some(text(&self.extension(size)?)),
                b'K' => long_link = Some(text(&self.extension(size)?)),
                _ => return self.entry(&header, size, &records, long_path, long_link).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        records: &Records,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let mut entry = basic(header, size)?;
        if let Some(path) = long_path {
            entry.path = path;
        }
        if let Some(link) = long_link {
            entry.link = link;
        }
        apply(&mut entry, records)?;
        // A path that ends in a slash is a directory in archives older than ustar.
        if entry.kind == Kind::File && entry.path.ends_with(b"/") {
            entry.kind = Kind::Dir;
        }
        let carries_data = matches!(entry.kind, Kind::File | Kind::Other(_));
        if !carries_data {
            // Some writers give the size of a link's target; no data follows.
            entry.size = 0;
        }
        self.remaining = entry.size;
        self.padding = padding(entry.size);
        if header[156] == b'S' {
            let (map, read) = sparse::old_gnu(header, &mut self.input)?;
            self.position += read;
            map.check(entry.size)?;
            entry.sparse = Some(map);
        }
        let found = sparse::from_pax(records)?;
        if let Some(mut map) = found.map {
            if found.in_data {
                let read = sparse::from_data(&mut map, &mut self.input)?;
                self.position += read;
                self.remaining =
                    self.remaining.checked_sub(read).ok_or_else(|| TarError::from(truncated()))?;
                entry.size = self.remaining;
            }
            map.check(entry.size)?;
            entry.sparse = Some(map);
            entry.path = found.name.unwrap_or(entry.path);
        }
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(TarError::Bad("a name holds a NUL byte".into()));
        }
        Ok(entry)
    }

    /// Data of the current entry; 0 at its end.
    pub(crate) fn read_data(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buf[..want])?;
        if read == 0 {
            return Err(truncated());
        }
        self.remaining -= read as u64;
        self.position += read as u64;
        Ok(read)
    }

    /// All data of the current entry, refused when it is larger than `limit`.
    pub(crate) fn read_all(&mut self, limit: u64) -> Result<Vec<u8>, TarError> {
        if self.remaining > limit {
            return Err(TarError::Bad(format!("larger than the limit of {limit} bytes")));
        }
        let mut data = vec![0; usize::try_from(self.remaining).unwrap_or_default()];
        self.input.read_exact(&mut data).map_err(eof)?;
        self.position += data.len() as u64;
        self.remaining = 0;
        Ok(data)
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        self.remaining = size;
        self.padding = padding(size);
        let data = self.read_all(MAX_EXTENSION)?;
        self.skip_data()?;
        Ok(data)
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let bytes = self.remaining + self.padding;
        if bytes > 0 {
            self.input.skip(bytes)?;
            self.position += bytes;
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }
}

fn eof(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { truncated() } else { error }
}

/// Zeros behind data up to the next block.
pub(crate) fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64).saturating_sub(size)
}

/// Fill a block; false when the stream ends exactly before it.
pub(crate) fn read_block(input: &mut impl Read, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
    let mut filled = 0;
    while filled < BLOCK {
        match input.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(truncated().into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Whether a block looks like a tar header.
pub(crate) fn looks_like_header(block: &[u8]) -> bool {
    block
        .first_chunk::<BLOCK>()
        .is_some_and(|block| check_sum(block).is_ok() && block.iter().any(|byte| *byte != 0))
}

fn check_sum(header: &[u8; BLOCK]) -> Result<(), TarError> {
    let stored = number(&header[148..156])?;
    let field = 148..156;
    let (mut unsigned, mut signed) = (0u64, 0i64);
    for (index, byte) in header.iter().enumerate() {
        let byte = if field.contains(&index) { b' ' } else { *byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if stored == unsigned || i64::try_from(stored) == Ok(signed) {
        Ok(())
    } else {
        Err(TarError::Bad("not a tar header (its checksum is wrong)".into()))
    }
}

/// An octal or base-256 field.
pub(crate) fn number(field: &[u8]) -> Result<u64, TarError> {
    let bad = || TarError::Bad("malformed number in a tar header".into());
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x7f);
        if field[0] == 0xff {
            return Err(TarError::Bad("negative number in a tar header".into()));
        }
        for byte in &field[1..] {
            value = value.checked_mul(256).ok_or_else(bad)? | u64::from(*byte);
        }
        return Ok(value);
    }
    let mut value = 0u64;
    let digits = field.iter().skip_while(|byte| **byte == b' ').take_while(|byte| !matches!(byte, 0 | b' '));
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err(bad());
        }
        value = value.checked_mul(8).ok_or_else(bad)? + u64::from(digit - b'0');
    }
    Ok(value)
}

/// A time may be negative in base-256.
fn signed_number(field: &[u8]) -> Result<i64, TarError> {
    if field[0] == 0xff {
        let tail: [u8; 8] = field[field.len() - 8..].try_into().unwrap_or_default();
        return Ok(i64::from_be_bytes(tail));
    }
    i64::try_from(number(field)?).map_err(|_| TarError::Bad("time out of range".into()))
}

fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn basic(header: &[u8; BLOCK], size: u64) -> Result<Entry, TarError> {
    let mut path = text(&header[..100]);
    if &header[257..263] == b"ustar\0" && header[345] != 0 {
        let mut joined = text(&header[345..500]);
        joined.push(b'/');
        joined.append(&mut path);
        path = joined;
    }
    let kind = match header[156] {
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        other => Kind::Other(other),
    };
    let device = |field: &[u8]| Ok::<_, TarError>(u32::try_from(number(field)?).unwrap_or(u32::MAX));
    let is_device = matches!(kind, Kind::Char | Kind::Block);
    Ok(Entry {
        path,
        kind,
        mode: u32::try_from(number(&header[100..108])? & 0o7777).unwrap_or_default(),
        uid: number(&header[108..116])?,
        gid: number(&header[116..124])?,
        size,
        mtime: (signed_number(&header[136..148])?, 0),
        link: text(&header[157..257]),
        device: if is_device { (device(&header[329..337])?, device(&header[337..345])?) } else { (0, 0) },
        xattrs: Vec::new(),
        sparse: None,
    })
}

fn apply(entry: &mut Entry, records: &Records) -> Result<(), TarError> {
    for (key, value) in records {
        let decimal = || {
            let text = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
            text.ok_or_else(|| {
                TarError::Bad(format!("malformed PAX record {:?}", String::from_utf8_lossy(key)))
            })
        };
        match key.as_slice() {
            b"path" => entry.path.clone_from(value),
            b"linkpath" => entry.link.clone_from(value),
            b"size" => entry.size = decimal()?,
            b"uid" => entry.uid = decimal()?,
            b"gid" => entry.gid = decimal()?,
            b"mtime" => {
                entry.mtime =
                    pax::time(value).ok_or_else(|| TarError::Bad("malformed time in a PAX header".into()))?;
            }
            other => {
                if let Some(name) = other.strip_prefix(b"SCHILY.xattr.") {
                    entry.xattrs.push((name.to_vec(), value.clone()));
                }
            }
        }
    }
    Ok(())
}
