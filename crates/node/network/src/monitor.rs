//! Hears when somebody else changes the service table, and has it written anew.

use std::{io, sync::Arc};

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

use crate::{
    Error, Result, firewall,
    netlink::{self, Socket},
    network::Inner,
    nft,
};

/// What came in.
#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    /// Nothing about us.
    #[default]
    Nothing,
    /// The host's firewall was changed.
    Firewall,
    /// Too much at once: something was lost.
    Lost,
    /// Somebody else changed our table.
    Changed,
}

/// Listens until cancelled.
pub async fn run(inner: Arc<Inner>, own_port: u32) -> Result<()> {
    let what = || Error::kernel("watch nftables");
    let socket = Socket::netfilter_monitor().map_err(what())?;
    // SAFETY: a `Socket` owns its descriptor and keeps the same one until it is dropped.
    let socket = unsafe { AsyncFd::register(socket) };
    let mut socket = socket.map_err(|error| what()(error.into()))?;
    // Whatever happened before the socket was there.
    look(&inner, Heard::Lost).await?;
    loop {
        let mut guard = socket.readable_mut().await.map_err(what())?;
        let table = &inner.options.table;
        match guard.try_io(|socket| read(socket.get_mut(), table, own_port)) {
            Ok(Ok(heard)) => look(&inner, heard).await?,
            Ok(Err(error)) => return Err(what()(error)),
            Err(_would_block) => {}
        }
    }
}

fn read(socket: &mut Socket, table: &str, own_port: u32) -> io::Result<Heard> {
    let mut heard = Heard::Nothing;
    let result = socket.next(|message| {
        if message.port == own_port {
            return;
        }
        if nft::names_a_table(message.kind) && nft::notified_table(message.body) == Some(table) {
            heard = Heard::Changed;
        } else if firewall::concerns(message) {
            heard = heard.max(Heard::Firewall);
        }
    });
    match result {
        Err(error) if netlink::errno(&error) == Some(Errno::ENOBUFS) => Ok(Heard::Lost),
        other => other.map(|()| heard),
    }
}

async fn look(inner: &Arc<Inner>, heard: Heard) -> Result<()> {
    if heard == Heard::Nothing {
        return Ok(());
    }
    let for_work = inner.clone();
    inner
        .supervisor
        .blocking(move || {
            let mut tables = for_work.tables();
            if for_work.supervisor.token().is_cancelled() {
                // What is heard then is our own end of the table, or nobody's business any more.
                return Ok(());
            }
            if heard < Heard::Changed {
                tables.allow_forwarding()?;
            }
            if heard == Heard::Firewall || heard == Heard::Lost && tables.exists()? {
                return Ok(());
            }
            tracing::warn!(table = for_work.options.table, "changed by somebody else, writing it anew");
            tables.rewrite().map(drop)
        })
        .await
}
