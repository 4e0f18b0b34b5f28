//! The node's network: a bridge with addresses, service tables in nftables, and cluster DNS.
//!
//! A mechanism: it knows network namespaces, addresses and ports, and nothing of what an orchestrator calls them.
//! It speaks netlink to the kernel directly and runs no other program.
//!
//! [`Options`] -> [`Network::start`] -> [`Network`], which is the handle.

pub mod cidr;
pub mod dns;
pub mod error;
pub mod netns;
pub mod network;
pub mod service;

pub use cidr::Cidr;
pub use dns::{Dns, DnsEndpoint, DnsOptions, DnsPort, DnsRecords, DnsTarget};
pub use error::{Error, Result};
pub use network::{Attachment, Network, Options, free_cidr, host_address};
pub use service::{ApplyReport, HostPort, Protocol, ServiceEntry, ServicePort};
