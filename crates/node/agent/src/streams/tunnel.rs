//! A byte stream inside a WebSocket: how `kubectl port-forward` carries SPDY through proxies.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::StreamError;
use super::websocket::{Message, Reader, Writer};

/// Bytes buffered in each direction between the WebSocket and the inner protocol.
const BUFFER: usize = 64 * 1024;

/// The inner end, and a future that moves bytes between it and the WebSocket on `io`.
pub fn tunnel<IO>(io: IO) -> (DuplexStream, impl Future<Output = Result<(), StreamError>> + Send)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (near, far) = tokio::io::duplex(BUFFER);
    (near, run(io, far))
}

async fn run<IO: AsyncRead + AsyncWrite + Unpin + Send>(
    io: IO,
    inner: DuplexStream,
) -> Result<(), StreamError> {
    let (read, write) = tokio::io::split(io);
    let (mut from_inner, mut to_inner) = tokio::io::split(inner);
    let mut reader = Reader::new(read);
    let mut writer = Writer::new(write);
    // One pong at a time: a newer ping replaces an unanswered one, as RFC 6455 allows.
    let (pongs, mut pong) = tokio::sync::watch::channel(bytes::Bytes::new());
    let inbound = async {
        while let Some(message) = reader.next().await? {
            match message {
                Message::Data(data) => to_inner.write_all(&data).await?,
                Message::Ping(payload) => {
                    pongs.send_replace(payload);
                }
                Message::Close => break,
            }
        }
        to_inner.shutdown().await?;
        Ok::<_, StreamError>(())
    };
    let outbound = async {
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            tokio::select! {
                Ok(()) = pong.changed() => {
                    let payload = pong.borrow_and_update().clone();
                    writer.pong(&payload).await?;
                }
                read = from_inner.read(&mut buffer) => match read? {
                    0 => return writer.close(1000, "").await,
                    n => writer.binary(&[], &buffer[..n]).await?,
                },
            }
        }
    };
    // The client hanging up ends the inner protocol, which then ends `outbound`; both must finish.
    let (inbound, outbound) = tokio::join!(inbound, outbound);
    inbound.and(outbound)
}
