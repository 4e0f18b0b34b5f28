//! The channels of one `exec` or `attach`: stdin, stdout, stderr, terminal size, and the final status.

use std::time::Duration;

use base64::Engine;
use bytes::{Buf, Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::StreamError;
use super::spdy::{self, StreamReader, StreamWriter};
use super::websocket::{Message, Reader, Writer};

/// Messages waiting per direction and channel.
const QUEUE: usize = 16;
/// How long a SPDY client may take to open its streams.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the peer may take to hang up after our close.
const LINGER: Duration = Duration::from_secs(5);
/// Channel byte of v5 that closes another channel.
const CLOSE_CHANNEL: u8 = 255;

/// Which channels the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Client sends stdin.
    pub stdin: bool,
    /// Client wants stdout.
    pub stdout: bool,
    /// Client wants stderr.
    pub stderr: bool,
    /// A terminal: stderr is merged into stdout, sizes are sent.
    pub tty: bool,
}

/// Bytes from the client.
pub enum Input {
    /// Demultiplexed from a WebSocket.
    Channel(mpsc::Receiver<Bytes>),
    /// A SPDY stream.
    Spdy(StreamReader),
}

impl Input {
    /// The next bytes; `None` when the client closed this channel.
    pub async fn recv(&mut self) -> Option<Bytes> {
        match self {
            Self::Channel(receiver) => receiver.recv().await,
            Self::Spdy(reader) => reader.recv().await,
        }
    }
}

/// Bytes to the client.
#[derive(Clone)]
pub enum Output {
    /// One channel of a WebSocket.
    Channel(u8, mpsc::Sender<(u8, Bytes)>),
    /// A SPDY stream.
    Spdy(StreamWriter),
}

impl Output {
    /// Send bytes, waiting until there is room.
    pub async fn send(&self, data: Bytes) -> Result<(), StreamError> {
        match self {
            Self::Channel(channel, sender) => {
                sender.send((*channel, data)).await.map_err(|_| StreamError::Closed)
            }
            Self::Spdy(writer) => writer.send(data).await,
        }
    }

    /// Say that nothing more follows on this channel.
    pub async fn finish(self) {
        if let Self::Spdy(writer) = self {
            writer.finish().await;
        }
    }
}

/// One remote command's channels.
pub struct Session {
    /// Standard input.
    pub stdin: Option<Input>,
    /// Standard output.
    pub stdout: Option<Output>,
    /// Standard error.
    pub stderr: Option<Output>,
    /// Terminal sizes.
    pub resize: Option<Resize>,
    /// Where the final status goes.
    pub error: Output,
    /// That is only a sentence about what failed, not a `Status`.
    pub plain: bool,
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Size {
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height")]
    pub height: u16,
}

/// Terminal sizes as the client sends them: JSON objects, one after the other.
pub struct Resize {
    input: Input,
    buffer: BytesMut,
}

impl Resize {
    fn new(input: Input) -> Self {
        Self { input, buffer: BytesMut::new() }
    }

    /// The next size; `None` when the client sends no more (or sends nonsense).
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            let mut stream = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Size>();
            match stream.next() {
                Some(Ok(size)) => {
                    let used = stream.byte_offset();
                    self.buffer.advance(used);
                    return Some(size);
                }
                Some(Err(error)) if !error.is_eof() => return None,
                _ => {}
            }
            if self.buffer.len() > 4096 {
                return None;
            }
            self.buffer.extend_from_slice(&self.input.recv().await?);
        }
    }
}

/// The status of a command that ended with `code`, as `metav1.Status`.
#[must_use]
pub fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// The status of a command that could not be run or watched.
#[must_use]
pub fn failure_status(message: &str) -> Value {
    json!({
        "metadata": {}, "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    })
}

/// The sub-protocols of exec and attach over WebSocket that we speak, best first.
pub const WEBSOCKET_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// The protocols of exec and attach over SPDY that we speak.
pub const SPDY_PROTOCOLS: &[&str] = &["v4.channel.k8s.io"];

/// Channels over an upgraded WebSocket. The future moves the bytes and ends after the session's outputs are
/// dropped (close handshake) or the client leaves (inputs end).
pub fn over_websocket<IO>(
    io: IO,
    wanted: Wanted,
    protocol: &str,
) -> (Session, impl Future<Output = Result<(), StreamError>> + Send)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (out, outgoing) = mpsc::channel(QUEUE);
    let (stdin_tx, stdin_rx) = mpsc::channel(QUEUE);
    let (resize_tx, resize_rx) = mpsc::channel(QUEUE);
    let session = Session {
        stdin: wanted.stdin.then_some(Input::Channel(stdin_rx)),
        stdout: wanted.stdout.then(|| Output::Channel(1, out.clone())),
        stderr: (wanted.stderr && !wanted.tty).then(|| Output::Channel(2, out.clone())),
        resize: wanted.tty.then(|| Resize::new(Input::Channel(resize_rx))),
        error: Output::Channel(3, out),
        plain: !protocol.starts_with('v'),
    };
    let form = Form { v5: protocol.starts_with("v5"), base64: protocol.contains("base64") };
    (session, run_websocket(io, outgoing, wanted.stdin.then_some(stdin_tx), resize_tx, form))
}

/// How a protocol differs from the others.
#[derive(Clone, Copy)]
struct Form {
    /// A channel can be closed.
    v5: bool,
    /// Text messages, for clients that have no others.
    base64: bool,
}

impl Form {
    /// A message of the client's as the binary protocols have it; nothing when it is not one.
    fn plain(self, data: Bytes) -> Bytes {
        if !self.base64 {
            return data;
        }
        let Some((channel, text)) = data.split_first() else { return data };
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        let Some(decoded) = decoded.ok().filter(|_| channel.is_ascii_digit()) else { return Bytes::new() };
        [&[channel - b'0'], decoded.as_slice()].concat().into()
    }
}

async fn run_websocket<IO: AsyncRead + AsyncWrite + Unpin + Send>(
    io: IO,
    mut outgoing: mpsc::Receiver<(u8, Bytes)>,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    resize: mpsc::Sender<Bytes>,
    form: Form,
) -> Result<(), StreamError> {
    let (read, write) = tokio::io::split(io);
    let mut reader = Reader::new(tokio::io::BufReader::new(read));
    let mut writer = Writer::new(write);
    let (pongs, mut pong) = tokio::sync::watch::channel(Bytes::new());
    let inbound = async move {
        while let Some(message) = reader.next().await? {
            let mut data = match message {
                Message::Data(data) => form.plain(data),
                Message::Ping(payload) => {
                    pongs.send_replace(payload);
                    continue;
                }
                Message::Close => break,
            };
            if data.is_empty() {
                continue;
            }
            // A closed receiver means that the command no longer listens; the client may still talk.
            match data.get_u8() {
                0 => {
                    if let Some(stdin) = &stdin
                        && !data.is_empty()
                    {
                        let _ = stdin.send(data).await;
                    }
                }
                4 => drop(resize.send(data).await),
                CLOSE_CHANNEL if form.v5 && data.first() == Some(&0) => stdin = None,
                _ => {}
            }
        }
        Ok::<_, StreamError>(())
    };
    let mut inbound = std::pin::pin!(inbound);
    let mut client_gone = false;
    loop {
        tokio::select! {
            result = &mut inbound, if !client_gone => { result?; client_gone = true; break; }
            Ok(()) = pong.changed() => {
                let payload = pong.borrow_and_update().clone();
                writer.pong(&payload).await?;
            }
            message = outgoing.recv() => match message {
                Some((channel, data)) if form.base64 => writer.base64(&[b'0' + channel], &data).await?,
                Some((channel, data)) => writer.binary(&[channel], &data).await?,
                None => break,
            },
        }
    }
    writer.close(1000, "").await?;
    if !client_gone {
        // Let the client read everything and hang up first; cutting now could lose bytes in flight.
        let _ = tokio::time::timeout(LINGER, inbound).await;
    }
    Ok(())
}

/// Channels over an accepted SPDY connection: waits until the client opened the streams that it asked for.
pub async fn over_spdy(connection: &mut spdy::Connection, wanted: Wanted) -> Result<Session, StreamError> {
    let stderr = wanted.stderr && !wanted.tty;
    let expected = 1 + [wanted.stdin, wanted.stdout, stderr, wanted.tty].iter().filter(|on| **on).count();
    let (mut stdin, mut stdout, mut err, mut resize, mut error) = (None, None, None, None, None);
    let collect = async {
        for _ in 0..expected {
            let stream = connection.accept().await.ok_or(StreamError::Closed)?;
            match stream.header("streamtype") {
                Some("stdin") => stdin = Some(Input::Spdy(stream.reader)),
                Some("stdout") => stdout = Some(Output::Spdy(stream.writer)),
                Some("stderr") => err = Some(Output::Spdy(stream.writer)),
                Some("error") => error = Some(Output::Spdy(stream.writer)),
                Some("resize") => resize = Some(Resize::new(Input::Spdy(stream.reader))),
                _ => return Err(StreamError::Protocol("unexpected stream type")),
            }
        }
        Ok(())
    };
    tokio::time::timeout(OPEN_TIMEOUT, collect)
        .await
        .map_err(|_| StreamError::Limit("timed out waiting for client to create streams"))??;
    let error = error.ok_or(StreamError::Protocol("client opened no error stream"))?;
    Ok(Session { stdin, stdout, stderr: err, resize, error, plain: false })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0x82, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
        out.extend_from_slice(payload);
        out
    }

    #[tokio::test]
    async fn v5_channels_and_stdin_close() {
        let (near, mut far) = tokio::io::duplex(4096);
        let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        let (mut session, driver) = over_websocket(near, wanted, "v5.channel.k8s.io");
        let driver = tokio::spawn(driver);
        far.write_all(&[frame(b"\x00hi"), frame(&[255, 0])].concat()).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        assert_eq!(stdin.recv().await.unwrap(), "hi");
        assert!(stdin.recv().await.is_none(), "closed by v5 signal");
        session.stdout.as_ref().unwrap().send(Bytes::from_static(b"out")).await.unwrap();
        session.error.send(exit_status(3).to_string().into()).await.unwrap();
        drop((session, stdin));
        let mut wire = [0u8; 6];
        far.read_exact(&mut wire).await.unwrap();
        assert_eq!(wire, *b"\x82\x04\x01out");
        let mut rest = vec![0u8; 4];
        far.read_exact(&mut rest).await.unwrap();
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let mut status = vec![0u8; length];
        far.read_exact(&mut status).await.unwrap();
        let status: Value = serde_json::from_slice(&status[1..]).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        let mut close = [0u8; 4];
        far.read_exact(&mut close).await.unwrap();
        assert_eq!(close, [0x88, 2, 3, 232]);
        drop(far);
        driver.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn channels_in_base64() {
        let (near, mut far) = tokio::io::duplex(4096);
        let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };
        let (mut session, driver) = over_websocket(near, wanted, "base64.channel.k8s.io");
        let driver = tokio::spawn(driver);
        assert!(session.plain, "the first protocol knows no Status");
        far.write_all(&[frame(b"0aGk="), frame(b"0?"), frame(b"0bw==")].concat()).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        assert_eq!(stdin.recv().await.unwrap(), "hi");
        assert_eq!(stdin.recv().await.unwrap(), "o", "what is not base64 is nothing");
        session.stdout.as_ref().unwrap().send(Bytes::from_static(b"out")).await.unwrap();
        drop((session, stdin));
        let mut wire = [0u8; 7];
        far.read_exact(&mut wire).await.unwrap();
        assert_eq!(wire, *b"\x81\x051b3V0");
        drop(far);
        // Whether the goodbye could still be sent does not matter.
        let _ = driver.await.unwrap();
    }

    #[tokio::test]
    async fn sizes_arrive_split_and_joined() {
        let (tx, rx) = mpsc::channel(4);
        let mut resize = Resize::new(Input::Channel(rx));
        tx.send(Bytes::from_static(b"{\"Width\":80,\"Hei")).await.unwrap();
        tx.send(Bytes::from_static(b"ght\":24}\n{\"Width\":1,\"Height\":2}")).await.unwrap();
        drop(tx);
        assert_eq!(resize.next().await, Some(Size { width: 80, height: 24 }));
        assert_eq!(resize.next().await, Some(Size { width: 1, height: 2 }));
        assert_eq!(resize.next().await, None);
    }
}
