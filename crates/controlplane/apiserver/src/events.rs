//! Events go by themselves after an hour: their keys hang on store leases that many events share.

use std::time::{Duration, Instant};

use sampan_api::status::Status;
use sampan_store::{LeaseId, Store};
use tokio::sync::Mutex;

use crate::{endpoint::Endpoint, storage::store_error};

/// How long an event lives.
const TTL: i64 = 3600;

/// Events written within this time share a lease.
const SHARE: Duration = Duration::from_secs(60);

/// Events that share a lease at most, so that one expiry deletes a bounded number of keys.
const MOST: u32 = 1000;

/// The lease that new events get.
#[derive(Default)]
pub(crate) struct EventLease(Mutex<Option<(LeaseId, Instant, u32)>>);

impl EventLease {
    /// The lease for a write to this resource: 0 for anything but events.
    pub(crate) async fn lease_for(&self, endpoint: &Endpoint, store: &dyn Store) -> Result<LeaseId, Status> {
        if endpoint.stored.kind != "Event" || !endpoint.stored.group.is_empty() {
            return Ok(0);
        }
        let mut current = self.0.lock().await;
        if let Some((lease, granted, used)) = current.as_mut()
            && granted.elapsed() < SHARE
            && *used < MOST
        {
            *used += 1;
            return Ok(*lease);
        }
        let lease = store.lease_grant(TTL).await.map_err(|e| store_error(&e))?;
        *current = Some((lease, Instant::now(), 1));
        Ok(lease)
    }

    /// Forgets a lease that the store no longer knows.
    pub(crate) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}
