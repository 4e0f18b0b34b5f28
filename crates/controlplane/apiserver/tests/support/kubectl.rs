//! kubectl as a user of its own.

use std::{path::PathBuf, process::Stdio, time::Duration};

use sampan_daemon::tls;
use serde_json::json;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::support::Server;

/// kubectl with a home of its own and a certificate in a user's name.
#[allow(dead_code)]
pub struct Kubectl {
    home: PathBuf,
}

#[allow(dead_code)]
impl Kubectl {
    pub fn new(server: &Server, user: &str, groups: &[&str]) -> Self {
        let home = server.dir.path().join(format!("kubectl-{}", user.replace(':', "-")));
        std::fs::create_dir_all(&home).unwrap();
        let profile = tls::Profile {
            common_name: user.to_owned(),
            organizations: groups.iter().map(|group| (*group).to_owned()).collect(),
            dns: Vec::new(),
            ips: Vec::new(),
            usage: tls::Usage::Client,
            days: 1,
        };
        let identity = server.ca.issue(&profile).unwrap();
        std::fs::write(home.join("ca.crt"), server.ca.cert_pem()).unwrap();
        std::fs::write(home.join("client.crt"), &identity.cert_pem).unwrap();
        std::fs::write(home.join("client.key"), &identity.key_pem).unwrap();
        let file = |name: &str| home.join(name).to_string_lossy().into_owned();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {
                "server": format!("https://{}", server.address()), "certificate-authority": file("ca.crt"),
            }}],
            "users": [{"name": "t", "user": {
                "client-certificate": file("client.crt"), "client-key": file("client.key"),
            }}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
        });
        std::fs::write(home.join("config"), config.to_string()).unwrap();
        Self { home }
    }

    /// An administrator's.
    pub fn admin(server: &Server) -> Self {
        Self::new(server, "kubectl", &["system:masters"])
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/kubectl");
        command
            .args(args)
            .env("HOME", &self.home)
            .env("KUBECONFIG", self.home.join("config"))
            .kill_on_drop(true);
        command
    }

    /// Exit code, output, errors.
    pub async fn run(&self, args: &[&str], input: &str) -> (i32, String, String) {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {args:?} did not end")).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// What it prints when all goes well.
    pub async fn ok(&self, args: &[&str], input: &str) -> String {
        let (code, out, err) = self.run(args, input).await;
        assert_eq!(code, 0, "kubectl {args:?}: {out}{err}");
        out
    }

    /// What it says when it fails, as it must.
    pub async fn bad(&self, args: &[&str], input: &str) -> String {
        let (code, out, err) = self.run(args, input).await;
        assert_ne!(code, 0, "kubectl {args:?}: {out}{err}");
        err
    }
}
