//! Addresses, links, the way out, host ports.

use std::{
    collections::HashSet,
    io,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use sampan_network::{Error, HostPort, Network, Protocol, free_cidr, host_address};

use crate::ground::{Netns, ask, ground, ip, output, until};

#[test]
fn pods_reach_each_other_the_host_and_the_outside() {
    ground(|g| async move {
        let outside = g.outside();
        let network = g.start().await;
        let (a, a_ip) = g.pod(&network, "a").await;
        let (b, b_ip) = g.pod(&network, "b").await;
        b.serve(80, "b");
        outside.serve(80, "outside");
        let (name, seen) = a.ask(b_ip, 80).unwrap();
        assert_eq!((name.as_str(), seen.ip()), ("b", a_ip.into()), "pods see each other's own address");
        let ping = a.run(|| output("ping", &format!("-c1 -W5 {b_ip}")));
        assert!(ping.contains("1 received"), "{ping}");
        let ping = a.run(|| output("ping", &format!("-c1 -W5 {}", network.gateway())));
        assert!(ping.contains("1 received"), "{ping}");
        let (name, seen) = a.ask(Ipv4Addr::new(192, 0, 2, 9), 80).unwrap();
        assert_eq!(
            (name.as_str(), seen.ip()),
            ("outside", Ipv4Addr::new(192, 0, 2, 1).into()),
            "masqueraded"
        );
        assert_eq!(ask(b_ip, 80).unwrap().0, "b", "from the host");
        let links = a.run(|| output("ip", "-o addr show up"));
        assert!(links.contains("127.0.0.1/8") && links.contains(&format!("{a_ip}/32")), "{links}");
    });
}

#[test]
fn a_restart_keeps_addresses_and_connections() {
    ground(|g| async move {
        let (network, kill) = g.start_mortal().await;
        let (a, a_ip) = g.pod(&network, "a").await;
        let (_b, b_ip) = g.pod(&network, "b").await;
        a.serve(80, "a");
        kill(network);
        let network = g.start().await;
        assert_eq!(ask(a_ip, 80).unwrap().0, "a", "works before anybody calls");
        let again = network.attach("a", &a.path, &[]).await.unwrap();
        assert_eq!(again.ip, a_ip);
        assert_eq!(ask(a_ip, 80).unwrap().0, "a");
        let (_c, c_ip) = g.pod(&network, "c").await;
        assert!(c_ip != a_ip && c_ip != b_ip);
        let freed = network.reconcile(&HashSet::from(["a".to_owned(), "c".to_owned()])).await.unwrap();
        assert_eq!(freed, ["b"]);
        assert!(network.attachment("b").is_none());
        assert_eq!(output("ip", "-o link show master smp-test01").lines().count(), 2);
        assert_eq!(ask(a_ip, 80).unwrap().0, "a");
    });
}

#[test]
fn stop_leaves_nothing() {
    ground(|g| async move {
        let before = (output("ip", "-o link"), output("ip", "route"), output("ip", "-o addr"));
        let network = g.start().await;
        let (a, _) = g.pod(&network, "a").await;
        network.detach("a").await.unwrap();
        network.detach("a").await.unwrap();
        assert!(!a.run(|| output("ip", "-o link")).contains("eth0"));
        let (_b, _) = g.pod(&network, "b").await;
        network.stop().await.unwrap();
        assert_eq!((output("ip", "-o link"), output("ip", "route"), output("ip", "-o addr")), before);
        assert_eq!(output("nft", "list tables"), "");
        network.stop().await.unwrap();
    });
}

#[test]
fn a_link_too_small_for_ipv6() {
    ground(|g| async move {
        let mut options = g.options();
        options.mtu = 1000;
        let network = Network::start(options, &g.supervisor).await.unwrap();
        let (a, _) = g.pod(&network, "a").await;
        let (b, b_ip) = g.pod(&network, "b").await;
        b.serve(80, "b");
        assert_eq!(a.ask(b_ip, 80).unwrap().0, "b");
        assert!(a.run(|| output("ip", "-o link show eth0")).contains("mtu 1000"));
    });
}

#[test]
fn many_are_attached_at_once() {
    ground(|g| async move {
        let network = g.start().await;
        let pods: Vec<_> = (0..30).map(|_| g.netns()).collect();
        let ids: Vec<_> = (0..30).map(|n| format!("pod-{n}")).collect();
        let attach = |(id, pod): (&String, &Netns)| {
            let (network, id, path) = (network.clone(), id.clone(), pod.path.clone());
            async move { network.attach(&id, &path, &[]).await.unwrap().ip }
        };
        let ips = futures::future::join_all(ids.iter().zip(&pods).map(attach)).await;
        assert_eq!(ips.iter().collect::<HashSet<_>>().len(), 30);
        for (pod, ip) in pods.iter().zip(&ips) {
            pod.serve(80, "pod");
            assert_eq!(ask(*ip, 80).unwrap().0, "pod");
        }
        let detach = ids.iter().map(|id| network.detach(id));
        futures::future::try_join_all(detach).await.unwrap();
        assert_eq!(output("ip", "-o link show master smp-test01"), "");
    });
}

#[test]
fn a_firewall_that_drops_what_is_forwarded_lets_pods_through() {
    ground(|g| async move {
        let outside = g.outside();
        outside.serve(80, "outside");
        let docker = "-P FORWARD DROP";
        assert_eq!(output("iptables", docker), "");
        let network = g.start().await;
        let (a, _) = g.pod(&network, "a").await;
        let there = Ipv4Addr::new(192, 0, 2, 9);
        assert_eq!(a.ask(there, 80).unwrap().0, "outside");
        let rules = output("iptables", "-S FORWARD");
        let expected =
            "-P FORWARD DROP\n-A FORWARD -o smp-test01 -j ACCEPT\n-A FORWARD -i smp-test01 -j ACCEPT\n";
        assert_eq!(rules, expected, "iptables understands them");
        assert_eq!(output("iptables", "-F FORWARD"), "");
        until("put back", || output("iptables", "-S FORWARD") == expected).await;
        assert_eq!(output("nft", "flush ruleset"), "");
        assert_eq!(output("iptables", docker), "");
        until("a chain that came later", || output("iptables", "-S FORWARD") == expected).await;
        let again = g.start().await;
        assert_eq!(output("iptables", "-S FORWARD"), expected, "not twice");
        again.stop().await.unwrap();
        network.stop().await.unwrap();
        assert_eq!(output("iptables", "-S FORWARD"), "-P FORWARD DROP\n");
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    ground(|g| async move {
        let network = g.start().await;
        let missing = g.dir.path().join("none");
        assert!(matches!(network.attach("a", &missing, &[]).await, Err(Error::File { .. })));
        let plain = g.dir.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        let error = network.attach("a", &plain, &[]).await.unwrap_err();
        assert!(error.to_string().contains("enter the network namespace"), "{error}");
        assert!(network.attachments().is_empty());
        assert_eq!(output("ip", "-o link show master smp-test01"), "");
        let taken = g.netns();
        taken.run(|| ip("link add eth0 type bridge"));
        assert!(network.attach("a", &taken.path, &[]).await.is_err(), "somebody else's eth0 is not touched");
        assert!(taken.run(|| output("ip", "-o link show eth0")).contains("eth0"));
        assert!(network.attachments().is_empty());
        assert_eq!(output("ip", "-o link show master smp-test01"), "");
    });
}

#[test]
fn host_ports_lead_to_the_pod() {
    ground(|g| async move {
        let outside = g.outside();
        let network = g.start().await;
        let pod = g.netns();
        pod.serve(8080, "pod");
        let port = |host_port, host_ip| HostPort { protocol: Protocol::Tcp, host_ip, host_port, port: 8080 };
        let ports = [port(80, None), port(81, Some(Ipv4Addr::new(192, 0, 2, 1)))];
        network.attach("pod", &pod.path, &ports).await.unwrap();
        let host = Ipv4Addr::new(192, 0, 2, 1);
        let (name, seen) = outside.ask(host, 80).unwrap();
        assert_eq!((name.as_str(), seen.ip()), ("pod", Ipv4Addr::new(192, 0, 2, 9).into()));
        assert_eq!(outside.ask(host, 81).unwrap().0, "pod");
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 80).unwrap().0, "pod");
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 81).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

        let other = g.netns();
        let error = network.attach("other", &other.path, &[port(80, None)]).await.unwrap_err();
        assert!(matches!(&error, Error::HostPort { owner, .. } if owner == "pod"), "{error}");
        assert!(network.attachment("other").is_none());
        network.detach("pod").await.unwrap();
        assert!(ask(Ipv4Addr::LOCALHOST, 80).is_err());
        network.attach("other", &other.path, &[port(80, None)]).await.unwrap();
    });
}

#[test]
fn free_networks_and_the_hosts_address() {
    ground(|g| async move {
        assert_eq!(host_address().unwrap(), None);
        let _outside = g.outside();
        assert_eq!(host_address().unwrap(), Some(Ipv4Addr::new(192, 0, 2, 1)));
        ip("route add default via 192.0.2.9");
        ip("route add 10.42.7.0/24 via 192.0.2.9");
        let candidates = ["10.42.0.0/16", "192.0.0.0/16", "10.44.0.0/16"].map(|text| text.parse().unwrap());
        assert_eq!(free_cidr(&candidates).unwrap(), Some(candidates[2]));
        assert_eq!(free_cidr(&candidates[..2]).unwrap(), None);
        let mut options = g.options();
        options.service_cidr = "10.42.128.0/17".parse().unwrap();
        assert!(matches!(Network::start(options, &g.supervisor).await, Err(Error::Options(_))));
    });
}

/// CPU of this process, all threads.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros =
        |time: TimeVal| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).cast_unsigned());
    micros(usage.user_time()) + micros(usage.system_time())
}

/// Run alone (`-- --ignored`): the CPU clock is that of the whole process.
#[test]
#[ignore = "a measurement"]
fn measure_attach() {
    ground(|g| async move {
        let network = g.start().await;
        let pods: Vec<_> = (0..100).map(|_| g.netns()).collect();
        let (before, start) = (cpu(), Instant::now());
        for (n, pod) in pods.iter().enumerate() {
            network.attach(&format!("pod-{n}"), &pod.path, &[]).await.unwrap();
        }
        println!("attach: {:?} CPU, {:?} wall each", (cpu() - before) / 100, start.elapsed() / 100);
        let (before, start) = (cpu(), Instant::now());
        for n in 0..100 {
            network.detach(&format!("pod-{n}")).await.unwrap();
        }
        println!("detach: {:?} CPU, {:?} wall each", (cpu() - before) / 100, start.elapsed() / 100);
    });
}
