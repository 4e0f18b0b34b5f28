//! What can go wrong, where, and what to do about it.

use std::{io, net::Ipv4Addr, path::PathBuf};

use crate::Cidr;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the node's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("{what}: {source}")]
    Kernel {
        /// What was asked, of which object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of ours could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// An answer of the kernel that makes no sense.
    #[error("{0}: unexpected answer from the kernel")]
    Protocol(String),
    /// The options contradict themselves.
    #[error("network options: {0}")]
    Options(String),
    /// Not an IPv4 network in `a.b.c.d/n` form.
    #[error("{0:?} is not an IPv4 network (hint: write it like 10.42.0.0/16)")]
    Cidr(String),
    /// Every address of the node's network is in use.
    #[error("no free address left in {0} (hint: remove pods, or start with a larger node network)")]
    Exhausted(Cidr),
    /// The id cannot name an attachment.
    #[error("attachment id {0:?} is empty, too long or has a control character")]
    Id(String),
    /// A port of the host is taken by another attachment.
    #[error("host port {address}:{port}/{protocol} is in use by {owner} (hint: choose another hostPort)")]
    HostPort {
        /// The address asked for, 0.0.0.0 for all.
        address: Ipv4Addr,
        /// The port asked for.
        port: u16,
        /// tcp, udp or sctp.
        protocol: crate::Protocol,
        /// The attachment that has it.
        owner: String,
    },
    /// A service or record set that cannot be expressed.
    #[error("service {id}: {reason}")]
    Service {
        /// Whose.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// `update` came before the first `apply`.
    #[error("services were never applied (hint: call apply with the full list once, then update)")]
    NotSynced,
    /// The DNS server could not listen.
    #[error("DNS cannot listen on {address}: {source} (hint: see who listens with `ss -lnptu`)")]
    DnsBind {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source }
    }

    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
