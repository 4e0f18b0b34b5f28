//! What a change costs, and what happens when the kernel's table is not what it should be.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use sampan_network::{Error, Protocol, ServiceEntry};

use crate::ground::{VIP, ground, output, service, until};

fn many(count: u32, endpoints: u32) -> Vec<ServiceEntry> {
    (0..count)
        .map(|n| {
            let ip = |net: u32| Ipv4Addr::from_bits(net + n);
            let mut entry = service(Protocol::Tcp, 80, &[]);
            entry.id = format!("default/service-{n}");
            entry.cluster_ips = vec![ip(0x0a2b_1000)];
            entry.ports[0].endpoints = (0..endpoints)
                .map(|e| SocketAddrV4::new(Ipv4Addr::from_bits(0x0a2a_0000 + (n * 3 + e) % 60_000), 8080))
                .collect();
            entry
        })
        .collect()
}

#[test]
fn among_ten_thousand_services_a_change_costs_what_changed() {
    ground(|g| async move {
        let network = g.start().await;
        let (client, _) = g.pod(&network, "client").await;
        let (pod, ip) = g.pod(&network, "pod").await;
        pod.serve(8080, "pod");
        let services = many(10_000, 3);
        let start = Instant::now();
        let full = network.apply(services.clone()).await.unwrap();
        println!("10,000 services x 3 endpoints: {:?} {full:?}", start.elapsed());
        assert_eq!(
            network.apply(services.clone()).await.unwrap().messages,
            0,
            "nothing changed, nothing sent"
        );

        let mut one = services[5000].clone();
        one.ports[0].endpoints[1] = SocketAddrV4::new(ip, 8080);
        let report = network.update(&one.id.clone(), Some(one.clone())).await.unwrap();
        println!("one endpoint changed: {report:?}");
        assert!(report.messages <= 2 && report.elements <= 2 && report.bytes < 512, "{report:?}");
        one.ports[0].endpoints = vec![SocketAddrV4::new(ip, 8080)];
        let report = network.update(&one.id.clone(), Some(one.clone())).await.unwrap();
        println!("two endpoints removed: {report:?}");
        assert!(report.elements <= 7 && !report.rebuilt, "{report:?}");
        assert_eq!(client.ask(one.cluster_ips[0], 80).unwrap().0, "pod");

        let times: Vec<Duration> = {
            let mut times = Vec::new();
            for n in 0..200_u32 {
                one.ports[0].endpoints[0].set_port(u16::try_from(10_000 + n).unwrap());
                let start = Instant::now();
                network.update(&one.id.clone(), Some(one.clone())).await.unwrap();
                times.push(start.elapsed());
            }
            times.sort();
            times
        };
        println!("an update: p50 {:?}, p99 {:?}", times[100], times[198]);
        let mut all = services;
        all[7].ports[0].endpoints.pop();
        all[5000] = one;
        let report = network.apply(all).await.unwrap();
        assert!(report.elements <= 4 && !report.rebuilt, "apply sends the difference: {report:?}");
    });
}

#[test]
fn a_flushed_table_comes_back() {
    ground(|g| async move {
        let network = g.start().await;
        let (client, _) = g.pod(&network, "client").await;
        let (pod, ip) = g.pod(&network, "pod").await;
        pod.serve(8080, "pod");
        network.apply(vec![service(Protocol::Tcp, 80, &[(ip, 8080)])]).await.unwrap();
        assert_eq!(client.ask(VIP, 80).unwrap().0, "pod");
        assert_eq!(output("nft", "flush ruleset"), "");
        until("flushed, then written anew", || client.ask(VIP, 80).is_ok()).await;
        assert_eq!(output("nft", "flush map ip sampan-test01 vip-endpoints"), "");
        until("emptied, then written anew", || client.ask(VIP, 80).is_ok()).await;
        assert_eq!(output("nft", "add table ip other"), "");
        assert_eq!(output("nft", "delete table ip sampan-test01"), "");
        // Even before it was heard, an update finds out by itself.
        let (other, other_ip) = g.pod(&network, "other").await;
        other.serve(8080, "other");
        network.update("default/web", Some(service(Protocol::Tcp, 80, &[(other_ip, 8080)]))).await.unwrap();
        assert_eq!(client.ask(VIP, 80).unwrap().0, "other");
        let tables = output("nft", "list tables");
        assert!(tables.contains("table ip other"), "others' tables are not touched: {tables}");
    });
}

#[test]
fn after_a_restart_services_work_and_are_replaced_at_once() {
    ground(|g| async move {
        let (network, kill) = g.start_mortal().await;
        let (client, _) = g.pod(&network, "client").await;
        let (pod, ip) = g.pod(&network, "pod").await;
        pod.serve(8080, "pod");
        let mut other = service(Protocol::Tcp, 81, &[(ip, 8080)]);
        other.id = "default/gone".into();
        network.apply(vec![service(Protocol::Tcp, 80, &[(ip, 8080)]), other]).await.unwrap();
        kill(network);
        let network = g.start().await;
        assert_eq!(client.ask(VIP, 80).unwrap().0, "pod", "works before anybody calls");
        let early = network.update("default/web", None).await.unwrap_err();
        assert!(matches!(early, Error::NotSynced), "{early}");
        network.apply(vec![service(Protocol::Tcp, 80, &[(ip, 8080)])]).await.unwrap();
        assert_eq!(client.ask(VIP, 80).unwrap().0, "pod");
        assert!(client.ask(VIP, 81).is_err());
    });
}

#[test]
fn two_that_want_one_address_take_turns() {
    ground(|g| async move {
        let network = g.start().await;
        let (client, _) = g.pod(&network, "client").await;
        let (pod, ip) = g.pod(&network, "pod").await;
        pod.serve(1, "first");
        pod.serve(2, "second");
        let first = service(Protocol::Tcp, 80, &[(ip, 1)]);
        let mut second = service(Protocol::Tcp, 80, &[(ip, 2)]);
        second.id = "default/second".into();
        network.apply(vec![first.clone(), second.clone()]).await.unwrap();
        assert_eq!(client.ask(VIP, 80).unwrap().0, "first");
        network.update("default/web", None).await.unwrap();
        assert_eq!(client.ask(VIP, 80).unwrap().0, "second");
        second.cluster_ips.clear();
        network.update("default/second", Some(second)).await.unwrap();
        assert!(client.ask(VIP, 80).is_err());
        let twice = network.apply(vec![first.clone(), first.clone()]).await.unwrap_err();
        assert!(twice.to_string().contains("listed twice"), "{twice}");
        let mut zero = first;
        zero.ports[0].port = 0;
        assert!(network.update("default/web", Some(zero)).await.is_err());
    });
}
