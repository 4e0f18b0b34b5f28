//! The node's network: a bridge with addresses, service tables in nftables, and cluster DNS.
//!
//! A mechanism: it knows network namespaces, addresses and ports, and nothing of what an orchestrator calls them.
//! It speaks netlink to the kernel directly and runs no other program.
//!
//! [`Options`] -> [`Network::start`] -> [`Network`], which is the handle.

pub mod cidr;
mod conntrack;
pub mod dns;
pub mod error;
mod firewall;
mod host;
mod leases;
mod link;
mod monitor;
mod netlink;
pub mod netns;
pub mod network;
mod nft;
pub mod service;
mod tables;

pub use cidr::Cidr;
pub use dns::{Dns, DnsEndpoint, DnsOptions, DnsPort, DnsRecords, DnsTarget};
pub use error::{Error, Result};
pub use host::{free_cidr, host_address};
pub use network::{Attachment, Network, Options};
pub use service::{ApplyReport, HostPort, Protocol, ServiceEntry, ServicePort};
