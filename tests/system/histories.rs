//! Clients of three servers over a three-member etcd, while servers and etcd's members are killed: whether what each
//! client was told fits one order of events.

#[path = "../../crates/controlplane/store/tests/support/history.rs"]
#[allow(dead_code)]
mod history;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use history::{Ask, Call, Told, linearizable};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sampan_daemon::tls;
use serde_json::{Value, json};

use crate::support::{
    NetNs,
    fleet::{Fleet, Machine},
    until,
};

const CLIENTS: usize = 6;
const KEYS: u64 = 3;
/// How long a client waits for an answer before it gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

type Sender = http1::SendRequest<Full<bytes::Bytes>>;

/// The way of one client to all servers.
struct Way {
    servers: Vec<String>,
    tls: Arc<rustls::ClientConfig>,
    next: usize,
    open: Option<Sender>,
    tasks: sampan_daemon::Supervisor,
}

impl Way {
    async fn connect(&mut self) -> Option<Sender> {
        let server = self.servers[self.next % self.servers.len()].clone();
        let tcp = tokio::net::TcpStream::connect((server.as_str(), 6443));
        let tcp = tokio::time::timeout(Duration::from_secs(2), tcp).await.ok()?.ok()?;
        let name = rustls::pki_types::ServerName::try_from("kubernetes").unwrap();
        let tls = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, tcp);
        let tls = tokio::time::timeout(Duration::from_secs(5), tls).await.ok()?.ok()?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.ok()?;
        self.tasks.spawn("connection", async move { drop(connection.await) });
        Some(sender)
    }

    /// One request, sent once: the status and the answer, or nothing when nobody knows.
    async fn ask(&mut self, method: &str, path: &str, body: &Value) -> Result<(u16, Value), bool> {
        if self.open.as_ref().is_none_or(Sender::is_closed) {
            match self.connect().await {
                Some(sender) => self.open = Some(sender),
                None => {
                    self.next += 1;
                    // Nothing was sent.
                    return Err(false);
                }
            }
        }
        let sender = self.open.as_mut().unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kubernetes")
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        let answer = async {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.ok()?.to_bytes();
            Some((status, serde_json::from_slice(&bytes).unwrap_or_default()))
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Some(answer)) => Ok(answer),
            _ => {
                (self.open, self.next) = (None, self.next + 1);
                Err(true)
            }
        }
    }
}

const PATH: &str = "/api/v1/namespaces/default/configmaps";

fn seen(object: &Value) -> Option<(u64, i64)> {
    let value = object["data"]["v"].as_str()?.parse().ok()?;
    Some((value, object["metadata"]["resourceVersion"].as_str()?.parse().ok()?))
}

async fn call(way: &mut Way, key: u8, ask: &Ask) -> Result<Told, bool> {
    let one = format!("{PATH}/h-{key}");
    let object = |value: &u64, version: Option<&i64>| {
        let mut object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("h-{key}"), "namespace": "default"},
            "data": {"v": value.to_string()},
        });
        if let Some(version) = version {
            object["metadata"]["resourceVersion"] = version.to_string().into();
        }
        object
    };
    let (status, answer) = match ask {
        Ask::Read => way.ask("GET", &one, &Value::Null).await?,
        Ask::Swap(0, value) | Ask::Put(value) => way.ask("POST", PATH, &object(value, None)).await?,
        Ask::Swap(version, value) => way.ask("PUT", &one, &object(value, Some(version))).await?,
        Ask::Remove(version) => {
            let options = json!({
                "apiVersion": "v1", "kind": "DeleteOptions",
                "preconditions": {"resourceVersion": version.to_string()},
            });
            way.ask("DELETE", &one, &options).await?
        }
    };
    Ok(match (ask, status) {
        (Ask::Read, 200) => Told::Value(seen(&answer)),
        (Ask::Read, 404) => Told::Value(None),
        (Ask::Remove(_), 200) => Told::Done(0),
        (_, 200 | 201) => Told::Done(seen(&answer).map_or(0, |(_, at)| at)),
        (Ask::Swap(..) | Ask::Remove(_), 404 | 409) => Told::Refused,
        // Whatever else it says, the write may have happened.
        _ => Told::Nothing,
    })
}

async fn client(
    mut way: Way,
    id: usize,
    calls: &Mutex<Vec<Call>>,
    begun: Instant,
    stop: &AtomicBool,
    told: &AtomicUsize,
) {
    let mut random = (id as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut last: HashMap<u8, Option<(u64, i64)>> = HashMap::new();
    let now = || begun.elapsed().as_nanos() as u64;
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = ((random >> 40) % KEYS) as u8;
        // Nobody else writes this value.
        let from = now();
        let value = from * 16 + id as u64;
        let known = last.get(&key).copied().flatten();
        let ask = match ((random >> 33) % 8, known) {
            (0..=3, _) => Ask::Read,
            (4, Some((_, at))) => Ask::Remove(at),
            (_, known) => Ask::Swap(known.map_or(0, |(_, at)| at), value),
        };
        let answer = match call(&mut way, key, &ask).await {
            Ok(answer) => answer,
            Err(true) => Told::Nothing,
            Err(false) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let to = if answer == Told::Nothing { u64::MAX } else { now() };
        match (&ask, &answer) {
            (_, Told::Value(found)) => drop(last.insert(key, *found)),
            (Ask::Swap(_, value), Told::Done(at)) => drop(last.insert(key, Some((*value, *at)))),
            (Ask::Remove(_), Told::Done(_)) => drop(last.insert(key, None)),
            (_, Told::Refused) => drop(last.remove(&key)),
            _ => {}
        }
        // A read without an answer says nothing about anything.
        if !(matches!(ask, Ask::Read) && answer == Told::Nothing) {
            told.fetch_add(usize::from(answer != Told::Nothing), Ordering::Relaxed);
            calls.lock().unwrap().push(Call { key, ask, told: answer, from, to });
        }
        if to == u64::MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn config(server: &Machine) -> Arc<rustls::ClientConfig> {
    let config = std::fs::read_to_string(server.data().join("kubeconfig")).unwrap();
    let config: Value = serde_yaml_ng::from_str(&config).unwrap();
    let pem = |path: &str| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        String::from_utf8(STANDARD.decode(config.pointer(path).unwrap().as_str().unwrap()).unwrap()).unwrap()
    };
    let issued = tls::Issued {
        cert_pem: pem("/users/0/user/client-certificate-data"),
        key_pem: pem("/users/0/user/client-key-data"),
    };
    tls::client_config(&pem("/clusters/0/cluster/certificate-authority-data"), Some(&issued)).unwrap()
}

/// Clients, each on a thread inside the network.
struct Load {
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Arc<AtomicBool>,
    told: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(ns: &NetNs, servers: &[Machine]) -> Self {
        let (calls, stop, told): (Arc<Mutex<Vec<Call>>>, Arc<AtomicBool>, Arc<AtomicUsize>) =
            Default::default();
        let begun = Instant::now();
        let tls = config(&servers[0]);
        let threads = (0..CLIENTS).map(|id| {
            let (calls, stop, told, tls, ns) =
                (calls.clone(), stop.clone(), told.clone(), tls.clone(), ns.clone());
            let servers = servers.iter().map(|server| server.ip.clone()).collect();
            std::thread::spawn(move || {
                ns.inside(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let tasks = sampan_daemon::Supervisor::new();
                    let way = Way { servers, tls, next: id, open: None, tasks };
                    runtime.block_on(client(way, id, &calls, begun, &stop, &told));
                });
            })
        });
        let threads = threads.collect();
        Self { calls, stop, told, threads }
    }

    /// Returns when so many more calls were answered.
    #[track_caller]
    fn more(&self, count: usize) {
        let aim = self.told.load(Ordering::Relaxed) + count;
        until("clients go on", || {
            let told = self.told.load(Ordering::Relaxed);
            if told >= aim { Ok(()) } else { Err(format!("{told} of {aim} answers")) }
        });
    }

    fn end(self) -> Vec<Call> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        Arc::try_unwrap(self.calls).unwrap().into_inner().unwrap()
    }
}

#[test]
fn three_servers_are_one_through_kill_9_of_each_and_of_the_leader_of_etcd() {
    let mut fleet = Fleet::new(3);
    let servers: Vec<Machine> = (11..14).map(|n| fleet.machine(n)).collect();
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| server.server(&fleet, "history").ok());
        }
    });
    let load = Load::start(&servers[0].ns, &servers);
    load.more(100);
    for (n, server) in servers.iter().enumerate() {
        server.kill();
        load.more(60);
        server.server(&fleet, "history").ok();
        load.more(30);
        // Whichever leads: each member is killed once, so the leader is.
        fleet.etcd[n].kill();
        load.more(60);
        fleet.etcd[n].up();
        load.more(30);
    }
    let calls = load.end();
    let answered = calls.iter().filter(|call| call.told != Told::Nothing).count();
    assert!(answered > 500, "{answered} of {}", calls.len());
    linearizable(&calls).unwrap();
}
