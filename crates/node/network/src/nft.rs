//! nftables over netlink: the few messages and expressions that the service tables are made of.

pub mod rules;

use nix::libc;

use crate::netlink::{ACK, Buf, CREATE, DUMP, EXCL, attrs, cstr, find};

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
/// `NFPROTO_IPV4`.
const FAMILY: u8 = 2;
/// An attribute ends at 64 KiB; lists of elements are cut well before.
const MAX_LIST: usize = 48 * 1024;

const MSG_NEWTABLE: u16 = SUBSYSTEM;
const MSG_GETTABLE: u16 = SUBSYSTEM | 1;
const MSG_DELTABLE: u16 = SUBSYSTEM | 2;
/// `NFT_MSG_NEWCHAIN`.
pub const MSG_NEWCHAIN: u16 = SUBSYSTEM | 3;
const MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
const MSG_DELCHAIN: u16 = SUBSYSTEM | 5;
const MSG_NEWRULE: u16 = SUBSYSTEM | 6;
const MSG_GETRULE: u16 = SUBSYSTEM | 7;
/// `NFT_MSG_DELRULE`.
pub const MSG_DELRULE: u16 = SUBSYSTEM | 8;
const MSG_NEWSET: u16 = SUBSYSTEM | 9;
const MSG_DELSET: u16 = SUBSYSTEM | 11;
const MSG_NEWSETELEM: u16 = SUBSYSTEM | 12;
const MSG_DELSETELEM: u16 = SUBSYSTEM | 14;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// The data type of verdicts in maps.
pub const TYPE_VERDICT: u32 = 0xffff_ff00;
/// Types as the `nft` tool numbers them, so that it can print our maps. A concatenation shifts by six.
pub const TYPE_ADDRESS: u32 = 7;
/// `inet_proto`.
pub const TYPE_PROTOCOL: u32 = 12;
/// `inet_service`.
pub const TYPE_PORT: u32 = 13;
/// `mark`: the one plain 32 bit number that has a name.
pub const TYPE_NUMBER: u32 = 19;

/// Set flag: has data.
pub const SET_MAP: u32 = 8;
/// Set flag: elements expire.
pub const SET_TIMEOUT: u32 = 0x10;
/// Set flag: changed by rules.
pub const SET_EVAL: u32 = 0x20;

/// What an element of a map leads to.
#[derive(Clone, Debug)]
pub enum Data<'a> {
    /// Nothing: a set.
    None,
    /// A value.
    Value(&'a [u8]),
    /// On to a chain, not to come back.
    Goto(&'a str),
}

/// A set or map to make.
#[derive(Debug)]
pub struct NewSet<'a> {
    pub name: &'a str,
    pub flags: u32,
    pub key_type: u32,
    pub key_len: u32,
    pub data_type: u32,
    pub data_len: u32,
    /// Most elements, 0 for no bound.
    pub size: u32,
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

/// One transaction.
#[derive(Debug)]
pub struct Batch {
    buf: Buf,
    table: String,
    elements: usize,
}

impl Batch {
    /// A transaction on that table.
    pub fn new(table: &str) -> Self {
        let mut buf = Buf::default();
        frame(&mut buf, BATCH_BEGIN);
        Self { buf, table: table.to_owned(), elements: 0 }
    }

    /// Nothing is in it yet.
    pub fn is_empty(&self) -> bool {
        self.buf.messages() == 1
    }

    /// Close it; the buffer, the number of the last message, how many messages and how many elements.
    pub fn finish(mut self) -> (Buf, u32, usize, usize) {
        self.buf.ack_last();
        let last = self.buf.messages() - 1;
        frame(&mut self.buf, BATCH_END);
        (self.buf, last, last as usize, self.elements)
    }

    fn begin(&mut self, kind: u16, flags: u16) -> &mut Buf {
        // The table's name is attribute 1 of every message.
        self.buf.begin(kind, flags).put(&[FAMILY, 0, 0, 0]).text(1, &self.table)
    }

    /// Make the table unless it is there.
    pub fn add_table(&mut self) {
        self.begin(MSG_NEWTABLE, CREATE).end();
    }

    /// Remove the table with all that is in it.
    pub fn delete_table(&mut self) {
        self.begin(MSG_DELTABLE, 0).end();
    }

    /// Make a chain; with a hook the kernel enters it by itself.
    pub fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        let buf = self.begin(MSG_NEWCHAIN, CREATE);
        buf.text(3, name);
        if let Some(hook) = hook {
            buf.nest(4, |b| {
                b.be32(1, hook.number).be32(2, hook.priority.cast_unsigned());
            });
            buf.text(7, hook.kind);
        }
        buf.end();
    }

    /// Remove a chain and its rules.
    pub fn delete_chain(&mut self, name: &str) {
        self.begin(MSG_DELCHAIN, 0).text(3, name).end();
    }

    /// Append a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, rule: Rule) {
        // NLM_F_APPEND is 0x800.
        self.begin(MSG_NEWRULE, CREATE | 0x800).text(2, chain).attr(4 | 0x8000, rule.0.bytes()).end();
    }

    /// Put a rule in front of a chain.
    pub fn insert_rule(&mut self, chain: &str, rule: Rule) {
        self.begin(MSG_NEWRULE, CREATE).text(2, chain).attr(4 | 0x8000, rule.0.bytes()).end();
    }

    /// Remove one rule.
    pub fn delete_rule(&mut self, chain: &str, handle: u64) {
        self.begin(MSG_DELRULE, 0).text(2, chain).attr(3, &handle.to_be_bytes()).end();
    }

    /// Remove all rules of a chain.
    pub fn clear_chain(&mut self, name: &str) {
        self.begin(MSG_DELRULE, 0).text(2, name).end();
    }

    /// Remove a set or map.
    pub fn delete_set(&mut self, name: &str) {
        self.begin(MSG_DELSET, 0).text(2, name).end();
    }

    /// Make a set or map.
    pub fn add_set(&mut self, set: &NewSet<'_>) {
        let id = self.buf.messages();
        let buf = self.begin(MSG_NEWSET, CREATE | EXCL);
        buf.text(2, set.name).be32(3, set.flags).be32(4, set.key_type).be32(5, set.key_len);
        if set.flags & SET_MAP != 0 {
            buf.be32(6, set.data_type);
            if set.data_len > 0 {
                buf.be32(7, set.data_len);
            }
        }
        if set.size > 0 {
            buf.nest(9, |b| {
                b.be32(1, set.size);
            });
        }
        buf.be32(10, id).end();
    }

    /// Put elements into a set or map.
    pub fn add_elements<'e>(&mut self, set: &str, elements: impl IntoIterator<Item = (&'e [u8], Data<'e>)>) {
        self.elements(MSG_NEWSETELEM, CREATE, set, elements);
    }

    /// Take elements out.
    pub fn delete_elements<'e>(&mut self, set: &str, keys: impl IntoIterator<Item = &'e [u8]>) {
        self.elements(MSG_DELSETELEM, 0, set, keys.into_iter().map(|key| (key, Data::None)));
    }

    fn elements<'e>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        elements: impl IntoIterator<Item = (&'e [u8], Data<'e>)>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let mut count = 0;
            let buf = self.begin(kind, flags);
            buf.text(2, set).nest(3, |b| {
                let start = b.len();
                while b.len() - start < MAX_LIST
                    && let Some((key, data)) = elements.next()
                {
                    count += 1;
                    b.nest(1, |b| {
                        b.nest(1, |b| {
                            b.attr(1, key);
                        });
                        match data {
                            Data::None => {}
                            Data::Value(value) => {
                                b.nest(2, |b| {
                                    b.attr(1, value);
                                });
                            }
                            Data::Goto(chain) => {
                                b.nest(2, |b| verdict(b, libc::NFT_GOTO, Some(chain)));
                            }
                        }
                    });
                }
            });
            buf.end();
            self.elements += count;
        }
    }
}

fn frame(buf: &mut Buf, kind: u16) {
    // Family unspecified; the subsystem is in the last field, in network order.
    buf.begin(kind, 0).put(&[0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8]).end();
}

/// Ask whether a table exists.
pub fn get_table(table: &str) -> Buf {
    let mut buf = Buf::default();
    buf.begin(MSG_GETTABLE, ACK).put(&[FAMILY, 0, 0, 0]).text(1, table).end();
    buf
}

/// Ask whether a chain exists.
pub fn get_chain(table: &str, chain: &str) -> Buf {
    let mut buf = Buf::default();
    buf.begin(MSG_GETCHAIN, ACK).put(&[FAMILY, 0, 0, 0]).text(1, table).text(3, chain).end();
    buf
}

/// Ask for the rules of a chain.
pub fn list_rules(table: &str, chain: &str) -> Buf {
    let mut buf = Buf::default();
    buf.begin(MSG_GETRULE, DUMP).put(&[FAMILY, 0, 0, 0]).text(1, table).text(2, chain).end();
    buf
}

/// The expressions of a rule: their names and data.
pub fn expressions(list: &[u8]) -> Vec<(&str, &[u8])> {
    let mut all = Vec::new();
    attrs(list, |_, expression| {
        let name = find(expression, 1).map(cstr).unwrap_or_default();
        all.push((name, find(expression, 2).unwrap_or_default()));
    });
    all
}

/// The table that a notification is about.
pub fn notified_table(body: &[u8]) -> Option<&str> {
    if body.first() != Some(&FAMILY) {
        return None;
    }
    find(body.get(4..)?, 1).map(cstr)
}

/// Whether a message type belongs to nftables and names a table first (so not a new generation's number).
pub fn names_a_table(kind: u16) -> bool {
    kind & 0xff00 == SUBSYSTEM && kind & 0xff != 15
}

fn verdict(buf: &mut Buf, code: i32, chain: Option<&str>) {
    buf.nest(2, |b| {
        b.be32(1, code.cast_unsigned());
        if let Some(chain) = chain {
            b.text(2, chain);
        }
    });
}

/// One of the sixteen 32 bit registers of the rule machine.
#[derive(Clone, Copy, Debug)]
pub struct Reg(pub u32);

impl Reg {
    fn number(self) -> u32 {
        // NFT_REG32_00
        8 + self.0
    }
}

/// A rule: expressions evaluated one after the other, as long as each matches.
#[derive(Debug, Default)]
pub struct Rule(Buf);

impl Rule {
    fn expr(mut self, name: &str, fill: impl FnOnce(&mut Buf)) -> Self {
        self.0.nest(1, |b| {
            b.text(1, name).nest(2, fill);
        });
        self
    }

    /// Load bytes of the IP header (`base` 1) or of the header after it (`base` 2).
    pub fn payload(self, base: u32, offset: u32, len: u32, to: Reg) -> Self {
        self.expr("payload", |b| {
            b.be32(1, to.number()).be32(2, base).be32(3, offset).be32(4, len);
        })
    }

    /// Load a fact about the packet.
    pub fn meta(self, key: i32, to: Reg) -> Self {
        self.expr("meta", |b| {
            b.be32(1, to.number()).be32(2, key.cast_unsigned());
        })
    }

    /// Load a fact about the connection.
    pub fn ct(self, key: i32, original: bool, to: Reg) -> Self {
        self.expr("ct", |b| {
            b.be32(1, to.number()).be32(2, key.cast_unsigned());
            if original {
                b.attr(3, &[0]);
            }
        })
    }

    /// Go on when the register equals (or, with `equal` false, differs from) the value.
    pub fn compare(self, reg: Reg, equal: bool, value: &[u8]) -> Self {
        self.expr("cmp", |b| {
            b.be32(1, reg.number()).be32(2, u32::from(!equal)).nest(3, |b| {
                b.attr(1, value);
            });
        })
    }

    /// Mask a register.
    pub fn mask(self, reg: Reg, mask: [u8; 4]) -> Self {
        self.expr("bitwise", |b| {
            b.be32(1, reg.number()).be32(2, reg.number()).be32(3, 4);
            b.nest(4, |b| {
                b.attr(1, &mask);
            });
            b.nest(5, |b| {
                b.attr(1, &[0; 4]);
            });
        })
    }

    /// Load a constant.
    pub fn set(self, reg: Reg, value: &[u8]) -> Self {
        self.expr("immediate", |b| {
            b.be32(1, reg.number()).nest(2, |b| {
                b.attr(1, value);
            });
        })
    }

    /// Go on when the key that begins at `key` is in the set.
    pub fn member(self, set: &str, key: Reg) -> Self {
        self.expr("lookup", |b| {
            b.text(1, set).be32(2, key.number());
        })
    }

    /// Go on when the key that begins at `key` is in the map, with what it leads to.
    pub fn lookup(self, map: &str, key: Reg, to: Reg) -> Self {
        self.expr("lookup", |b| {
            b.text(1, map).be32(2, key.number()).be32(3, to.number());
        })
    }

    /// Follow the verdict that the map has for the key, if any.
    pub fn dispatch(self, map: &str, key: Reg) -> Self {
        self.expr("lookup", |b| {
            b.text(1, map).be32(2, key.number()).be32(3, 0);
        })
    }

    /// A random number below `modulus`.
    pub fn random(self, modulus: u32, to: Reg) -> Self {
        self.expr("numgen", |b| {
            b.be32(1, to.number()).be32(2, modulus).be32(3, 1).be32(4, 0);
        })
    }

    /// What kind of address the destination is.
    pub fn destination_type(self, to: Reg) -> Self {
        self.expr("fib", |b| {
            b.be32(1, to.number()).be32(2, 3).be32(3, 2);
        })
    }

    /// Put the key into a set that rules may change, or let it live on for that long.
    pub fn remember(self, set: &str, key: Reg, timeout_ms: u64) -> Self {
        // NFT_DYNSET_OP_UPDATE is 1.
        self.expr("dynset", |b| {
            b.text(1, set).be32(3, 1).be32(4, key.number()).attr(6, &timeout_ms.to_be_bytes());
        })
    }

    /// Send the connection to the address and port in these registers.
    pub fn dnat(self, address: Reg, port: Reg) -> Self {
        self.expr("nat", |b| {
            b.be32(1, 1).be32(2, u32::from(FAMILY)).be32(3, address.number()).be32(5, port.number());
        })
    }

    /// Give the connection the source address of the link it leaves by, from a random port.
    pub fn masquerade(self) -> Self {
        // NF_NAT_RANGE_PROTO_RANDOM_FULLY
        self.expr("masq", |b| {
            b.be32(1, 0x10);
        })
    }

    /// Refuse by ICMP "port unreachable", or by a TCP reset.
    pub fn reject(self, reset: bool) -> Self {
        self.expr("reject", |b| {
            b.be32(1, u32::from(reset)).attr(2, &[3]);
        })
    }

    /// Count packets, as every rule of iptables does.
    pub fn count(self) -> Self {
        self.expr("counter", |_| {})
    }

    /// Let the packet through, as far as this chain goes.
    pub fn accept(self) -> Self {
        self.expr("immediate", |b| {
            b.be32(1, 0).nest(2, |b| verdict(b, libc::NF_ACCEPT, None));
        })
    }

    /// Drop the packet.
    pub fn drop(self) -> Self {
        self.expr("immediate", |b| {
            b.be32(1, 0).nest(2, |b| verdict(b, libc::NF_DROP, None));
        })
    }

    /// Go through another chain and come back.
    pub fn jump(self, chain: &str) -> Self {
        self.expr("immediate", |b| {
            b.be32(1, 0).nest(2, |b| verdict(b, libc::NFT_JUMP, Some(chain)));
        })
    }

    /// Go on in another chain.
    pub fn goto(self, chain: &str) -> Self {
        self.expr("immediate", |b| {
            b.be32(1, 0).nest(2, |b| verdict(b, libc::NFT_GOTO, Some(chain)));
        })
    }
}
