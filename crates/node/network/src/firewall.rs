//! Getting along with a host firewall that drops what is forwarded.
//!
//! Docker, for one, sets the policy of iptables' FORWARD chain to DROP, and a drop anywhere is final: no rule in a
//! table of ours could let pods through. So two rules are put in front of that chain, in the very form `iptables -I
//! FORWARD -i BRIDGE -j ACCEPT` has, so that iptables can list and delete them. Where iptables is the old one, which is
//! not nftables, its chain does not show up here.

use std::io;

use nix::{errno::Errno, libc};

use crate::{
    netlink::{Buf, Message, Socket, cstr, find, tolerate},
    nft::{self, Batch, Reg, Rule},
};

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
const DIRECTIONS: [i32; 2] = [libc::NFT_META_IIFNAME, libc::NFT_META_OIFNAME];

/// Let through what comes from the bridge and what goes to it. Does nothing where it is so already, or where there is
/// no such chain.
pub fn allow(socket: &mut Socket, bridge: &str) -> io::Result<()> {
    let rules = ours(socket, bridge)?;
    if !exists(socket)? {
        return Ok(());
    }
    let mut batch = Batch::new(TABLE);
    for key in DIRECTIONS.into_iter().filter(|key| !rules.iter().any(|(found, _)| found == key)) {
        let rule = Rule::default().meta(key, Reg(0)).compare(Reg(0), true, &terminated(bridge));
        batch.insert_rule(CHAIN, rule.count().accept());
    }
    commit(socket, batch)
}

/// Take the rules out again.
pub fn withdraw(socket: &mut Socket, bridge: &str) -> io::Result<()> {
    let mut batch = Batch::new(TABLE);
    for (_, handle) in ours(socket, bridge)? {
        batch.delete_rule(CHAIN, handle);
    }
    commit(socket, batch)
}

/// Whether a change that was announced may have taken the rules away, or have brought the chain.
pub fn concerns(message: &Message<'_>) -> bool {
    let Some(attributes) = message.body.get(4..) else { return false };
    let name = match message.kind {
        nft::MSG_NEWCHAIN => find(attributes, 3),
        nft::MSG_DELRULE => find(attributes, 2),
        _ => None,
    };
    name.is_some_and(|name| cstr(name) == CHAIN) && nft::notified_table(message.body) == Some(TABLE)
}

fn commit(socket: &mut Socket, batch: Batch) -> io::Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let (buf, last, ..) = batch.finish();
    // Whoever owns the chain may have removed it in between.
    tolerate(socket.transact(&buf, last), &[Errno::ENOENT])
}

fn exists(socket: &mut Socket) -> io::Result<bool> {
    let mut found = false;
    let result = socket.list(&nft::get_chain(TABLE, CHAIN), |_| found = true);
    tolerate(result, &[Errno::ENOENT]).map(|()| found)
}

/// Our rules in the chain: what they look at, and their handle.
fn ours(socket: &mut Socket, bridge: &str) -> io::Result<Vec<(i32, u64)>> {
    let mut rules = Vec::new();
    let list: Buf = nft::list_rules(TABLE, CHAIN);
    let result = socket.list(&list, |message| {
        rules.extend(message.body.get(4..).and_then(|attributes| read(attributes, bridge)));
    });
    tolerate(result, &[Errno::ENOENT])?;
    Ok(rules)
}

fn read(attributes: &[u8], bridge: &str) -> Option<(i32, u64)> {
    if cstr(find(attributes, 1)?) != TABLE || cstr(find(attributes, 2)?) != CHAIN {
        return None;
    }
    let handle = u64::from_be_bytes(find(attributes, 3)?.try_into().ok()?);
    let expressions = nft::expressions(find(attributes, 4)?);
    let [("meta", meta), ("cmp", compare), ("counter", _), ("immediate", verdict)] = expressions.as_slice()
    else {
        return None;
    };
    let number = |bytes: &[u8]| Some(i32::from_be_bytes(bytes.try_into().ok()?));
    let key = number(find(meta, 2)?)?;
    let name = find(find(compare, 3)?, 1)?;
    let accept = number(find(find(find(verdict, 2)?, 2)?, 1)?)? == libc::NF_ACCEPT;
    (DIRECTIONS.contains(&key) && name == terminated(bridge) && accept).then_some((key, handle))
}

/// The whole name and its end, so that `smp-1` is not `smp-12` too.
fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
