//! How an etcd is, and giving its space back.

use etcd_client::{AlarmAction, AlarmType, Client};

use super::{Etcd, Options, connect_options, translate::failure};
use crate::{Error, Range, Result, Revision, Store};

/// One member of an etcd.
#[derive(Clone, Debug)]
pub struct Member {
    /// `host:port`.
    pub endpoint: String,
    /// Its version; empty when it does not answer.
    pub version: String,
    /// It leads.
    pub leader: bool,
    /// Bytes of its database, and how many of them are in use.
    pub size: (i64, i64),
    /// What is wrong with it.
    pub problems: Vec<String>,
    /// Checksum over all keys at the revision that was asked for, where it could be had.
    pub hash: Option<u32>,
}

/// An etcd as a whole.
#[derive(Clone, Debug)]
pub struct Status {
    /// Our revision now.
    pub revision: Revision,
    /// How many keys are ours.
    pub keys: usize,
    /// Its members, as far as they were named.
    pub members: Vec<Member>,
}

impl Etcd {
    /// How every member is that the options name. With `hash` each of them reads all it has.
    ///
    /// # Errors
    /// None of them answers.
    pub async fn status(&self, options: &Options, hash: bool) -> Result<Status> {
        let all = Range {
            start: "/".into(),
            end: bytes::Bytes::from_static(&[0]),
            count_only: true,
            ..Range::default()
        };
        let found = self.range(all).await?;
        let at = self.keys.theirs(found.revision).unwrap_or_default();
        let mut members = Vec::new();
        for endpoint in &options.endpoints {
            members.push(member(options, endpoint, hash.then_some(at)).await);
        }
        Ok(Status { revision: found.revision, keys: found.count, members })
    }

    /// Forgets history up to now, gives the space of each named member back, and takes back the alarm of a full one.
    ///
    /// # Errors
    /// A member that does not answer.
    pub async fn tidy(&self, options: &Options) -> Result<()> {
        let now = self.revision().await?;
        self.compact(now).await?;
        for endpoint in &options.endpoints {
            let mut client = alone(options, endpoint).await.map_err(|e| failure(&e))?;
            // One after the other: a member answers nobody while it does this.
            client.defragment().await.map_err(|e| told(endpoint, &e))?;
        }
        let mut client = self.client.clone();
        let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.map_err(|e| failure(&e))?;
        for alarm in alarms.alarms().iter().filter(|alarm| alarm.alarm() == AlarmType::Nospace) {
            let mut of = etcd_client::AlarmOptions::new();
            of.with_member(alarm.member_id());
            let done = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of)).await;
            done.map_err(|e| failure(&e))?;
        }
        Ok(())
    }
}

fn told(endpoint: &str, error: &etcd_client::Error) -> Error {
    Error::Unavailable(format!("etcd at {endpoint}: {error}"))
}

async fn alone(options: &Options, endpoint: &str) -> std::result::Result<Client, etcd_client::Error> {
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    // Defragmenting a large database takes longer than a call may.
    let connect = connect_options(options).with_timeout(std::time::Duration::from_secs(600));
    Client::connect([format!("{scheme}://{endpoint}")], Some(connect)).await
}

async fn member(options: &Options, endpoint: &str, hash_at: Option<Revision>) -> Member {
    let mut member = Member {
        endpoint: endpoint.to_owned(),
        version: String::new(),
        leader: false,
        size: (0, 0),
        problems: Vec::new(),
        hash: None,
    };
    let bound = std::time::Duration::from_secs(5);
    let asked = tokio::time::timeout(bound, async {
        let mut client = alone(options, endpoint).await?;
        let status = client.status().await?;
        Ok::<_, etcd_client::Error>((client, status))
    });
    let (mut client, status) = match asked.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            member.problems.push(error.to_string());
            return member;
        }
        Err(_) => {
            member.problems.push("no answer".to_owned());
            return member;
        }
    };
    status.version().clone_into(&mut member.version);
    let id = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
    member.leader = status.leader() == id && id != 0;
    member.size = (status.db_size(), status.raft_used_db_size());
    member.problems.extend(status.errors().iter().cloned());
    if status.leader() == 0 {
        member.problems.push("it has no leader".to_owned());
    }
    if let Some(at) = hash_at {
        match client.hash_kv(at).await {
            Ok(hash) => member.hash = Some(hash.hash()),
            Err(error) => member.problems.push(error.to_string()),
        }
    }
    member
}
