//! Links, addresses and routes over rtnetlink.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::{errno::Errno, libc};

use crate::{
    Cidr,
    netlink::{self, Buf, CREATE, DUMP, EXCL, REPLACE, Socket, attrs, cstr, find, read_u32, tolerate},
};

const INET: u8 = libc::AF_INET as u8;
const UP: u32 = libc::IFF_UP as u32;

// Attributes that libc does not have.
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const BR_FORWARD_DELAY: u16 = 1;
const BR_MCAST_SNOOPING: u16 = 23;
const BRPORT_MODE: u16 = 4;
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;

/// A network link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The bridge it belongs to, 0 for none.
    pub master: u32,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// Largest packet.
    pub mtu: u32,
    /// `IFF_` flags.
    pub flags: u32,
    /// `bridge`, `veth` and so on; empty for hardware.
    pub kind: String,
}

/// A route as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; the whole Internet for the default route.
    pub destination: Cidr,
    /// Preferred source address.
    pub source: Option<Ipv4Addr>,
    /// Outgoing link, 0 for none.
    pub link: u32,
    /// Lower wins.
    pub metric: u32,
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let attributes = body.get(16..)?;
    let mut link = Link {
        index: read_u32(body, 4),
        name: String::new(),
        master: 0,
        mac: Vec::new(),
        mtu: 0,
        flags: read_u32(body, 8),
        kind: String::new(),
    };
    attrs(attributes, |kind, data| match kind {
        libc::IFLA_IFNAME => link.name = cstr(data).to_owned(),
        libc::IFLA_MASTER => link.master = read_u32(data, 0),
        libc::IFLA_ADDRESS => link.mac = data.to_vec(),
        libc::IFLA_MTU => link.mtu = read_u32(data, 0),
        libc::IFLA_LINKINFO => {
            link.kind = find(data, INFO_KIND).map(|kind| cstr(kind).to_owned()).unwrap_or_default();
        }
        _ => {}
    });
    Some(link)
}

/// The link of that name.
pub fn get(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_GETLINK, netlink::ACK).put(&link_header(0, 0, 0)).text(libc::IFLA_IFNAME, name).end();
    let mut link = None;
    let result = socket.list(&buf, |message| link = parse_link(message.body));
    tolerate(result, &[Errno::ENODEV])?;
    Ok(link)
}

/// Every link of that bridge.
pub fn ports(socket: &mut Socket, bridge: u32) -> io::Result<Vec<Link>> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_GETLINK, DUMP).put(&link_header(0, 0, 0)).u32(libc::IFLA_MASTER, bridge).end();
    let mut links = Vec::new();
    socket.list(&buf, |message| links.extend(parse_link(message.body)))?;
    // Older kernels ignore the filter.
    links.retain(|link| link.master == bridge);
    Ok(links)
}

/// Make a bridge, up. It keeps the hardware address whatever joins it.
pub fn add_bridge(socket: &mut Socket, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<()> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_NEWLINK, CREATE | EXCL)
        .put(&link_header(0, 0, 0))
        .text(libc::IFLA_IFNAME, name)
        .attr(libc::IFLA_ADDRESS, &mac)
        .u32(libc::IFLA_MTU, mtu)
        .nest(libc::IFLA_LINKINFO, |b| {
            b.text(INFO_KIND, "bridge").nest(INFO_DATA, |b| {
                // Ports forward at once, and multicast needs no table: there is one switch and no loop.
                b.u32(BR_FORWARD_DELAY, 0).attr(BR_MCAST_SNOOPING, &[0]);
            });
        })
        .end();
    socket.request(buf)
}

/// Change a link by name: up, MTU; no IPv6 link-local address, which nothing here uses.
pub fn set_up(socket: &mut Socket, name: &str, mtu: u32) -> io::Result<()> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_NEWLINK, 0)
        .put(&link_header(0, UP, UP))
        .text(libc::IFLA_IFNAME, name)
        .u32(libc::IFLA_MTU, mtu);
    no_link_local(&mut buf, mtu).end();
    socket.request(buf)
}

/// Remove a link by name; its peer goes too. A missing one is fine.
pub fn remove(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_DELLINK, 0).put(&link_header(0, 0, 0)).text(libc::IFLA_IFNAME, name).end();
    tolerate(socket.request(buf), &[Errno::ENODEV])
}

/// A pair of links: `host` on the bridge, `eth0` inside another namespace.
pub struct Veth<'a> {
    /// Name of the near end.
    pub host: &'a str,
    /// The bridge's number.
    pub bridge: u32,
    /// Where the far end is made.
    pub netns: BorrowedFd<'a>,
    /// Hardware address of the far end.
    pub mac: [u8; 6],
    /// Largest packet.
    pub mtu: u32,
}

/// Make the pair, the near end up on the bridge.
pub fn add_veth(socket: &mut Socket, veth: &Veth<'_>) -> io::Result<()> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_NEWLINK, CREATE | EXCL)
        .put(&link_header(0, 0, 0))
        .text(libc::IFLA_IFNAME, veth.host)
        .u32(libc::IFLA_MTU, veth.mtu)
        .u32(libc::IFLA_MASTER, veth.bridge)
        .nest(libc::IFLA_LINKINFO, |b| {
            b.text(INFO_KIND, "veth").nest(INFO_DATA, |b| {
                b.nest(VETH_INFO_PEER, |b| {
                    b.put(&link_header(0, 0, 0))
                        .text(libc::IFLA_IFNAME, "eth0")
                        .attr(libc::IFLA_ADDRESS, &veth.mac)
                        .u32(libc::IFLA_MTU, veth.mtu)
                        .u32(libc::IFLA_NET_NS_FD, veth.netns.as_raw_fd().cast_unsigned());
                });
            });
        })
        .end();
    // Hairpin: with br_netfilter a packet that comes back to its sender leaves through the port it came in.
    buf.begin(libc::RTM_NEWLINK, 0).put(&link_header(0, UP, UP)).text(libc::IFLA_IFNAME, veth.host).nest(
        libc::IFLA_LINKINFO,
        |b| {
            b.text(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, |b| {
                b.attr(BRPORT_MODE, &[1]);
            });
        },
    );
    no_link_local(&mut buf, veth.mtu).end();
    socket.request(buf)
}

/// Inside the new namespace: `lo` and `eth0` up, the address, and everything else through the gateway, neighbours
/// included, so that each packet passes the service tables of the host.
pub fn configure(
    socket: &mut Socket,
    eth0: u32,
    ip: Ipv4Addr,
    gateway: Ipv4Addr,
    mtu: u32,
) -> io::Result<()> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_NEWLINK, 0).put(&link_header(1, UP, UP)).end();
    buf.begin(libc::RTM_NEWLINK, 0).put(&link_header(eth0, UP, UP));
    no_link_local(&mut buf, mtu).end();
    put_address(&mut buf, eth0, ip, 32, None);
    put_route(
        &mut buf,
        &NewRoute { destination: host(gateway), link: eth0, source: Some(ip), gateway: None },
    );
    put_route(&mut buf, &NewRoute { destination: any(), link: eth0, source: None, gateway: Some(gateway) });
    socket.request(buf)
}

fn no_link_local(buf: &mut Buf, mtu: u32) -> &mut Buf {
    // Links below 1280 bytes have no IPv6 at all, and the kernel refuses to hear of it then.
    if mtu < 1280 || !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        return buf;
    }
    buf.nest(libc::IFLA_AF_SPEC, |b| {
        b.nest(libc::AF_INET6 as u16, |b| {
            b.attr(INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
        });
    })
}

fn host(address: Ipv4Addr) -> Cidr {
    Cidr::new(address, 32).unwrap_or_else(any)
}

fn any() -> Cidr {
    Cidr::default()
}

/// Bring `lo` up in the namespace of the socket.
pub fn loopback_up(socket: &mut Socket) -> io::Result<()> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_NEWLINK, 0).put(&link_header(1, UP, UP)).end();
    socket.request(buf)
}

fn put_address(buf: &mut Buf, link: u32, ip: Ipv4Addr, prefix: u8, broadcast: Option<Ipv4Addr>) {
    let mut header = [INET, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    buf.begin(libc::RTM_NEWADDR, CREATE | REPLACE)
        .put(&header)
        .attr(libc::IFA_LOCAL, &ip.octets())
        .attr(libc::IFA_ADDRESS, &ip.octets());
    if let Some(broadcast) = broadcast {
        buf.attr(libc::IFA_BROADCAST, &broadcast.octets());
    }
    buf.end();
}

/// Give a link an address.
pub fn add_address(socket: &mut Socket, link: u32, ip: Ipv4Addr, net: Option<Cidr>) -> io::Result<()> {
    let mut buf = Buf::default();
    put_address(&mut buf, link, ip, net.map_or(32, |net| net.prefix()), net.map(|net| net.broadcast()));
    socket.request(buf)
}

/// Every IPv4 address: link, address, prefix length, scope.
pub fn addresses(socket: &mut Socket) -> io::Result<Vec<(u32, Ipv4Addr, u8, u8)>> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_GETADDR, DUMP).put(&[INET, 0, 0, 0, 0, 0, 0, 0]).end();
    let mut found = Vec::new();
    socket.list(&buf, |message| {
        let Some(attributes) = message.body.get(8..) else { return };
        let local = find(attributes, libc::IFA_LOCAL).or_else(|| find(attributes, libc::IFA_ADDRESS));
        if message.body[0] == INET
            && let Some(ip) = local.and_then(address)
        {
            found.push((read_u32(message.body, 4), ip, message.body[1], message.body[3]));
        }
    })?;
    Ok(found)
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

struct NewRoute {
    destination: Cidr,
    link: u32,
    source: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
}

fn put_route(buf: &mut Buf, route: &NewRoute) {
    let scope = if route.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    let header = [
        INET,
        route.destination.prefix(),
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        scope,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    buf.begin(libc::RTM_NEWROUTE, CREATE | REPLACE).put(&header);
    if route.destination.prefix() > 0 {
        buf.attr(libc::RTA_DST, &route.destination.network().octets());
    }
    buf.u32(libc::RTA_OIF, route.link);
    if let Some(source) = route.source {
        buf.attr(libc::RTA_PREFSRC, &source.octets());
    }
    if let Some(gateway) = route.gateway {
        buf.attr(libc::RTA_GATEWAY, &gateway.octets());
    }
    buf.end();
}

/// Send a network out through a link, under that source address.
pub fn add_route(socket: &mut Socket, destination: Cidr, link: u32, source: Ipv4Addr) -> io::Result<()> {
    let mut buf = Buf::default();
    put_route(&mut buf, &NewRoute { destination, link, source: Some(source), gateway: None });
    socket.request(buf)
}

/// Every IPv4 unicast route, of all tables.
pub fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let mut buf = Buf::default();
    buf.begin(libc::RTM_GETROUTE, DUMP).put(&[INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).end();
    let mut found = Vec::new();
    socket.list(&buf, |message| {
        let Some(attributes) = message.body.get(12..) else { return };
        if message.body[0] != INET || message.body[7] != libc::RTN_UNICAST {
            return;
        }
        let to = find(attributes, libc::RTA_DST).and_then(address).unwrap_or(Ipv4Addr::UNSPECIFIED);
        let Some(destination) = Cidr::new(to, message.body[1]) else { return };
        found.push(Route {
            destination,
            source: find(attributes, libc::RTA_PREFSRC).and_then(address),
            link: find(attributes, libc::RTA_OIF).map_or(0, |b| read_u32(b, 0)),
            metric: find(attributes, libc::RTA_PRIORITY).map_or(0, |b| read_u32(b, 0)),
        });
    })?;
    Ok(found)
}
