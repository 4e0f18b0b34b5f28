//! DNS by a real client (`dig`), with other servers made by the test.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sampan_network::{DnsEndpoint, DnsOptions, DnsPort, DnsRecords, DnsTarget, Error, Network, Protocol};

use crate::ground::{DNS, Ground, ground, output};

async fn start(g: &Ground, upstreams: Vec<SocketAddr>) -> Network {
    let mut options = g.options();
    options.dns =
        Some(DnsOptions { port: 53, domain: "cluster.local".into(), upstreams, ttl: Duration::from_secs(5) });
    Network::start(options, &g.supervisor).await.unwrap()
}

/// Ask off the test's own thread, which the server runs on.
async fn dig(g: &Ground, question: &str) -> String {
    let arguments = format!("@{DNS} +tries=1 +time=6 {question}");
    g.supervisor.blocking(move || output("dig", &arguments)).await
}

/// The answers alone, sorted.
async fn short(g: &Ground, question: &str) -> Vec<String> {
    let answer = dig(g, &format!("+short {question}")).await;
    let mut lines: Vec<_> = answer.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn port(name: &str, port: u16) -> DnsPort {
    DnsPort { name: name.into(), protocol: Protocol::Tcp, port }
}

fn records(name: &str, target: DnsTarget) -> DnsRecords {
    DnsRecords { name: name.into(), namespace: "default".into(), target }
}

fn web() -> DnsRecords {
    let ips = vec![Ipv4Addr::new(10, 43, 0, 77)];
    records("web", DnsTarget::Cluster { ips, ports: vec![port("http", 80), port("", 81)] })
}

fn headless(count: u8) -> DnsRecords {
    let endpoint = |n: u8| DnsEndpoint {
        ip: Ipv4Addr::new(10, 42, 0, n),
        hostname: (n == 2).then(|| "db-0".to_owned()),
        ports: vec![port("sql", 5432)],
    };
    records("db", DnsTarget::Headless { endpoints: (2..2 + count).map(endpoint).collect() })
}

fn external(name: &str, target: &str) -> DnsRecords {
    records(name, DnsTarget::External { name: target.into() })
}

/// An upstream: everything is 198.51.100.7, except names that begin with `nx`, `fail`, `old` (knows no EDNS), `silent` or
/// `big`.
fn upstream(ip: [u8; 4]) -> (SocketAddr, Arc<AtomicUsize>) {
    let udp = UdpSocket::bind((Ipv4Addr::from(ip), 0)).unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let asked = count.clone();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            asked.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answer(&buffer[..length], false) {
                udp.send_to(&answer, from).unwrap();
            }
        }
    });
    thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).unwrap();
            let answer = answer(&question, true).unwrap();
            stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    (address, count)
}

fn answer(question: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let end = 12 + question[12..].iter().position(|&b| b == 0).unwrap() + 5;
    let name = &question[13..];
    let mut answer = question[..end].to_vec();
    let a = question[end - 3] == 1;
    let (flags, count) = match name {
        _ if name.starts_with(b"silent") => return None,
        _ if name.starts_with(b"nx") => (0x8183_u16, 0),
        _ if name.starts_with(b"fail") => (0x8182, 0),
        _ if name.starts_with(b"old") && question[11] > 0 => (0x8181, 0),
        _ if name.starts_with(b"big") && !tcp => (0x8380, 0),
        _ if name.starts_with(b"big") => (0x8180, 300),
        _ => (0x8180, u16::from(a)),
    };
    answer[2..4].copy_from_slice(&flags.to_be_bytes());
    answer[6..8].copy_from_slice(&count.to_be_bytes());
    answer[8..12].fill(0);
    for n in 0..count {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 198, 51, 100]);
        answer.push(u8::try_from(7 + n % 200).unwrap());
    }
    Some(answer)
}

#[test]
fn cluster_names() {
    ground(|g| async move {
        let network = start(&g, vec![]).await;
        let dns = network.dns().unwrap();
        dns.apply(vec![web(), headless(2), external("alias", "web.default.svc.cluster.local")]).unwrap();
        let base = "default.svc.cluster.local";
        assert_eq!(short(&g, &format!("web.{base}")).await, ["10.43.0.77"]);
        assert_eq!(short(&g, &format!("db.{base}")).await, ["10.42.0.2", "10.42.0.3"]);
        assert_eq!(short(&g, &format!("db-0.db.{base}")).await, ["10.42.0.2"]);
        assert_eq!(short(&g, &format!("10-42-0-3.db.{base}")).await, ["10.42.0.3"]);
        assert_eq!(short(&g, &format!("SRV _http._tcp.web.{base}")).await, [format!("0 100 80 web.{base}.")]);
        assert_eq!(
            short(&g, &format!("SRV _sql._tcp.db.{base}")).await,
            [format!("0 100 5432 10-42-0-3.db.{base}."), format!("0 100 5432 db-0.db.{base}.")]
        );
        let srv = dig(&g, &format!("SRV _sql._tcp.db.{base}")).await;
        assert!(srv.contains("ADDITIONAL: 3"), "addresses come along: {srv}");
        assert_eq!(short(&g, "-x 10.43.0.77").await, [format!("web.{base}.")]);
        assert_eq!(short(&g, "-x 10.42.0.2").await, [format!("db-0.db.{base}.")]);
        assert_eq!(short(&g, &format!("alias.{base}")).await, ["10.43.0.77", &format!("web.{base}.")]);
        assert_eq!(short(&g, "10-42-0-9.kube-system.pod.cluster.local").await, ["10.42.0.9"]);
        assert_eq!(short(&g, "TXT dns-version.cluster.local").await, ["\"1.1.0\""]);
        assert_eq!(short(&g, "NS cluster.local").await, ["ns.dns.cluster.local."]);
        let answer = dig(&g, "WEB.Default.svc.cluster.local").await;
        assert!(answer.contains("WEB.Default.svc.cluster.local. 5 IN\tA\t10.43.0.77"), "{answer}");
        assert!(answer.contains("flags: qr aa rd ra"), "{answer}");

        let status = async |question: &str| {
            let answer = dig(&g, question).await;
            let status = answer.split("status: ").nth(1).unwrap().split(',').next().unwrap().to_owned();
            let soa = answer.contains("AUTHORITY: 1") && answer.contains("SOA");
            format!("{status}{}", if soa { " soa" } else { "" })
        };
        for (question, expected) in [
            (format!("AAAA web.{base}"), "NOERROR soa"),
            (format!("A _tcp.web.{base}"), "NOERROR soa"),
            (base.to_owned(), "NOERROR soa"),
            ("svc.cluster.local".to_owned(), "NOERROR soa"),
            (format!("none.{base}"), "NXDOMAIN soa"),
            ("none.svc.cluster.local".to_owned(), "NXDOMAIN soa"),
            (format!("SRV _none._tcp.web.{base}"), "NXDOMAIN soa"),
            ("1-2-3-4.default.pod.cluster.local".to_owned(), "NXDOMAIN soa"),
            ("-x 10.42.0.99".to_owned(), "NXDOMAIN soa"),
            ("example.com".to_owned(), "SERVFAIL"),
            ("local".to_owned(), "SERVFAIL"),
            ("arpa".to_owned(), "SERVFAIL"),
            ("AXFR cluster.local +notcp".to_owned(), "REFUSED"),
            (format!("-c CH TXT web.{base}"), "REFUSED"),
        ] {
            if question.starts_with("AXFR") {
                // dig does not show the status of a refused transfer.
                assert!(dig(&g, &question).await.contains("Transfer failed"));
            } else {
                assert_eq!(status(&question).await, expected, "{question}");
            }
        }

        dns.update("default", "db", Some(headless(1))).unwrap();
        assert_eq!(short(&g, &format!("db.{base}")).await, ["10.42.0.2"]);
        assert_eq!(status(&format!("10-42-0-3.db.{base}")).await, "NXDOMAIN soa");
        dns.update("default", "db", None).unwrap();
        dns.update("default", "web", None).unwrap();
        dns.update("default", "alias", None).unwrap();
        assert_eq!(status(base).await, "NXDOMAIN soa", "the namespace has no names left");
        assert!(matches!(dns.update("a.b", "web", Some(web())), Ok(())), "the records' own names count");
        let mut bad = web();
        bad.namespace = "a.b".into();
        assert!(matches!(dns.update("a.b", "web", Some(bad)), Err(Error::Service { .. })));
    });
}

#[test]
fn long_answers_come_by_tcp() {
    ground(|g| async move {
        let network = start(&g, vec![]).await;
        network.dns().unwrap().apply(vec![headless(200)]).unwrap();
        let name = "db.default.svc.cluster.local";
        assert_eq!(short(&g, name).await.len(), 200);
        let cut = dig(&g, &format!("+ignore +noedns {name}")).await;
        assert!(cut.contains("flags: qr aa tc"), "{cut}");
        assert!(cut.contains("MSG SIZE  rcvd: 5") || cut.contains("MSG SIZE  rcvd: 4"), "{cut}");
        assert_eq!(short(&g, &format!("+tcp +keepopen {name} {name}")).await.len(), 400);
    });
}

#[test]
fn other_names_are_asked_of_others() {
    ground(|g| async move {
        let (server, asked) = upstream([127, 0, 0, 1]);
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let network = start(&g, vec![closed, server]).await;
        assert_eq!(short(&g, "example.com").await, ["198.51.100.7"], "the next server is asked");
        assert_eq!(short(&g, "Example.COM").await, ["198.51.100.7"]);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "the second answer was kept");
        let kept = dig(&g, "+noedns example.com").await;
        let ttl: u32 = kept
            .lines()
            .find(|l| l.starts_with("example.com"))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        assert!((25..=30).contains(&ttl), "{kept}");
        assert!(!kept.contains("OPT"), "{kept}");
        assert!(dig(&g, "nx.example.com").await.contains("NXDOMAIN"));
        assert_eq!(short(&g, "old.example.com").await, ["198.51.100.7"]);
        assert!(dig(&g, "fail.example.com").await.contains("SERVFAIL"));
        assert_eq!(short(&g, "big.example.com").await.len(), 300);
        assert_eq!(dig(&g, "AAAA example.com").await.matches("ANSWER: 0").count(), 1);
        let start = Instant::now();
        assert!(dig(&g, "silent.example.com").await.contains("SERVFAIL"));
        assert!(start.elapsed() < Duration::from_secs(6));

        network.dns().unwrap().apply(vec![external("out", "example.com"), web()]).unwrap();
        assert_eq!(short(&g, "out.default.svc.cluster.local").await, ["198.51.100.7", "example.com."]);
        let alias = dig(&g, "CNAME out.default.svc.cluster.local").await;
        assert!(alias.contains("flags: qr aa") && alias.contains("example.com."), "{alias}");
        network.dns().unwrap().apply(vec![external("out", "nx.example.com")]).unwrap();
        assert!(dig(&g, "out.default.svc.cluster.local").await.contains("NXDOMAIN"));
        network.dns().unwrap().apply(vec![external("out", "out.default.svc.cluster.local")]).unwrap();
        assert!(dig(&g, "out.default.svc.cluster.local").await.contains("SERVFAIL"), "an alias of itself");
    });
}

#[test]
fn a_question_that_comes_back_goes_round_once() {
    ground(|g| async move {
        // A server that asks us what we ask it, as when the host's resolver was pointed at the cluster's.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let asked = count.clone();
        thread::spawn(move || {
            let back = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut buffer = [0; 4096];
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                asked.fetch_add(1, Ordering::SeqCst);
                back.send_to(&buffer[..length], (DNS, 53)).unwrap();
            }
        });
        let _network = start(&g, vec![address, (DNS, 53).into()]).await;
        assert!(dig(&g, "example.com").await.contains("SERVFAIL"));
        assert!(count.load(Ordering::SeqCst) <= 2, "{count:?}");
    });
}

#[test]
fn rubbish_does_not_disturb_and_pods_are_served() {
    ground(|g| async move {
        let network = start(&g, vec![]).await;
        network.dns().unwrap().apply(vec![web()]).unwrap();
        let (pod, _) = g.pod(&network, "pod").await;
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for length in 0..600 {
            let bytes: Vec<u8> = (0..length).map(|n: usize| (n * 31 + length) as u8).collect();
            socket.send_to(&bytes, (DNS, 53)).unwrap();
        }
        let pod = Arc::new(pod);
        let answer = g.supervisor.blocking(move || {
            pod.run(|| {
                output("dig", &format!("@{DNS} +short +tries=5 +time=1 web.default.svc.cluster.local"))
            })
        });
        assert_eq!(answer.await.trim(), "10.43.0.77");
        let mut options = g.options();
        options.dns = Some(DnsOptions {
            port: 53,
            domain: "cluster.local".into(),
            upstreams: vec![],
            ttl: Duration::from_secs(5),
        });
        let second = Network::start(options.clone(), &g.supervisor).await.unwrap_err();
        assert!(matches!(second, Error::DnsBind { .. }), "{second}");
        options.dns.as_mut().unwrap().domain = "a..b".into();
        assert!(matches!(Network::start(options, &g.supervisor).await, Err(Error::Options(_))));
    });
}

/// Run alone (`-- --ignored`), in release for figures that mean something.
#[test]
#[ignore = "a measurement"]
fn measure_questions() {
    ground(|g| async move {
        let network = start(&g, vec![]).await;
        let dns = network.dns().unwrap();
        let many = |n: u32| {
            let ips = vec![Ipv4Addr::from_bits(0x0a2b_1000 + n)];
            let mut entry = records("", DnsTarget::Cluster { ips, ports: vec![port("http", 80)] });
            entry.name = format!("web-{n}");
            entry
        };
        let start = Instant::now();
        dns.apply((0..10_000).map(many).collect()).unwrap();
        println!("10,000 services: {:?}", start.elapsed());
        let start = Instant::now();
        for n in 0..1000 {
            let mut entry = many(n);
            entry.target = DnsTarget::External { name: format!("{n}.example.com") };
            dns.update("default", &format!("web-{n}"), Some(entry)).unwrap();
        }
        println!("an update: {:?}", start.elapsed() / 1000);
        let asking = g.supervisor.blocking(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((DNS, 53)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in ["web-5000", "default", "svc", "cluster", "local", ""] {
                question.push(u8::try_from(label.len()).unwrap());
                question.extend_from_slice(label.as_bytes());
            }
            question.extend_from_slice(&[0, 1, 0, 1]);
            let start = Instant::now();
            for _ in 0..1000 {
                for _ in 0..32 {
                    socket.send(&question).unwrap();
                }
                for _ in 0..32 {
                    socket.recv(&mut [0; 512]).unwrap();
                }
            }
            start.elapsed()
        });
        println!("questions per second: {:.0}", 32_000.0 / asking.await.as_secs_f64());
    });
}
