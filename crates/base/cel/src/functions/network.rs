//! Addresses and networks.

use std::net::IpAddr;

use super::{Context, Implementation};
use crate::{
    error::EvalError,
    eval::no_overload,
    value::{Value, opaque::Inner},
};

type Result<T> = std::result::Result<T, EvalError>;

pub(super) fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "ip" => ip,
        "isIP" => |_, args| Ok(Value::Bool(parse(word(&args, 0)?).is_ok())),
        "ip.isCanonical" => canonical,
        "family" => |_, args| Ok(Value::Int(if address(&args)?.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => |_, args| Ok(Value::Bool(address(&args)?.is_unspecified())),
        "isLoopback" => |_, args| Ok(Value::Bool(address(&args)?.is_loopback())),
        "isLinkLocalMulticast" => |_, args| Ok(Value::Bool(link_local_multicast(&address(&args)?))),
        "isLinkLocalUnicast" => |_, args| Ok(Value::Bool(link_local(&address(&args)?))),
        "isGlobalUnicast" => |_, args| Ok(Value::Bool(global(&address(&args)?))),
        "cidr" => cidr,
        "isCIDR" => |_, args| Ok(Value::Bool(parse_network(word(&args, 0)?).is_ok())),
        "containsIP" => contains_ip,
        "containsCIDR" => contains_network,
        "prefixLength" => |_, args| Ok(Value::Int(i64::from(network(args.first())?.1))),
        "masked" => masked,
        _ => return None,
    })
}

fn word<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v str> {
    args.get(at).and_then(Value::as_str).ok_or_else(no_overload)
}

fn parse(text: &str) -> Result<IpAddr> {
    if text.contains('%') {
        return Err(EvalError::new(format!("IP address {text:?} with zone value is not allowed")));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        Ok(ip) => Ok(ip),
        Err(_) => {
            let reason = format!("ParseAddr({text:?}): unable to parse IP");
            Err(EvalError::new(format!(
                "IP Address {text:?} parse error during conversion from string: {reason}"
            )))
        }
    }
}

fn parse_network(text: &str) -> Result<(IpAddr, u8)> {
    let wrong = |reason: &str| {
        EvalError::new(format!(
            "network address parse error during conversion from string: network address parse error during \
             conversion from string: netip.ParsePrefix({text:?}): {reason}"
        ))
    };
    let (address, bits) = text.split_once('/').ok_or_else(|| wrong("no '/'"))?;
    let ip: IpAddr = address.parse().map_err(|_| wrong("unable to parse IP"))?;
    if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")));
    }
    let digits = !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && (bits == "0" || !bits.starts_with('0'));
    let length = bits.parse::<u8>().ok().filter(|_| digits).ok_or_else(|| wrong("bad bits after slash"))?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    if length > most { Err(wrong("prefix length out of range")) } else { Ok((ip, length)) }
}

fn ip<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    if let Some(Value::Opaque(_)) = args.first() {
        return Ok(Value::opaque(Inner::Ip(network(args.first())?.0)));
    }
    Ok(Value::opaque(Inner::Ip(parse(word(&args, 0)?)?)))
}

fn canonical<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let text = word(&args, 0)?;
    Ok(Value::Bool(parse(text)?.to_string() == text))
}

fn cidr<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let (ip, bits) = parse_network(word(&args, 0)?)?;
    Ok(Value::opaque(Inner::Cidr(ip, bits)))
}

fn address(args: &[Value<'_>]) -> Result<IpAddr> {
    match args.first() {
        Some(Value::Opaque(inner)) => match &**inner {
            Inner::Ip(ip) => Ok(*ip),
            _ => Err(no_overload()),
        },
        _ => Err(no_overload()),
    }
}

fn network(value: Option<&Value<'_>>) -> Result<(IpAddr, u8)> {
    match value {
        Some(Value::Opaque(inner)) => match &**inner {
            Inner::Cidr(ip, bits) => Ok((*ip, *bits)),
            _ => Err(no_overload()),
        },
        _ => Err(no_overload()),
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn global(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local(ip)
}

fn bits(ip: &IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

fn within(ip: &IpAddr, network: (IpAddr, u8)) -> bool {
    ip.is_ipv4() == network.0.is_ipv4() && (bits(ip) ^ bits(&network.0)) & mask(network.1) == 0
}

fn contains_ip<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let network = network(args.first())?;
    let ip = match args.get(1) {
        Some(Value::String(text)) => parse(text)?,
        _ => address(args.get(1..).unwrap_or(&[]))?,
    };
    Ok(Value::Bool(within(&ip, network)))
}

fn contains_network<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let outer = network(args.first())?;
    let inner = match args.get(1) {
        Some(Value::String(text)) => parse_network(text)?,
        other => network(other)?,
    };
    Ok(Value::Bool(outer.1 <= inner.1 && within(&inner.0, outer)))
}

fn masked<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let (ip, length) = network(args.first())?;
    let ip = match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & mask(length)).into()),
    };
    Ok(Value::opaque(Inner::Cidr(ip, length)))
}
