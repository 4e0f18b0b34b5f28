//! Reading and writing DNS messages. Every length is checked: what comes in may be anything.

use super::name::{MAX_NAME, Name};

/// Bytes of the header.
pub const HEADER: usize = 12;
/// What every client accepts over UDP.
pub const MIN_UDP: usize = 512;
/// The most we send over UDP and ask for: it fits into any path's packets.
pub const MAX_UDP: usize = 1232;

/// Record types.
pub mod kind {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// The Internet's class.
pub const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

/// Response codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    /// Needs EDNS to be expressed.
    BadVers = 16,
}

/// A question that came in, and how it may be answered.
#[derive(Clone, Debug)]
pub struct Query {
    /// The message's number.
    pub id: u16,
    /// Recursion desired, checking disabled: given back as they came.
    flags: u16,
    /// The question as it came, in the case it came in.
    question: Vec<u8>,
    /// The name asked for.
    pub name: Name,
    /// The type asked for.
    pub kind: u16,
    /// The most bytes that an answer may have.
    pub limit: usize,
    /// The client speaks EDNS.
    edns: bool,
}

/// What to do with what came in.
#[derive(Debug)]
pub enum Incoming {
    /// Answer the question.
    Query(Box<Query>),
    /// Send this back.
    Reply(Vec<u8>),
    /// Nothing: answering would only help an attacker.
    Ignore,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Read a message from a client.
pub fn read_query(bytes: &[u8], tcp: bool) -> Incoming {
    let (Some(id), Some(flags)) = (u16_at(bytes, 0), u16_at(bytes, 2)) else { return Incoming::Ignore };
    // An answer to an answer could go on for ever.
    if bytes.len() < HEADER || flags & 0x8000 != 0 {
        return Incoming::Ignore;
    }
    let refuse = |rcode: Rcode| {
        let mut reply = vec![0; HEADER];
        reply[..2].copy_from_slice(&id.to_be_bytes());
        let flags = 0x8000 | (flags & 0x7900) | rcode as u16;
        reply[2..4].copy_from_slice(&flags.to_be_bytes());
        Incoming::Reply(reply)
    };
    if flags & 0x7800 != 0 {
        return refuse(Rcode::NotImp);
    }
    if u16_at(bytes, 4) != Some(1) {
        return refuse(Rcode::FormErr);
    }
    let Some((query, class, version)) = parse_query(bytes, tcp) else { return refuse(Rcode::FormErr) };
    if version > 0 {
        return Incoming::Reply(Reply::new(&query, Rcode::BadVers).finish());
    }
    if class != CLASS_IN && class != CLASS_ANY || matches!(query.kind, kind::AXFR | kind::IXFR | kind::OPT) {
        return Incoming::Reply(Reply::new(&query, Rcode::Refused).finish());
    }
    Incoming::Query(Box::new(query))
}

/// The query, its class, and its EDNS version.
fn parse_query(bytes: &[u8], tcp: bool) -> Option<(Query, u16, u8)> {
    let end = plain_name(bytes, HEADER)?;
    let kind = u16_at(bytes, end)?;
    let class = u16_at(bytes, end + 2)?;
    let mut query = Query {
        id: u16_at(bytes, 0)?,
        flags: u16_at(bytes, 2)? & 0x0110,
        question: bytes.get(HEADER..end + 4)?.to_vec(),
        name: Name::from_wire(bytes.get(HEADER..end)?),
        kind,
        limit: if tcp { usize::from(u16::MAX) } else { MIN_UDP },
        edns: false,
    };
    let mut version = 0;
    let (others, additional) =
        (u32::from(u16_at(bytes, 6)?) + u32::from(u16_at(bytes, 8)?), u16_at(bytes, 10)?);
    let mut at = end + 4;
    for n in 0..others + u32::from(additional) {
        let record = Record::read(bytes, at)?;
        if n >= others && record.kind == kind::OPT {
            // One OPT, owned by the root.
            if query.edns || bytes.get(at) != Some(&0) {
                return None;
            }
            query.edns = true;
            version = record.ttl.to_be_bytes()[1];
            if !tcp {
                query.limit = usize::from(record.class).clamp(MIN_UDP, MAX_UDP);
            }
        }
        at = record.end;
    }
    Some((query, class, version))
}

/// The end of an uncompressed name that begins at `at`.
fn plain_name(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        let length = usize::from(*bytes.get(end)?);
        if length > 63 {
            return None;
        }
        end += length + 1;
        if end - at > MAX_NAME {
            return None;
        }
        if length == 0 {
            return Some(end);
        }
    }
}

/// The end of a name that may be compressed.
fn skip_name(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        let length = usize::from(*bytes.get(end)?);
        match length {
            0 => return Some(end + 1),
            1..=63 => end += length + 1,
            192.. => return (end + 2 <= bytes.len()).then_some(end + 2),
            _ => return None,
        }
    }
}

/// The whole of a name that may be compressed. Pointers may only go back, so there is no circle.
pub fn expand_name(bytes: &[u8], at: usize) -> Option<Name> {
    let mut name = Vec::new();
    let mut at = at;
    let mut before = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => {
                name.push(0);
                return Some(Name::from_wire(&name));
            }
            1..=63 => {
                name.extend_from_slice(bytes.get(at..=at + length)?);
                at += length + 1;
                if name.len() >= MAX_NAME {
                    return None;
                }
            }
            192.. => {
                let target = usize::from(u16_at(bytes, at)? & 0x3fff);
                if target >= before {
                    return None;
                }
                (at, before) = (target, target);
            }
            _ => return None,
        }
    }
}

/// Where a record is in a message, and what it says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub start: usize,
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    /// Where its time to live is.
    pub ttl_at: usize,
    /// Where its data is.
    pub data: usize,
    pub end: usize,
}

impl Record {
    /// The record that begins at `start`.
    pub fn read(bytes: &[u8], start: usize) -> Option<Self> {
        let at = skip_name(bytes, start)?;
        let data = at + 10;
        let end = data + usize::from(u16_at(bytes, at + 8)?);
        (end <= bytes.len()).then_some(Self {
            start,
            kind: u16_at(bytes, at)?,
            class: u16_at(bytes, at + 2)?,
            ttl: u32_at(bytes, at + 4)?,
            ttl_at: at + 4,
            data,
            end,
        })
    }
}

/// A record's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rdata {
    A(std::net::Ipv4Addr),
    Ns(Name),
    Cname(Name),
    Ptr(Name),
    Txt(String),
    Srv {
        port: u16,
        target: Name,
    },
    Soa {
        server: Name,
        contact: Name,
        serial: u32,
        ttl: u32,
    },
    /// Anything else, as it came.
    Raw(u16, Vec<u8>),
}

impl Rdata {
    /// Its record type.
    pub fn kind(&self) -> u16 {
        match self {
            Self::A(_) => kind::A,
            Self::Ns(_) => kind::NS,
            Self::Cname(_) => kind::CNAME,
            Self::Ptr(_) => kind::PTR,
            Self::Txt(_) => kind::TXT,
            Self::Srv { .. } => kind::SRV,
            Self::Soa { .. } => kind::SOA,
            Self::Raw(kind, _) => *kind,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::A(ip) => out.extend_from_slice(&ip.octets()),
            Self::Ns(name) | Self::Cname(name) | Self::Ptr(name) => out.extend_from_slice(name.wire()),
            Self::Txt(text) => {
                for part in text.as_bytes().chunks(255) {
                    out.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                    out.extend_from_slice(part);
                }
            }
            Self::Srv { port, target } => {
                // Priority 0, weight 100, as Kubernetes' DNS has it.
                out.extend_from_slice(&[0, 0, 0, 100]);
                out.extend_from_slice(&port.to_be_bytes());
                out.extend_from_slice(target.wire());
            }
            Self::Soa { server, contact, serial, ttl } => {
                out.extend_from_slice(server.wire());
                out.extend_from_slice(contact.wire());
                // Refresh, retry and expiry are for secondary servers, which there are none of.
                for number in [*serial, 7200, 1800, 86400, *ttl] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
            }
            Self::Raw(_, bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// The part of a message that a record goes to, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Answer,
    Authority,
    Additional,
}

/// A reply under construction.
#[derive(Debug)]
pub struct Reply<'a> {
    query: &'a Query,
    bytes: Vec<u8>,
    rcode: Rcode,
    counts: [u16; 3],
    authoritative: bool,
    truncated: bool,
}

/// Bytes of our OPT record.
const OPT_LENGTH: usize = 11;

impl<'a> Reply<'a> {
    /// A reply without records.
    pub fn new(query: &'a Query, rcode: Rcode) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(&query.question);
        Self { query, bytes, rcode, counts: [0; 3], authoritative: false, truncated: false }
    }

    /// The zone is ours.
    pub fn authoritative(mut self) -> Self {
        self.authoritative = true;
        self
    }

    /// Append a record; sections have to be filled in their order. What does not fit is left out, and unless it was
    /// only additional, the client is told to come by TCP.
    pub fn push(&mut self, section: Section, owner: &Name, ttl: u32, data: &Rdata) {
        if self.truncated {
            return;
        }
        let before = self.bytes.len();
        if *owner == self.query.name {
            // A pointer to the question.
            self.bytes.extend_from_slice(&[0xc0, HEADER as u8]);
        } else {
            self.bytes.extend_from_slice(owner.wire());
        }
        self.bytes.extend_from_slice(&data.kind().to_be_bytes());
        self.bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        data.write(&mut self.bytes);
        let length = u16::try_from(self.bytes.len() - length_at - 2).unwrap_or(u16::MAX);
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        if self.bytes.len() + OPT_LENGTH > self.query.limit {
            self.bytes.truncate(before);
            self.truncated = section != Section::Additional;
            return;
        }
        self.counts[section as usize] += 1;
    }

    /// The message.
    pub fn finish(mut self) -> Vec<u8> {
        if self.query.edns {
            opt(&mut self.bytes, self.rcode as u16 >> 4);
            self.counts[2] += 1;
        }
        let mut flags = 0x8080 | self.query.flags | (self.rcode as u16 & 0xf);
        flags |= if self.authoritative { 0x0400 } else { 0 };
        flags |= if self.truncated { 0x0200 } else { 0 };
        let [a, b, c] = self.counts;
        for (at, value) in [self.query.id, flags, 1, a, b, c].into_iter().enumerate() {
            self.bytes[at * 2..at * 2 + 2].copy_from_slice(&value.to_be_bytes());
        }
        self.bytes
    }
}

fn opt(out: &mut Vec<u8>, extended: u16) {
    out.push(0);
    out.extend_from_slice(&kind::OPT.to_be_bytes());
    out.extend_from_slice(&(MAX_UDP as u16).to_be_bytes());
    out.extend_from_slice(&[u8::try_from(extended).unwrap_or(0), 0, 0, 0, 0, 0]);
}

/// A question of our own to another server.
pub fn write_query(id: u16, name: &Name, kind: u16, edns: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + name.wire().len() + 4 + OPT_LENGTH);
    for value in [id, 0x0100, 1, 0, 0, u16::from(edns)] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    out.extend_from_slice(name.wire());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    if edns {
        opt(&mut out, 0);
    }
    out
}

/// Another server's answer, checked, without its OPT record.
#[derive(Clone, Debug)]
pub struct Answer {
    bytes: Vec<u8>,
    /// Where the records begin.
    start: usize,
    /// Its records and where they belong.
    records: Vec<(Section, Record)>,
}

/// Why an answer is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Not an answer to what was asked: keep waiting.
    Foreign,
    /// Too long for UDP.
    Truncated,
}

impl Answer {
    /// Read the answer to [`write_query`].
    pub fn read(mut bytes: Vec<u8>, id: u16, name: &Name, kind: u16) -> Result<Self, Unusable> {
        let parse = |bytes: &[u8]| {
            let flags = u16_at(bytes, 2)?;
            let end = plain_name(bytes, HEADER)?;
            let ours = u16_at(bytes, 0)? == id
                && flags & 0xf800 == 0x8000
                && u16_at(bytes, 4)? == 1
                && Name::from_wire(bytes.get(HEADER..end)?) == *name
                && u16_at(bytes, end)? == kind
                && u16_at(bytes, end + 2)? == CLASS_IN;
            if !ours {
                return None;
            }
            let mut records = Vec::new();
            let mut at = end + 4;
            let sections = [(Section::Answer, 6), (Section::Authority, 8), (Section::Additional, 10)];
            // Torn records of a truncated answer do not matter: it is asked for again.
            'all: for (section, count_at) in sections {
                for _ in 0..u16_at(bytes, count_at)? {
                    let record = match Record::read(bytes, at) {
                        Some(record) => record,
                        None if flags & 0x0200 != 0 => break 'all,
                        None => return None,
                    };
                    // Names point to absolute places, so nothing may be cut out: what follows an OPT goes with it.
                    if record.kind == kind::OPT {
                        break 'all;
                    }
                    records.push((section, record));
                    at = record.end;
                }
            }
            Some((flags, end + 4, at, records))
        };
        let (flags, start, end, records) = parse(&bytes).ok_or(Unusable::Foreign)?;
        if flags & 0x0200 != 0 {
            return Err(Unusable::Truncated);
        }
        bytes.truncate(end);
        Ok(Self { bytes, start, records })
    }

    /// Its response code, EDNS extensions left out.
    pub fn rcode(&self) -> u8 {
        self.bytes[3] & 0xf
    }

    /// How long it may be kept: the shortest time of its records; for a "no", what the SOA says of it.
    pub fn ttl(&self) -> u32 {
        let answers = self.records.iter().filter(|(section, _)| *section == Section::Answer).count();
        let ttl = |(_, record): &(Section, Record)| match record.kind {
            kind::SOA if answers == 0 => {
                let minimum = record.end.checked_sub(4).and_then(|at| u32_at(&self.bytes, at)).unwrap_or(0);
                record.ttl.min(minimum)
            }
            _ => record.ttl,
        };
        // Times with the highest bit set count as zero.
        self.records.iter().map(ttl).map(|ttl| if ttl > i32::MAX as u32 { 0 } else { ttl }).min().unwrap_or(0)
    }

    /// Give it to a client as the answer to its question, `age` seconds later.
    pub fn reply(&self, query: &Query, age: u32, most: u32) -> Vec<u8> {
        if self.bytes.len() + OPT_LENGTH > query.limit || query.question.len() != self.start - HEADER {
            let mut reply = Reply::new(query, Rcode::NoError);
            reply.truncated = true;
            return reply.finish();
        }
        let mut bytes = self.bytes.clone();
        // In the client's own case: pointers lead there.
        bytes[HEADER..self.start].copy_from_slice(&query.question);
        let mut counts = [0_u16; 3];
        for (section, record) in &self.records {
            counts[*section as usize] += 1;
            let ttl = record.ttl.min(most).saturating_sub(age);
            bytes[record.ttl_at..record.ttl_at + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        if query.edns {
            opt(&mut bytes, 0);
            counts[2] += 1;
        }
        let flags = 0x8080 | query.flags | u16::from(self.rcode());
        let [a, b, c] = counts;
        for (at, value) in [query.id, flags, 1, a, b, c].into_iter().enumerate() {
            bytes[at * 2..at * 2 + 2].copy_from_slice(&value.to_be_bytes());
        }
        bytes
    }

    /// The answer records that lead from a name to addresses, with their names written out.
    pub fn chain(&self) -> Vec<(Name, u32, Rdata)> {
        let records = self.records.iter().filter(|(section, _)| *section == Section::Answer);
        let expand = |(_, record): &(Section, Record)| {
            let owner = expand_name(&self.bytes, record.start)?;
            let data = match record.kind {
                kind::CNAME => Rdata::Cname(expand_name(&self.bytes, record.data)?),
                kind::A | kind::AAAA => {
                    Rdata::Raw(record.kind, self.bytes.get(record.data..record.end)?.to_vec())
                }
                _ => return None,
            };
            Some((owner, record.ttl, data))
        };
        records.filter_map(expand).collect()
    }

    /// Bytes it takes.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<Record>()
    }
}

#[cfg(test)]
mod tests;
