//! The rules of the service table.
//!
//! A destination is a member of the set of its class, which stands for "so many endpoints"; the class has one rule,
//! which draws one of so many slots and looks up (destination . slot). A change of an endpoint is therefore a change
//! of one element, and what a new connection costs depends on how many different counts of endpoints there are, not
//! on how many services.
//!
//! Two things are avoided on purpose. Verdicts in large maps: the kernel walks all elements whenever one with a
//! verdict is added. And a map's result as another map's key: the kernel can, but the `nft` tool (1.0.6) cannot print
//! it and aborts, also when it is asked about other tables.
//!
//! Services with affinity are few; each has a chain of its own, and each of their endpoints a set of its clients.

use std::{fmt, net::Ipv4Addr};

use nix::libc;

use super::{
    Batch, Data, Hook, NewSet, Reg, Rule, SET_EVAL, SET_MAP, SET_TIMEOUT, TYPE_ADDRESS, TYPE_NUMBER,
    TYPE_PORT, TYPE_PROTOCOL, TYPE_VERDICT,
};
use crate::Cidr;

const HAIRPIN: &str = "hairpin";
const SERVICES: &str = "services";
/// Virtual addresses whose service has no endpoint; those inside the service network need no entry.
pub const UNSERVED: &str = "unserved";

/// Clients that an endpoint remembers; when there are more, the surplus has no affinity.
const MAX_CLIENTS: u32 = 1 << 16;

/// Classes that are made at the beginning, so that the most frequent ones come first.
const FIRST_CLASSES: u32 = 4;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
/// `IP_CT_NEW`'s bit of `ct state`, in machine order.
const STATE_NEW: u32 = 8;

/// What the fixed rules depend on.
#[derive(Clone, Debug)]
pub struct Layout {
    pub bridge: String,
    pub node_cidr: Cidr,
    pub pod_cidr: Cidr,
    pub service_cidr: Cidr,
    pub masquerade: bool,
}

/// The two kinds of destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// address . protocol . port
    Address,
    /// protocol . port, on every address of the machine
    Node,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "vip",
            Self::Node => "node",
        })
    }
}

impl Kind {
    const BOTH: [Self; 2] = [Self::Address, Self::Node];

    /// Set of all served destinations.
    pub fn all(self) -> String {
        format!("{self}s")
    }

    /// Map of destination . slot -> address . port.
    pub fn endpoints(self) -> String {
        format!("{self}-endpoints")
    }

    /// Set of the destinations with so many endpoints.
    pub fn class(self, endpoints: u32) -> String {
        format!("{self}-{endpoints}")
    }

    /// Map of destination -> chain, for services with affinity.
    pub fn sticky(self) -> String {
        format!("{self}-sticky")
    }

    /// Chain of the classes' rules.
    fn classes(self) -> String {
        format!("{self}-classes")
    }

    fn types(self) -> &'static [u32] {
        match self {
            Self::Address => &[TYPE_ADDRESS, TYPE_PROTOCOL, TYPE_PORT],
            Self::Node => &[TYPE_PROTOCOL, TYPE_PORT],
        }
    }

    /// The register after the key.
    fn end(self) -> Reg {
        Reg(u32::try_from(self.types().len()).unwrap_or(0))
    }

    /// Load the packet's destination into registers from 0.
    fn key(self, rule: Rule) -> Rule {
        let rule = match self {
            Self::Address => rule.payload(NETWORK_HEADER, DESTINATION, 4, Reg(0)),
            Self::Node => rule,
        };
        let at = self.end().0 - 2;
        rule.meta(libc::NFT_META_L4PROTO, Reg(at)).payload(TRANSPORT_HEADER, 2, 2, Reg(at + 1))
    }

    /// Send the connection to one of the destination's first `endpoints` slots.
    fn deliver(self, rule: Rule, endpoints: u32) -> Rule {
        self.key(rule)
            .random(endpoints, self.end())
            .lookup(&self.endpoints(), Reg(0), Reg(8))
            .dnat(Reg(8), Reg(9))
    }

    fn set<'a>(self, name: &'a str, slot: bool, flags: u32, data: (u32, u32)) -> NewSet<'a> {
        let slot: &[u32] = if slot { &[TYPE_NUMBER] } else { &[] };
        let types = [self.types(), slot].concat();
        NewSet {
            name,
            flags,
            key_type: concat(&types),
            key_len: u32::try_from(types.len() * 4).unwrap_or(0),
            data_type: data.0,
            data_len: data.1,
            size: 0,
        }
    }
}

fn concat(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, kind| all << 6 | kind)
}

/// Everything that does not change: maps, chains, fixed rules.
pub fn base(batch: &mut Batch, layout: &Layout) {
    let nat = |number, priority| Some(Hook { kind: "nat", number, priority });
    let filter = |number, priority| Some(Hook { kind: "filter", number, priority });
    batch.add_chain(SERVICES, None);
    batch.add_chain("guard", filter(0, -300));
    batch.add_chain("prerouting", nat(0, -100));
    batch.add_chain("output", nat(3, -100));
    batch.add_chain("postrouting", nat(4, 100));
    batch.add_chain("forward", filter(2, 0));
    batch.add_chain("local", filter(3, 0));
    batch.add_set(&Kind::Address.set(UNSERVED, false, 0, (0, 0)));
    for kind in Kind::BOTH {
        destinations(batch, kind);
    }
    batch.add_rule("prerouting", Rule::default().jump(SERVICES));
    batch.add_rule("output", Rule::default().jump(SERVICES));

    // route_localnet makes 127.0.0.0/8 reachable from pods; only answers, which carry the gateway's address here,
    // are meant to arrive.
    for offset in [SOURCE, DESTINATION] {
        let rule =
            Rule::default().meta(libc::NFT_META_IIFNAME, Reg(0)).compare(Reg(0), true, &link(&layout.bridge));
        batch.add_rule("guard", within(rule, offset, loopback(), true).drop());
    }
    hairpin_pairs(batch, layout.node_cidr);
    postrouting(batch, layout);
    refusals(batch, layout);
}

/// Maps and rules of one kind of destinations.
fn destinations(batch: &mut Batch, kind: Kind) {
    batch.add_set(&kind.set(&kind.all(), false, 0, (0, 0)));
    batch.add_set(&kind.set(&kind.endpoints(), true, SET_MAP, (concat(&[TYPE_ADDRESS, TYPE_PORT]), 8)));
    batch.add_set(&kind.set(&kind.sticky(), false, SET_MAP, (TYPE_VERDICT, 0)));
    let start = || match kind {
        Kind::Address => Rule::default(),
        Kind::Node => {
            Rule::default().destination_type(Reg(0)).compare(Reg(0), true, &machine(libc::RTN_LOCAL.into()))
        }
    };
    let classes = kind.classes();
    batch.add_chain(&classes, None);
    batch.add_rule(SERVICES, kind.key(start()).member(&kind.all(), Reg(0)).jump(&classes));
    // While a transaction is going in, the slot drawn may just have gone; the first is there as long as any.
    batch.add_rule(SERVICES, kind.deliver(start(), 1));
    batch.add_rule(&classes, kind.key(Rule::default()).dispatch(&kind.sticky(), Reg(0)));
    for endpoints in 1..=FIRST_CLASSES {
        class(batch, kind, endpoints);
    }
}

/// The classes that `base` makes.
pub fn first_classes() -> impl Iterator<Item = (Kind, u32)> {
    Kind::BOTH.into_iter().flat_map(|kind| (1..=FIRST_CLASSES).map(move |endpoints| (kind, endpoints)))
}

/// The set and the rule of a class.
pub fn class(batch: &mut Batch, kind: Kind, endpoints: u32) {
    let name = kind.class(endpoints);
    batch.add_set(&kind.set(&name, false, 0, (0, 0)));
    let rule = kind.key(Rule::default()).member(&name, Reg(0));
    batch.add_rule(&kind.classes(), kind.deliver(rule, endpoints));
}

/// Names of what belongs to a backend with affinity.
pub fn sticky_chain(backend: u32) -> String {
    format!("sticky-{backend}")
}

fn sticky_slots(backend: u32) -> String {
    format!("slots-{backend}")
}

/// Both the chain of an endpoint and the set of its clients.
fn sticky_endpoint(backend: u32, endpoint: u32) -> String {
    format!("sticky-{backend}-{endpoint}")
}

/// Make what an endpoint of a backend with affinity needs.
pub fn add_sticky_endpoint(
    batch: &mut Batch,
    backend: u32,
    endpoint: u32,
    to: std::net::SocketAddrV4,
    seconds: u32,
) {
    let name = sticky_endpoint(backend, endpoint);
    batch.add_set(&NewSet {
        name: &name,
        flags: SET_EVAL | SET_TIMEOUT,
        key_type: TYPE_ADDRESS,
        key_len: 4,
        data_type: 0,
        data_len: 0,
        size: MAX_CLIENTS,
    });
    batch.add_chain(&name, None);
    let client = || Rule::default().payload(NETWORK_HEADER, SOURCE, 4, Reg(0));
    let deliver = |rule: Rule| {
        rule.set(Reg(8), &to.ip().octets()).set(Reg(9), &to.port().to_be_bytes()).dnat(Reg(8), Reg(9))
    };
    // The memory may be full: a rule of its own, so that the connection goes on all the same.
    batch.add_rule(&name, client().remember(&name, Reg(0), u64::from(seconds) * 1000));
    batch.add_rule(&name, deliver(Rule::default()));
}

/// Remove it; nothing may lead there any more.
pub fn remove_sticky_endpoint(batch: &mut Batch, backend: u32, endpoint: u32) {
    let name = sticky_endpoint(backend, endpoint);
    batch.delete_chain(&name);
    batch.delete_set(&name);
}

/// The rules of a backend with affinity: clients that are known, then a draw. With `fresh`, make the chain too.
pub fn sticky(batch: &mut Batch, backend: u32, fresh: bool, before: usize, endpoints: &[u32]) {
    let (chain, slots) = (sticky_chain(backend), sticky_slots(backend));
    if fresh {
        batch.add_chain(&chain, None);
        batch.add_set(&NewSet {
            name: &slots,
            flags: SET_MAP,
            key_type: TYPE_NUMBER,
            key_len: 4,
            data_type: TYPE_VERDICT,
            data_len: 0,
            size: 0,
        });
    } else {
        batch.clear_chain(&chain);
    }
    let numbers =
        |count: usize| (0..count).map(|n| machine(u32::try_from(n).unwrap_or(0))).collect::<Vec<_>>();
    let old = numbers(before);
    batch.delete_elements(&slots, old.iter().map(<[u8; 4]>::as_slice));
    let names: Vec<String> = endpoints.iter().map(|endpoint| sticky_endpoint(backend, *endpoint)).collect();
    let new = numbers(names.len());
    let targets = new.iter().zip(&names).map(|(slot, name)| (slot.as_slice(), Data::Goto(name)));
    batch.add_elements(&slots, targets);
    for name in &names {
        let known = Rule::default().payload(NETWORK_HEADER, SOURCE, 4, Reg(0)).member(name, Reg(0));
        batch.add_rule(&chain, known.goto(name));
    }
    if let Ok(count @ 1..) = u32::try_from(names.len()) {
        batch.add_rule(&chain, Rule::default().random(count, Reg(0)).dispatch(&slots, Reg(0)));
    }
}

/// Remove the chain of a backend with affinity; nothing may lead there any more.
pub fn remove_sticky(batch: &mut Batch, backend: u32) {
    batch.delete_chain(&sticky_chain(backend));
    batch.delete_set(&sticky_slots(backend));
}

/// Rules cannot compare two fields of a packet, but they can look for the pair: one per address of the node.
fn hairpin_pairs(batch: &mut Batch, net: Cidr) {
    let pairs: Vec<[u8; 8]> = (0..net.size())
        .filter_map(|n| {
            let ip = net.nth(u32::try_from(n).ok()?)?.octets();
            let mut pair = [0; 8];
            pair[..4].copy_from_slice(&ip);
            pair[4..].copy_from_slice(&ip);
            Some(pair)
        })
        .collect();
    batch.add_set(&NewSet {
        name: HAIRPIN,
        flags: 0,
        key_type: concat(&[TYPE_ADDRESS, TYPE_ADDRESS]),
        key_len: 8,
        data_type: 0,
        data_len: 0,
        size: 0,
    });
    batch.add_elements(HAIRPIN, pairs.iter().map(|pair| (pair.as_slice(), Data::None)));
}

fn postrouting(batch: &mut Batch, layout: &Layout) {
    let chain = "postrouting";
    let bridge = link(&layout.bridge);
    let leaving =
        |by_bridge| Rule::default().meta(libc::NFT_META_OIFNAME, Reg(0)).compare(Reg(0), by_bridge, &bridge);
    // A pod that reaches itself through a service must see another sender than itself.
    let hairpin = Rule::default()
        .payload(NETWORK_HEADER, SOURCE, 4, Reg(0))
        .payload(NETWORK_HEADER, DESTINATION, 4, Reg(1))
        .member(HAIRPIN, Reg(0));
    batch.add_rule(chain, hairpin.masquerade());
    // The host's own connections to 127.0.0.1:nodePort.
    batch.add_rule(chain, within(leaving(true), SOURCE, loopback(), true).masquerade());
    if layout.masquerade {
        let rule = within(leaving(false), SOURCE, layout.pod_cidr, true);
        batch.add_rule(chain, within(rule, DESTINATION, layout.pod_cidr, false).masquerade());
    }
    // From outside through a service to an endpoint that is not here: the answer has to come back this way.
    for kind in Kind::BOTH {
        let rule = leaving(false)
            .meta(libc::NFT_META_OIFNAME, Reg(0))
            .compare(Reg(0), false, &link("lo"))
            .ct(libc::NFT_CT_STATUS, false, Reg(0))
            // IPS_DST_NAT
            .mask(Reg(0), machine(0x20))
            .compare(Reg(0), false, &machine(0));
        let rule = match kind {
            // NFT_CT_DST_IP
            Kind::Address => rule.ct(20, true, Reg(0)),
            Kind::Node => rule,
        };
        let at = kind.end().0 - 2;
        let rule = rule
            .meta(libc::NFT_META_L4PROTO, Reg(at))
            .ct(libc::NFT_CT_PROTO_DST, true, Reg(at + 1))
            .member(&kind.all(), Reg(0));
        batch.add_rule(chain, rule.masquerade());
    }
}

/// What is still on its way to a service after address translation had no endpoint: refuse it now rather than let
/// the client wait.
fn refusals(batch: &mut Batch, layout: &Layout) {
    for chain in ["forward", "local"] {
        let start = || match chain {
            // The host's own way to addresses of its own, such as the DNS server's.
            "local" => {
                Rule::default().meta(libc::NFT_META_OIFNAME, Reg(0)).compare(Reg(0), false, &link("lo"))
            }
            _ => Rule::default(),
        };
        let service = || within(start(), DESTINATION, layout.service_cidr, true);
        let tcp = service().meta(libc::NFT_META_L4PROTO, Reg(0)).compare(Reg(0), true, &[6]);
        batch.add_rule(chain, tcp.reject(true));
        batch.add_rule(chain, service().reject(false));
        let unserved = start()
            .ct(libc::NFT_CT_STATE, false, Reg(0))
            .mask(Reg(0), machine(STATE_NEW))
            .compare(Reg(0), false, &machine(0));
        let unserved = Kind::Address.key(unserved).member(UNSERVED, Reg(0));
        batch.add_rule(chain, unserved.reject(false));
    }
}

/// Go on when the address at `offset` is inside (or outside) the network.
fn within(rule: Rule, offset: u32, net: Cidr, inside: bool) -> Rule {
    rule.payload(NETWORK_HEADER, offset, 4, Reg(0)).mask(Reg(0), net.mask().octets()).compare(
        Reg(0),
        inside,
        &net.network().octets(),
    )
}

fn loopback() -> Cidr {
    Cidr::new(Ipv4Addr::LOCALHOST, 8).unwrap_or_default()
}

/// A number as registers hold it.
pub fn machine(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

/// A link's name as registers hold it.
fn link(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    bytes
}
