//! A small blocking netlink client: messages are encoded into one buffer, sent with one call, and the kernel's
//! answers are read back. Requests are handled inside `send`, so nothing here waits on anything remote.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt},
};

/// Asks for an answer even when all went well.
pub const ACK: u16 = libc::NLM_F_ACK as u16;
/// Create what is not there.
pub const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// Fail when it is there already.
pub const EXCL: u16 = libc::NLM_F_EXCL as u16;
/// Replace what is there.
pub const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
/// List everything.
pub const DUMP: u16 = libc::NLM_F_DUMP as u16;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const HEADER: usize = 16;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// The kernel never makes a dump datagram larger than this.
const RECEIVE: usize = 64 * 1024;

/// Encodes netlink messages one after the other.
#[derive(Debug, Default)]
pub struct Buf {
    bytes: Vec<u8>,
    start: usize,
    messages: u32,
}

impl Buf {
    /// Start the next message; what is put next belongs to it. Call [`Buf::end`] when it is complete.
    pub fn begin(&mut self, kind: u16, flags: u16) -> &mut Self {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.messages += 1;
        self
    }

    /// The message is complete.
    pub fn end(&mut self) {
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// A fixed header.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute.
    pub fn attr(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        let length = u16::try_from(data.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.put(data)
    }

    /// A number in the machine's byte order, as rtnetlink has it.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order, as nfnetlink has it.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A text, with the zero byte at its end.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let length = u16::try_from(value.len() + 5).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
        self
    }

    /// An attribute made of attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// What was put so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Messages so far.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Ask for an answer to the message that was begun last.
    pub fn ack_last(&mut self) {
        if self.messages > 0 {
            let at = self.start + 6;
            let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | ACK;
            self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        }
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// What the kernel answered to a request it refused.
#[derive(Debug)]
pub struct Refusal {
    errno: Errno,
    text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.errno.desc())?;
        if self.text.is_empty() { Ok(()) } else { write!(f, " ({})", self.text) }
    }
}

impl std::error::Error for Refusal {}

/// The error number inside, whether it came from a system call or from an answer.
pub fn errno(error: &io::Error) -> Option<Errno> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>()) {
        Some(refusal) => Some(refusal.errno),
        None => error.raw_os_error().map(Errno::from_raw),
    }
}

/// Whether `result` failed with one of these, which the caller takes for success.
pub fn tolerate(result: io::Result<()>, fine: &[Errno]) -> io::Result<()> {
    match result {
        Err(error) if errno(&error).is_some_and(|errno| fine.contains(&errno)) => Ok(()),
        other => other,
    }
}

/// One received message.
#[derive(Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// The port of the socket that caused it.
    pub port: u32,
    /// What follows the netlink header.
    pub body: &'a [u8],
}

/// A netlink socket, bound, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    receive: Vec<u8>,
}

impl Socket {
    /// A socket for links, addresses, routes.
    pub fn route() -> io::Result<Self> {
        let socket = Self::open(SockProtocol::NetlinkRoute, 0, SockFlag::empty())?;
        Ok(socket)
    }

    /// A socket for nftables and conntrack.
    pub fn netfilter() -> io::Result<Self> {
        let socket = Self::open(SockProtocol::NetlinkNetFilter, 0, SockFlag::empty())?;
        // A batch is one datagram, and a full one may hold every service. Bounded by [`crate::tables`].
        let size = 64 << 20;
        if socket::setsockopt(&socket.fd, sockopt::SndBufForce, &size).is_err() {
            socket::setsockopt(&socket.fd, sockopt::SndBuf, &size)?;
        }
        Ok(socket)
    }

    /// A non-blocking socket that hears about every change to nftables.
    pub fn netfilter_monitor() -> io::Result<Self> {
        // NFNLGRP_NFTABLES is group 7; the address takes a mask.
        let socket = Self::open(SockProtocol::NetlinkNetFilter, 1 << 6, SockFlag::SOCK_NONBLOCK)?;
        // Room for what a large change of our own announces; losing some is noticed and only costs a look.
        let size = 16 << 20;
        if socket::setsockopt(&socket.fd, sockopt::RcvBufForce, &size).is_err() {
            socket::setsockopt(&socket.fd, sockopt::RcvBuf, &size)?;
        }
        Ok(socket)
    }

    fn open(protocol: SockProtocol, groups: u32, flags: SockFlag) -> io::Result<Self> {
        let fd =
            socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC | flags, protocol)?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        let port = socket::getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        // Answers carry the reason as text, and not the whole request.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            let on: libc::c_int = 1;
            // SAFETY: `fd` is open and the option value is a live c_int of the length given.
            let result = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            Errno::result(result)?;
        }
        Ok(Self { fd, port, receive: Vec::new() })
    }

    /// The socket's own port: changes it caused carry it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Send all messages of the buffer with one call; every refusal counts, the first one is returned.
    pub fn request(&mut self, mut buf: Buf) -> io::Result<()> {
        buf.ack_last();
        let last = buf.messages.wrapping_sub(1);
        self.send(&buf)?;
        let mut failed = None;
        let mut done = false;
        while !done {
            self.receive(|message, sequence| {
                if message.kind != libc::NLMSG_ERROR as u16 {
                    return;
                }
                if let Some(refusal) = refusal(message.body) {
                    failed.get_or_insert(refusal);
                }
                done |= sequence == last;
            })?;
        }
        failed.map_or(Ok(()), |refusal| Err(refusal_error(refusal)))
    }

    /// Send a batch that the kernel applies as a whole or not at all. The last message before the closing frame is
    /// acknowledged; a refusal of any message, or of the whole, is an error.
    pub fn transact(&mut self, buf: &Buf, last: u32) -> io::Result<()> {
        self.send(buf)?;
        let mut failed = None;
        let mut done = false;
        while !done {
            let answer = self.receive_with(MsgFlags::MSG_DONTWAIT, |message, sequence| {
                if message.kind != libc::NLMSG_ERROR as u16 {
                    return;
                }
                if let Some(refusal) = refusal(message.body) {
                    failed.get_or_insert(refusal);
                }
                // Sequence 0 is the opening frame: an error there is about the whole, and nothing may follow.
                done |= sequence == last || sequence == 0;
            });
            match answer {
                // More errors than the socket's buffer holds: refused all the same.
                Err(error) if errno(&error) == Some(Errno::ENOBUFS) => {
                    failed.get_or_insert(Refusal { errno: Errno::ENOBUFS, text: String::new() });
                }
                // All answers are queued before `send` returns, so there is nothing to wait for.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    failed.get_or_insert(Refusal {
                        errno: Errno::EPROTO,
                        text: "no answer to a batch".to_owned(),
                    });
                    done = true;
                }
                other => other?,
            }
        }
        self.drain();
        failed.map_or(Ok(()), |refusal| Err(refusal_error(refusal)))
    }

    /// Send one request and give every message of the answer to `each`.
    pub fn list(&mut self, buf: &Buf, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        self.send(buf)?;
        let mut failed = None;
        let mut done = false;
        while !done {
            self.receive(|message, _| match i32::from(message.kind) {
                libc::NLMSG_DONE => done = true,
                libc::NLMSG_ERROR => {
                    failed = refusal(message.body);
                    done = true;
                }
                _ => each(message),
            })?;
        }
        failed.map_or(Ok(()), |refusal| Err(refusal_error(refusal)))
    }

    /// Read one datagram and give its messages to `each`. For the monitor socket.
    pub fn next(&mut self, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        self.receive(|message, _| each(message))
    }

    fn send(&self, buf: &Buf) -> io::Result<()> {
        loop {
            match socket::send(self.fd.as_raw_fd(), &buf.bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn receive(&mut self, each: impl FnMut(&Message<'_>, u32)) -> io::Result<()> {
        self.receive_with(MsgFlags::empty(), each)
    }

    fn receive_with(&mut self, flags: MsgFlags, mut each: impl FnMut(&Message<'_>, u32)) -> io::Result<()> {
        self.receive.resize(RECEIVE, 0);
        let length = loop {
            match socket::recv(self.fd.as_raw_fd(), &mut self.receive, flags) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        let mut rest = &self.receive[..length];
        while rest.len() >= HEADER {
            let size = read_u32(rest, 0) as usize;
            if size < HEADER || size > rest.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "torn netlink message"));
            }
            let message = Message {
                kind: u16::from_ne_bytes([rest[4], rest[5]]),
                port: read_u32(rest, 12),
                body: &rest[HEADER..size],
            };
            each(&message, read_u32(rest, 8));
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
        Ok(())
    }

    /// Drop answers that came after the one that settled a batch.
    fn drain(&mut self) {
        while socket::recv(self.fd.as_raw_fd(), &mut self.receive, MsgFlags::MSG_DONTWAIT).is_ok() {}
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

fn refusal_error(refusal: Refusal) -> io::Error {
    let kind = io::Error::from(refusal.errno).kind();
    io::Error::new(kind, refusal)
}

/// The refusal in the body of an error message, with the kernel's text when it sent one.
fn refusal(body: &[u8]) -> Option<Refusal> {
    let code = if body.len() >= 4 { read_u32(body, 0).cast_signed() } else { -libc::EPROTO };
    if code == 0 {
        return None;
    }
    // NLMSGERR_ATTR_MSG is 1; the request's own header comes first.
    let text = body.get(4 + HEADER..).and_then(|attrs| find(attrs, 1)).unwrap_or_default();
    Some(Refusal { errno: Errno::from_raw(-code), text: cstr(text).to_owned() })
}

/// Give every attribute to `each`; stops at the first torn one.
pub fn attrs<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u16, &'a [u8])) {
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff;
        if length < 4 || length > bytes.len() {
            return;
        }
        each(kind, &bytes[4..length]);
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
}

/// The first attribute of that kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut found = None;
    attrs(bytes, |this, data| {
        if this == kind && found.is_none() {
            found = Some(data);
        }
    });
    found
}

/// A text up to its zero byte; empty when it is not UTF-8.
pub fn cstr(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// A number in machine order, 0 when torn.
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_attributes_are_not_read_past() {
        let mut buf = Buf::default();
        buf.begin(1, 0).text(3, "eth0").nest(5, |b| {
            b.u32(7, 9);
        });
        buf.end();
        let body = &buf.bytes[HEADER..];
        assert_eq!(cstr(find(body, 3).unwrap()), "eth0");
        assert_eq!(read_u32(find(find(body, 5).unwrap(), 7).unwrap(), 0), 9);
        for cut in 0..body.len() {
            // Must neither panic nor invent.
            let _ = find(&body[..cut], 5);
        }
        assert!(refusal(&[]).is_some());
    }
}
