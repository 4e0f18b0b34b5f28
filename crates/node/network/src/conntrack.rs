//! Forgetting UDP flows that lead where nobody is any more. TCP needs no such help: its connections end.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddrV4},
};

use nix::{errno::Errno, libc};

use crate::{
    Error, Protocol, Result,
    netlink::{Buf, DUMP, Socket, find, tolerate},
    tables::Frontend,
};

const GET: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 1;
const DELETE: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 2;
const HEADER: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];
const UDP: u8 = 17;
const MAX_DELETES: u32 = 128;

// Attributes of a flow, of a tuple, of its addresses and of its ports.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE: u16 = 2;
const PROTO_DESTINATION: u16 = 3;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
/// `CTA_FILTER_F_CTA_PROTO_NUM`
const FILTER_PROTO_NUMBER: u32 = 1 << 3;

/// Which UDP flows a change made wrong.
#[derive(Debug, Default)]
pub struct Stale {
    /// This frontend no longer leads to this endpoint.
    pub lost: HashSet<(Frontend, SocketAddrV4)>,
    /// This frontend led nowhere before: flows to it were not translated.
    pub fresh: HashSet<Frontend>,
}

struct Flow {
    to: SocketAddrV4,
    answers_from: SocketAddrV4,
}

impl Stale {
    fn hits(&self, flow: &Flow) -> bool {
        let translated = flow.to != flow.answers_from;
        let port = flow.to.port();
        [*flow.to.ip(), Ipv4Addr::UNSPECIFIED].into_iter().any(|address| {
            let frontend = (address, Protocol::Udp, port);
            if translated {
                self.lost.contains(&(frontend, flow.answers_from))
            } else {
                self.fresh.contains(&frontend)
            }
        })
    }
}

/// Delete the flows that a change made wrong, so that their next packet is looked at anew.
pub fn forget(socket: &mut Socket, stale: &Stale) -> Result<()> {
    if stale.lost.is_empty() && stale.fresh.is_empty() {
        return Ok(());
    }
    let mut list = Buf::default();
    list.begin(GET, DUMP).put(&HEADER);
    // Only UDP is of interest: let the kernel leave out the rest.
    list.nest(ORIGINAL, |b| {
        b.nest(TUPLE_PROTO, |b| {
            b.attr(PROTO_NUMBER, &[UDP]);
        });
    });
    list.nest(FILTER, |b| {
        b.u32(FILTER_ORIGINAL, FILTER_PROTO_NUMBER);
    });
    list.end();
    // Refusals of one buffer's requests have to fit in the socket, so not too many at once.
    let mut deletes = vec![Buf::default()];
    let result = socket.list(&list, |message| {
        let Some(attributes) = message.body.get(4..) else { return };
        let Some(original) = find(attributes, ORIGINAL) else { return };
        if !parse(attributes, original).is_some_and(|flow| stale.hits(&flow)) {
            return;
        }
        if deletes.last().is_none_or(|delete| delete.messages() >= MAX_DELETES) {
            deletes.push(Buf::default());
        }
        let Some(delete) = deletes.last_mut() else { return };
        delete.begin(DELETE, 0).put(&HEADER).attr(ORIGINAL | libc::NLA_F_NESTED as u16, original);
        for kind in [ID, ZONE] {
            if let Some(data) = find(attributes, kind) {
                delete.attr(kind, data);
            }
        }
        delete.end();
    });
    result.map_err(Error::kernel("list UDP flows"))?;
    for delete in deletes {
        if delete.messages() > 0 {
            // Flows may end by themselves in between.
            tolerate(socket.request(delete), &[Errno::ENOENT]).map_err(Error::kernel("forget UDP flows"))?;
        }
    }
    Ok(())
}

fn parse(attributes: &[u8], original: &[u8]) -> Option<Flow> {
    let proto = find(original, TUPLE_PROTO)?;
    if find(proto, PROTO_NUMBER)? != [UDP] {
        return None;
    }
    let reply = find(attributes, REPLY)?;
    Some(Flow {
        to: end(original, IP_DESTINATION, PROTO_DESTINATION)?,
        answers_from: end(reply, IP_SOURCE, PROTO_SOURCE)?,
    })
}

fn end(tuple: &[u8], ip: u16, port: u16) -> Option<SocketAddrV4> {
    let address: [u8; 4] = find(find(tuple, TUPLE_IP)?, ip)?.try_into().ok()?;
    let port: [u8; 2] = find(find(tuple, TUPLE_PROTO)?, port)?.try_into().ok()?;
    Some(SocketAddrV4::new(address.into(), u16::from_be_bytes(port)))
}
