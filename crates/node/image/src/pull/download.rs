//! One layer: bytes from the registry go through a bounded channel to the thread that stores and unpacks them.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use http::StatusCode;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::error::{Error, RegistryFailure, Result};
use crate::layers::ingest::{Staged, stage_blob};
use crate::oci::Descriptor;
use crate::progress::{LayerState, Progress, ProgressFn, report};
use crate::registry::{Registry, Retry};
use crate::service::Images;
use crate::store::blob::Partial;
use crate::store::lease::Lease;

/// Chunks between network and disk.
const CHUNKS: usize = 32;

/// What one layer's download needs.
pub(crate) struct Download {
    pub(crate) images: Images,
    pub(crate) registry: Arc<Registry>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) layer: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) progress: ProgressFn,
}

/// What goes through the channel.
enum Piece {
    Data(Bytes),
    /// All bytes came.
    End,
    Failed(Error),
}

impl Download {
    /// Make sure that the blob is here; `None` when it was.
    pub(crate) async fn run(self) -> Result<Option<Staged>> {
        let (digest, size) = (self.layer.digest, self.layer.size);
        // Waits while another pull, here or in another process, fetches the same layer.
        let taken = self.images.blocking(move |inner| {
            let mut partial = inner.store.partial(&digest)?;
            if inner.store.has_blob(&digest, size) {
                partial.discard();
                return Ok(None);
            }
            let mut offset = partial.len()?;
            if offset > size {
                partial.clear()?;
                offset = 0;
            }
            Ok(Some((partial, offset)))
        });
        let Some((partial, offset)) = taken.await? else {
            self.say(size, LayerState::Exists);
            return Ok(None);
        };
        match self.transfer(partial, offset).await {
            // What an earlier attempt left may have been wrong: once more, from the beginning.
            Err(Error::DigestMismatch { .. }) if offset > 0 => {
                let partial = self.images.blocking(move |inner| {
                    let mut partial = inner.store.partial(&digest)?;
                    partial.clear().map(|()| partial)
                });
                self.transfer(partial.await?, 0).await.map(Some)
            }
            result => result.map(Some),
        }
    }

    fn say(&self, done: u64, state: LayerState) {
        let (digest, total) = (self.layer.digest, Some(self.layer.size));
        report(Some(&self.progress), Progress::Layer { digest, done, total, state });
    }

    async fn transfer(&self, partial: Partial, offset: u64) -> Result<Staged> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (layer, diff_id, lease) = (self.layer.clone(), self.diff_id, self.lease.clone());
        let store = self.images.blocking(move |inner| {
            let source = Pieces { receiver, current: Bytes::new(), ended: false };
            let expected = (&layer.digest, layer.size, &diff_id);
            stage_blob(&inner.store, &lease, source, partial, expected, &CancellationToken::new())
        });
        let feed = async {
            let last = match self.feed(&sender, offset).await {
                Ok(()) => Piece::End,
                Err(error) => Piece::Failed(error),
            };
            // The reader is gone only when it failed; then its error is the one that counts.
            let _ = sender.send(last).await;
            drop(sender);
        };
        let (staged, ()) = futures::future::join(store, feed).await;
        let staged = staged?;
        self.say(self.layer.size, LayerState::Done);
        Ok(staged)
    }

    /// Send all bytes from `offset`, continuing where a transfer broke.
    async fn feed(&self, sender: &mpsc::Sender<Piece>, mut offset: u64) -> Result<()> {
        let mut retry = Retry::new(&self.images.inner.store.options.limits);
        while offset < self.layer.size {
            let before = offset;
            match self.stream(sender, &mut offset).await {
                Ok(true) => {}
                // Nobody listens any more.
                Ok(false) => return Ok(()),
                Err(error) => {
                    if offset > before {
                        retry.reset();
                    }
                    retry.wait(error, None).await?;
                }
            }
        }
        Ok(())
    }

    /// One response. Gives whether the reader still listens.
    async fn stream(&self, sender: &mpsc::Sender<Piece>, offset: &mut u64) -> Result<bool> {
        let action = format!("layer {}", self.layer.digest);
        let response = self.registry.blob(&self.layer.digest, *offset).await?;
        let mut skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => *offset,
        };
        let mut body = response.into_body();
        while let Some(mut chunk) = self.registry.chunk(&mut body, &action).await? {
            let skipped = skip.min(chunk.len() as u64);
            chunk.advance(usize::try_from(skipped).unwrap_or_default());
            skip -= skipped;
            if chunk.is_empty() {
                continue;
            }
            *offset += chunk.len() as u64;
            if *offset > self.layer.size {
                let reason = format!("more bytes came than the {} of the manifest", self.layer.size);
                return Err(self.registry.fail(&action, reason, RegistryFailure::Protocol));
            }
            if sender.send(Piece::Data(chunk)).await.is_err() {
                return Ok(false);
            }
            self.say(*offset, LayerState::Downloading);
        }
        if *offset < self.layer.size {
            let reason = format!("the transfer ended after {offset} of {} bytes", self.layer.size);
            return Err(self.registry.fail(&action, reason, RegistryFailure::Unavailable));
        }
        Ok(true)
    }
}

/// The blocking end of the channel.
struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(error)) => return Err(io::Error::other(error)),
                // The pull was dropped.
                None => {
                    return Err(io::Error::other(Error::Cancelled {
                        what: "the download of a layer".into(),
                    }));
                }
            }
        }
        let read = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..read]);
        Ok(read)
    }
}
