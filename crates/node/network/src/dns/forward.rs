//! Names that are not ours: asked of other servers, and kept for a while.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    name::Name,
    wire::{Answer, MAX_UDP, Rcode, Unusable, write_query},
};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long all of them may take; clients give up after five seconds.
const TOTAL: Duration = Duration::from_millis(4500);
/// How often each server is asked.
const ROUNDS: usize = 2;
/// Questions under way at a time; what is over is answered with SERVFAIL.
const MAX_UNDER_WAY: usize = 512;
/// Answers kept, and the largest one.
const MAX_KEPT: usize = 4096;
const MAX_KEPT_LENGTH: usize = 8192;
/// How long an answer is kept at most, in seconds, and what is told to clients.
pub const MAX_TTL: u32 = 30;

type Key = (Name, u16);
type Outcome = Option<Arc<Answer>>;

/// Asks other servers.
#[derive(Debug)]
pub struct Forwarder {
    upstreams: Vec<SocketAddr>,
    /// The one that answered last.
    good: AtomicUsize,
    permits: Semaphore,
    kept: Mutex<Kept>,
    under_way: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
}

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Key, (Arc<Answer>, Instant, Duration)>,
    /// In the order they came.
    order: VecDeque<Key>,
}

impl Forwarder {
    /// Asks these, in that order.
    pub fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self {
            upstreams,
            good: AtomicUsize::new(0),
            permits: Semaphore::new(MAX_UNDER_WAY),
            kept: Mutex::default(),
            under_way: Mutex::default(),
        }
    }

    /// An answer and its age in seconds; `None` when no server gave one. The same question asked by many is sent once;
    /// so a question that came back to us, because a server we ask asks us, goes round no second time.
    pub async fn resolve(&self, name: &Name, kind: u16) -> Option<(Arc<Answer>, u32)> {
        let key = (name.clone(), kind);
        if let Some(kept) = lock(&self.kept).get(&key) {
            return Some(kept);
        }
        let waiting = lock(&self.under_way).get(&key).cloned();
        if let Some(mut waiting) = waiting {
            let done = timeout(TOTAL, waiting.wait_for(Option::is_some)).await;
            return done.ok()?.ok()?.clone().flatten().map(|answer| (answer, 0));
        }
        let _permit = self.permits.try_acquire().ok()?;
        let (done, waiting) = watch::channel(None);
        lock(&self.under_way).insert(key.clone(), waiting);
        let _under_way = UnderWay { forwarder: self, key: &key };
        let answer = timeout(TOTAL, self.ask_all(name, kind)).await.ok().flatten().map(Arc::new);
        if let Some(answer) = &answer {
            lock(&self.kept).put(key.clone(), answer);
        }
        // Nobody else waiting is fine.
        let _ = done.send(Some(answer.clone()));
        answer.map(|answer| (answer, 0))
    }

    async fn ask_all(&self, name: &Name, kind: u16) -> Option<Answer> {
        let count = self.upstreams.len();
        let mut refusal = None;
        for turn in 0..count * ROUNDS {
            let at = (self.good.load(Ordering::Relaxed) + turn) % count;
            let mut result = ask(self.upstreams[at], name, kind, true).await;
            // Old servers do not know EDNS.
            if result.as_ref().is_ok_and(|answer| answer.rcode() == Rcode::FormErr as u8) {
                result = ask(self.upstreams[at], name, kind, false).await;
            }
            match result {
                Ok(answer) if usable(answer.rcode()) => {
                    self.good.store(at, Ordering::Relaxed);
                    return Some(answer);
                }
                // It is of no help, but perhaps the next one is.
                Ok(answer) => refusal = Some(answer),
                Err(error) => {
                    tracing::debug!(upstream = %self.upstreams[at], %name, "no answer: {error}");
                }
            }
        }
        refusal
    }
}

fn usable(rcode: u8) -> bool {
    rcode == Rcode::NoError as u8 || rcode == Rcode::NxDomain as u8
}

/// Takes a question off the list, also when its asker is dropped in the middle.
struct UnderWay<'a> {
    forwarder: &'a Forwarder,
    key: &'a Key,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.forwarder.under_way).remove(self.key);
    }
}

impl Kept {
    fn get(&self, key: &Key) -> Option<(Arc<Answer>, u32)> {
        let (answer, since, life) = self.answers.get(key)?;
        let age = since.elapsed();
        (age < *life).then(|| (answer.clone(), u32::try_from(age.as_secs()).unwrap_or(u32::MAX)))
    }

    fn put(&mut self, key: Key, answer: &Arc<Answer>) {
        let life = answer.ttl().min(MAX_TTL);
        if life == 0 || !usable(answer.rcode()) || answer.len() > MAX_KEPT_LENGTH {
            return;
        }
        let entry = (answer.clone(), Instant::now(), Duration::from_secs(life.into()));
        if self.answers.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
        while self.answers.len() > MAX_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }
}

/// Ask one server: by UDP from a port of its own, and by TCP when the answer is too long.
async fn ask(server: SocketAddr, name: &Name, kind: u16, edns: bool) -> io::Result<Answer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // The number and the port are what an attacker who cannot listen would have to guess.
    let id = rand::random();
    let question = write_query(id, name, kind, edns);
    let by_udp = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(&question).await?;
        let mut buffer = vec![0; MAX_UDP];
        loop {
            let length = socket.recv(&mut buffer).await?;
            match Answer::read(buffer[..length].to_vec(), id, name, kind) {
                Ok(answer) => return Ok(Some(answer)),
                Err(Unusable::Truncated) => return Ok(None),
                Err(Unusable::Foreign) => {}
            }
        }
    };
    let by_tcp = async {
        let mut stream = TcpStream::connect(server).await?;
        let mut message = u16::try_from(question.len()).unwrap_or(0).to_be_bytes().to_vec();
        message.extend_from_slice(&question);
        stream.write_all(&message).await?;
        let length = stream.read_u16().await?;
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await?;
        let strange = |_| io::Error::new(io::ErrorKind::InvalidData, "not an answer to what was asked");
        Answer::read(bytes, id, name, kind).map_err(strange)
    };
    let by_udp: io::Result<Option<Answer>> = timeout(PATIENCE, by_udp).await?;
    match by_udp? {
        Some(answer) => Ok(answer),
        None => timeout(PATIENCE, by_tcp).await?,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
