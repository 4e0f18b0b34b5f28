//! SPDY/3.1 server side: one connection carrying many streams.
//!
//! [`connect`] gives a [`Connection`] to accept streams from and a [`Driver`] whose [`Driver::run`] must be polled
//! for anything to move. Kubernetes' own client (spdystream) has no flow control: it neither sends nor honours
//! WINDOW_UPDATE. So we always return credit for what was consumed, but wait for credit only once the peer has
//! shown that it gives any; until then TCP alone pushes back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};

use super::StreamError;

pub mod dictionary;
pub mod frame;

use frame::{FLAG_FIN, FLAG_UNIDIRECTIONAL, Frame, HeaderDecoder, HeaderEncoder, Headers};

/// Largest data payload handled or sent in one piece.
const CHUNK: usize = 32 * 1024;
/// Pieces a stream may have waiting for its reader: 1 MiB a stream.
const INBOUND: usize = 32;
/// Pieces of all streams waiting for the socket: 1 MiB a connection.
const OUTBOUND: usize = 32;
/// Control frames waiting for the socket; more means a peer that floods and does not read.
const CONTROL: usize = 1024;
/// SPDY/3.1 initial window.
const WINDOW: i64 = 64 * 1024;
/// How long the peer may take to hang up after our GOAWAY.
const LINGER: Duration = Duration::from_secs(5);

const STATUS_PROTOCOL: u32 = 1;
const STATUS_INVALID_STREAM: u32 = 2;
const STATUS_REFUSED: u32 = 3;
/// RST_STREAM status: the sender no longer wants the stream.
pub const STATUS_CANCEL: u32 = 5;

struct Entry {
    inbound: Option<mpsc::Sender<Bytes>>,
    window: i64,
    credit: Arc<Notify>,
    finished_here: bool,
}

struct State {
    streams: HashMap<u32, Entry>,
    control: VecDeque<Frame>,
    initial_window: i64,
    /// The peer takes part in flow control.
    flow_control: bool,
    highest: u32,
    closing: bool,
    dead: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
    max_streams: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&self, frame: Frame) {
        self.lock().control.push_back(frame);
        self.wake.notify_one();
    }
}

/// Accepts the streams of one connection. Dropping it closes the connection gracefully.
pub struct Connection {
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Stream>,
}

/// Moves the bytes of one connection.
pub struct Driver<IO> {
    shared: Arc<Shared>,
    io: IO,
    incoming: mpsc::Sender<Stream>,
    outbound_tx: mpsc::Sender<Outbound>,
    outbound: mpsc::Receiver<Outbound>,
}

struct Outbound {
    id: u32,
    data: Bytes,
    fin: bool,
}

/// One stream that the peer opened; already answered with SYN_REPLY.
pub struct Stream {
    /// Number of the stream in its connection.
    pub id: u32,
    /// What the peer sent when opening it.
    pub headers: Headers,
    /// What the peer sends.
    pub reader: StreamReader,
    /// What we send.
    pub writer: StreamWriter,
}

impl Stream {
    /// The first header of this (lower case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Receiving half of a [`Stream`].
pub struct StreamReader {
    id: u32,
    inbound: mpsc::Receiver<Bytes>,
    shared: Arc<Shared>,
    unacknowledged: usize,
}

impl StreamReader {
    /// The next bytes; `None` after FIN, reset or loss of the connection.
    pub async fn recv(&mut self) -> Option<Bytes> {
        let data = self.inbound.recv().await?;
        self.unacknowledged += data.len();
        if self.unacknowledged >= CHUNK {
            let delta = u32::try_from(std::mem::take(&mut self.unacknowledged)).unwrap_or(u32::MAX);
            self.shared.control(Frame::WindowUpdate { id: self.id, delta });
        }
        Some(data)
    }
}

/// Sending half of a [`Stream`].
#[derive(Clone)]
pub struct StreamWriter {
    id: u32,
    outbound: mpsc::Sender<Outbound>,
    shared: Arc<Shared>,
}

impl StreamWriter {
    /// Send bytes, waiting for window and for the socket.
    pub async fn send(&self, mut data: Bytes) -> Result<(), StreamError> {
        while !data.is_empty() {
            let allowed = self.reserve(data.len().min(CHUNK)).await?;
            let piece = data.split_to(allowed);
            let message = Outbound { id: self.id, data: piece, fin: false };
            self.outbound.send(message).await.map_err(|_| StreamError::Closed)?;
        }
        Ok(())
    }

    /// Take up to `wanted` bytes of window.
    async fn reserve(&self, wanted: usize) -> Result<usize, StreamError> {
        loop {
            let credit = {
                let mut state = self.shared.lock();
                let (flow_control, dead) = (state.flow_control, state.dead);
                let entry = state.streams.get_mut(&self.id).ok_or(StreamError::Closed)?;
                if dead || entry.finished_here {
                    return Err(StreamError::Closed);
                }
                let window = usize::try_from(entry.window).unwrap_or(0);
                if !flow_control || window > 0 {
                    let allowed = if flow_control { wanted.min(window) } else { wanted };
                    entry.window -= i64::try_from(allowed).unwrap_or(0);
                    return Ok(allowed);
                }
                Arc::clone(&entry.credit)
            };
            credit.notified().await;
        }
    }

    /// Say that we send nothing more.
    pub async fn finish(&self) {
        {
            let mut state = self.shared.lock();
            let Some(entry) = state.streams.get_mut(&self.id) else { return };
            if std::mem::replace(&mut entry.finished_here, true) {
                return;
            }
            if entry.inbound.is_none() {
                state.streams.remove(&self.id);
            }
        }
        // A closed channel means a dead connection: nothing left to tell.
        let _ = self.outbound.send(Outbound { id: self.id, data: Bytes::new(), fin: true }).await;
    }

    /// Abort the stream in both directions.
    pub fn reset(&self, status: u32) {
        let entry = self.shared.lock().streams.remove(&self.id);
        if let Some(entry) = entry {
            entry.credit.notify_one();
            self.shared.control(Frame::RstStream { id: self.id, status });
        }
    }
}

/// Serve SPDY on an upgraded connection, with at most `max_streams` streams open.
pub fn connect<IO>(io: IO, max_streams: usize) -> (Connection, Driver<IO>) {
    let state = State {
        streams: HashMap::new(),
        control: VecDeque::new(),
        initial_window: WINDOW,
        flow_control: false,
        highest: 0,
        closing: false,
        dead: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), max_streams });
    let (accept, incoming) = mpsc::channel(16);
    let (outbound_tx, outbound) = mpsc::channel(OUTBOUND);
    let driver = Driver { shared: Arc::clone(&shared), io, incoming: accept, outbound_tx, outbound };
    (Connection { shared, incoming }, driver)
}

impl Connection {
    /// The next stream that the peer opens; `None` when the connection is over.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send> Driver<IO> {
    /// Move bytes until the connection ends.
    pub async fn run(self) -> Result<(), StreamError> {
        let (read, write) = tokio::io::split(self.io);
        let shared = Arc::clone(&self.shared);
        let reader = Reader {
            shared: Arc::clone(&shared),
            io: BufReader::with_capacity(CHUNK, read),
            decoder: HeaderDecoder::default(),
            incoming: self.incoming,
            outbound: self.outbound_tx,
        };
        let writer = Writer {
            shared: Arc::clone(&shared),
            io: write,
            encoder: HeaderEncoder::new()?,
            outbound: self.outbound,
        };
        let mut reading = std::pin::pin!(reader.run());
        let result = tokio::select! {
            result = &mut reading => result,
            result = writer.run() => match result {
                // We said goodbye: let the peer read what is in flight and hang up first.
                Ok(()) => tokio::time::timeout(LINGER, reading).await.unwrap_or(Ok(())),
                Err(error) => Err(error),
            },
        };
        let mut state = shared.lock();
        state.dead = true;
        for (_, entry) in state.streams.drain() {
            entry.credit.notify_one();
        }
        result
    }
}

struct Reader<IO> {
    shared: Arc<Shared>,
    io: BufReader<ReadHalf<IO>>,
    decoder: HeaderDecoder,
    incoming: mpsc::Sender<Stream>,
    outbound: mpsc::Sender<Outbound>,
}

impl<IO: AsyncRead> Reader<IO> {
    async fn run(mut self) -> Result<(), StreamError> {
        while let Some(frame) = frame::read(&mut self.io, &mut self.decoder).await? {
            match frame {
                Frame::SynStream { id, flags, headers } => self.open(id, flags, headers).await?,
                Frame::Data { id, flags, length } => self.data(id, flags, length).await?,
                Frame::RstStream { id, .. } => {
                    if let Some(entry) = self.shared.lock().streams.remove(&id) {
                        entry.credit.notify_one();
                    }
                }
                Frame::Headers { id, flags, .. } if flags & FLAG_FIN != 0 => self.finish(id),
                Frame::Ping { id } if id % 2 == 1 => self.shared.control(Frame::Ping { id }),
                Frame::WindowUpdate { id, delta } => self.credit(id, delta),
                Frame::Settings { initial_window: Some(window) } => {
                    let mut state = self.shared.lock();
                    state.flow_control = true;
                    let change = i64::from(window) - state.initial_window;
                    state.initial_window = i64::from(window);
                    for entry in state.streams.values_mut() {
                        entry.window += change;
                        entry.credit.notify_one();
                    }
                }
                Frame::GoAway { .. } => {
                    self.shared.lock().closing = true;
                    self.shared.wake.notify_one();
                }
                _ => {}
            }
            if self.shared.lock().control.len() > CONTROL {
                return Err(StreamError::Limit("peer floods control frames without reading answers"));
            }
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, flags: u8, headers: Headers) -> Result<(), StreamError> {
        let stream = {
            let mut state = self.shared.lock();
            if id.is_multiple_of(2) || id <= state.highest {
                state.control.push_back(Frame::RstStream { id, status: STATUS_PROTOCOL });
                self.shared.wake.notify_one();
                return Ok(());
            }
            state.highest = id;
            if state.streams.len() >= self.shared.max_streams || state.closing {
                state.control.push_back(Frame::RstStream { id, status: STATUS_REFUSED });
                self.shared.wake.notify_one();
                return Ok(());
            }
            let (sender, inbound) = mpsc::channel(INBOUND);
            let entry = Entry {
                inbound: (flags & FLAG_FIN == 0).then_some(sender),
                window: state.initial_window,
                credit: Arc::new(Notify::new()),
                finished_here: flags & FLAG_UNIDIRECTIONAL != 0,
            };
            state.streams.insert(id, entry);
            state.control.push_back(Frame::SynReply { id, flags: 0, headers: Headers::new() });
            self.shared.wake.notify_one();
            let shared = Arc::clone(&self.shared);
            let reader = StreamReader { id, inbound, shared, unacknowledged: 0 };
            let writer =
                StreamWriter { id, outbound: self.outbound.clone(), shared: Arc::clone(&self.shared) };
            Stream { id, headers, reader, writer }
        };
        // A refused hand-over means that nobody accepts streams any more: say so.
        if let Err(refused) = self.incoming.send(stream).await {
            refused.0.writer.reset(STATUS_REFUSED);
        }
        Ok(())
    }

    async fn data(&mut self, id: u32, flags: u8, mut length: usize) -> Result<(), StreamError> {
        let target = {
            let mut state = self.shared.lock();
            let known = state.streams.get(&id).map(|entry| entry.inbound.clone());
            if known.is_none() && id > state.highest {
                state.control.push_back(Frame::RstStream { id, status: STATUS_INVALID_STREAM });
                self.shared.wake.notify_one();
            }
            known.flatten()
        };
        while length > 0 {
            let mut piece = vec![0u8; length.min(CHUNK)];
            self.io.read_exact(&mut piece).await?;
            length -= piece.len();
            if let Some(target) = &target {
                // A reader that was dropped wants no more: the rest of the stream is discarded.
                let _ = target.send(Bytes::from(piece)).await;
            }
        }
        if flags & FLAG_FIN != 0 {
            self.finish(id);
        }
        Ok(())
    }

    fn finish(&self, id: u32) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.streams.get_mut(&id) {
            entry.inbound = None;
            if entry.finished_here {
                state.streams.remove(&id);
            }
        }
    }

    fn credit(&self, id: u32, delta: u32) {
        let mut state = self.shared.lock();
        state.flow_control = true;
        if let Some(entry) = state.streams.get_mut(&id) {
            entry.window = (entry.window + i64::from(delta)).min(i64::from(i32::MAX));
            entry.credit.notify_one();
        }
    }
}

struct Writer<IO> {
    shared: Arc<Shared>,
    io: WriteHalf<IO>,
    encoder: HeaderEncoder,
    outbound: mpsc::Receiver<Outbound>,
}

enum Next {
    Control,
    Data(Outbound),
}

impl<IO: AsyncWrite> Writer<IO> {
    async fn run(mut self) -> Result<(), StreamError> {
        loop {
            if !self.flush_control().await? {
                break;
            }
            let next = tokio::select! {
                biased;
                () = self.shared.wake.notified() => Next::Control,
                data = self.outbound.recv() => match data {
                    Some(data) => Next::Data(data),
                    None => break,
                },
            };
            if let Next::Data(data) = next {
                self.flush_control().await?;
                self.data(data).await?;
            }
            self.io.flush().await?;
        }
        while let Ok(data) = self.outbound.try_recv() {
            self.data(data).await?;
        }
        let mut out = Vec::new();
        let last = self.shared.lock().highest;
        frame::write(&Frame::GoAway { last, status: 0 }, &mut self.encoder, &mut out)?;
        self.io.write_all(&out).await?;
        self.io.shutdown().await?;
        Ok(())
    }

    /// Write waiting control frames. False when the connection should close now.
    async fn flush_control(&mut self) -> Result<bool, StreamError> {
        let (frames, closing) = {
            let mut state = self.shared.lock();
            let idle = state.streams.values().all(|entry| entry.finished_here);
            (std::mem::take(&mut state.control), state.closing && idle && self.outbound.is_empty())
        };
        let mut out = Vec::new();
        for frame in &frames {
            frame::write(frame, &mut self.encoder, &mut out)?;
        }
        if !out.is_empty() {
            self.io.write_all(&out).await?;
            self.io.flush().await?;
        }
        Ok(!closing)
    }

    async fn data(&mut self, data: Outbound) -> Result<(), StreamError> {
        let flags = if data.fin { FLAG_FIN } else { 0 };
        self.io.write_all(&frame::data_head(data.id, flags, data.data.len())).await?;
        self.io.write_all(&data.data).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::read;

    struct Client {
        io: tokio::io::DuplexStream,
        encoder: HeaderEncoder,
        decoder: HeaderDecoder,
    }

    impl Client {
        async fn send(&mut self, frame: Frame) {
            let mut out = Vec::new();
            frame::write(&frame, &mut self.encoder, &mut out).unwrap();
            self.io.write_all(&out).await.unwrap();
        }
        async fn data(&mut self, id: u32, flags: u8, data: &[u8]) {
            self.io.write_all(&frame::data_head(id, flags, data.len())).await.unwrap();
            self.io.write_all(data).await.unwrap();
        }
        async fn next(&mut self) -> Option<(Frame, Vec<u8>)> {
            let frame = read(&mut self.io, &mut self.decoder).await.unwrap()?;
            let mut data = Vec::new();
            if let Frame::Data { length, .. } = frame {
                data = vec![0; length];
                self.io.read_exact(&mut data).await.unwrap();
            }
            Some((frame, data))
        }
    }

    fn pair(max: usize) -> (Client, Connection, tokio::task::JoinHandle<Result<(), StreamError>>) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (connection, driver) = connect(near, max);
        let client =
            Client { io: far, encoder: HeaderEncoder::new().unwrap(), decoder: HeaderDecoder::default() };
        (client, connection, tokio::spawn(driver.run()))
    }

    fn syn(id: u32) -> Frame {
        Frame::SynStream { id, flags: 0, headers: vec![("streamtype".into(), "data".into())] }
    }

    #[tokio::test]
    async fn streams_carry_both_ways_with_half_close() {
        let (mut client, mut connection, driver) = pair(4);
        client.send(syn(1)).await;
        client.data(1, FLAG_FIN, b"ping").await;
        let mut stream = connection.accept().await.unwrap();
        assert_eq!(stream.header("streamtype"), Some("data"));
        assert_eq!(stream.reader.recv().await.unwrap(), "ping");
        assert!(stream.reader.recv().await.is_none(), "FIN ends the reader");
        stream.writer.send(Bytes::from_static(b"pong")).await.unwrap();
        stream.writer.finish().await;
        assert!(matches!(client.next().await.unwrap().0, Frame::SynReply { id: 1, .. }));
        assert_eq!(client.next().await.unwrap().1, b"pong");
        assert!(matches!(client.next().await.unwrap().0, Frame::Data { flags: FLAG_FIN, length: 0, .. }));
        drop(connection);
        assert!(matches!(client.next().await.unwrap().0, Frame::GoAway { last: 1, .. }));
        drop(client);
        driver.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_window_is_respected_once_the_peer_uses_it() {
        let (mut client, mut connection, _driver) = pair(4);
        client.send(syn(1)).await;
        client.send(Frame::WindowUpdate { id: 1, delta: 10 }).await;
        client.send(Frame::Ping { id: 1 }).await;
        let stream = connection.accept().await.unwrap();
        assert!(matches!(client.next().await.unwrap().0, Frame::SynReply { .. }));
        assert!(matches!(client.next().await.unwrap().0, Frame::Ping { id: 1 }));
        let writer = stream.writer.clone();
        let sending = tokio::spawn(async move { writer.send(Bytes::from(vec![7; 80_000])).await });
        let mut seen = 0;
        while seen < 65_546 {
            seen += client.next().await.unwrap().1.len();
        }
        assert_eq!(seen, 65_546, "initial window plus the update");
        assert!(!sending.is_finished());
        client.send(Frame::WindowUpdate { id: 1, delta: 1 << 20 }).await;
        while seen < 80_000 {
            seen += client.next().await.unwrap().1.len();
        }
        sending.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reset_stream_is_gone_at_once() {
        let (mut client, mut connection, _driver) = pair(1);
        client.send(syn(1)).await;
        let stream = connection.accept().await.unwrap();
        stream.writer.reset(STATUS_CANCEL);
        assert!(matches!(client.next().await.unwrap().0, Frame::SynReply { id: 1, .. }));
        assert!(matches!(client.next().await.unwrap().0, Frame::RstStream { id: 1, status: STATUS_CANCEL }));
        assert!(matches!(stream.writer.send(Bytes::from_static(b"x")).await, Err(StreamError::Closed)));
        client.send(syn(3)).await;
        assert_eq!(connection.accept().await.unwrap().id, 3, "its place is free again");
    }

    #[tokio::test]
    async fn too_many_streams_are_refused() {
        let (mut client, mut connection, _driver) = pair(1);
        client.send(syn(1)).await;
        client.send(syn(3)).await;
        let _held = connection.accept().await.unwrap();
        assert!(matches!(client.next().await.unwrap().0, Frame::SynReply { id: 1, .. }));
        assert!(matches!(client.next().await.unwrap().0, Frame::RstStream { id: 3, status: STATUS_REFUSED }));
    }
}
