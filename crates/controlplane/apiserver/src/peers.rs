//! The servers that share a store. Each keeps a key below `/masterleases/` that goes with its lease when it dies, and
//! all keep the endpoints of the `kubernetes` Service as those keys say. Nobody polls: a watch tells of changes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use sampan_api::status::Status;
use sampan_daemon::{Backoff, Policy};
use sampan_store::{Error, LeaseId, Op, Range, Revision, Store, Txn, prefix_end};

use crate::{
    bootstrap, bootstrap::Client, core::Core, local::LocalService, storage::store_error, user::UserInfo,
};

const PREFIX: &str = "/masterleases/";
/// Seconds after which a server that is silent is no longer listed. As upstream.
const TTL: i64 = 15;
/// Between two signs of life.
const RENEW: Duration = Duration::from_secs(5);

/// This server's place among those that serve.
pub(crate) struct Membership {
    lease: Arc<Mutex<LeaseId>>,
    address: SocketAddr,
    keeper: sampan_daemon::TaskHandle,
}

impl Membership {
    /// Takes this server off the list.
    pub(crate) async fn leave(&self, core: &Arc<Core>) {
        self.keeper.abort();
        let lease = *self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = core.store().lease_revoke(lease).await {
            tracing::debug!("not taken off the list of servers: {error}");
            return;
        }
        // Who is left writes the same; but there may be nobody left who is awake.
        let client = Client::new(LocalService::new(core.clone(), UserInfo::admin("system:apiserver")));
        if let Ok((others, _)) = list(core.store()).await
            && !others.is_empty()
            && !others.contains(&self.address)
        {
            let _ = bootstrap::endpoints(&client, &others).await;
        }
    }
}

/// Says that this server lives, and follows who else does. Returns once the endpoints are right.
pub(crate) async fn start(core: &Arc<Core>, address: SocketAddr) -> Result<(), Status> {
    let lease = Arc::new(Mutex::new(register(core.store(), address).await.map_err(|e| store_error(&e))?));
    let seen = reconcile(core).await?;
    let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let (task, held) = (core.clone(), lease.clone());
    let keeper = core.supervisor.supervise("peers/lease", Policy::Restart(backoff.clone()), move || {
        let (core, held) = (task.clone(), held.clone());
        async move { keep(&core, address, &held).await }
    });
    let task = core.clone();
    let mut first = Some(seen);
    core.supervisor.supervise("peers/endpoints", Policy::Restart(backoff), move || {
        let (core, from) = (task.clone(), first.take());
        async move { follow(&core, from).await }
    });
    // Nobody has set it before.
    let _ = core.membership.set(Membership { lease, address, keeper });
    Ok(())
}

async fn register(store: &dyn Store, address: SocketAddr) -> sampan_store::Result<LeaseId> {
    let lease = store.lease_grant(TTL).await?;
    let (key, value) = (format!("{PREFIX}{address}").into(), address.to_string().into());
    store.txn(Txn { compare: Vec::new(), ops: vec![Op::Put { key, value, lease }] }).await?;
    Ok(lease)
}

async fn keep(core: &Core, address: SocketAddr, held: &Mutex<LeaseId>) -> sampan_store::Result<()> {
    loop {
        let lease = *held.lock().unwrap_or_else(PoisonError::into_inner);
        match core.store().lease_keep_alive(lease).await {
            Ok(_) => tokio::time::sleep(RENEW).await,
            // Cut off for longer than it lasts.
            Err(Error::LeaseNotFound(_)) => {
                let lease = register(core.store(), address).await?;
                *held.lock().unwrap_or_else(PoisonError::into_inner) = lease;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The addresses of the servers that live, and the revision at which they did.
async fn list(store: &dyn Store) -> sampan_store::Result<(Vec<SocketAddr>, Revision)> {
    let range = Range { start: PREFIX.into(), end: prefix_end(PREFIX.as_bytes()), ..Range::default() };
    let found = store.range(range).await?;
    let address = |kv: &sampan_store::KeyValue| std::str::from_utf8(&kv.value).ok()?.parse().ok();
    Ok((found.kvs.iter().filter_map(address).collect(), found.revision))
}

/// Writes the endpoints until they are those of a list that has not changed meanwhile.
async fn reconcile(core: &Arc<Core>) -> Result<Revision, Status> {
    let client = Client::new(LocalService::new(core.clone(), UserInfo::admin("system:apiserver")));
    let (mut addresses, _) = list(core.store()).await.map_err(|e| store_error(&e))?;
    loop {
        // An empty list is one that nobody could have written: this server is on it, or was cut off.
        if !addresses.is_empty() {
            bootstrap::endpoints(&client, &addresses).await?;
        }
        let (now, at) = list(core.store()).await.map_err(|e| store_error(&e))?;
        let same = now == addresses;
        addresses = now;
        if same {
            return Ok(at);
        }
    }
}

async fn follow(core: &Arc<Core>, from: Option<Revision>) -> Result<(), Status> {
    let from = match from {
        Some(revision) => revision,
        None => reconcile(core).await?,
    };
    let (start, end) = (bytes::Bytes::from(PREFIX), prefix_end(PREFIX.as_bytes()));
    let mut watch = core.store().watch(start, end, from + 1, false).await.map_err(|e| store_error(&e))?;
    while let Some(batch) = watch.next().await {
        let batch = batch.map_err(|e| store_error(&e))?;
        if !batch.events.is_empty() {
            reconcile(core).await?;
        }
    }
    Err(Status::internal("the watch of servers ended"))
}
