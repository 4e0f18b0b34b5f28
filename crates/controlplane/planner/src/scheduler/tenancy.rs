//! Queues of tenants over a cluster: who is next, and who may have what. Without queues none of it costs anything.

use std::sync::Arc;

use super::cluster::Cluster;
use super::pod::PodInfo;
use super::preempt::Preemption;
use super::queue::{Popped, Queue};
use super::resources::Resources;
use crate::fairness::{FIRM, QueueSpec, Standing, Tenants, Wait};

impl Cluster {
    /// Takes over a queue of a tenant, with the part of everything that it is remembered to have had; or that it is gone.
    /// It counts with the next decision, or [`Cluster::tend`].
    pub fn set_queue(&mut self, name: &str, queue: Option<(QueueSpec, f64)>) {
        let mut tenants = match self.tenants.take() {
            Some(tenants) => tenants,
            None if queue.is_none() => return,
            None => {
                let mut tenants = Box::<Tenants>::default();
                for (namespace, labels) in &self.world.namespaces {
                    tenants.set_namespace(namespace, Some(labels));
                }
                self.capacity_changed = true;
                tenants
            }
        };
        let any = tenants.set(name, queue);
        self.tenants = any.then_some(tenants);
    }

    /// The queues, where there are some.
    pub fn tenants(&self) -> Option<&Tenants> {
        self.tenants.as_deref()
    }

    /// How all queues stand.
    pub fn standings(&self, queue: &Queue) -> Vec<Standing> {
        self.tenants.iter().flat_map(|t| t.standings(|lane| queue.waiting_in(lane))).collect()
    }

    /// The pod to decide next: of the tenant whose turn it is, the most important and then the oldest. The time is in
    /// milliseconds.
    pub fn next(&mut self, queue: &mut Queue, now: u64) -> Option<Popped> {
        self.tend(now);
        let Some(tenants) = &self.tenants else {
            if queue.generation() != 0 {
                queue.sort(0, |_| 0);
            }
            return queue.pop(now);
        };
        if queue.generation() != tenants.generation() {
            queue.sort(tenants.generation(), |pod| tenants.lane_of(pod));
        }
        queue.pop_by(now, |a, b| tenants.compare(a, b))
    }

    /// Lets time pass for what queues remember, adds up what there is to share, and puts into effect what queues say.
    pub fn tend(&mut self, now: u64) {
        let Some(tenants) = &mut self.tenants else { return };
        tenants.advance(now);
        if std::mem::take(&mut self.capacity_changed) {
            let mut all = Resources::default();
            self.nodes().for_each(|node| all.add(&node.allocatable()));
            if let Some(tenants) = &mut self.tenants {
                tenants.set_capacity(all);
            }
        }
        if self.tenants.as_mut().is_some_and(|tenants| tenants.settle()) {
            self.recount();
        }
    }

    /// Notes which tenant's queue a pod belongs to.
    pub fn assign(&self, pod: &mut PodInfo) {
        pod.lane = self.tenants.as_ref().map_or(0, |tenants| tenants.lane_of(pod));
    }

    /// Whether the pod's queue lets it be placed.
    pub fn admit(&self, pod: &PodInfo) -> Result<(), Box<Wait>> {
        self.tenants.as_ref().map_or(Ok(()), |tenants| tenants.admit(pod))
    }

    /// Keeps room for the pod where others leave for it; they count as gone for their queues.
    pub fn promise(&mut self, pod: &PodInfo, plan: &Preemption) {
        self.nominate(pod, &plan.node);
        for displaced in &plan.displaced {
            self.withdraw(displaced.uid());
        }
        if let Some(tenants) = &mut self.tenants {
            plan.victims.iter().for_each(|victim| tenants.doom(victim, true));
        }
        // Of whoever took a seat the seat goes, too, or it would be held for the next of its kind.
        let seat = |victim: &Arc<PodInfo>| {
            let seat = victim.seat.as_ref().or(victim.holds.as_ref())?;
            (self.seat_node(seat) == Some(&*victim.node)).then(|| seat.clone())
        };
        for seat in plan.victims.iter().filter_map(seat).collect::<Vec<_>>() {
            self.vacate_seat(&seat);
        }
    }

    /// A pod that was to leave stays.
    pub fn spare(&mut self, victim: &PodInfo) {
        if let (Some(tenants), Some(bound)) = (&mut self.tenants, self.pods.get(victim.uid())) {
            tenants.doom(&bound.pod, false);
        }
    }

    pub(super) fn count_tenant(&mut self, pod: &PodInfo, add: bool) {
        if let Some(tenants) = &mut self.tenants {
            tenants.count(pod, add);
            // What is merely tried out may come back.
            if !add && self.undo.is_none() {
                tenants.forget(pod.uid());
            }
        }
    }

    pub(super) fn promise_tenant(&mut self, pod: &PodInfo, add: bool) {
        if let Some(tenants) = &mut self.tenants {
            tenants.promise(pod, add);
        }
    }

    /// The pod as others see it where room is kept for it: who takes back what is guaranteed does not lose it again to those
    /// who had borrowed it, however important they are.
    pub(super) fn guest(&self, pod: &PodInfo) -> PodInfo {
        match &self.tenants {
            Some(tenants) if tenants.claim(pod).is_of_right() => pod.raised(FIRM),
            _ => pod.clone(),
        }
    }

    pub(super) fn recount(&mut self) {
        let Some(tenants) = &mut self.tenants else { return };
        tenants.clear();
        self.pods.values().for_each(|bound| tenants.count(&bound.pod, true));
        let guests = self.world.nodes.rows().flat_map(|row| &row.nominated);
        guests.for_each(|guest| tenants.promise(guest, true));
    }
}
