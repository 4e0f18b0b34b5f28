//! A watch that outlives the connection it runs over.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures::{StreamExt, stream};
use sampan_daemon::Backoff;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{Etcd, translate::failure};
use crate::{Error, Event, Range, Result, Revision, Store, Watch, WatchBatch};

/// Between requests for progress.
const PROGRESS: Duration = Duration::from_secs(60);

/// Where the watch is.
struct Follow {
    etcd: Etcd,
    start: Vec<u8>,
    end: Vec<u8>,
    /// Everything before this revision has been delivered.
    next: Revision,
    /// A notice that is due before anything else.
    caught_up: Option<Revision>,
    stream: Option<WatchStream>,
    backoff: Backoff,
    ask: Option<Interval>,
}

/// Opens a watch; the first connection must succeed, so that its failure is told at once.
pub(super) async fn open(
    etcd: Etcd,
    start: Bytes,
    end: Bytes,
    from: Revision,
    progress: bool,
) -> Result<Watch> {
    let look = Range { start: start.clone(), count_only: true, ..Range::default() };
    let now = etcd.range(look).await?.revision;
    let (start, end) = etcd.keys.range(&start, &end);
    let ask = (progress && etcd.asks_progress).then(|| {
        let mut interval = tokio::time::interval_at(Instant::now() + PROGRESS, PROGRESS);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    });
    let next = if from == 0 { now + 1 } else { from };
    if etcd.keys.theirs(next).is_none() {
        return Err(Error::Compacted(etcd.keys.offset() + 1));
    }
    let mut follow = Follow {
        caught_up: (progress && next > now).then_some(now),
        etcd,
        start,
        end,
        next,
        stream: None,
        backoff: Backoff::new(Duration::from_millis(20), Duration::from_secs(2)),
        ask,
    };
    follow.connect().await?;
    let behind = progress && follow.caught_up.is_none();
    if behind && follow.etcd.asks_progress {
        follow.request_progress().await;
    }
    let batches = stream::try_unfold(follow, |mut follow| async move {
        follow.batch().await.map(|batch| Some((batch, follow)))
    });
    Ok(batches.boxed())
}

impl Follow {
    /// Where etcd is to go on.
    fn theirs(&self) -> Revision {
        self.etcd.keys.theirs(self.next).unwrap_or(1)
    }

    async fn connect(&mut self) -> Result<()> {
        let mut options =
            WatchOptions::new().with_start_revision(self.theirs()).with_prev_key().with_progress_notify();
        if !self.end.is_empty() {
            options = options.with_range(self.end.clone());
        }
        let client = self.etcd.client.watch_client().max_decoding_message_size(usize::MAX);
        let mut client = client;
        let stream = client.watch(self.start.clone(), Some(options)).await.map_err(|e| failure(&e))?;
        self.stream = Some(stream);
        Ok(())
    }

    async fn request_progress(&mut self) {
        if let Some(stream) = &mut self.stream
            && stream.request_progress().await.is_err()
        {
            // The stream itself will say so, too.
            self.stream = None;
        }
    }

    /// The next events, or how far there are none.
    async fn batch(&mut self) -> Result<WatchBatch> {
        loop {
            if let Some(revision) = self.caught_up.take() {
                return Ok(WatchBatch { revision, events: Arc::new([]) });
            }
            let Some(stream) = &mut self.stream else {
                tokio::time::sleep(self.backoff.next_delay()).await;
                match self.connect().await {
                    Ok(()) | Err(Error::Unavailable(_)) => continue,
                    Err(other) => return Err(other),
                }
            };
            let due = async {
                match &mut self.ask {
                    Some(ask) => drop(ask.tick().await),
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                message = stream.message() => message,
                () = due => {
                    self.request_progress().await;
                    continue;
                }
            };
            match message {
                Ok(Some(response)) => {
                    if let Some(batch) = self.take(response)? {
                        self.backoff.reset();
                        return Ok(batch);
                    }
                }
                // The member went away: go on where this one ended, on another.
                Ok(None) | Err(_) => self.stream = None,
            }
        }
    }

    fn take(&mut self, response: WatchResponse) -> Result<Option<WatchBatch>> {
        if response.compact_revision() > 0 {
            return Err(Error::Compacted(self.etcd.keys.ours(response.compact_revision())));
        }
        if response.canceled() {
            // The member has lost its cluster, or wants no more of us.
            self.stream = None;
            return Ok(None);
        }
        if response.created() {
            return Ok(None);
        }
        let keys = &self.etcd.keys;
        let events: Vec<Event> = response
            .events()
            .iter()
            .filter_map(|event| {
                let kv = keys.key_value(event.kv()?.clone());
                let prev = event.prev_kv().map(|kv| keys.key_value(kv.clone()));
                Some(Event { kv, prev, deleted: event.event_type() == EventType::Delete })
            })
            // What was delivered before a connection was lost.
            .filter(|event| event.kv.mod_revision >= self.next)
            .collect();
        let revision = match events.last() {
            Some(last) => last.kv.mod_revision,
            None => keys.ours(response.header().map_or(0, etcd_client::ResponseHeader::revision)),
        };
        if revision < self.next && events.is_empty() {
            // Progress that is known already.
            let known = self.next - 1 == revision && response.events().is_empty();
            return Ok(known.then(|| WatchBatch { revision, events: Arc::new([]) }));
        }
        self.next = revision + 1;
        Ok(Some(WatchBatch { revision, events: events.into() }))
    }
}
