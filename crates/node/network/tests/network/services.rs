//! Services: how connections spread, who may reach what, and what happens to them when endpoints change.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sampan_network::Protocol;

use crate::ground::{VIP, ask, ask_udp, ground, service};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

#[test]
fn connections_spread_over_endpoints() {
    ground(|g| async move {
        let network = g.start().await;
        let (client, client_ip) = g.pod(&network, "client").await;
        let mut endpoints = Vec::new();
        let mut pods = Vec::new();
        for name in ["a", "b", "c"] {
            let (pod, ip) = g.pod(&network, name).await;
            pod.serve(8080, name);
            endpoints.push((ip, 8080));
            pods.push(pod);
        }
        network.apply(vec![service(Protocol::Tcp, 80, &endpoints)]).await.unwrap();
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..90 {
            let (name, seen) = client.ask(VIP, 80).unwrap();
            assert_eq!(seen.ip(), client_ip, "the client's address is kept");
            *count.entry(name).or_default() += 1;
        }
        // 90 draws of three: less than 10 of one happens once in 10^6.
        assert!(count.len() == 3 && count.values().all(|n| *n >= 10), "{count:?}");
        let mut from_host: Vec<_> = (0..30).map(|_| ask(VIP, 80).unwrap().0).collect();
        from_host.sort();
        from_host.dedup();
        assert!(from_host.len() >= 2, "from the host too: {from_host:?}");
    });
}

#[test]
fn with_bridges_that_pass_packets_through_netfilter_and_without() {
    for setting in ["0", "1"] {
        ground(|g| async move {
            // Set where the module is loaded; elsewhere it is as with "0".
            let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", setting);
            let network = g.start().await;
            let (client, client_ip) = g.pod(&network, "client").await;
            let (pod, ip) = g.pod(&network, "pod").await;
            pod.serve(8080, "pod");
            let mut entry = service(Protocol::Tcp, 80, &[(ip, 8080)]);
            entry.ports[0].node_port = Some(30080);
            network.apply(vec![entry]).await.unwrap();
            let (name, seen) = client.ask(VIP, 80).unwrap();
            assert_eq!((name.as_str(), seen.ip()), ("pod", client_ip.into()));
            assert_eq!(pod.ask(VIP, 80).unwrap().0, "pod", "hairpin");
            assert_eq!(client.ask(network.gateway(), 30080).unwrap().0, "pod");
            assert_eq!(ask(Ipv4Addr::LOCALHOST, 30080).unwrap().0, "pod");
            assert!(client.ask(VIP, 81).is_err());
        });
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    ground(|g| async move {
        let network = g.start().await;
        let (pod, ip) = g.pod(&network, "pod").await;
        pod.serve(8080, "pod");
        pod.serve_udp(8080, "pod");
        network.apply(vec![service(Protocol::Tcp, 80, &[(ip, 8080)])]).await.unwrap();
        assert_eq!(pod.ask(VIP, 80).unwrap().0, "pod");
        let mut entry = service(Protocol::Udp, 53, &[(ip, 8080)]);
        entry.id = "default/udp".into();
        network.update("default/udp", Some(entry)).await.unwrap();
        let answer = pod.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            ask_udp(&socket, SocketAddrV4::new(VIP, 53))
        });
        assert_eq!(answer.unwrap(), "pod");
    });
}

#[test]
fn node_ports_and_external_addresses() {
    ground(|g| async move {
        let outside = g.outside();
        let network = g.start().await;
        let (pod, ip) = g.pod(&network, "pod").await;
        pod.serve(8080, "pod");
        let mut entry = service(Protocol::Tcp, 80, &[(ip, 8080)]);
        entry.ports[0].node_port = Some(30080);
        entry.external_ips = vec![Ipv4Addr::new(203, 0, 113, 5)];
        network.apply(vec![entry.clone()]).await.unwrap();
        let (name, seen) = outside.ask(HOST, 30080).unwrap();
        assert_eq!((name.as_str(), seen.ip()), ("pod", OTHER.into()), "the client's address is kept");
        assert_eq!(ask(HOST, 30080).unwrap().0, "pod", "from the host");
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 30080).unwrap().0, "pod", "from the host's loopback");
        assert_eq!(ask(network.gateway(), 30080).unwrap().0, "pod");
        assert_eq!(pod.ask(HOST, 30080).unwrap().0, "pod", "hairpin by node port");
        assert_eq!(pod.ask(Ipv4Addr::new(203, 0, 113, 5), 80).unwrap().0, "pod");
        assert_eq!(
            pod.ask(Ipv4Addr::LOCALHOST, 30080).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused,
            "a pod's loopback is its own"
        );

        // The endpoint is elsewhere: what comes from outside has to look as if it came from here.
        outside.serve(9090, "elsewhere");
        entry.ports[0].endpoints = vec![SocketAddrV4::new(OTHER, 9090)];
        network.update("default/web", Some(entry)).await.unwrap();
        let (name, seen) = outside.ask(HOST, 30080).unwrap();
        assert_eq!((name.as_str(), seen.ip()), ("elsewhere", HOST.into()));
        assert_eq!(pod.ask(VIP, 80).unwrap().0, "elsewhere");
    });
}

#[test]
fn endpoints_of_the_host_itself() {
    ground(|g| async move {
        let outside = g.outside();
        let network = g.start().await;
        let (pod, pod_ip) = g.pod(&network, "pod").await;
        g.host.serve(6443, "host");
        let mut entry = service(Protocol::Tcp, 443, &[(HOST, 6443)]);
        entry.ports[0].node_port = Some(30443);
        network.apply(vec![entry]).await.unwrap();
        let (name, seen) = pod.ask(VIP, 443).unwrap();
        assert_eq!((name.as_str(), seen.ip()), ("host", pod_ip.into()));
        assert_eq!(ask(VIP, 443).unwrap().0, "host");
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 30443).unwrap().0, "host");
        assert_eq!(outside.ask(HOST, 30443).unwrap().0, "host");
    });
}

#[test]
fn the_hosts_loopback_is_closed_to_pods() {
    ground(|g| async move {
        let network = g.start().await;
        let (pod, _) = g.pod(&network, "pod").await;
        g.host.serve(7000, "secret");
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 7000).unwrap().0, "secret");
        // A pod with the right to craft packets: 127.0.0.1 by way of the gateway, from an address not its loopback.
        let answer = pod.run(|| {
            crate::ground::ip("route del local 127.0.0.1 dev lo table local");
            crate::ground::ip("addr flush dev lo");
            crate::ground::ip(&format!("route add 127.0.0.1/32 via {} dev eth0", "10.42.0.1"));
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            let to = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 7000));
            std::net::TcpStream::connect_timeout(&to, Duration::from_millis(500))
        });
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::TimedOut);
    });
}

#[test]
fn without_endpoints_a_connection_is_refused_at_once() {
    ground(|g| async move {
        let _outside = g.outside();
        crate::ground::ip("route add default via 192.0.2.9");
        let network = g.start().await;
        let (client, _) = g.pod(&network, "client").await;
        let (pod, ip) = g.pod(&network, "pod").await;
        pod.serve(8080, "pod");
        let mut entry = service(Protocol::Tcp, 80, &[]);
        entry.ports[0].node_port = Some(30080);
        entry.external_ips = vec![Ipv4Addr::new(203, 0, 113, 5)];
        network.apply(vec![entry.clone()]).await.unwrap();
        let refused = |what: &str, result: io::Result<_>, start: Instant| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{what}");
            assert!(start.elapsed() < Duration::from_secs(1), "{what}: {:?}", start.elapsed());
        };
        for (to, port) in [
            (VIP, 80),
            (VIP, 81),
            (Ipv4Addr::new(10, 43, 9, 9), 80),
            (Ipv4Addr::new(203, 0, 113, 5), 80),
            (network.gateway(), 30080),
        ] {
            refused(&format!("pod to {to}:{port}"), client.ask(to, port), Instant::now());
            refused(&format!("host to {to}:{port}"), ask(to, port), Instant::now());
        }
        let udp = client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((VIP, 53)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 16])
        });
        assert_eq!(udp.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

        entry.ports[0].endpoints = vec![SocketAddrV4::new(ip, 8080)];
        network.update("default/web", Some(entry.clone())).await.unwrap();
        assert_eq!(client.ask(VIP, 80).unwrap().0, "pod");
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 30080).unwrap().0, "pod");
        network.update("default/web", None).await.unwrap();
        refused("removed", client.ask(VIP, 80), Instant::now());
    });
}

#[test]
fn endpoints_come_and_go_under_load_without_a_failure() {
    ground(|g| async move {
        let network = g.start().await;
        let (client, _) = g.pod(&network, "client").await;
        let client = Arc::new(client);
        let mut pods = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let (pod, ip) = g.pod(&network, name).await;
            pod.serve(8080, name);
            pods.push((pod, ip));
        }
        let entry = |hosts: &[usize]| {
            let endpoints: Vec<_> = hosts.iter().map(|&n| (pods[n].1, 8080)).collect();
            service(Protocol::Tcp, 80, &endpoints)
        };
        network.apply(vec![entry(&[0, 1, 2, 3])]).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let load = {
            let (stop, done, client) = (stop.clone(), done.clone(), client.clone());
            thread::spawn(move || {
                client.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        ask(VIP, 80).unwrap();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            })
        };
        let start = Instant::now();
        let mut rounds = 0;
        let shapes: [&[usize]; 6] = [&[0], &[0, 1, 2], &[2, 3], &[3], &[3, 2, 1, 0], &[1, 3]];
        while start.elapsed() < Duration::from_secs(2) {
            for shape in shapes {
                let report = network.update("default/web", Some(entry(shape))).await.unwrap();
                assert!(!report.rebuilt);
            }
            rounds += 1;
        }
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
        let done = done.load(Ordering::Relaxed);
        assert!(done > 50 && rounds > 5, "{done} requests over {rounds} rounds");
        drop(client);
    });
}

#[test]
fn clients_stay_with_their_endpoint_until_it_goes() {
    ground(|g| async move {
        let network = g.start().await;
        let mut clients = Vec::new();
        for n in 0..6 {
            clients.push(g.pod(&network, &format!("client-{n}")).await.0);
        }
        let mut endpoints = HashMap::new();
        let mut pods = Vec::new();
        for name in ["a", "b", "c"] {
            let (pod, ip) = g.pod(&network, name).await;
            pod.serve(8080, name);
            endpoints.insert(name.to_owned(), (ip, 8080));
            pods.push(pod);
        }
        let sticky = |endpoints: &HashMap<String, (Ipv4Addr, u16)>| {
            let endpoints: Vec<_> = endpoints.values().copied().collect();
            let mut entry = service(Protocol::Tcp, 80, &endpoints);
            entry.session_affinity = Some(Duration::from_secs(10_800));
            entry.ports[0].node_port = Some(30080);
            entry
        };
        network.apply(vec![sticky(&endpoints)]).await.unwrap();
        let first: Vec<String> = clients.iter().map(|client| client.ask(VIP, 80).unwrap().0).collect();
        let gateway = network.gateway();
        for (client, name) in clients.iter().zip(&first) {
            for _ in 0..8 {
                assert_eq!(&client.ask(VIP, 80).unwrap().0, name);
                assert_eq!(&client.ask(gateway, 30080).unwrap().0, name, "by either way in");
            }
        }
        let listing = crate::ground::output("nft", "list ruleset");
        assert!(listing.contains("sticky-1"), "the nft tool can print our table: {listing}");
        let gone = first[0].clone();
        endpoints.remove(&gone);
        network.update("default/web", Some(sticky(&endpoints))).await.unwrap();
        for (client, name) in clients.iter().zip(&first) {
            let now = client.ask(VIP, 80).unwrap().0;
            assert_ne!(now, gone);
            assert!(*name == gone || *name == now, "others are not moved");
            for _ in 0..8 {
                assert_eq!(client.ask(VIP, 80).unwrap().0, now, "and the new choice holds");
            }
        }
    });
}

#[test]
fn udp_clients_move_over() {
    ground(|g| async move {
        let outside = g.outside();
        let network = g.start().await;
        let (client, _) = g.pod(&network, "client").await;
        let (a, a_ip) = g.pod(&network, "a").await;
        let (b, b_ip) = g.pod(&network, "b").await;
        a.serve_udp(5353, "a");
        b.serve_udp(5353, "b");
        let entry = |ips: &[Ipv4Addr]| {
            let endpoints: Vec<_> = ips.iter().map(|&ip| (ip, 5353)).collect();
            let mut entry = service(Protocol::Udp, 53, &endpoints);
            entry.ports[0].node_port = Some(30053);
            entry
        };
        // The same sockets all the time: the kernel would go on sending their packets where the first one went.
        let inside = client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let beyond = outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let (vip, node) = (SocketAddrV4::new(VIP, 53), SocketAddrV4::new(HOST, 30053));
        network.apply(vec![entry(&[])]).await.unwrap();
        assert!(ask_udp(&beyond, node).is_err(), "nobody there yet");
        network.update("default/web", Some(entry(&[a_ip]))).await.unwrap();
        assert_eq!(ask_udp(&inside, vip).unwrap(), "a");
        assert_eq!(ask_udp(&beyond, node).unwrap(), "a");
        network.update("default/web", Some(entry(&[b_ip]))).await.unwrap();
        assert_eq!(ask_udp(&inside, vip).unwrap(), "b");
        assert_eq!(ask_udp(&beyond, node).unwrap(), "b");
    });
}
