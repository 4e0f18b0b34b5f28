//! The store on an existing etcd (3.4 or newer): the state of several servers at once.
//!
//! Reads are linearizable. Calls that fail on the way are tried again where that is safe, on whichever member answers;
//! a watch that loses its connection goes on where it was, so that a member may die without anybody above noticing.
//! See <https://etcd.io/docs/v3.5/learning/api/> and <https://etcd.io/docs/v3.5/learning/api_guarantees/>.

mod admin;
mod origin;
mod retry;
mod translate;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use etcd_client::{
    Certificate, Client, CompactionOptions, ConnectOptions, GetOptions, Identity, KvClient, TlsOptions,
};
use futures::{FutureExt, future::BoxFuture};

use crate::{Error, LeaseId, Op, Range, RangeResponse, Result, Revision, Store, Txn, TxnResponse, Watch};
pub use admin::{Member, Status};
pub use origin::{Origin, Phase};
use retry::Attempts;
use translate::{Keys, failure};

/// Keys read at a time: a large range is put together from pages of one revision.
const PAGE: usize = 5_000;
/// How long a call may take before it counts as lost.
const CALL: Duration = Duration::from_secs(5);
/// How long connecting to one member may take.
const CONNECT: Duration = Duration::from_secs(3);
/// Between pings on a connection, and the time that an answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Largest transaction in bytes of keys and values: below etcd's own limit of 1.5 MiB with room for the envelope.
const MAX_TXN_BYTES: usize = 1_400 << 10;
/// etcd's `--max-txn-ops` unless somebody raised it, without the comparison that is ours.
const MAX_TXN_OPS: usize = 127;

/// Where the etcd is, and how to prove who we are.
#[derive(Clone, Debug)]
pub struct Options {
    /// Members, `host:port` each; any that answers will do.
    pub endpoints: Vec<String>,
    /// All keys lie below this, `/sampan` for example, so that an etcd can be shared. Not empty.
    pub prefix: String,
    /// TLS; without it connections are plain.
    pub tls: Option<Tls>,
    /// Name and password for etcd's own authentication.
    pub user: Option<(String, String)>,
}

/// Certificates, as PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Who may sign the members' certificates.
    pub ca: String,
    /// Our own certificate and key, where the members ask for one.
    pub identity: Option<(String, String)>,
}

/// A connected etcd. Cheap to clone.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    keys: Arc<Keys>,
    /// The server answers requests for progress, and truthfully (3.4.31, 3.5.13).
    asks_progress: bool,
    /// etcd's revision of what is written about the state, which every write compares: who sleeps while a state is moved
    /// away does not go on writing afterwards. Nothing while it is being moved.
    fence: Option<Arc<AtomicI64>>,
}

impl Etcd {
    /// Connects, and finds out what the server is.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no member answers, when it is too old, or when it does not accept us.
    pub async fn connect(options: &Options) -> Result<Self> {
        let mut store = Self::connect_raw(options).await?;
        let (origin, at) = store.origin().await?.unwrap_or_default();
        origin.usable()?;
        store.keys = Arc::new(Keys::new(&options.prefix, origin.offset));
        store.fence = Some(Arc::new(AtomicI64::new(at)));
        Ok(store)
    }

    /// Connects without asking whether the state is whole: for moving it.
    ///
    /// # Errors
    /// As [`Etcd::connect`].
    pub(crate) async fn connect_raw(options: &Options) -> Result<Self> {
        if options.endpoints.is_empty() || options.prefix.trim_matches('/').is_empty() {
            let why = "an etcd store needs an endpoint and a key prefix (hint: etcd://host:2379/sampan)";
            return Err(Error::Unavailable(why.into()));
        }
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let endpoints: Vec<String> = options.endpoints.iter().map(|e| format!("{scheme}://{e}")).collect();
        let reach = |e: &etcd_client::Error| {
            let list = options.endpoints.join(", ");
            Error::Unavailable(format!("etcd at {list}: {e} (hint: is it running, and is the CA right?)"))
        };
        let mut client =
            Client::connect(&endpoints, Some(connect_options(options))).await.map_err(|e| reach(&e))?;
        let mut attempts = Attempts::new();
        let status = loop {
            match client.status().await {
                Ok(status) => break status,
                Err(error) if retry::passing(&error) && attempts.again().await => {}
                Err(error) => return Err(reach(&error)),
            }
        };
        let version = version(status.version());
        if version < (3, 4, 0) {
            let why = format!("etcd {} is too old (hint: 3.4 or newer is needed)", status.version());
            return Err(Error::Unavailable(why));
        }
        let asks_progress = version >= (3, 5, 13) || ((3, 4, 31)..(3, 5, 0)).contains(&version);
        Ok(Self { client, keys: Arc::new(Keys::new(&options.prefix, 0)), asks_progress, fence: None })
    }

    /// What etcd's failure means, in our revisions.
    fn failure(&self, error: &etcd_client::Error) -> Error {
        match failure(error) {
            Error::Compacted(at) => Error::Compacted(self.keys.ours(at)),
            other => other,
        }
    }

    /// The same, with other revisions.
    pub(crate) fn shifted(&self, options: &Options, offset: Revision) -> Self {
        Self { keys: Arc::new(Keys::new(&options.prefix, offset)), ..self.clone() }
    }

    /// The same, writing only while what is written about the state stays at etcd's revision `at`.
    pub(crate) fn fenced(&self, at: Revision) -> Self {
        Self { fence: Some(Arc::new(AtomicI64::new(at))), ..self.clone() }
    }

    /// Where what is written about the state is to be.
    pub(crate) fn fence(&self) -> Revision {
        self.fence.as_ref().map_or(0, |at| at.load(Ordering::Acquire))
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(usize::MAX)
    }

    /// One page of a range, tried again while that may help.
    async fn page(&self, start: &[u8], options: &GetOptions) -> Result<etcd_client::GetResponse> {
        let mut attempts = Attempts::new();
        loop {
            match self.kv().get(start, Some(options.clone())).await {
                Ok(response) => return Ok(response),
                Err(error) if retry::passing(&error) && attempts.again().await => {}
                Err(error) => {
                    return Err(match self.failure(&error) {
                        Error::Future(_) => Error::Future(self.revision().await?),
                        other => other,
                    });
                }
            }
        }
    }

    /// The revision now.
    async fn revision(&self) -> Result<Revision> {
        let count = GetOptions::new().with_count_only();
        let (start, _) = self.keys.range(b"/", b"");
        let response = self.kv().get(start, Some(count)).await.map_err(|e| failure(&e))?;
        Ok(self.keys.ours(response.header().map_or(0, etcd_client::ResponseHeader::revision)))
    }

    async fn read(&self, range: Range) -> Result<RangeResponse> {
        let (mut start, end) = self.keys.range(&range.start, &range.end);
        let mut all = RangeResponse::default();
        let Some(mut revision) = self.keys.theirs(range.revision) else {
            return Err(Error::Compacted(self.keys.offset() + 1));
        };
        loop {
            let left = if range.limit == 0 { PAGE } else { (range.limit - all.kvs.len()).min(PAGE) };
            let mut options = GetOptions::new().with_revision(revision);
            if range.count_only {
                options = options.with_count_only();
            } else {
                options = options.with_limit(i64::try_from(left).unwrap_or(i64::MAX));
            }
            if !end.is_empty() {
                options = options.with_range(end.clone());
            }
            let mut page = self.page(&start, &options).await?;
            let at = page.header().map_or(0, etcd_client::ResponseHeader::revision);
            if all.kvs.is_empty() {
                all.revision = self.keys.ours(at);
                all.count = usize::try_from(page.count()).unwrap_or_default();
                // What follows is read at the same moment.
                revision = if revision == 0 { at } else { revision };
            }
            let kvs = page.take_kvs();
            let last = kvs.last().map(|kv| kv.key().to_vec());
            all.kvs.extend(kvs.into_iter().map(|kv| self.keys.key_value(kv)));
            let enough = range.limit != 0 && all.kvs.len() >= range.limit;
            let Some(last) = last.filter(|_| page.more() && !enough && !range.count_only) else {
                return Ok(all);
            };
            start = last;
            start.push(0);
        }
    }

    async fn write(&self, txn: Txn) -> Result<TxnResponse> {
        let size = weight(&txn);
        if size > MAX_TXN_BYTES {
            return Err(Error::TooLarge { size, limit: MAX_TXN_BYTES });
        }
        let mut attempts = Attempts::new();
        loop {
            let fence = self.fence.as_ref().map(|at| at.load(Ordering::Acquire));
            let error = match self.kv().txn(self.keys.txn(&txn, fence)).await {
                Ok(response) => {
                    let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
                    let revision = self.keys.ours(revision);
                    if response.succeeded() {
                        return Ok(TxnResponse::Committed(revision));
                    }
                    let (about, found) = self.keys.found(&response, fence.is_some());
                    if fence.is_some_and(|fence| fence != about) {
                        self.look_again().await?;
                        if attempts.again().await {
                            continue;
                        }
                        return Err(Error::Unavailable("the state is being moved".into()));
                    }
                    return Ok(TxnResponse::Conflict(revision, found));
                }
                Err(error) => error,
            };
            if retry::refused(&error) && attempts.again().await {
                continue;
            }
            // Nobody knows what became of it; trying again could do it twice. What it wrote may be there to be seen.
            if retry::passing(&error)
                && let Some(revision) = self.done(&txn).await
            {
                return Ok(TxnResponse::Committed(revision));
            }
            return Err(failure(&error));
        }
    }

    /// What is written about the state has changed: goes on if it is here all the same.
    async fn look_again(&self) -> Result<()> {
        let (origin, at) = self.origin().await?.unwrap_or_default();
        origin.usable()?;
        if origin.offset != self.keys.offset() {
            let why = "the state was moved away and back (hint: restart this server)";
            return Err(Error::Unavailable(why.into()));
        }
        if let Some(fence) = &self.fence {
            fence.store(at, Ordering::Release);
        }
        Ok(())
    }

    /// The revision at which a transaction of unknown outcome happened, when what it wrote shows that it did.
    async fn done(&self, txn: &Txn) -> Option<Revision> {
        let (key, value) = txn.ops.iter().find_map(|op| match op {
            Op::Put { key, value, .. } if retry::compares(txn, key) => Some((key, value)),
            _ => None,
        })?;
        let found = self.read(Range { start: key.clone(), ..Range::default() }).await.ok()?;
        // Objects carry identities and times, so nobody else writes the same bytes.
        let kv = found.kvs.first().filter(|kv| kv.value == value)?;
        retry::since(txn, key).filter(|before| kv.mod_revision > *before).map(|_| kv.mod_revision)
    }
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("keys", &self.keys).finish_non_exhaustive()
    }
}

fn connect_options(options: &Options) -> ConnectOptions {
    let mut connect = ConnectOptions::new()
        .with_timeout(CALL)
        .with_connect_timeout(CONNECT)
        .with_keep_alive(PING.0, PING.1)
        .with_keep_alive_while_idle(true)
        // A member that has lost its cluster says so instead of going quiet.
        .with_require_leader(true);
    if let Some((name, password)) = &options.user {
        connect = connect.with_user(name, password).with_auto_token_refresh(true);
    }
    if let Some(tls) = &options.tls {
        let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some((certificate, key)) = &tls.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        connect = connect.with_tls(config);
    }
    connect
}

fn version(text: &str) -> (u32, u32, u32) {
    let mut parts = text.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_default()
    });
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

fn weight(txn: &Txn) -> usize {
    let weigh = |op: &Op| match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
    };
    txn.ops.iter().map(weigh).sum()
}

impl Store for Etcd {
    fn max_ops(&self) -> usize {
        MAX_TXN_OPS
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResponse>> {
        self.read(range).boxed()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResponse>> {
        self.write(txn).boxed()
    }

    fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
        progress: bool,
    ) -> BoxFuture<'_, Result<Watch>> {
        watch::open(self.clone(), start, end, from, progress).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        async move {
            let mut attempts = Attempts::new();
            // What lies before the move is gone already.
            let Some(revision) = self.keys.theirs(revision) else { return Ok(()) };
            loop {
                match self.kv().compact(revision, Some(CompactionOptions::new())).await {
                    Ok(_) => return Ok(()),
                    Err(error) if retry::passing(&error) && attempts.again().await => {}
                    Err(error) => {
                        return match failure(&error) {
                            // Another server was here before.
                            Error::Compacted(_) => Ok(()),
                            other => Err(other),
                        };
                    }
                }
            }
        }
        .boxed()
    }

    fn lease_grant(&self, ttl: i64) -> BoxFuture<'_, Result<LeaseId>> {
        async move {
            let granted = self.client.lease_client().grant(ttl, None).await;
            granted.map(|lease| lease.id()).map_err(|e| failure(&e))
        }
        .boxed()
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<i64>> {
        async move {
            let (mut keeper, mut answers) =
                self.client.lease_client().keep_alive(lease).await.map_err(|e| match e {
                    // The client itself looks at the first answer.
                    etcd_client::Error::LeaseKeepAliveError(_) => Error::LeaseNotFound(lease),
                    other => failure(&other),
                })?;
            keeper.keep_alive().await.map_err(|e| failure(&e))?;
            let answer = tokio::time::timeout(CALL, answers.message()).await;
            match answer {
                Ok(Ok(Some(answer))) if answer.ttl() > 0 => Ok(answer.ttl()),
                Ok(Ok(_)) => Err(Error::LeaseNotFound(lease)),
                Ok(Err(error)) => Err(failure(&error)),
                Err(_) => Err(Error::Unavailable("etcd did not answer a keep-alive in time".into())),
            }
        }
        .boxed()
    }

    fn lease_left(&self, lease: LeaseId) -> BoxFuture<'_, Result<i64>> {
        async move {
            let told = self.client.lease_client().time_to_live(lease, None).await.map_err(|e| failure(&e))?;
            // -1 says that there is none.
            if told.ttl() < 0 { Err(Error::LeaseNotFound(lease)) } else { Ok(told.ttl()) }
        }
        .boxed()
    }

    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        async move {
            let revoked = self.client.lease_client().revoke(lease).await;
            revoked.map(|_| ()).map_err(|e| match failure(&e) {
                Error::LeaseNotFound(_) => Error::LeaseNotFound(lease),
                other => other,
            })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("3.4.23"), (3, 4, 23));
        assert_eq!(version("3.6.0-rc.1"), (3, 6, 0));
        assert_eq!(version(""), (0, 0, 0));
    }
}
