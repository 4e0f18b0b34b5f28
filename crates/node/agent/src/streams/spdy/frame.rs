//! SPDY/3.1 frames: encoding, decoding and the two header compression contexts.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::dictionary;
use crate::streams::StreamError;

/// Largest control frame we read; larger ends the connection.
pub const MAX_CONTROL: usize = 64 * 1024;
/// Largest header block after decompression; larger ends the connection.
pub const MAX_HEADERS: usize = 64 * 1024;
/// Flag: the sender will send nothing more on this stream.
pub const FLAG_FIN: u8 = 1;
/// Flag of SYN_STREAM: the receiver may not send on this stream.
pub const FLAG_UNIDIRECTIONAL: u8 = 2;

const VERSION: u16 = 3;

/// Header lines of a stream. Names are lower case.
pub type Headers = Vec<(String, String)>;

/// One frame without its payload: data payloads are read piecewise by the caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream { id: u32, flags: u8, headers: Headers },
    /// Accepts a stream.
    SynReply { id: u32, flags: u8, headers: Headers },
    /// Ends a stream in both directions.
    RstStream { id: u32, status: u32 },
    /// Settings; only the initial window size matters to us.
    Settings { initial_window: Option<u32> },
    /// Keep-alive; to be echoed when the id is the peer's.
    Ping { id: u32 },
    /// The sender accepts no new streams.
    GoAway { last: u32, status: u32 },
    /// More headers on an open stream.
    Headers { id: u32, flags: u8, headers: Headers },
    /// The receiver may be sent this many more bytes.
    WindowUpdate { id: u32, delta: u32 },
    /// Head of a data frame; `length` bytes follow.
    Data { id: u32, flags: u8, length: usize },
    /// A type we do not know; already skipped.
    Unknown,
}

/// Compression context for the header blocks we send.
pub struct HeaderEncoder(Compress);

impl HeaderEncoder {
    /// A fresh context. One per connection.
    pub fn new() -> Result<Self, StreamError> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(&dictionary::bytes())
            .map_err(|_| StreamError::Protocol("header dictionary refused by zlib"))?;
        Ok(Self(compress))
    }

    fn encode(&mut self, headers: &Headers) -> Result<Vec<u8>, StreamError> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&be32(headers.len()));
        for (name, value) in headers {
            plain.extend_from_slice(&be32(name.len()));
            plain.extend_from_slice(name.as_bytes());
            plain.extend_from_slice(&be32(value.len()));
            plain.extend_from_slice(value.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let eaten = usize::try_from(self.0.total_in() - start).unwrap_or(plain.len());
            out.reserve(256);
            self.0
                .compress_vec(&plain[eaten..], &mut out, FlushCompress::Sync)
                .map_err(|_| StreamError::Protocol("cannot compress headers"))?;
            let eaten = usize::try_from(self.0.total_in() - start).unwrap_or(plain.len());
            if eaten == plain.len() && out.len() < out.capacity() {
                return Ok(out);
            }
        }
    }
}

/// Decompression context for the header blocks we receive.
pub struct HeaderDecoder(Decompress);

impl Default for HeaderDecoder {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl HeaderDecoder {
    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, StreamError> {
        let mut out = Vec::with_capacity(1024);
        let mut eaten = 0;
        loop {
            let (before_in, before_out) = (self.0.total_in(), out.len());
            match self.0.decompress_vec(&block[eaten..], &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(StreamError::Protocol("header stream ended")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary() == Some(dictionary::ADLER32) => {
                    eaten += usize::try_from(self.0.total_in() - before_in).unwrap_or(0);
                    self.0
                        .set_dictionary(&dictionary::bytes())
                        .map_err(|_| StreamError::Protocol("header dictionary refused by zlib"))?;
                    continue;
                }
                Err(_) => return Err(StreamError::Protocol("header block does not decompress")),
            }
            eaten += usize::try_from(self.0.total_in() - before_in).unwrap_or(0);
            if out.len() > MAX_HEADERS {
                return Err(StreamError::Limit("header block is too large"));
            }
            let full = out.len() == out.capacity();
            if full {
                out.reserve(out.len());
            } else if eaten == block.len() || out.len() == before_out {
                return Ok(out);
            }
        }
    }

    fn decode(&mut self, block: &[u8]) -> Result<Headers, StreamError> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let count = take32(&mut rest)?;
        let mut headers = Headers::new();
        for _ in 0..count {
            let name = take_text(&mut rest)?.to_ascii_lowercase();
            headers.push((name, take_text(&mut rest)?));
        }
        Ok(headers)
    }
}

fn be32(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes()
}

fn take32(rest: &mut &[u8]) -> Result<u32, StreamError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(StreamError::Protocol("frame is cut short"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn take_text(rest: &mut &[u8]) -> Result<String, StreamError> {
    let length = take32(rest)? as usize;
    let text = rest.get(..length).ok_or(StreamError::Protocol("header is cut short"))?;
    *rest = &rest[length..];
    String::from_utf8(text.to_vec()).map_err(|_| StreamError::Protocol("header is not UTF-8"))
}

/// Read one frame head (and the body of control frames). `None` at a clean end of the connection.
pub async fn read<R: AsyncRead + Unpin>(
    io: &mut R,
    decoder: &mut HeaderDecoder,
) -> Result<Option<Frame>, StreamError> {
    let mut head = [0u8; 8];
    match io.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let flags = head[4];
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if head[0] & 0x80 == 0 {
        let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        return Ok(Some(Frame::Data { id, flags, length }));
    }
    if u16::from_be_bytes([head[0] & 0x7f, head[1]]) != VERSION {
        return Err(StreamError::Protocol("SPDY version is not 3"));
    }
    if length > MAX_CONTROL {
        return Err(StreamError::Limit("control frame is too large"));
    }
    let mut body = vec![0u8; length];
    io.read_exact(&mut body).await?;
    control(u16::from_be_bytes([head[2], head[3]]), flags, &body, decoder).map(Some)
}

fn control(kind: u16, flags: u8, body: &[u8], decoder: &mut HeaderDecoder) -> Result<Frame, StreamError> {
    let mut rest = body;
    let mask = 0x7fff_ffff;
    Ok(match kind {
        1 => {
            let id = take32(&mut rest)? & mask;
            take32(&mut rest)?; // associated stream: only servers push
            let block = rest.get(2..).ok_or(StreamError::Protocol("SYN_STREAM is cut short"))?;
            Frame::SynStream { id, flags, headers: decoder.decode(block)? }
        }
        2 => Frame::SynReply { id: take32(&mut rest)? & mask, flags, headers: decoder.decode(rest)? },
        3 => Frame::RstStream { id: take32(&mut rest)? & mask, status: take32(&mut rest)? },
        4 => {
            let count = take32(&mut rest)?;
            let mut initial_window = None;
            for _ in 0..count {
                let key = take32(&mut rest)? & 0x00ff_ffff;
                let value = take32(&mut rest)?;
                if key == 7 {
                    initial_window = Some(value);
                }
            }
            Frame::Settings { initial_window }
        }
        6 => Frame::Ping { id: take32(&mut rest)? },
        7 => Frame::GoAway { last: take32(&mut rest)? & mask, status: take32(&mut rest)? },
        8 => Frame::Headers { id: take32(&mut rest)? & mask, flags, headers: decoder.decode(rest)? },
        9 => Frame::WindowUpdate { id: take32(&mut rest)? & mask, delta: take32(&mut rest)? & mask },
        _ => Frame::Unknown,
    })
}

/// Append a control frame (anything but data) to `out`.
pub fn write(frame: &Frame, encoder: &mut HeaderEncoder, out: &mut Vec<u8>) -> Result<(), StreamError> {
    let mut body = Vec::new();
    let (kind, flags) = match frame {
        Frame::SynStream { id, flags, headers } => {
            body.extend_from_slice(&id.to_be_bytes());
            body.extend_from_slice(&[0; 6]);
            body.extend(encoder.encode(headers)?);
            (1u16, *flags)
        }
        Frame::SynReply { id, flags, headers } => {
            body.extend_from_slice(&id.to_be_bytes());
            body.extend(encoder.encode(headers)?);
            (2, *flags)
        }
        Frame::RstStream { id, status } => {
            body.extend_from_slice(&id.to_be_bytes());
            body.extend_from_slice(&status.to_be_bytes());
            (3, 0)
        }
        Frame::Ping { id } => {
            body.extend_from_slice(&id.to_be_bytes());
            (6, 0)
        }
        Frame::GoAway { last, status } => {
            body.extend_from_slice(&last.to_be_bytes());
            body.extend_from_slice(&status.to_be_bytes());
            (7, 0)
        }
        Frame::WindowUpdate { id, delta } => {
            body.extend_from_slice(&id.to_be_bytes());
            body.extend_from_slice(&delta.to_be_bytes());
            (9, 0)
        }
        Frame::Settings { .. } | Frame::Headers { .. } | Frame::Data { .. } | Frame::Unknown => return Ok(()),
    };
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.push(flags);
    out.extend_from_slice(&be32(body.len())[1..]);
    out.extend_from_slice(&body);
    Ok(())
}

/// The eight bytes before a data payload.
#[must_use]
pub fn data_head(id: u32, flags: u8, length: usize) -> [u8; 8] {
    let (id, length) = (id.to_be_bytes(), be32(length));
    [id[0] & 0x7f, id[1], id[2], id[3], flags, length[1], length[2], length[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn round_trip(frames: Vec<Frame>) {
        let mut encoder = HeaderEncoder::new().unwrap();
        let mut decoder = HeaderDecoder::default();
        let mut wire = Vec::new();
        for frame in &frames {
            write(frame, &mut encoder, &mut wire).unwrap();
        }
        let mut io = wire.as_slice();
        for frame in frames {
            assert_eq!(read(&mut io, &mut decoder).await.unwrap(), Some(frame));
        }
        assert_eq!(read(&mut io, &mut decoder).await.unwrap(), None);
    }

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let headers =
            |n: usize| vec![("streamtype".to_owned(), "stdin".to_owned()), ("x".into(), "y".repeat(n))];
        round_trip(vec![
            Frame::SynStream { id: 1, flags: 0, headers: headers(0) },
            Frame::SynStream { id: 3, flags: FLAG_FIN, headers: headers(9000) },
            Frame::SynReply { id: 1, flags: 0, headers: vec![] },
            Frame::Ping { id: 5 },
            Frame::WindowUpdate { id: 1, delta: 70_000 },
            Frame::RstStream { id: 3, status: 5 },
            Frame::GoAway { last: 3, status: 0 },
        ])
        .await;
    }

    #[tokio::test]
    async fn a_header_bomb_is_refused() {
        let mut encoder = HeaderEncoder::new().unwrap();
        let mut wire = Vec::new();
        let headers = vec![("a".to_owned(), "z".repeat(4 << 20))];
        write(&Frame::SynStream { id: 1, flags: 0, headers }, &mut encoder, &mut wire).unwrap();
        assert!(wire.len() < MAX_CONTROL, "compressed bomb is small");
        let error = read(&mut wire.as_slice(), &mut HeaderDecoder::default()).await.unwrap_err();
        assert!(matches!(error, StreamError::Limit(_)), "{error}");
    }

    #[tokio::test]
    async fn fixture_ping_and_data() {
        let wire = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 2, b'h', b'i'];
        let mut io = wire.as_slice();
        let mut decoder = HeaderDecoder::default();
        assert_eq!(read(&mut io, &mut decoder).await.unwrap(), Some(Frame::Ping { id: 1 }));
        assert_eq!(
            read(&mut io, &mut decoder).await.unwrap(),
            Some(Frame::Data { id: 1, flags: FLAG_FIN, length: 2 })
        );
        assert_eq!(data_head(1, 1, 2), [0, 0, 0, 1, 1, 0, 0, 2]);
    }
}
