//! Objects in the store: read one, commit a change, and what the store's errors mean to a client.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use sampan_api::status::Status;
use sampan_store::{Compare, Error, KeyValue, Op, Range, Revision, Txn, TxnResponse};
use serde_json::Value;

use crate::{core::Core, encode, endpoint::Endpoint};

/// An object read from the store.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) object: Value,
    pub(crate) kv: KeyValue,
    /// It lies in the store in another version than it is to be stored in.
    pub(crate) stale: bool,
}

/// What the store's failure means to the client.
pub(crate) fn store_error(error: &Error) -> Status {
    match error {
        Error::Compacted(_) => Status::expired_list(),
        Error::Future(current) => Status::too_large_resource_version(0, unsigned(*current)),
        Error::TooLarge { .. } => Status::request_entity_too_large(error),
        Error::NoSpace(_) | Error::Unavailable(_) => Status::service_unavailable(error.to_string()),
        Error::LeaseNotFound(_) | Error::Corrupt(_) => Status::internal(error),
    }
}

/// Tells mirrors how far they have to be before they are asked.
fn tell(touched: &[Arc<AtomicI64>], response: &TxnResponse) {
    if let TxnResponse::Committed(revision) = response {
        for written in touched {
            written.fetch_max(*revision, Ordering::AcqRel);
        }
    }
}

/// What the store's failure means to a watcher that asked for events after a revision.
pub(crate) fn watch_error(error: &Error, after: Revision) -> Status {
    match error {
        Error::Compacted(oldest) => Status::expired_watch(unsigned(after), unsigned(*oldest)),
        other => store_error(other),
    }
}

/// A revision as clients count: never negative.
pub(crate) fn unsigned(revision: Revision) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}

impl Core {
    /// The stored bytes of one object.
    pub(crate) async fn fetch(
        &self,
        endpoint: &Endpoint,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<KeyValue>, Status> {
        let range = Range { start: endpoint.key(namespace, name), ..Range::default() };
        let mut response = self.store().range(range).await.map_err(|e| store_error(&e))?;
        endpoint.present(&mut response.kvs).await?;
        Ok(response.kvs.pop())
    }

    /// One object, or 404.
    pub(crate) async fn find(
        &self,
        endpoint: &Endpoint,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Found, Status> {
        let range = Range { start: endpoint.key(namespace, name), ..Range::default() };
        let mut response = self.store().range(range).await.map_err(|e| store_error(&e))?;
        let stale = response.kvs.first().is_some_and(|kv| endpoint.is_stale(&kv.value));
        endpoint.present(&mut response.kvs).await?;
        let Some(kv) = response.kvs.pop() else { return Err(Status::not_found(endpoint.resource, name)) };
        Ok(Found { object: encode::parse(endpoint, &kv.value, kv.mod_revision)?, kv, stale })
    }

    /// One object of a well-known resource, when there is one.
    pub(crate) async fn look_up(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let endpoint = self.endpoint(group, version, plural)?;
        match self.fetch(&endpoint, namespace, name).await? {
            Some(kv) => encode::parse(&endpoint, &kv.value, kv.mod_revision).map(Some),
            None => Ok(None),
        }
    }

    /// Runs a transaction.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<TxnResponse, Status> {
        let touched = self.written.touched(&txn.ops);
        let response = self.store().txn(txn).await.map_err(|e| store_error(&e))?;
        tell(&touched, &response);
        Ok(response)
    }

    /// Puts the bytes of an object that must be absent, with further steps in the same transaction.
    pub(crate) async fn put(
        &self,
        endpoint: &Endpoint,
        value: &bytes::Bytes,
        key: &bytes::Bytes,
        more: Txn,
    ) -> Result<TxnResponse, Status> {
        for _ in 0..2 {
            let lease = self.event_lease.lease_for(endpoint, self.store()).await?;
            let mut txn = Txn {
                compare: vec![Compare::ModRevision(key.clone(), 0)],
                ops: vec![Op::Put { key: key.clone(), value: value.clone(), lease }],
            };
            txn.compare.extend(more.compare.iter().cloned());
            txn.ops.extend(more.ops.iter().cloned());
            let touched = self.written.touched(&txn.ops);
            match self.store().txn(txn).await {
                Err(Error::LeaseNotFound(_)) => self.event_lease.forget().await,
                Err(error) => return Err(store_error(&error)),
                Ok(response) => {
                    tell(&touched, &response);
                    return Ok(response);
                }
            }
        }
        Err(Status::server_timeout(endpoint.resource, "create", 1))
    }
}
