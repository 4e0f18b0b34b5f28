//! What an API server is told when it starts.

use std::{net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use sampan_store::Store;

use crate::{jwt::SigningKey, user::UserInfo};

/// Everything an API server needs. Nothing is read from the environment.
#[derive(Clone)]
pub struct Options {
    /// Addresses to listen on; port 0 picks a free one (see [`crate::Handle::addresses`]). May be empty.
    pub listen: Vec<SocketAddr>,
    /// Serving identity and the CA that client certificates are verified against
    /// (`sampan_daemon::tls::server_config(&serving, Some(ca), false)`).
    pub tls: Arc<rustls::ServerConfig>,
    /// Client identity and CA for the connections to nodes (logs, exec, attach, portforward).
    pub node_tls: Arc<rustls::ClientConfig>,
    /// Signs service account tokens.
    pub signing_key: Arc<SigningKey>,
    /// `iss` of service account tokens, e.g. `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Audiences that the server accepts and that tokens get when none is asked for. Usually the issuer.
    pub audiences: Vec<String>,
    /// Bearer tokens known beforehand.
    pub static_tokens: Vec<(String, UserInfo)>,
    /// Service addresses come from here; `.1` is the `kubernetes` Service and `.10` the cluster DNS.
    pub service_cidr: Cidr,
    /// Node ports, both ends included.
    pub node_ports: (u16, u16),
    /// Where pods reach this server: the endpoint of the `kubernetes` Service.
    pub advertise: Option<SocketAddr>,
    /// The state.
    pub store: Arc<dyn Store>,
    /// How extension servers know that a request comes from this server; without it they cannot trust what it says of
    /// its users.
    pub front_proxy: Option<FrontProxy>,
    /// Bounds.
    pub limits: Limits,
}

/// The identity with which requests are passed on to extension servers.
#[derive(Clone)]
pub struct FrontProxy {
    /// Who signed it, as PEM: published for extension servers.
    pub ca_pem: String,
    /// The client certificate.
    pub identity: sampan_daemon::tls::Issued,
}

/// An IPv4 or IPv6 block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// First address.
    pub address: IpAddr,
    /// Number of leading bits that are fixed.
    pub prefix: u8,
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s:?} is not an address block (hint: write it like 10.43.0.0/16)");
        let (address, prefix) = s.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most {
            return Err(bad());
        }
        Ok(Self { address, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Published limits. What happens at each is said with it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Request body in bytes; more is 413.
    pub body: usize,
    /// All request headers together in bytes; more closes the connection with 431.
    pub headers: usize,
    /// Path and query in bytes; more is 414.
    pub uri: usize,
    /// Ordinary requests at once, shared out among the priority levels; more wait in their queues, and are 429 with
    /// `Retry-After` where these are full or after 15 seconds.
    pub in_flight: usize,
    /// Watches, logs, exec and the like at once; more is 429 with `Retry-After`.
    pub long_running: usize,
    /// Connections at once; more wait in the listen queue.
    pub connections: usize,
    /// Events kept per resource for watchers that come back.
    pub history_events: usize,
    /// Bytes of those events.
    pub history_bytes: usize,
    /// Events queued for one watcher; a watcher that falls further behind is ended.
    pub watch_queue: usize,
    /// Time to complete the TLS handshake.
    pub handshake: Duration,
    /// Time to send the request's headers.
    pub header_read: Duration,
    /// Time to send the request's body.
    pub body_read: Duration,
    /// Objects in a list answer when no `limit` is given are not bounded; with one, this is the most.
    pub page: usize,
    /// How far back history is readable.
    pub history: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 3 << 20,
            headers: 64 << 10,
            uri: 16 << 10,
            in_flight: 600,
            long_running: 12_000,
            connections: 16_000,
            history_events: 512,
            history_bytes: 2 << 20,
            watch_queue: 1024,
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(20),
            body_read: Duration::from_secs(30),
            page: 10_000,
            history: Duration::from_secs(300),
        }
    }
}
