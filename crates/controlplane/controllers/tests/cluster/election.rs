//! Leader election against the real API: one leads, another takes over, nobody ever beside somebody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::support::Cluster;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::Patch, api::PatchParams};
use sampan_controllers::{Elected, Options, Terms, start_elected};
use sampan_daemon::{Supervisor, clock};
use serde_json::json;

const TERMS: Terms = Terms {
    lease: Duration::from_millis(3000),
    renew: Duration::from_millis(1500),
    retry: Duration::from_millis(200),
};
const BOUND: Duration = Duration::from_secs(60);

/// A server's way to the API, which can be cut: what is sent then is never answered.
fn through(client: Client, cut: Arc<AtomicBool>) -> Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (client, cut) = (client.clone(), cut.clone());
        async move {
            if cut.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            client.send(request).await.map_err(tower::BoxError::from)
        }
    });
    Client::new(service, "default")
}

struct Candidate {
    elected: Elected,
    cut: Arc<AtomicBool>,
    supervisor: Supervisor,
}

fn stand(cluster: &Cluster, name: &str) -> Candidate {
    let (cut, supervisor) = (Arc::new(AtomicBool::new(false)), Supervisor::new());
    let client = through(cluster.client.clone(), cut.clone());
    let options = Options::new(client.clone(), client, cluster.ca_pem.clone());
    let elected = start_elected(options, name, TERMS, &supervisor);
    Candidate { elected, cut, supervisor }
}

async fn leads(candidate: &Candidate, yes: bool) {
    let mut leading = candidate.elected.controllers.leading();
    let told = tokio::time::timeout(BOUND, leading.wait_for(|leading| *leading == yes)).await;
    told.expect("in time").expect("it stands");
}

async fn lease(cluster: &Cluster) -> Lease {
    cluster.api::<Lease>("kube-system").get("kube-controller-manager").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_and_gives_back_what_it_leads() {
    let cluster = Cluster::start().await;
    let first = stand(&cluster, "first");
    leads(&first, true).await;
    let second = stand(&cluster, "second");
    let held = lease(&cluster).await.spec.unwrap();
    assert_eq!(held.holder_identity.as_deref(), Some("first"));
    assert_eq!((held.lease_duration_seconds, held.lease_transitions), (Some(3), Some(0)));
    assert!(held.acquire_time.is_some() && held.renew_time.is_some());

    // Wall clocks decide nothing: an hour ahead, or behind, and the same one leads.
    let before = lease(&cluster).await.metadata.resource_version;
    for hours in [1, -2, 1] {
        clock::shift(jiff::SignedDuration::from_hours(hours));
        tokio::time::sleep(TERMS.retry * 2).await;
    }
    cluster
        .until("the lease is renewed", || async {
            (lease(&cluster).await.metadata.resource_version != before).then_some(())
        })
        .await;
    assert!(*first.elected.controllers.leading().borrow() && !*second.elected.controllers.leading().borrow());

    // A label of somebody's does not cost the office.
    let label = Patch::Merge(json!({"metadata": {"labels": {"seen": "yes"}}}));
    let leases: Api<Lease> = cluster.api("kube-system");
    leases.patch("kube-controller-manager", &PatchParams::default(), &label).await.unwrap();

    first.elected.leave().await;
    leads(&second, true).await;
    let held = lease(&cluster).await;
    assert_eq!(held.spec.as_ref().unwrap().holder_identity.as_deref(), Some("second"));
    assert_eq!(held.metadata.labels.unwrap()["seen"], "yes");
    for candidate in [first.supervisor, second.supervisor, cluster.supervisor.clone()] {
        candidate.shutdown(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_renew_has_stopped_before_another_begins() {
    let cluster = Cluster::start().await;
    let first = stand(&cluster, "first");
    leads(&first, true).await;
    let second = stand(&cluster, "second");
    let (mut a, b) = (first.elected.controllers.leading(), second.elected.controllers.leading());
    first.cut.store(true, Ordering::SeqCst);
    // Told in the order in which it happens: when the second begins, the first is long told of.
    a.wait_for(|leading| !leading).await.unwrap();
    assert!(!*b.borrow(), "both at once");
    leads(&second, true).await;
    assert!(!*a.borrow(), "it does not lead while it is cut off");
    first.cut.store(false, Ordering::SeqCst);
    tokio::time::sleep(TERMS.lease).await;
    assert!(*b.borrow() && !*a.borrow(), "the one that came back waits its turn");

    // Somebody takes the lease by force: the holder sees it at its next renewal and stops.
    let stolen = Patch::Merge(json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3}}));
    let leases: Api<Lease> = cluster.api("kube-system");
    leases.patch("kube-controller-manager", &PatchParams::default(), &stolen).await.unwrap();
    leads(&second, false).await;
    for candidate in [first.supervisor, second.supervisor, cluster.supervisor.clone()] {
        candidate.shutdown(Duration::from_secs(10)).await;
    }
}
