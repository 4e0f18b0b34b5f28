//! A whole control plane of this process, which may listen with TLS for clients from outside.

use std::path::Path;
use std::sync::Arc;

use kube::Client;
use sampan_apiserver::{ApiServer, Limits, SigningKey, UserInfo};
use sampan_controllers::Options;
use sampan_daemon::{Supervisor, tls};
use sampan_store::embedded::{self, Embedded};

/// What an administrator shows.
pub const TOKEN: &str = "admin-token";
pub const MANAGER: &str = "system:kube-controller-manager";
pub const SCHEDULER: &str = "system:kube-scheduler";

/// The API server, and what controllers would start with.
#[allow(dead_code)]
pub struct Plane {
    pub api: sampan_apiserver::Handle,
    pub supervisor: Supervisor,
    pub ca: Arc<tls::Ca>,
    pub options: Options,
}

#[allow(dead_code)]
impl Plane {
    /// Serves the state of a directory, on an address when one is given.
    pub async fn open(dir: &Path, listen: Option<&str>) -> Self {
        let tls_dir = dir.join("tls");
        std::fs::create_dir_all(&tls_dir).unwrap();
        let ca = tls::Ca::load_or_create(&tls_dir, "test-ca").unwrap();
        let store = Arc::new(Embedded::open(embedded::Options::new(dir.join("store"))).unwrap());
        let serving = ca.issue(&tls::Profile {
            common_name: "apiserver".to_owned(),
            organizations: Vec::new(),
            dns: vec!["localhost".to_owned()],
            ips: vec!["127.0.0.1".parse().unwrap()],
            usage: tls::Usage::Server,
            days: 30,
        });
        let key = dir.join("signing.pem");
        if !key.exists() {
            std::fs::write(&key, SigningKey::generate_pem().unwrap()).unwrap();
        }
        let key = SigningKey::from_pem(&std::fs::read_to_string(&key).unwrap()).unwrap();
        let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
        let options = sampan_apiserver::Options {
            listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
            tls: tls::server_config(&serving.unwrap(), Some(ca.cert_pem()), false).unwrap(),
            node_tls: tls::client_config(ca.cert_pem(), None).unwrap(),
            signing_key: Arc::new(key),
            issuer: issuer.clone(),
            audiences: vec![issuer],
            static_tokens: vec![(TOKEN.to_owned(), UserInfo::admin("administrator"))],
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            advertise: None,
            store,
            front_proxy: None,
            limits: Limits::default(),
        };
        let supervisor = Supervisor::new();
        let api = ApiServer::bind(options).await.unwrap().start(&supervisor).await.unwrap();
        let client = |user| Client::new(api.client(UserInfo::new(user, &[])), "default");
        let options = Options::new(client(MANAGER), client(SCHEDULER), ca.cert_pem());
        Self { api, supervisor, ca: Arc::new(ca), options }
    }

    /// Starts the controllers; returns once they work.
    pub async fn control(&self) {
        sampan_controllers::start(self.options.clone(), &self.supervisor).ready().await;
    }

    /// `host:port`.
    pub fn server(&self) -> String {
        self.api.addresses()[0].to_string()
    }

    /// An administrator's client.
    pub fn client(&self) -> Client {
        Client::new(self.api.client(UserInfo::admin("administrator")), "default")
    }
}
