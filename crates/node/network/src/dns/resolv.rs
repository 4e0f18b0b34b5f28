//! `resolv.conf`.

use std::net::IpAddr;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The name servers in order.
    pub nameservers: Vec<IpAddr>,
    /// The search list.
    pub search: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// At most this many search domains are kept, as glibc and Kubernetes do.
const MAX_SEARCH: usize = 32;

/// At most this many name servers are kept.
const MAX_NAMESERVERS: usize = 8;

/// Read the text of a `resolv.conf`. Lines that make no sense are skipped, as every resolver does.
#[must_use]
pub fn parse(text: &str) -> ResolvConf {
    let mut conf = ResolvConf::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A scope (`fe80::1%eth0`) cannot be expressed in an address: such a server is left out.
                if let Some(Ok(server)) = words.next().map(str::parse)
                    && conf.nameservers.len() < MAX_NAMESERVERS
                    && !conf.nameservers.contains(&server)
                {
                    conf.nameservers.push(server);
                }
            }
            // The last of `search` and `domain` wins.
            Some("search") => conf.search = words.take(MAX_SEARCH).map(str::to_owned).collect(),
            Some("domain") => conf.search = words.take(1).map(str::to_owned).collect(),
            Some("options") => conf.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    conf
}

impl ResolvConf {
    /// The text of a `resolv.conf` that says this.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for server in &self.nameservers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.search.is_empty() {
            out.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_resolvers_read() {
        let conf = parse(
            "# written by hand\nnameserver 192.0.2.53\nnameserver fd00::53 ; second\nnameserver nonsense\n\
             nameserver fe80::1%eth0\nnameserver 192.0.2.53\ndomain old.example\nsearch a.example b.example\n\
             options ndots:2\noptions edns0\n",
        );
        assert_eq!(conf.nameservers, ["192.0.2.53".parse::<IpAddr>().unwrap(), "fd00::53".parse().unwrap()]);
        assert_eq!(conf.search, ["a.example", "b.example"]);
        assert_eq!(conf.options, ["ndots:2", "edns0"]);
        assert_eq!(parse(&conf.render()), conf);
    }
}
