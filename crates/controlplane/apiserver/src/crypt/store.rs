//! The store that encrypts.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use sampan_store::{
    Compare, Error, Event, KeyValue, LeaseId, Op, Range, RangeResponse, Result, Revision, Store, Txn,
    TxnResponse, Watch, WatchBatch, prefix_end,
};

use super::{Encryption, Rules};

/// Objects per step of [`Encrypted::rewrite`].
const PAGE: usize = 500;

/// A store that keeps the values of chosen resources encrypted. What is not chosen passes through untouched.
pub struct Encrypted {
    inner: Arc<dyn Store>,
    encryption: Arc<Encryption>,
}

impl Encrypted {
    /// Over another store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, encryption: Arc<Encryption>) -> Arc<Self> {
        Arc::new(Self { inner, encryption })
    }

    /// Writes again whatever is not encrypted with the first key of its rule (or is not to be, and is). Gives the
    /// number of values written. What somebody else writes meanwhile is written with the first key by that.
    ///
    /// # Errors
    /// The store's, and a value that no key opens.
    pub async fn rewrite(&self) -> Result<usize> {
        let rules = self.encryption.rules();
        let mut written = 0;
        for prefix in rules.prefixes() {
            let mut start = Bytes::from(prefix);
            let end = prefix_end(&start);
            loop {
                let range = Range { start: start.clone(), end: end.clone(), limit: PAGE, ..Range::default() };
                let page = self.inner.range(range).await?.kvs;
                let Some(last) = page.last() else { break };
                start = [&last.key[..], &[0]].concat().into();
                for kv in &page {
                    written += usize::from(self.rewrite_one(&rules, kv).await?);
                }
            }
        }
        Ok(written)
    }

    async fn rewrite_one(&self, rules: &Rules, kv: &KeyValue) -> Result<bool> {
        let Some(rule) = rules.of(&kv.key) else { return Ok(false) };
        let (value, stale) = rule.open(&kv.key, &kv.value).map_err(|why| broken(&kv.key, &why))?;
        if !stale {
            return Ok(false);
        }
        let value = rule.seal(&kv.key, &value).map_err(|why| broken(&kv.key, &why))?;
        let put = Op::Put { key: kv.key.clone(), value, lease: kv.lease };
        let compare = vec![Compare::ModRevision(kv.key.clone(), kv.mod_revision)];
        let response = self.inner.txn(Txn { compare, ops: vec![put] }).await?;
        Ok(matches!(response, TxnResponse::Committed(_)))
    }
}

fn broken(key: &[u8], why: &str) -> Error {
    Error::Corrupt(format!("unable to transform key {:?}: {why}", String::from_utf8_lossy(key)))
}

fn open(rules: &Rules, kv: &mut KeyValue) -> Result<()> {
    if let Some(rule) = rules.of(&kv.key) {
        kv.value = rule.open(&kv.key, &kv.value).map_err(|why| broken(&kv.key, &why))?.0;
    }
    Ok(())
}

fn open_event(rules: &Rules, event: &Event) -> Result<Event> {
    let mut event = event.clone();
    if !event.deleted {
        open(rules, &mut event.kv)?;
    }
    if let Some(before) = &mut event.prev {
        open(rules, before)?;
    }
    Ok(event)
}

impl Store for Encrypted {
    fn max_ops(&self) -> usize {
        self.inner.max_ops()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResponse>> {
        let rules = self.encryption.rules();
        if range.count_only || !rules.touches(&range.start, &range.end) {
            return self.inner.range(range);
        }
        Box::pin(async move {
            let mut response = self.inner.range(range).await?;
            for kv in &mut response.kvs {
                open(&rules, kv)?;
            }
            Ok(response)
        })
    }

    fn txn(&self, mut txn: Txn) -> BoxFuture<'_, Result<TxnResponse>> {
        let rules = self.encryption.rules();
        let mut compares = txn.compare.iter().map(|Compare::ModRevision(key, _)| key);
        let mut touched = compares.any(|key| rules.of(key).is_some());
        for op in &mut txn.ops {
            let Op::Put { key, value, .. } = op else { continue };
            let Some(rule) = rules.of(key) else { continue };
            touched = true;
            match rule.seal(key, value) {
                Ok(sealed) => *value = sealed,
                Err(why) => {
                    let error = broken(key, &why);
                    return Box::pin(async move { Err(error) });
                }
            }
        }
        if !touched {
            return self.inner.txn(txn);
        }
        Box::pin(async move {
            let mut response = self.inner.txn(txn).await?;
            if let TxnResponse::Conflict(_, current) = &mut response {
                for kv in current.iter_mut().flatten() {
                    open(&rules, kv)?;
                }
            }
            Ok(response)
        })
    }

    fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
        progress: bool,
    ) -> BoxFuture<'_, Result<Watch>> {
        let touches = self.encryption.rules().touches(&start, &end);
        let watch = self.inner.watch(start, end, from, progress);
        if !touches {
            return watch;
        }
        Box::pin(async move {
            let encryption = self.encryption.clone();
            let opened = watch.await?.map(move |batch| {
                let batch = batch?;
                let rules = encryption.rules();
                let events = batch.events.iter().map(|event| open_event(&rules, event));
                Ok(WatchBatch { revision: batch.revision, events: events.collect::<Result<_>>()? })
            });
            Ok(Box::pin(opened) as Watch)
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        self.inner.compact(revision)
    }

    fn lease_grant(&self, ttl: i64) -> BoxFuture<'_, Result<LeaseId>> {
        self.inner.lease_grant(ttl)
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<i64>> {
        self.inner.lease_keep_alive(lease)
    }

    fn lease_left(&self, lease: LeaseId) -> BoxFuture<'_, Result<i64>> {
        self.inner.lease_left(lease)
    }

    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        self.inner.lease_revoke(lease)
    }
}
