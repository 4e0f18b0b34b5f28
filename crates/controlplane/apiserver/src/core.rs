//! What every request handler has at hand.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use sampan_api::status::Status;
use sampan_daemon::Supervisor;
use sampan_store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::state::State,
    aggregate::Aggregated,
    audit::Audit,
    authn,
    authz::Authorizer,
    cache::Cache,
    endpoint::{Endpoint, Endpoints},
    events::EventLease,
    fairness::Fairness,
    metrics::Metrics,
    mirror::Written,
    options::Options,
    storage::store_error,
    subresource::idle::Idle,
    usage,
};

/// The heart of the server, shared by all connections.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) supervisor: Supervisor,
    pub(crate) endpoints: Endpoints,
    pub(crate) metrics: Metrics,
    pub(crate) event_lease: EventLease,
    pub(crate) authz: Authorizer,
    pub(crate) authn: authn::State,
    /// The audit log, when there is one.
    pub(crate) audit: Option<Arc<Audit>>,
    /// Which ordinary requests go.
    pub(crate) fairness: Fairness,
    /// Watches and streams under way.
    pub(crate) long_running: Arc<Semaphore>,
    /// Connections that are open.
    pub(crate) connections: Arc<Semaphore>,
    /// Cancelled when no more is accepted: watches end, connections finish what they are at.
    pub(crate) closing: CancellationToken,
    /// What admission keeps at hand; there once the server has started.
    pub(crate) admission: OnceLock<State>,
    /// Which mirrors a write has to be shown by.
    pub(crate) written: Written,
    /// Extension servers.
    pub(crate) aggregated: Aggregated,
    /// What nodes and pods use.
    pub(crate) usage: usage::State,
    /// Connections to nodes that wait for the next request.
    pub(crate) idle: Arc<Idle>,
    /// Other servers use the same store.
    pub(crate) shared: bool,
    /// How to take this server off the list of those that serve.
    pub(crate) membership: OnceLock<crate::peers::Membership>,
    ready: AtomicBool,
}

impl Core {
    pub(crate) fn new(options: Options, supervisor: Supervisor) -> Self {
        let closing = supervisor.token().child_token();
        Self {
            audit: None,
            fairness: Fairness::new(options.limits.in_flight),
            long_running: Arc::new(Semaphore::new(options.limits.long_running)),
            connections: Arc::new(Semaphore::new(options.limits.connections)),
            idle: Arc::new(Idle::new(closing.clone())),
            closing,
            supervisor,
            endpoints: Endpoints::new(),
            aggregated: Aggregated::default(),
            usage: usage::State::default(),
            metrics: Metrics::default(),
            event_lease: EventLease::default(),
            authn: authn::State::default(),
            admission: OnceLock::new(),
            written: Written::default(),
            authz: Authorizer::default(),
            shared: false,
            membership: OnceLock::new(),
            ready: AtomicBool::new(false),
            options,
        }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.options.store
    }

    /// Set once the objects that every cluster has are there.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.closing.is_cancelled()
    }

    /// A resource by its path; 404 when it is not served.
    pub(crate) fn endpoint(&self, group: &str, version: &str, plural: &str) -> Result<Arc<Endpoint>, Status> {
        self.endpoints.get(group, version, plural).ok_or_else(Status::no_such_resource)
    }

    /// The watch cache of a resource, opened when first asked for.
    pub(crate) async fn cache(&self, endpoint: &Arc<Endpoint>) -> Result<Arc<Cache>, Status> {
        let open = || {
            Cache::open(
                endpoint.clone(),
                self.options.store.clone(),
                &self.supervisor,
                self.options.limits.clone(),
            )
        };
        endpoint.cache.get_or_try_init(open).await.cloned().map_err(|e| store_error(&e))
    }
}
