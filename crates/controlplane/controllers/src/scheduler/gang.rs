//! Deciding about gangs: all members that there are, or none.

use std::sync::Arc;

use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use sampan_planner::scheduler::{
    Candidate, Cluster, GangDecision, GroupName, GroupPolicy, Hints, NodeFilter, Placement, PodInfo, Popped,
    Unschedulable,
};

use crate::informer::{Change, Key};

use super::claims::Volumes;
use super::{Decision, Nomination, Scheduler, State, Taken, promise, seed};

impl Scheduler {
    pub(super) fn group_changed(&self, change: &Change<'_, PodGroup>) {
        let key = Key::of(&change.object().metadata);
        let policy = match change {
            Change::Deleted(_) => None,
            _ => Some(GroupPolicy::of(change.object())),
        };
        self.change(|state, _| {
            if state.cluster.set_pod_group(&key.namespace, &key.name, policy) {
                state.queue.again_gang(&key.namespace, &key.name);
            }
            Hints::none()
        });
    }

    pub(super) fn decide_gang(
        self: &Arc<Self>,
        state: &mut State,
        group: &GroupName,
        members: Vec<Popped>,
        now: u64,
    ) -> Vec<(Taken, Decision)> {
        let pods: Vec<Arc<PodInfo>> = members.iter().map(|m| m.pod.clone()).collect();
        if pods.iter().any(|pod| self.extenders_of(pod).next().is_some()) {
            let why = format!("pod group {:?}: extenders cannot be asked about gangs", &*group.name);
            let refused = |member| self.refused(member, &why, Hints::none(), Nomination::Keep);
            return members.into_iter().map(refused).collect();
        }
        let mut volumes: Vec<Option<Volumes>> = pods.iter().map(|_| None).collect();
        let claims = pods.iter().any(|pod| pod.has_claims());
        let place =
            |cluster: &mut Cluster, at: usize| self.place_member(cluster, &pods[at], &mut volumes[at]);
        // Who leaves is decided without a look at volumes.
        let seed = seed(&group.name);
        let decision = state.cluster.decide_gang(group, &pods, seed, !claims, place);
        if claims && !matches!(decision, GangDecision::Placed(_)) {
            pods.iter().filter(|pod| pod.has_claims()).for_each(|pod| self.volumes.release(pod.uid()));
        }
        let complete = format!("pod group {:?} is complete without this member", &*group.name);
        let room = Hints::POD_GONE.union(Hints::NODE_ADDED);
        match decision {
            GangDecision::Placed(placements) => members
                .into_iter()
                .zip(placements.into_iter().zip(volumes))
                .map(|(member, (placement, volumes))| match placement {
                    Some(placement) => {
                        let taken = self.taken(member, None);
                        self.placed(state, taken, placement, volumes, now)
                    }
                    None => self.refused(member, &complete, room, Nomination::Keep),
                })
                .collect(),
            GangDecision::Room { why, hints, plans } => members
                .into_iter()
                .zip(plans)
                .map(|(member, plan)| match plan {
                    Some(plan) => {
                        promise(state, &member.pod, &plan, now);
                        let decision = Decision::Preempt { why: why.clone(), plan: Box::new(plan) };
                        (self.taken(member, Some(hints)), decision)
                    }
                    None => self.refused(member, &complete, room, Nomination::Keep),
                })
                .collect(),
            GangDecision::Refused { why, hints, keep } => {
                let mut freed = false;
                let mut refused = Vec::new();
                for member in members {
                    let kept = !keep && state.cluster.withdraw(member.pod.uid());
                    freed |= kept;
                    let clear = kept || (!keep && member.pod.nominated().is_some());
                    let nomination = if clear { Nomination::Clear } else { Nomination::Keep };
                    refused.push(self.refused(member, &why, hints, nomination));
                }
                if freed {
                    state.wake(Hints::POD_GONE, now);
                }
                refused
            }
        }
    }

    fn refused(
        self: &Arc<Self>,
        member: Popped,
        why: &str,
        hints: Hints,
        nomination: Nomination,
    ) -> (Taken, Decision) {
        (self.taken(member, Some(hints)), Decision::Refuse { why: why.to_owned(), nomination })
    }

    fn place_member(
        &self,
        cluster: &mut Cluster,
        pod: &PodInfo,
        volumes: &mut Option<Volumes>,
    ) -> Result<Placement, Unschedulable> {
        let claims = self.claims(cluster, pod).map_err(|why| {
            let why = format!("{why} (pod {})", pod.name());
            Unschedulable::everywhere(cluster.len(), why, Hints::VOLUME.union(Hints::POD_GONE))
        })?;
        let allow = |node: Candidate<'_>| claims.as_ref().map_or(Ok(()), |c| c.allow(node));
        let filter: Option<NodeFilter<'_>> = if claims.is_some() { Some(&allow) } else { None };
        let placement = cluster.schedule_filtered(pod, seed(pod.uid()), filter)?;
        // Spoken for at once, so that the next member is not promised the same.
        *volumes = claims.and_then(|claims| self.choose(claims, &placement.node));
        Ok(placement)
    }
}
