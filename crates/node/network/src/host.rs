//! The host's side: the bridge, its addresses and routes, kernel settings, and which networks are free.

use std::{fs, io, net::Ipv4Addr, path::PathBuf};

use nix::errno::Errno;

use crate::{
    Cidr, Error, Options, Result, link,
    netlink::{Socket, tolerate},
};

/// `RT_SCOPE_UNIVERSE`, of addresses that others can reach.
const GLOBAL: u8 = 0;

/// Make the bridge and all that hangs on it, or complete what is there. Returns the bridge's number.
pub fn set_up(socket: &mut Socket, options: &Options, gateway: Ipv4Addr) -> Result<u32> {
    let name = &options.bridge;
    let what = |what: &str| Error::kernel(format!("bridge {name}: {what}"));
    let made = link::add_bridge(socket, name, mac(gateway), options.mtu);
    tolerate(made, &[Errno::EEXIST]).map_err(what("create"))?;
    let bridge = link::get(socket, name).map_err(what("look up"))?;
    let bridge = bridge.ok_or_else(|| Error::Protocol(format!("bridge {name}")))?;
    if bridge.kind != "bridge" {
        return Err(Error::Options(format!(
            "a link {name} exists and is no bridge (hint: choose another bridge name, or remove it)"
        )));
    }
    link::set_up(socket, name, options.mtu).map_err(what("bring up"))?;
    let index = bridge.index;
    link::add_address(socket, index, gateway, Some(options.node_cidr)).map_err(what("gateway address"))?;
    link::add_address(socket, index, options.dns_address, None).map_err(what("DNS address"))?;
    link::add_route(socket, options.service_cidr, index, gateway).map_err(what("route to services"))?;
    sysctl("net/ipv4/ip_forward", "1")?;
    // 127.0.0.1:nodePort leaves through the bridge and comes back; the table's `guard` chain keeps pods out of it.
    sysctl(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    // Pods send through the gateway on purpose; being told of the direct way would lead them around the services, and it
    // would use up the rate limit of ICMP answers besides. A link's setting is ORed with that of `all`, so other links,
    // which have their own, are not affected.
    sysctl(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
    sysctl("net/ipv4/conf/all/send_redirects", "0")?;
    Ok(index)
}

/// Remove the bridge and the links on it; addresses and routes go with them.
pub fn tear_down(socket: &mut Socket, name: &str) -> Result<()> {
    let what = || Error::kernel(format!("remove bridge {name}"));
    let Some(bridge) = link::get(socket, name).map_err(what())? else { return Ok(()) };
    for port in link::ports(socket, bridge.index).map_err(what())? {
        link::remove(socket, &port.name).map_err(what())?;
    }
    link::remove(socket, name).map_err(what())
}

/// A hardware address made from the IP address, locally administered: when an address is used again, the entries
/// that neighbours remember are right.
pub fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Write a kernel setting unless it is so already: it may be read-only where it is.
fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = PathBuf::from("/proc/sys").join(name);
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| {
        let source = io::Error::new(
            source.kind(),
            format!(
                "{source} (hint: run as root, and set {}={value} by hand where /proc/sys is read-only)",
                name.replace('/', ".")
            ),
        );
        Error::File { path, source }
    })
}

/// The first candidate that overlaps no route and no address of this machine.
///
/// # Errors
/// The kernel does not tell its routes.
pub fn free_cidr(candidates: &[Cidr]) -> Result<Option<Cidr>> {
    let what = || Error::kernel("list routes and addresses");
    let mut socket = Socket::route().map_err(what())?;
    let routes = link::routes(&mut socket).map_err(what())?;
    let addresses = link::addresses(&mut socket).map_err(what())?;
    // A default route, or the two halves that VPNs like to use, is about the rest of the world.
    let mut taken: Vec<Cidr> =
        routes.iter().map(|route| route.destination).filter(|d| d.prefix() > 1).collect();
    taken.extend(addresses.iter().filter_map(|&(_, ip, prefix, _)| Cidr::new(ip, prefix)));
    Ok(candidates.iter().copied().find(|candidate| !taken.iter().any(|taken| taken.overlaps(candidate))))
}

/// The address under which others reach this machine: the source address of its default route, else the first
/// global address of any link.
///
/// # Errors
/// The kernel does not tell its routes.
pub fn host_address() -> Result<Option<Ipv4Addr>> {
    let what = || Error::kernel("list routes and addresses");
    let mut socket = Socket::route().map_err(what())?;
    let routes = link::routes(&mut socket).map_err(what())?;
    let addresses = link::addresses(&mut socket).map_err(what())?;
    let global = |&&(_, ip, _, scope): &&(u32, Ipv4Addr, u8, u8)| scope == GLOBAL && !ip.is_loopback();
    let default =
        routes.iter().filter(|route| route.destination.prefix() == 0).min_by_key(|route| route.metric);
    let by_route = default.and_then(|route| {
        let on_link = addresses.iter().filter(global).find(|(link, ..)| *link == route.link);
        route.source.or_else(|| on_link.map(|(_, ip, ..)| *ip))
    });
    Ok(by_route.or_else(|| addresses.iter().find(global).map(|(_, ip, ..)| *ip)))
}
