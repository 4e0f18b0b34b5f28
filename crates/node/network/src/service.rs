//! What a service is here: addresses and ports in front of endpoints.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name in lower case, as DNS SRV names have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One service: every address x port leads to that port's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Unique among services, for example `namespace/name`.
    pub id: String,
    /// The virtual addresses inside the service network; empty for a headless service.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// Other addresses that lead to the service: external addresses, load balancer ingress.
    pub external_ips: Vec<Ipv4Addr>,
    /// The ports; no two with the same protocol and port.
    pub ports: Vec<ServicePort>,
    /// `Some`: a client address stays with its endpoint until it was silent for that long.
    pub session_affinity: Option<Duration>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port on the virtual addresses.
    pub port: u16,
    /// The port on every address of the node, 127.0.0.1 included.
    pub node_port: Option<u16>,
    /// Where connections go. None: they are refused at once.
    pub endpoints: Vec<SocketAddrV4>,
}

/// A port of the host that leads to a port of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The host's address to listen on; `None` for all.
    pub host_ip: Option<Ipv4Addr>,
    /// The port on the host.
    pub host_port: u16,
    /// The port in the attachment.
    pub port: u16,
}

/// What one change of the service tables cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Netlink messages sent, batch frames not counted.
    pub messages: usize,
    /// Map elements added or removed.
    pub elements: usize,
    /// Bytes sent.
    pub bytes: usize,
    /// The kernel's table was lost or differed and was written anew.
    pub rebuilt: bool,
}
