//! Puts the parts together.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use sampan_daemon::Supervisor;

use crate::{
    audit::Audit,
    auth::Auth,
    content::Contents,
    core::Core,
    counts::Counts,
    error::{ApiError, Error},
    events::Events,
    http::server::Bound,
    meta::{self, Change, Meta, Project, keys},
    metrics::Metrics,
    name::DEFAULT_PROJECT,
    objects::Objects,
    options::Options,
    outbox::Outbox,
    upload::Uploads,
};

/// The service.
#[derive(Debug)]
pub struct Registry;

/// A running registry.
#[derive(Debug)]
pub struct Handle {
    addresses: Vec<SocketAddr>,
    socket: PathBuf,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The administrator's socket.
    #[must_use]
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }
}

impl Registry {
    /// Open everything and serve. It ends with the supervisor.
    ///
    /// # Errors
    /// A directory, an address or the metadata cannot be used.
    pub async fn start(options: Options, supervisor: &Supervisor) -> Result<Handle, Error> {
        let supervisor = supervisor.child("registry");
        let core = open(options, &supervisor).await?;
        let bound = Bound::bind(&core).await?;
        let addresses = bound.addresses.clone();
        let socket = core.socket();
        bound.serve(&core, &supervisor)?;
        supervisor.spawn("events", core.clone().listen());
        supervisor.spawn("upkeep", core.clone().upkeep());
        supervisor.spawn("replication-clock", core.clone().replicate_by_clock());
        Ok(Handle { addresses, socket })
    }
}

/// Everything below HTTP. What is stored has been counted.
pub(crate) async fn open(options: Options, supervisor: &Supervisor) -> Result<Arc<Core>, Error> {
    let dir = options.dir.clone();
    std::fs::create_dir_all(&dir).map_err(Error::io(dir.display().to_string()))?;
    let meta_dir = dir.join("meta");
    let meta = Arc::new(supervisor.blocking(move || Meta::open(&meta_dir)).await?);
    let failed = |error: ApiError| Error::Option(error.message);
    meta.prepare().await.map_err(failed)?;
    let (client, guarded) = crate::connect::clients(options.extra_ca.as_deref())?;
    let counts = Arc::new(Counts::default());
    let objects = Arc::new(Objects::open(&options, &client)?);
    // Unfinished work belongs to the disk, also with a bucket.
    let temporary = dir.join("tmp");
    std::fs::create_dir_all(&temporary).map_err(Error::io(temporary.display().to_string()))?;
    let contents = Arc::new(Contents::new(objects, meta.clone(), counts.clone(), &options, supervisor));
    let auth = Auth::open(&dir)?;
    auth.first_admin(&meta, &dir, supervisor).await?;
    first_project(&meta).await.map_err(failed)?;
    let core = Arc::new(Core {
        uploads: Uploads::open(&dir, &options.limits)?,
        audit: Audit::open(&dir)?,
        metrics: Arc::new(Metrics::default()),
        events: Events::new(),
        outbox: Outbox::open(&meta).await.map_err(failed)?,
        flights: crate::proxy::Flights::default(),
        upkeep: crate::gc::Upkeeper::default(),
        replicator: crate::replicate::Replicator::default(),
        supervisor: supervisor.clone(),
        options,
        meta,
        counts,
        contents,
        auth,
        client,
        guarded,
    });
    core.recount().await.map_err(failed)?;
    Ok(core)
}

/// The project of names without one exists from the beginning, and anybody may pull from it.
async fn first_project(meta: &Meta) -> Result<(), ApiError> {
    let project = Project { public: true, made: meta::now(), ..Project::default() };
    let mut change = Change::default();
    change.at(keys::project(DEFAULT_PROJECT), 0).put_json(keys::project(DEFAULT_PROJECT), &project);
    meta.commit(change).await?;
    Ok(())
}
