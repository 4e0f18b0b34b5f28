//! The cluster as it is.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use kube::{Api, ResourceExt, api::ListParams};
use sampan_planner::fairness::TenantQueue;
use sampan_planner::instances::InstanceType;
use sampan_planner::numa::NodeTopology;
use sampan_planner::reservation::{Reservation, ReservationStatus};
use sampan_planner::simulator::Scenario;

use crate::{instance::Instance, local};

pub(super) async fn add(instance: &Instance, scenario: &mut Scenario) -> Result<()> {
    let client = local::client(instance)?;
    let all = ListParams::default();
    let nodes = Api::<Node>::all(client.clone()).list(&all).await.context("list the nodes")?;
    let pods = Api::<Pod>::all(client.clone()).list(&all).await.context("list the pods")?;
    let queues =
        Api::<TenantQueue>::all(client.clone()).list(&all).await.context("list the tenant queues")?;
    let types =
        Api::<InstanceType>::all(client.clone()).list(&all).await.context("list the instance types")?;
    let reservations =
        Api::<Reservation>::all(client.clone()).list(&all).await.context("list the reservations")?;
    // Beside an API server that does not know the kind there are none.
    let topologies = Api::<NodeTopology>::all(client.clone()).list(&all).await.map(|list| list.items);
    let groups = Api::<PodGroup>::all(client.clone()).list(&all).await.context("list the pod groups")?;
    let namespaces = Api::<Namespace>::all(client).list(&all).await.context("list the namespaces")?;
    scenario.nodes.extend(nodes);
    scenario.pods.extend(pods);
    scenario.queues.extend(queues);
    scenario.types.extend(types);
    // What is over, or used up, holds nothing; what holds something may do so elsewhere in the simulation.
    let holds = |reservation: &Reservation| reservation.status.as_ref().is_none_or(ReservationStatus::holds);
    scenario.reservations.extend(reservations.into_iter().filter(holds).map(|held| (0.0, held)));
    scenario.topologies.extend(topologies.unwrap_or_default());
    scenario.groups.extend(groups);
    let labels = |namespace: &Namespace| (namespace.name_any(), namespace.labels().clone());
    scenario.namespaces.extend(namespaces.iter().map(labels));
    Ok(())
}
