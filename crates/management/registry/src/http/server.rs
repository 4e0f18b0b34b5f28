//! Connections: TCP with or without TLS, and the administrator's socket. Each has bounds in number and time.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use sampan_daemon::Supervisor;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
    time::{Instant, Sleep},
};
use tokio_rustls::TlsAcceptor;

use super::{Peer, direct::Direct};
use crate::{core::Core, error::Error};

/// Requests of one HTTP/2 connection at a time.
const STREAMS: u32 = 128;

/// Where it listens.
pub(crate) struct Bound {
    listeners: Vec<TcpListener>,
    tls: Option<TlsAcceptor>,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Bound {
    pub(crate) async fn bind(core: &Core) -> Result<Self, Error> {
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for address in &core.options.listen {
            let listener =
                TcpListener::bind(address).await.map_err(Error::io(format!("listen on {address}")))?;
            addresses.push(listener.local_addr().map_err(Error::io("listen"))?);
            listeners.push(listener);
        }
        let tls = match &core.options.identity {
            None => None,
            Some(identity) => {
                let config = sampan_daemon::tls::live_server_config(identity.clone(), None, false)?;
                Some(TlsAcceptor::from(config))
            }
        };
        Ok(Self { listeners, tls, addresses })
    }

    pub(crate) fn serve(self, core: &Arc<Core>, supervisor: &Supervisor) -> Result<(), Error> {
        let seats = Arc::new(Semaphore::new(core.options.limits.connections));
        let crowd = Arc::new(Crowd::default());
        for (listener, address) in self.listeners.into_iter().zip(&self.addresses) {
            let (core, seats, crowd, tls) = (core.clone(), seats.clone(), crowd.clone(), self.tls.clone());
            let supervisor_of = supervisor.clone();
            supervisor.spawn(format!("listen-{address}"), async move {
                accept(listener, &core, &seats, &crowd, tls.as_ref(), &supervisor_of).await;
            });
        }
        serve_socket(core, supervisor)
    }
}

async fn accept(
    listener: TcpListener,
    core: &Arc<Core>,
    seats: &Arc<Semaphore>,
    crowd: &Arc<Crowd>,
    tls: Option<&TlsAcceptor>,
    supervisor: &Supervisor,
) {
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: those that end give some back.
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = crowd.enter(peer.ip(), core.options.limits.connections_per_address) else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (core, tls, inner) = (core.clone(), tls.cloned(), supervisor.clone());
        supervisor.spawn("connection", async move {
            core.metrics.connections.fetch_add(1, Ordering::Relaxed);
            connection(&core, stream, peer.ip(), tls.as_ref(), &inner).await;
            core.metrics.connections.fetch_sub(1, Ordering::Relaxed);
            drop((seat, place));
        });
    }
}

async fn connection(
    core: &Arc<Core>,
    stream: TcpStream,
    from: IpAddr,
    tls: Option<&TlsAcceptor>,
    supervisor: &Supervisor,
) {
    let stall = core.options.limits.stall;
    let mut peer = Peer { from, tls: tls.is_some(), local: false, notes: None };
    let Some(acceptor) = tls else {
        let (stream, notes) = Direct::new(stream);
        peer.notes = Some(notes);
        return talk(core, Patient::new(stream, stall), peer, supervisor).await;
    };
    // A client that goes away in the middle is no event worth a line.
    let shaken = tokio::time::timeout(core.options.limits.head, acceptor.accept(stream)).await;
    if let Ok(Ok(stream)) = shaken {
        talk(core, Patient::new(stream, stall), peer, supervisor).await;
    }
}

async fn talk<S>(core: &Arc<Core>, stream: S, peer: Peer, supervisor: &Supervisor)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &core.options.limits;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .adaptive_window(true)
        .max_header_list_size(32 << 10)
        .keep_alive_interval(limits.head)
        .keep_alive_timeout(limits.head);
    let service = service_fn(|request| {
        let (core, peer) = (core.clone(), peer.clone());
        async move { Ok::<_, Infallible>(super::answer(core, peer, request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let token = supervisor.token();
    tokio::select! {
        _ = connection.as_mut() => return,
        () = token.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// The socket that only its owner can open: whoever can is the administrator.
fn serve_socket(core: &Arc<Core>, supervisor: &Supervisor) -> Result<(), Error> {
    let path = core.socket();
    // A socket left by a killed process is replaced; the store's lock says that nobody else is here.
    let _ = std::fs::remove_file(&path);
    let failed = || Error::io(path.display().to_string());
    // Nobody may open it before its mode is set: the directory does not let others in.
    std::fs::set_permissions(&core.options.dir, std::fs::Permissions::from_mode(0o700)).map_err(failed())?;
    let listener = UnixListener::bind(&path).map_err(failed())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed())?;
    let seats = Arc::new(Semaphore::new(64));
    let (core, inner) = (core.clone(), supervisor.clone());
    supervisor.spawn("admin-socket", async move {
        while let (Ok(seat), Ok((stream, _))) = (seats.clone().acquire_owned().await, listener.accept().await)
        {
            let (core, supervisor) = (core.clone(), inner.clone());
            inner.spawn("admin-connection", async move {
                let peer = Peer { from: Ipv4Addr::LOCALHOST.into(), tls: false, local: true, notes: None };
                talk(&core, stream, peer, &supervisor).await;
                drop(seat);
            });
        }
    });
    Ok(())
}

/// Connections by address.
#[derive(Debug, Default)]
struct Crowd(Mutex<HashMap<IpAddr, usize>>);

struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    fn enter(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Place> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { crowd: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// Fails when the other side takes nothing for too long.
struct Patient<S> {
    stream: S,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        let deadline = Instant::now() + self.patience;
        let sleep = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buffer);
        this.watch(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, buffers);
        this.watch(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.watch(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch(cx, outcome)
    }
}
