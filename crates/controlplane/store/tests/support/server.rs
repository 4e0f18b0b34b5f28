//! A real etcd, made for one test: on free ports of loopback, its data in a directory that goes with it.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use sampan_store::etcd::{Etcd, Options, Tls};

pub struct Server {
    pub port: u16,
    dir: tempfile::TempDir,
    flags: Vec<String>,
    child: Option<Child>,
    pub tls: Option<Tls>,
}

/// Ports that nobody has at the moment.
fn free_ports() -> (u16, u16) {
    let (a, b) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    (a.local_addr().unwrap().port(), b.local_addr().unwrap().port())
}

impl Server {
    pub fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, None, |_| {})
    }

    /// With TLS, whose files `prepare` writes.
    pub fn start_with(flags: &[&str], tls: Option<Tls>, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (port, peer) = free_ports();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (url, peer) = (format!("{scheme}://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let mut all: Vec<String> =
            ["--name=one", "--log-level=error", "--data-dir=data"].map(str::to_owned).into();
        all.push(format!("--listen-client-urls={url}"));
        all.push(format!("--advertise-client-urls={url}"));
        all.push(format!("--listen-peer-urls={peer}"));
        all.push(format!("--initial-advertise-peer-urls={peer}"));
        all.push(format!("--initial-cluster=one={peer}"));
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut server = Self { port, dir, flags: all, child: None, tls };
        server.up();
        server
    }

    pub fn up(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("etcd");
        command.args(&self.flags).current_dir(self.dir.path());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("etcd is installed");
        self.child = Some(child);
    }

    /// kill -9
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn options(&self, prefix: &str) -> Options {
        Options {
            endpoints: vec![format!("127.0.0.1:{}", self.port)],
            prefix: prefix.to_owned(),
            tls: self.tls.clone(),
            user: None,
        }
    }

    pub async fn connect(&self, prefix: &str) -> Etcd {
        Etcd::connect(&self.options(prefix)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
