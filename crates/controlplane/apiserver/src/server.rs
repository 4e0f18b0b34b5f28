//! The server as a whole: bind, start, and the handle others hold.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use sampan_api::status::Status;
use sampan_daemon::Supervisor;
use tokio::net::TcpListener;

use crate::{
    admission::{self, state::State},
    aggregate,
    audit::{
        Audit, AuditError, LogOptions as AuditLog, Policy as AuditPolicy, WebhookOptions as AuditWebhook,
    },
    authn::Authentication,
    authz, bootstrap, compact,
    core::Core,
    custom, fairness,
    local::LocalService,
    options::Options,
    serve,
    user::UserInfo,
};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source} (hint: another process has the port, or the address is not this machine's)"
    )]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The first objects could not be written.
    #[error("cannot write what every cluster has: {0}")]
    Bootstrap(Status),
}

/// An API server whose addresses are bound and that serves nobody yet.
pub struct ApiServer {
    options: Options,
    audit: Option<Audit>,
    listeners: Vec<(TcpListener, SocketAddr)>,
    authentication: Authentication,
    shared: bool,
}

/// A running API server. Cheap to clone. It ends with its supervisor.
#[derive(Clone)]
pub struct Handle {
    core: Arc<Core>,
    addresses: Arc<[SocketAddr]>,
}

impl ApiServer {
    /// Takes the addresses, so that a port in use is told at once.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let mut listeners = Vec::new();
        for &address in &options.listen {
            let listener =
                TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })?;
            let bound = listener.local_addr().map_err(|source| Error::Bind { address, source })?;
            listeners.push((listener, bound));
        }
        Ok(Self { options, audit: None, listeners, authentication: Authentication::default(), shared: false })
    }

    /// The addresses that were bound.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address).collect()
    }

    /// Where pods are to reach the server, when it is known only after [`ApiServer::bind`].
    pub fn advertise(&mut self, address: SocketAddr) {
        self.options.advertise = Some(address);
    }

    /// Other servers use the same store: each says that it lives, and the endpoints of the `kubernetes` Service are
    /// all that do.
    pub fn share(&mut self) {
        self.shared = true;
    }

    /// Records requests as the policy says in a file, from the start on.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn audit(&mut self, policy: AuditPolicy, log: AuditLog) -> Result<(), AuditError> {
        self.audit.get_or_insert_with(|| Audit::new(policy)).log_to(log)
    }

    /// Sends records of requests away, from the start on; under the policy of [`ApiServer::audit`] where both are asked for.
    pub fn audit_webhook(&mut self, policy: AuditPolicy, webhook: AuditWebhook) {
        self.audit.get_or_insert_with(|| Audit::new(policy)).post_to(webhook);
    }

    /// Who is believed besides this server itself, and whether anybody may come without credentials.
    pub fn believe(&mut self, authentication: Authentication) {
        self.authentication = authentication;
    }

    /// Makes the first objects and starts to serve, under the supervisor.
    ///
    /// # Errors
    /// The store refuses the first objects.
    pub async fn start(self, supervisor: &Supervisor) -> Result<Handle, Error> {
        let addresses = self.addresses().into();
        let mut core = Core::new(self.options, supervisor.child("apiserver"));
        core.audit = self.audit.map(Arc::new);
        core.shared = self.shared;
        let core = Arc::new(core);
        if let Some(audit) = &core.audit {
            audit.start(&core);
        }
        core.authn.believe(self.authentication);
        let state = State::open(&core).await.map_err(Error::Bootstrap)?;
        // Nobody else has the core yet.
        let _ = core.admission.set(state);
        authz::start(&core).await.map_err(Error::Bootstrap)?;
        fairness::start(&core).await.map_err(Error::Bootstrap)?;
        custom::start(&core).await.map_err(Error::Bootstrap)?;
        aggregate::start(&core).await.map_err(Error::Bootstrap)?;
        bootstrap::run(&core).await.map_err(Error::Bootstrap)?;
        admission::policy::typecheck::start(&core);
        authz::node::start(&core);
        for (listener, address) in self.listeners {
            serve::listen(&core, listener, address);
        }
        compact::start(&core);
        Ok(Handle { core, addresses })
    }
}

impl Handle {
    /// The addresses that are listened on.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A client in this process that acts as the user.
    #[must_use]
    pub fn client(&self, user: UserInfo) -> LocalService {
        LocalService::new(self.core.clone(), user)
    }

    /// Accepts no more, ends watches and streams, and waits until open requests are answered or the bound is over.
    /// To be called before the supervisor's shutdown, which cuts off what is still open. True when all was answered.
    pub async fn drain(&self, bound: Duration) -> bool {
        // First of all, so that nobody new is sent here.
        if let Some(membership) = self.core.membership.get() {
            let _ = tokio::time::timeout(bound, membership.leave(&self.core)).await;
        }
        self.core.closing.cancel();
        let all = u32::try_from(self.core.options.limits.connections).unwrap_or(u32::MAX);
        tokio::time::timeout(bound, self.core.connections.acquire_many(all)).await.is_ok()
    }
}
