//! A network namespace for each test, with pods and an outside world of its own.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use sampan_daemon::Supervisor;
use sampan_network::{Network, Options, Protocol, ServiceEntry, ServicePort, netns};

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 77);
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
const SOON: Duration = Duration::from_secs(10);

/// A namespace that ends with the test.
pub struct Netns {
    pub path: PathBuf,
}

impl Netns {
    pub fn new(dir: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = dir.join(format!("ns{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        netns::create(&path).unwrap();
        Self { path }
    }

    /// Run inside, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(&self.path).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// A TCP server that sends `name` to whoever connects, and closes.
    pub fn serve(&self, port: u16, name: &'static str) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let peer = stream.peer_addr().unwrap();
                let _ = write!(stream, "{name} {peer}");
            }
        });
    }

    /// A UDP server that answers with `name`.
    pub fn serve_udp(&self, port: u16, name: &'static str) {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    }

    pub fn ask(&self, ip: Ipv4Addr, port: u16) -> io::Result<(String, SocketAddr)> {
        self.run(|| ask(ip, port))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        netns::delete(&self.path).unwrap();
    }
}

/// Connect from the calling thread's namespace: who answered, and under which address it saw us.
pub fn ask(ip: Ipv4Addr, port: u16) -> io::Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&SocketAddrV4::new(ip, port).into(), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (name, peer) = answer.split_once(' ').ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((name.to_owned(), peer.parse().unwrap()))
}

pub fn ask_udp(socket: &UdpSocket, to: SocketAddrV4) -> io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send_to(b"?", to)?;
    let mut buffer = [0; 512];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Everything one test has.
pub struct Ground {
    pub dir: tempfile::TempDir,
    pub supervisor: Supervisor,
    pub host: Netns,
}

impl Ground {
    pub fn options(&self) -> Options {
        Options {
            bridge: "smp-test01".into(),
            node_cidr: "10.42.0.0/24".parse().unwrap(),
            pod_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            dns_address: DNS,
            dns: None,
            table: "sampan-test01".into(),
            state_dir: self.dir.path().join("state"),
            mtu: 1400,
            masquerade: true,
        }
    }

    pub async fn start(&self) -> Network {
        Network::start(self.options(), &self.supervisor).await.unwrap()
    }

    /// A network whose process is killed before the closure given back returns: nothing is taken down.
    pub async fn start_mortal(&self) -> (Network, impl FnOnce(Network)) {
        let supervisor = self.supervisor.child("mortal");
        let network = Network::start(self.options(), &supervisor).await.unwrap();
        (network, move |network| {
            supervisor.cancel();
            drop(network);
        })
    }

    pub fn netns(&self) -> Netns {
        Netns::new(self.dir.path())
    }

    /// A pod on the network.
    pub async fn pod(&self, network: &Network, id: &str) -> (Netns, Ipv4Addr) {
        let netns = self.netns();
        let attachment = network.attach(id, &netns.path, &[]).await.unwrap();
        (netns, attachment.ip)
    }

    /// A namespace behind a link of the host: 192.0.2.1 is the host, 192.0.2.9 the other, which has no route here.
    pub fn outside(&self) -> Netns {
        let outside = self.netns();
        ip("link add out0 type veth peer name out1");
        let path = outside.path.to_str().unwrap().to_owned();
        // `ip` takes names below /run/netns or process ids only: move it by a process that is inside.
        outside.run(|| {
            let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
            self.host.run(|| ip(&format!("link set out1 netns {}", sleeper.id())));
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
            ip("addr add 192.0.2.9/24 dev out1");
            ip("link set out1 up");
        });
        ip("addr add 192.0.2.1/24 dev out0");
        ip("link set out0 up");
        assert!(!path.is_empty());
        outside
    }
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn output(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Run a test inside a namespace of its own. It takes its network down itself or leaves it to end with the namespace.
pub fn ground<F: Future<Output = ()>>(test: impl FnOnce(Ground) -> F + Send) {
    thread::scope(|scope| {
        let test = scope.spawn(|| {
            let dir = tempfile::tempdir().unwrap();
            let host = Netns::new(dir.path());
            setns(File::open(&host.path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let supervisor = Supervisor::new();
            runtime.block_on(async {
                test(Ground { dir, supervisor: supervisor.clone(), host }).await;
                assert!(supervisor.shutdown(SOON).await.is_empty());
            });
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A service of one port.
pub fn service(protocol: Protocol, port: u16, endpoints: &[(Ipv4Addr, u16)]) -> ServiceEntry {
    ServiceEntry {
        id: "default/web".into(),
        cluster_ips: vec![VIP],
        external_ips: vec![],
        ports: vec![ServicePort {
            protocol,
            port,
            node_port: None,
            endpoints: endpoints.iter().map(|&(ip, port)| SocketAddrV4::new(ip, port)).collect(),
        }],
        session_affinity: None,
    }
}

/// Wait until it holds, giving the runtime its turns.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
