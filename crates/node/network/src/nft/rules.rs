//! The rules of the service table.
//!
//! Nothing in here depends on how many services there are. A packet's destination is looked up in `frontends`
//! (address . protocol . port -> backend . class); the class, which stands for "so many endpoints", leads through
//! `dispatch` to a chain that draws one of so many slots and looks up (backend . slot) in `endpoints`. A change of an
//! endpoint is therefore a change of one element. Verdicts are kept out of the large maps: the kernel checks every
//! element of a map with verdicts whenever one is added.
//!
//! Node ports are frontends with address 0.0.0.0, looked up when the destination is an address of the machine.

use std::net::Ipv4Addr;

use nix::libc;

use super::{
    Batch, Data, Hook, NewSet, Reg, Rule, SET_EVAL, SET_MAP, SET_TIMEOUT, TYPE_ADDRESS, TYPE_NUMBER,
    TYPE_PORT, TYPE_PROTOCOL, TYPE_VERDICT,
};
use crate::Cidr;

/// address . protocol . port -> backend . class
pub const FRONTENDS: &str = "frontends";
/// backend . slot (with affinity: backend . endpoint) -> address . port
pub const ENDPOINTS: &str = "endpoints";
/// backend . slot -> endpoint, for backends with affinity
pub const SLOTS: &str = "slots";
/// backend . client -> endpoint, for backends with affinity; written by rules
pub const AFFINITY: &str = "affinity";
/// class -> chain
pub const DISPATCH: &str = "dispatch";
const HAIRPIN: &str = "hairpin";
const SERVICES: &str = "services";

/// Clients that are remembered at a time; when there are more, the surplus has no affinity.
const MAX_AFFINITY: u32 = 1 << 18;

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

/// How a class of frontends chooses among its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    /// How many endpoints, at least one.
    pub endpoints: u32,
    /// How long a client stays with its endpoint, in seconds; 0 for no affinity.
    pub affinity: u32,
    /// Frontends with address 0.0.0.0.
    pub any_address: bool,
}

impl Class {
    /// The name of its chain.
    pub fn chain(&self) -> String {
        let kind = if self.any_address { "node" } else { "vip" };
        match self.affinity {
            0 => format!("{kind}-{}", self.endpoints),
            seconds => format!("{kind}-{}-sticky-{seconds}", self.endpoints),
        }
    }
}

fn concat(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, kind| all << 6 | kind)
}

/// Everything that does not change: maps, chains, fixed rules.
pub fn base(batch: &mut Batch, layout: &Layout) {
    maps(batch);
    hairpin_pairs(batch, layout.node_cidr);
    let nat = |number, priority| Some(Hook { kind: "nat", number, priority });
    let filter = |number, priority| Some(Hook { kind: "filter", number, priority });
    batch.add_chain(SERVICES, None);
    batch.add_chain("guard", filter(0, -300));
    batch.add_chain("prerouting", nat(0, -100));
    batch.add_chain("output", nat(3, -100));
    batch.add_chain("postrouting", nat(4, 100));
    batch.add_chain("forward", filter(2, 0));
    batch.add_chain("local", filter(3, 0));

    batch.add_rule(SERVICES, to_backend(Rule::default(), false).dispatch(DISPATCH, Reg(5)));
    let local =
        Rule::default().destination_type(Reg(0)).compare(Reg(0), true, &machine(libc::RTN_LOCAL.into()));
    batch.add_rule(SERVICES, to_backend(local, true).dispatch(DISPATCH, Reg(5)));
    batch.add_rule("prerouting", Rule::default().jump(SERVICES));
    batch.add_rule("output", Rule::default().jump(SERVICES));

    // route_localnet makes 127.0.0.0/8 reachable from pods; only answers, which carry the gateway's address here,
    // are meant to arrive.
    for offset in [SOURCE, DESTINATION] {
        let rule =
            Rule::default().meta(libc::NFT_META_IIFNAME, Reg(0)).compare(Reg(0), true, &link(&layout.bridge));
        batch.add_rule("guard", within(rule, offset, loopback(), true).drop());
    }
    postrouting(batch, layout);
    refusals(batch, layout);
}

fn maps(batch: &mut Batch) {
    let number = TYPE_NUMBER;
    let pair = concat(&[number, number]);
    let map = |name, key_type, key_len, data_type, data_len| NewSet {
        name,
        flags: SET_MAP,
        key_type,
        key_len,
        data_type,
        data_len,
        size: 0,
    };
    batch.add_set(&map(FRONTENDS, concat(&[TYPE_ADDRESS, TYPE_PROTOCOL, TYPE_PORT]), 12, pair, 8));
    batch.add_set(&map(ENDPOINTS, pair, 8, concat(&[TYPE_ADDRESS, TYPE_PORT]), 8));
    batch.add_set(&map(SLOTS, pair, 8, number, 4));
    batch.add_set(&map(DISPATCH, number, 4, TYPE_VERDICT, 0));
    batch.add_set(&NewSet {
        flags: SET_MAP | SET_EVAL | SET_TIMEOUT,
        size: MAX_AFFINITY,
        ..map(AFFINITY, concat(&[number, TYPE_ADDRESS]), 8, number, 4)
    });
    batch.add_set(&NewSet { flags: 0, ..map(HAIRPIN, concat(&[TYPE_ADDRESS, TYPE_ADDRESS]), 8, 0, 0) });
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
    batch.add_elements(HAIRPIN, pairs.iter().map(|pair| (pair.as_slice(), Data::None)));
}

fn postrouting(batch: &mut Batch, layout: &Layout) {
    let chain = "postrouting";
    let bridge = link(&layout.bridge);
    let leaving =
        |by_bridge| Rule::default().meta(libc::NFT_META_OIFNAME, Reg(0)).compare(Reg(0), by_bridge, &bridge);
    // A pod that reaches itself through a service must see another sender than itself.
    let hairpin = Rule::default().payload(NETWORK_HEADER, SOURCE, 8, Reg(0)).member(HAIRPIN, Reg(0));
    batch.add_rule(chain, hairpin.masquerade());
    // The host's own connections to 127.0.0.1:nodePort.
    batch.add_rule(chain, within(leaving(true), SOURCE, loopback(), true).masquerade());
    if layout.masquerade {
        let rule = within(leaving(false), SOURCE, layout.pod_cidr, true);
        batch.add_rule(chain, within(rule, DESTINATION, layout.pod_cidr, false).masquerade());
    }
    // From outside through a service to an endpoint that is not here: the answer has to come back this way.
    for any_address in [false, true] {
        let rule = leaving(false)
            .meta(libc::NFT_META_OIFNAME, Reg(0))
            .compare(Reg(0), false, &link("lo"))
            .ct(libc::NFT_CT_STATUS, false, Reg(0))
            // IPS_DST_NAT
            .mask(Reg(0), machine(0x20))
            .compare(Reg(0), false, &machine(0));
        let rule = if any_address {
            rule.set(Reg(0), [0; 4])
        } else {
            // NFT_CT_DST_IP
            rule.ct(20, true, Reg(0))
        };
        let rule = rule.meta(libc::NFT_META_L4PROTO, Reg(1)).ct(libc::NFT_CT_PROTO_DST, true, Reg(2)).lookup(
            FRONTENDS,
            Reg(0),
            Reg(4),
        );
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
        let unserved = to_backend(unserved, false).compare(Reg(5), true, &machine(0));
        batch.add_rule(chain, unserved.reject(false));
    }
    // Pods send through the gateway on purpose; being told of the direct way would lead them around the services.
    let redirect = Rule::default()
        .meta(libc::NFT_META_OIFNAME, Reg(0))
        .compare(Reg(0), true, &link(&layout.bridge))
        .meta(libc::NFT_META_L4PROTO, Reg(0))
        .compare(Reg(0), true, &[1])
        .payload(TRANSPORT_HEADER, 0, 1, Reg(0))
        .compare(Reg(0), true, &[5]);
    batch.add_rule("local", redirect.drop());
}

/// The chain of a class.
pub fn class(batch: &mut Batch, class: Class) {
    let chain = class.chain();
    let any = class.any_address;
    let n = class.endpoints;
    batch.add_chain(&chain, None);
    let fresh = || to_backend(Rule::default(), any);
    if class.affinity == 0 {
        batch.add_rule(&chain, deliver(fresh().random(n, Reg(5))));
        // While a transaction is going in, the slot drawn may just have gone; the first is there as long as any.
        batch.add_rule(&chain, deliver(fresh().set(Reg(5), [0; 4])));
        return;
    }
    let timeout = u64::from(class.affinity) * 1000;
    let client = |rule: Rule, at: u32| {
        // Backend and client in registers `at` and `at + 1`.
        rule.lookup(FRONTENDS, Reg(0), Reg(at)).payload(NETWORK_HEADER, SOURCE, 4, Reg(at + 1))
    };
    let known = client(fresh(), 4).lookup(AFFINITY, Reg(4), Reg(5)).lookup(ENDPOINTS, Reg(4), Reg(8));
    let known = client(known, 6).remember(AFFINITY, false, Reg(6), Reg(5), timeout);
    batch.add_rule(&chain, known.dnat(Reg(8), Reg(9)));
    let choose = || {
        let rule = fresh().random(n, Reg(5)).lookup(SLOTS, Reg(4), Reg(5));
        rule.lookup(ENDPOINTS, Reg(4), Reg(8))
    };
    // An entry that leads to an endpoint that is gone is not overwritten by an update: it has to go first.
    let new = client(choose(), 6).remember(AFFINITY, true, Reg(6), Reg(5), 0).remember(
        AFFINITY,
        false,
        Reg(6),
        Reg(5),
        timeout,
    );
    batch.add_rule(&chain, new.dnat(Reg(8), Reg(9)));
    // The memory is full.
    batch.add_rule(&chain, choose().dnat(Reg(8), Reg(9)));
    let first = fresh().set(Reg(5), [0; 4]).lookup(SLOTS, Reg(4), Reg(5));
    batch.add_rule(&chain, deliver(first));
}

/// Look up the packet's frontend: backend in register 4, class in register 5. Leaves the key in registers 0 to 2.
fn to_backend(rule: Rule, any_address: bool) -> Rule {
    let rule = if any_address {
        rule.set(Reg(0), Ipv4Addr::UNSPECIFIED.octets())
    } else {
        rule.payload(NETWORK_HEADER, DESTINATION, 4, Reg(0))
    };
    rule.meta(libc::NFT_META_L4PROTO, Reg(1)).payload(TRANSPORT_HEADER, 2, 2, Reg(2)).lookup(
        FRONTENDS,
        Reg(0),
        Reg(4),
    )
}

/// Send the connection to the endpoint whose key is in registers 4 and 5.
fn deliver(rule: Rule) -> Rule {
    rule.lookup(ENDPOINTS, Reg(4), Reg(8)).dnat(Reg(8), Reg(9))
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
