//! The writer: the same entries always give the same bytes.

use std::io::{self, Read, Write};

use super::{BLOCK, Entry, Kind, pax};

const OCTAL_SIZE: u64 = 0o77_777_777_777;
const OCTAL_ID: u64 = 0o7_777_777;

/// Writes entries to a stream.
pub(crate) struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// Write an entry and exactly `entry.size` bytes of its data.
    pub(crate) fn append(&mut self, entry: &Entry, data: &mut impl Read) -> io::Result<()> {
        let records = self.records(entry);
        if !records.is_empty() {
            let mut header = self.header(entry, b'x', records.len() as u64);
            header[..100].fill(0);
            header[..9].copy_from_slice(b"PaxHeader");
            seal(&mut header);
            self.out.write_all(&header)?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let flag = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Char => b'3',
            Kind::Block => b'4',
            Kind::Dir => b'5',
            Kind::Fifo => b'6',
            Kind::Other(flag) => flag,
        };
        let mut header = self.header(entry, flag, entry.size);
        seal(&mut header);
        self.out.write_all(&header)?;
        let copied = io::copy(&mut data.take(entry.size), &mut self.out)?;
        if copied != entry.size {
            return Err(io::Error::other(format!("{} became shorter while it was read", entry.name())));
        }
        self.pad(entry.size)
    }

    /// Write an entry without data.
    pub(crate) fn append_empty(&mut self, entry: &Entry) -> io::Result<()> {
        self.append(entry, &mut io::empty())
    }

    /// Write a plain file that exists only in memory.
    pub(crate) fn append_bytes(&mut self, path: &str, data: &[u8]) -> io::Result<()> {
        let mut entry = plain(path, Kind::File, 0o644);
        entry.size = data.len() as u64;
        self.append(&entry, &mut &data[..])
    }

    /// Write the end marker and give the stream back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let zeros = usize::try_from(super::reader::padding(size)).unwrap_or_default();
        self.out.write_all(&[0; BLOCK][..zeros])
    }

    fn records(&self, entry: &Entry) -> Vec<u8> {
        let mut records = Vec::new();
        if entry.gid > OCTAL_ID {
            pax::push(&mut records, b"gid", entry.gid.to_string().as_bytes());
        }
        if entry.link.len() > 100 {
            pax::push(&mut records, b"linkpath", &entry.link);
        }
        if entry.path.len() > 100 {
            pax::push(&mut records, b"path", &entry.path);
        }
        if entry.size > OCTAL_SIZE {
            pax::push(&mut records, b"size", entry.size.to_string().as_bytes());
        }
        if entry.uid > OCTAL_ID {
            pax::push(&mut records, b"uid", entry.uid.to_string().as_bytes());
        }
        let mut xattrs: Vec<_> = entry.xattrs.iter().collect();
        xattrs.sort();
        for (name, value) in xattrs {
            pax::push(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        records
    }

    fn header(&self, entry: &Entry, flag: u8, size: u64) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        let fit = |text: &[u8], limit: usize| text.len().min(limit);
        let name = fit(&entry.path, 100);
        header[..name].copy_from_slice(&entry.path[..name]);
        octal(&mut header[100..108], u64::from(entry.mode & 0o7777));
        octal(&mut header[108..116], entry.uid.min(OCTAL_ID));
        octal(&mut header[116..124], entry.gid.min(OCTAL_ID));
        octal(&mut header[124..136], size.min(OCTAL_SIZE));
        octal(&mut header[136..148], u64::try_from(entry.mtime.0).unwrap_or_default().min(OCTAL_SIZE));
        header[156] = flag;
        let link = fit(&entry.link, 100);
        header[157..157 + link].copy_from_slice(&entry.link[..link]);
        header[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut header[329..337], u64::from(entry.device.0));
        octal(&mut header[337..345], u64::from(entry.device.1));
        header
    }
}

/// An entry with nothing special about it.
pub(crate) fn plain(path: &str, kind: Kind, mode: u32) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: (0, 0),
        link: Vec::new(),
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
    }
}

fn octal(field: &mut [u8], mut value: u64) {
    let last = field.len() - 1;
    for byte in field[..last].iter_mut().rev() {
        *byte = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

fn seal(header: &mut [u8; BLOCK]) {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut header[148..155], sum);
    header[155] = b' ';
    header[154] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::TarReader;

    #[test]
    fn what_is_written_is_read() {
        let mut entry = plain(&"d/".repeat(90), Kind::File, 0o4755);
        entry.path.extend_from_slice(b"name");
        entry.uid = 4_000_000_000;
        entry.gid = 7;
        entry.size = 700;
        entry.mtime = (1_700_000_000, 0);
        entry.xattrs = vec![(b"security.capability".to_vec(), vec![1, 0, 10, 0, 61])];
        let mut link = plain("l", Kind::Symlink, 0o777);
        link.link = vec![b'x'; 300];
        let mut device = plain("dev", Kind::Char, 0o600);
        device.device = (1, 3);
        let mut writer = TarWriter::new(Vec::new());
        writer.append(&entry, &mut io::repeat(9)).unwrap();
        writer.append_empty(&link).unwrap();
        writer.append_empty(&device).unwrap();
        let bytes = writer.finish().unwrap();
        let mut reader = TarReader::new(bytes.as_slice());
        let read = reader.next_entry().unwrap().unwrap();
        assert_eq!((&read.path, read.uid, read.gid, read.mode), (&entry.path, entry.uid, 7, 0o4755));
        assert_eq!((read.size, read.mtime, &read.xattrs), (700, entry.mtime, &entry.xattrs));
        assert_eq!(reader.read_all(1000).unwrap(), vec![9; 700]);
        assert_eq!(reader.next_entry().unwrap().unwrap().link, link.link);
        assert_eq!(reader.next_entry().unwrap().unwrap().device, (1, 3));
        assert!(reader.next_entry().unwrap().is_none() && reader.ended());
    }
}
