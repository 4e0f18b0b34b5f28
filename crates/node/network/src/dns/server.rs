//! The server's loop: UDP datagrams and TCP connections, many questions under way in one task.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    forward::{Forwarder, MAX_TTL},
    wire::{Incoming, Query, Rcode, Rdata, Reply, Section, read_query},
    zone::{Outcome, Zone},
};

/// Questions of UDP clients that wait for other servers.
const MAX_WAITING: usize = 1024;
/// TCP connections; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;
/// How long a TCP client may be silent.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// No question is longer, whatever EDNS options it has.
const MAX_QUESTION: usize = 4096;

/// The open sockets.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Listen.
    pub async fn bind(address: Ipv4Addr, port: u16) -> io::Result<Self> {
        let udp = UdpSocket::bind((address, port)).await?;
        let address = udp.local_addr()?;
        let tcp = TcpSocket::new_v4()?;
        // Connections of an earlier process may still be closing.
        tcp.set_reuseaddr(true)?;
        tcp.bind(address)?;
        Ok(Self { udp, tcp: tcp.listen(128)? })
    }

    /// Where they listen.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// What answers questions.
#[derive(Debug)]
pub struct Service {
    /// Our own names.
    pub zone: Zone,
    /// All others.
    pub forwarder: Forwarder,
}

enum Next {
    Send(Vec<u8>),
    Ask(Box<Query>, Outcome),
    Nothing,
}

impl Service {
    fn consider(&self, bytes: &[u8], tcp: bool) -> Next {
        match read_query(bytes, tcp) {
            Incoming::Ignore => Next::Nothing,
            Incoming::Reply(reply) => Next::Send(reply),
            Incoming::Query(query) => match self.zone.answer(&query) {
                Outcome::Reply(reply) => Next::Send(reply),
                outcome => Next::Ask(query, outcome),
            },
        }
    }

    /// Ask other servers.
    async fn ask(&self, query: &Query, outcome: Outcome) -> Vec<u8> {
        let failed = || Reply::new(query, Rcode::ServFail).finish();
        match outcome {
            Outcome::Reply(reply) => reply,
            Outcome::NotOurs => match self.forwarder.resolve(&query.name, query.kind).await {
                Some((answer, age)) => answer.reply(query, age, MAX_TTL),
                None => failed(),
            },
            // Clients do not follow aliases themselves: give them the whole way.
            Outcome::Elsewhere(chain, target) => {
                let Some((answer, age)) = self.forwarder.resolve(&target, query.kind).await else {
                    return failed();
                };
                let rcode = match answer.rcode() {
                    0 => Rcode::NoError,
                    3 => Rcode::NxDomain,
                    _ => return failed(),
                };
                let mut reply = Reply::new(query, rcode);
                for (owner, data) in &chain {
                    reply.push(Section::Answer, owner, self.zone.ttl(), data);
                }
                for (owner, ttl, data) in answer.chain() {
                    if matches!(data, Rdata::Cname(_)) || data.kind() == query.kind {
                        reply.push(Section::Answer, &owner, ttl.min(MAX_TTL).saturating_sub(age), &data);
                    }
                }
                reply.finish()
            }
        }
    }

    /// Serve until cancelled.
    pub async fn run(&self, sockets: Arc<Sockets>) -> io::Result<()> {
        let mut waiting = FuturesUnordered::new();
        let mut connections = FuturesUnordered::new();
        let mut buffer = vec![0; MAX_QUESTION];
        loop {
            tokio::select! {
                received = sockets.udp.recv_from(&mut buffer) => {
                    // An error here is about an earlier reply that a client did not want.
                    let Ok((length, from)) = received else { continue };
                    match self.consider(&buffer[..length], false) {
                        Next::Nothing => {}
                        Next::Send(reply) => send(&sockets.udp, &reply, from).await,
                        Next::Ask(query, _) if waiting.len() >= MAX_WAITING => {
                            let reply = Reply::new(&query, Rcode::ServFail).finish();
                            send(&sockets.udp, &reply, from).await;
                        }
                        Next::Ask(query, outcome) => waiting.push(async move {
                            (self.ask(&query, outcome).await, from)
                        }),
                    }
                }
                Some((reply, to)) = waiting.next() => send(&sockets.udp, &reply, to).await,
                accepted = sockets.tcp.accept(), if connections.len() < MAX_CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => connections.push(self.connection(stream)),
                        // Out of descriptors or memory: wait for connections to end, if there are any.
                        Err(error) if connections.is_empty() => return Err(error),
                        Err(_) => drop(connections.next().await),
                    }
                }
                Some(_ended) = connections.next() => {}
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let question = async {
                let length = usize::from(stream.read_u16().await?);
                if length > MAX_QUESTION {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let mut bytes = vec![0; length];
                stream.read_exact(&mut bytes).await.map(|_| bytes)
            };
            let bytes = timeout(MAX_SILENCE, question).await??;
            let reply = match self.consider(&bytes, true) {
                Next::Nothing => return Ok(()),
                Next::Send(reply) => reply,
                Next::Ask(query, outcome) => self.ask(&query, outcome).await,
            };
            let mut message = u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
            message.extend_from_slice(&reply);
            timeout(MAX_SILENCE, stream.write_all(&message)).await??;
        }
    }
}

/// A reply that cannot be sent is lost like any datagram: the client asks again.
async fn send(udp: &UdpSocket, reply: &[u8], to: SocketAddr) {
    let _ = udp.send_to(reply, to).await;
}
