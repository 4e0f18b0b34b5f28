//! Deciding about pods on which extenders have a say: they are asked first, while nothing is locked.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use sampan_planner::pods;
use sampan_planner::scheduler::{Candidate, NodeFilter, PodInfo, Preemption};

use super::extender::{Extender, Verdict};
use super::write::again;
use super::{Decision, Scheduler, Taken};
use crate::apis;
use crate::error::{Context, Error};
use crate::informer::Key;

impl Scheduler {
    /// The extenders that have a say about a pod.
    pub(super) fn extenders_of(&self, pod: &PodInfo) -> impl Iterator<Item = &Extender> {
        // What is merely held is no pod that they could be told of.
        self.extenders.iter().filter(move |extender| pod.holds().is_none() && extender.is_interested(pod))
    }

    /// Asks and decides. Nothing when an extender could not answer: the pod is tried again later.
    pub(super) async fn ask(self: &Arc<Self>, taken: Taken) -> Option<(Taken, Decision)> {
        let info = taken.popped.pod.clone();
        let mut verdict = Verdict::default();
        let able = {
            let mut state = self.lock();
            match self.claims(&state.cluster, &info) {
                Ok(claims) => {
                    let allow = |node: Candidate<'_>| claims.as_ref().map_or(Ok(()), |c| c.allow(node));
                    let filter: Option<NodeFilter<'_>> = if claims.is_some() { Some(&allow) } else { None };
                    state.cluster.able(&info, filter)
                }
                Err(_) => Vec::new(),
            }
        };
        let nodes = able.iter().filter_map(|name| self.caches.nodes.get(&Key::new("", name)));
        let nodes: Vec<Arc<Node>> = nodes.collect();
        if !nodes.is_empty() {
            let pod = match self.whole(&taken.key, &info).await {
                Ok(pod) => pod?,
                Err(error) => {
                    again(&taken, &error);
                    return None;
                }
            };
            if let Err(why) = self.consult(&pod, &info, nodes, &mut verdict).await {
                self.events.warning(&pod, "FailedScheduling", why);
                return None;
            }
        }
        let now = self.now();
        let mut state = self.lock();
        let decided = self.decide_pod(&mut state, taken, &verdict, now);
        self.follow_seats(&mut state);
        Some(decided)
    }

    /// The pod with all that it has: what is cached leaves out what only its node reads.
    async fn whole(&self, key: &Key, info: &PodInfo) -> Result<Option<Pod>, Error> {
        let pod = apis::namespaced::<Pod>(&self.client, &key.namespace).get_opt(&key.name).await;
        let pod = pod.during(|| format!("reading Pod {key}"))?;
        Ok(pod.filter(|pod| pods::uid(&pod.metadata) == info.uid()))
    }

    async fn consult(
        &self,
        pod: &Pod,
        info: &PodInfo,
        mut nodes: Vec<Arc<Node>>,
        verdict: &mut Verdict,
    ) -> Result<(), String> {
        for extender in self.extenders_of(info).filter(|e| !e.settings.filter_verb.is_empty()) {
            match extender.filter(pod, &nodes, verdict).await {
                Ok(()) => nodes.retain(|node| verdict.allow(pods::name(&node.metadata)).is_ok()),
                Err(why) if extender.settings.ignorable => tracing::warn!("{why}; it is ignored"),
                Err(why) => return Err(why),
            }
            if nodes.is_empty() {
                return Ok(());
            }
        }
        for extender in self.extenders_of(info).filter(|e| !e.settings.prioritize_verb.is_empty()) {
            // Scores are wishes: pods are placed without them.
            if let Err(why) = extender.prioritize(pod, &nodes, verdict).await {
                tracing::warn!("{why}; its scores are missing");
            }
        }
        Ok(())
    }

    /// Whether extenders let the plan be carried out, perhaps with fewer victims; the reason when they do not.
    pub(super) async fn may_preempt(&self, taken: &Taken, plan: &mut Preemption) -> Result<(), String> {
        let info = &taken.popped.pod;
        let asked: Vec<&Extender> =
            self.extenders_of(info).filter(|e| !e.settings.preempt_verb.is_empty()).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let pod = self.whole(&taken.key, info).await.map_err(|error| error.to_string())?;
        let Some(pod) = pod else { return Err("the pod is gone".to_owned()) };
        for extender in asked {
            let victims =
                plan.victims.iter().filter_map(|v| self.current(&Key::new(v.namespace(), v.name()), v));
            let victims: Vec<Arc<Pod>> = victims.collect();
            match extender.preempt(&pod, plan, &victims).await {
                Ok(true) => {}
                Ok(false) => return Err(format!("an extender forbids preemption on {}", plan.node)),
                Err(why) if extender.settings.ignorable => tracing::warn!("{why}; it is ignored"),
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }
}
