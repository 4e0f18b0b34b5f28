//! Compression of layers, found by content and not by media type.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use liblzma::bufread::XzDecoder;

const BUFFER: usize = 128 << 10;

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Plain,
    Gzip,
    Zstd,
    /// zstd as small as it gets in bearable time: for what is made once and fetched often.
    ZstdHigh,
    /// Of archives only.
    Xz,
    /// Of archives only.
    Bzip2,
}

impl Format {
    /// OCI has it for layers.
    pub(crate) fn is_for_layers(self) -> bool {
        !matches!(self, Format::Xz | Format::Bzip2)
    }

    /// OCI media type of a layer in this form.
    pub(crate) fn media_type(self) -> String {
        let suffix = match self {
            Format::Plain => "",
            Format::Gzip => "+gzip",
            Format::Zstd | Format::ZstdHigh => "+zstd",
            Format::Xz => "+xz",
            Format::Bzip2 => "+bzip2",
        };
        format!("{}{suffix}", crate::oci::OCI_LAYER)
    }
}

/// Memory that an xz stream may ask for; `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// Find the compression from the first bytes.
pub(crate) fn detect(head: &[u8]) -> io::Result<Format> {
    if head.starts_with(b"PK\x03\x04") {
        let text = "zip archives are not supported (hint: make a tar archive)";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Format::Gzip
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Format::Zstd
    } else if head.starts_with(b"\xfd7zXZ\0") {
        Format::Xz
    } else if head.starts_with(b"BZh") && head.get(4..10) == Some(&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59]) {
        Format::Bzip2
    } else {
        Format::Plain
    })
}

/// Decompresses what comes, whatever it is.
pub(crate) enum Decoder<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
    Xz(Box<XzDecoder<BufReader<R>>>),
    Bzip2(Box<MultiBzDecoder<BufReader<R>>>),
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(inner: R) -> io::Result<Self> {
        let mut inner = BufReader::with_capacity(BUFFER, inner);
        let format = detect(inner.fill_buf()?)?;
        Ok(match format {
            Format::Plain => Decoder::Plain(inner),
            Format::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(inner))),
            Format::Zstd | Format::ZstdHigh => {
                Decoder::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(inner)?))
            }
            Format::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
                Decoder::Xz(Box::new(XzDecoder::new_stream(inner, stream)))
            }
            Format::Bzip2 => Decoder::Bzip2(Box::new(MultiBzDecoder::new(inner))),
        })
    }

    pub(crate) fn format(&self) -> Format {
        match self {
            Decoder::Plain(_) => Format::Plain,
            Decoder::Gzip(_) => Format::Gzip,
            Decoder::Zstd(_) => Format::Zstd,
            Decoder::Xz(_) => Format::Xz,
            Decoder::Bzip2(_) => Format::Bzip2,
        }
    }

    /// Read the source to its end, past what the decompressor needed, and give it back.
    pub(crate) fn finish(self) -> io::Result<R> {
        let mut inner = match self {
            Decoder::Plain(inner) => inner,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.finish(),
            Decoder::Xz(decoder) => decoder.into_inner(),
            Decoder::Bzip2(decoder) => decoder.into_inner(),
        };
        io::copy(&mut inner, &mut io::sink())?;
        Ok(inner.into_inner())
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(inner) => inner.read(buf),
            Decoder::Gzip(inner) => inner.read(buf).map_err(|error| explain("gzip", error)),
            Decoder::Zstd(inner) => inner.read(buf).map_err(|error| explain("zstd", error)),
            Decoder::Xz(inner) => inner.read(buf).map_err(|error| explain("xz", error)),
            Decoder::Bzip2(inner) => inner.read(buf).map_err(|error| explain("bzip2", error)),
        }
    }
}

/// Decompressors speak of deflate blocks; people want to know whether it is cut off or damaged.
fn explain(format: &str, error: io::Error) -> io::Error {
    let own =
        error.raw_os_error().is_some() || error.get_ref().is_some_and(|inner| inner.is::<crate::Error>());
    match error.kind() {
        _ if own => error,
        io::ErrorKind::Interrupted => error,
        io::ErrorKind::UnexpectedEof => io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the {format} stream ends in the middle (truncated)"),
        ),
        kind => io::Error::new(kind, format!("the {format} stream is corrupt: {error}")),
    }
}

/// Compresses a layer; the output depends on the input alone.
pub(crate) enum Encoder<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    pub(crate) fn new(format: Format, inner: W) -> io::Result<Self> {
        Ok(match format {
            Format::Plain => Encoder::Plain(inner),
            Format::Gzip => Encoder::Gzip(flate2::GzBuilder::new().write(inner, flate2::Compression::new(4))),
            Format::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(inner, 3)?),
            Format::ZstdHigh => Encoder::Zstd(zstd::stream::write::Encoder::new(inner, 15)?),
            Format::Xz | Format::Bzip2 => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Plain(inner) => Ok(inner),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Plain(inner) => inner.write(buf),
            Encoder::Gzip(inner) => inner.write(buf),
            Encoder::Zstd(inner) => inner.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Plain(inner) => inner.flush(),
            Encoder::Gzip(inner) => inner.flush(),
            Encoder::Zstd(inner) => inner.flush(),
        }
    }
}

/// The first bytes of a file, as many as fit.
pub(crate) fn head(file: &File) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt as _;
    let mut head = vec![0; 512];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    head.truncate(filled);
    Ok(head)
}
