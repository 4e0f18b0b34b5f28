//! WebSocket (RFC 6455), server side, binary messages only: just what the Kubernetes channel protocols need.

use base64::Engine;
use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::StreamError;

/// Largest message a peer may send, over all its fragments.
pub const MAX_MESSAGE: usize = 1 << 20;

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`.
#[must_use]
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(hash.finalize())
}

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// A whole binary (or text) message.
    Data(Bytes),
    /// To be answered with a pong of the same payload.
    Ping(Bytes),
    /// The peer closes.
    Close,
}

/// Reads messages.
pub struct Reader<R> {
    io: R,
    partial: BytesMut,
    fragmented: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Read from an upgraded connection.
    pub fn new(io: R) -> Self {
        Self { io, partial: BytesMut::new(), fragmented: false }
    }

    /// The next message; `None` when the connection ended without a close frame.
    pub async fn next(&mut self) -> Result<Option<Message>, StreamError> {
        loop {
            let mut head = [0u8; 2];
            match self.io.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let (fin, opcode) = (head[0] & 0x80 != 0, head[0] & 0x0f);
            if head[0] & 0x70 != 0 {
                return Err(StreamError::Protocol("reserved WebSocket bits are set"));
            }
            if head[1] & 0x80 == 0 {
                return Err(StreamError::Protocol("client WebSocket frame is not masked"));
            }
            let length = self.length(head[1] & 0x7f).await?;
            if opcode >= 8 && (length > 125 || !fin) {
                return Err(StreamError::Protocol("WebSocket control frame is too long or fragmented"));
            }
            if length.saturating_add(self.partial.len()) > MAX_MESSAGE {
                return Err(StreamError::Limit("WebSocket message is larger than 1 MiB"));
            }
            let mut mask = [0u8; 4];
            self.io.read_exact(&mut mask).await?;
            let mut payload = BytesMut::zeroed(length);
            self.io.read_exact(&mut payload).await?;
            for (index, byte) in payload.iter_mut().enumerate() {
                *byte ^= mask[index % 4];
            }
            match opcode {
                0 if !self.fragmented => return Err(StreamError::Protocol("continuation without a start")),
                1 | 2 if self.fragmented => return Err(StreamError::Protocol("message inside a message")),
                0..=2 => {
                    if fin && self.partial.is_empty() {
                        self.fragmented = false;
                        return Ok(Some(Message::Data(payload.freeze())));
                    }
                    self.partial.extend_from_slice(&payload);
                    self.fragmented = !fin;
                    if fin {
                        return Ok(Some(Message::Data(self.partial.split().freeze())));
                    }
                }
                8 => return Ok(Some(Message::Close)),
                9 => return Ok(Some(Message::Ping(payload.freeze()))),
                10 => {}
                _ => return Err(StreamError::Protocol("unknown WebSocket opcode")),
            }
        }
    }

    async fn length(&mut self, short: u8) -> Result<usize, StreamError> {
        let length = match short {
            126 => u64::from(self.io.read_u16().await?),
            127 => self.io.read_u64().await?,
            short => u64::from(short),
        };
        usize::try_from(length).map_err(|_| StreamError::Limit("WebSocket frame is too large"))
    }
}

/// Writes messages.
pub struct Writer<W> {
    io: W,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Write to an upgraded connection.
    pub fn new(io: W) -> Self {
        Self { io }
    }

    /// Send one binary message made of `prefix` and `data`.
    pub async fn binary(&mut self, prefix: &[u8], data: &[u8]) -> Result<(), StreamError> {
        self.frame(2, prefix, data).await
    }

    /// Send one text message: `prefix`, then the data in base64.
    pub async fn base64(&mut self, prefix: &[u8], data: &[u8]) -> Result<(), StreamError> {
        let encoded = base64::engine::general_purpose::STANDARD.encode(data);
        self.frame(1, prefix, encoded.as_bytes()).await
    }

    /// Answer a ping.
    pub async fn pong(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        self.frame(10, &[], payload).await
    }

    /// Say goodbye and end the sending direction.
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<(), StreamError> {
        let reason = &reason.as_bytes()[..reason.len().min(120)];
        self.frame(8, &code.to_be_bytes(), reason).await?;
        self.io.shutdown().await?;
        Ok(())
    }

    async fn frame(&mut self, opcode: u8, prefix: &[u8], data: &[u8]) -> Result<(), StreamError> {
        let length = prefix.len() + data.len();
        let mut head = Vec::with_capacity(10 + prefix.len());
        head.push(0x80 | opcode);
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short), _) if short < 126 => head.push(short),
            (_, Ok(medium)) => {
                head.push(126);
                head.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                head.push(127);
                head.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        head.extend_from_slice(prefix);
        self.io.write_all(&head).await?;
        self.io.write_all(data).await?;
        self.io.flush().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 1, 2, 3, 4];
        out.extend(payload.iter().enumerate().map(|(i, b)| b ^ [1, 2, 3, 4][i % 4]));
        out
    }

    #[test]
    fn accept_key_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn reads_fragments_with_a_ping_between() {
        let wire =
            [masked(0x02, b"\x00he"), masked(0x89, b"x"), masked(0x80, b"llo"), masked(0x88, b"")].concat();
        let mut reader = Reader::new(wire.as_slice());
        assert_eq!(reader.next().await.unwrap(), Some(Message::Ping(Bytes::from_static(b"x"))));
        assert_eq!(reader.next().await.unwrap(), Some(Message::Data(Bytes::from_static(b"\x00hello"))));
        assert_eq!(reader.next().await.unwrap(), Some(Message::Close));
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn refuses_hostile_frames() {
        let unmasked = [0x82, 1, b'x'];
        assert!(matches!(Reader::new(&unmasked[..]).next().await, Err(StreamError::Protocol(_))));
        let huge = [0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0];
        assert!(matches!(Reader::new(&huge[..]).next().await, Err(StreamError::Limit(_))));
        // A length that together with what came before is more than a number holds.
        let mut wrapping = masked(0x02, b"twelve bytes");
        wrapping.extend([0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf8, 0, 0, 0, 0]);
        assert!(matches!(Reader::new(wrapping.as_slice()).next().await, Err(StreamError::Limit(_))));
    }

    #[tokio::test]
    async fn writes_all_lengths() {
        for (length, head) in [(5, vec![0x82, 6]), (300, vec![0x82, 126, 1, 45])] {
            let mut out = Vec::new();
            Writer::new(&mut out).binary(&[1], &vec![0; length]).await.unwrap();
            assert_eq!(out[..head.len()], head[..]);
            assert_eq!(out.len(), head.len() + 1 + length);
        }
    }
}
