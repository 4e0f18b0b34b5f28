//! One play of a scenario: a virtual clock around the scheduler's cluster and queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::agenda::{Agenda, Event};
use super::fairness;
use super::{Change, Options, Outcome, Scenario, TenantOutcome};
use crate::fairness::Standing;
use crate::pods;
use crate::random::Random;
use crate::reservation::Seat;
use crate::scheduler::{
    Cluster, GangDecision, GroupName, GroupPolicy, Hints, Placement, PodInfo, Popped, Preemption, Queue,
    keeps_room,
};

/// A pod that waits.
struct Waiting {
    lasts: Option<f64>,
    since: f64,
    why: String,
}

/// What is played.
pub(super) struct Play {
    pub cluster: Cluster,
    queue: Queue,
    agenda: Agenda,
    random: Random,
    /// uid -> since when, and why. Ordered, so that outcomes are the same each time.
    waiting: BTreeMap<Box<str>, Waiting>,
    /// uid -> what runs, so that it can be made anew.
    pub running: HashMap<Box<str>, (PodInfo, Option<f64>)>,
    labels: BTreeMap<String, BTreeMap<String, String>>,
    pub tenants: BTreeSet<Box<str>>,
    pub outcome: Outcome,
}

/// Milliseconds, as the queue counts.
fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}

/// Plays a scenario.
pub fn run(scenario: &Scenario, options: &Options) -> Outcome {
    let mut play = Play {
        cluster: Cluster::with_profiles(options.profiles.clone()),
        queue: Queue::new(options.patience),
        agenda: Agenda::default(),
        random: Random::new(options.seed),
        waiting: BTreeMap::new(),
        running: HashMap::new(),
        labels: BTreeMap::new(),
        tenants: BTreeSet::new(),
        outcome: Outcome::default(),
    };
    play.set_up(scenario);
    let mut sampled: Option<f64> = None;
    while let Some(now) = play.next_time() {
        if options.until.is_some_and(|until| now > until) {
            break;
        }
        // What is there just before: a step that lasts shows as one.
        let due = sampled.is_none_or(|last| now - last >= options.every);
        if due && sampled != Some(now) {
            play.sample(play.outcome.end.max(sampled.unwrap_or(0.0)));
            sampled = Some(now);
        }
        play.outcome.end = now;
        // What is remembered of the past is what was until now.
        play.cluster.tend(millis(now));
        while play.agenda.next_time().is_some_and(|at| at <= now) {
            if let Some((_, event)) = play.agenda.pop() {
                play.apply(now, event);
            }
        }
        while let Some(popped) = play.cluster.next(&mut play.queue, millis(now)) {
            play.decide(now, popped);
        }
    }
    play.sample(play.outcome.end);
    fairness::add_up(&play.outcome.samples, &mut play.outcome.tenants);
    for waiting in play.waiting.values() {
        *play.outcome.waiting.entry(waiting.why.clone()).or_default() += 1;
    }
    play.outcome
}

impl Play {
    /// When something happens next. When all has happened and nobody backs off, those that wait do so for ever.
    fn next_time(&self) -> Option<f64> {
        let agenda = self.agenda.next_time();
        let (_, backing_off, ..) = self.queue.counts();
        let queue = self.queue.next_time().filter(|_| agenda.is_some() || backing_off > 0);
        let queue = queue.map(|at| at as f64 / 1000.0);
        agenda.into_iter().chain(queue).min_by(f64::total_cmp).map(|at| at.max(self.outcome.end))
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn set_up(&mut self, scenario: &Scenario) {
        for (name, labels) in &scenario.namespaces {
            self.cluster.set_namespace(name, Some(labels.clone()));
        }
        for node in &scenario.nodes {
            self.join(node);
        }
        for topology in &scenario.topologies {
            self.cluster.set_topology(pods::name(&topology.metadata), Some(topology));
        }
        for group in &scenario.groups {
            let namespace = group.metadata.namespace.as_deref().unwrap_or("default");
            self.cluster.set_pod_group(namespace, pods::name(&group.metadata), Some(GroupPolicy::of(group)));
        }
        for queue in &scenario.queues {
            self.cluster.set_queue(pods::name(&queue.metadata), Some((queue.spec.clone(), 0.0)));
        }
        self.cluster.tend(0);
        let known: Vec<PodInfo> = scenario.pods.iter().map(PodInfo::of).collect();
        let arriving: Vec<PodInfo> = scenario.arrivals.iter().map(|a| PodInfo::of(&a.pod)).collect();
        self.cluster.expect(known.iter().chain(&arriving));
        for (pod, info) in scenario.pods.iter().zip(known) {
            let bound = !pods::node_name(pod).is_empty();
            if bound && !pods::finished(pod) {
                self.cluster.upsert_pod(pod);
                self.tenants.insert(info.namespace().into());
                self.running.insert(info.uid().into(), (info, None));
            } else if !bound && pods::active(pod) {
                self.agenda.push(0.0, Event::Arrival(Box::new(info), None));
            }
        }
        for (arrival, info) in scenario.arrivals.iter().zip(arriving) {
            self.agenda.push(arrival.at, Event::Arrival(Box::new(info), arrival.lasts));
        }
        for (at, reservation) in &scenario.reservations {
            // What makes no sense holds nothing: see [`Scenario::settle`].
            let priority = reservation.status.as_ref().and_then(|status| status.priority);
            let Ok(terms) = reservation.terms(priority) else { continue };
            let began = pods::created(&reservation.metadata);
            let lasts =
                reservation.expiry().ok().flatten().map(|end| end.duration_since(began).as_secs_f64());
            if let Some(lasts) = lasts {
                self.agenda.push(at + lasts.max(0.0), Event::Release(terms.uid.clone()));
            }
            if *at <= 0.0 {
                // Pods that run have taken what they took.
                self.cluster.set_reservation(terms.clone(), &reservation.known_seats());
            }
            self.agenda.push(*at, Event::Reserve(Box::new(terms)));
        }
        for (at, change) in &scenario.changes {
            self.agenda.push(*at, Event::Change(Box::new(change.clone())));
        }
    }

    fn join(&mut self, node: &Node) -> Hints {
        let name = pods::name(&node.metadata).to_owned();
        self.labels.insert(name, node.metadata.labels.clone().unwrap_or_default());
        self.cluster.upsert_node(node)
    }

    fn apply(&mut self, now: f64, event: Event) {
        match event {
            Event::Arrival(mut pod, lasts) => {
                self.outcome.arrived += 1;
                self.tenants.insert(pod.namespace().into());
                self.cluster.intern(&mut pod);
                let waiting = Waiting { lasts, since: now, why: String::new() };
                self.waiting.insert(pod.uid().into(), waiting);
                self.queue.put(Arc::new(*pod), false, millis(now));
            }
            Event::End(uid) => {
                if self.running.remove(&uid).is_some() {
                    let hints = self.cluster.remove_pod(&uid);
                    self.wake(now, hints);
                }
            }
            Event::Change(change) => self.change(now, *change),
            Event::Reserve(terms) => {
                self.cluster.unqueue_seats(&mut self.queue, &terms.uid);
                let hints = self.cluster.set_reservation(*terms, &[]);
                self.wake(now, hints);
            }
            Event::Release(uid) => {
                self.cluster.unqueue_seats(&mut self.queue, &uid);
                let hints = self.cluster.remove_reservation(&uid);
                self.wake(now, hints);
            }
        }
        self.seek_seats(now);
    }

    /// Seats that lost their room, or never had any, are to be placed.
    fn seek_seats(&mut self, now: f64) {
        for terms in self.cluster.changed_reservations() {
            self.cluster.queue_seats(&mut self.queue, &terms.uid, millis(now));
        }
    }

    fn seat(&mut self, now: f64, seat: &PodInfo, placement: &Placement) {
        let Self { cluster, queue, outcome, .. } = self;
        if cluster.node_of(seat.uid()).is_none() {
            cluster.assume_placed(seat.clone(), placement);
        }
        outcome.seats_placed += 1;
        queue.placed(seat.uid(), millis(now), |next| cluster.would_fit(next));
        self.wake(now, Hints::POD_ADDED.union(Hints::RESERVATION));
    }

    /// A pod took a seat; one that is for one pod only is used up.
    fn used(&mut self, now: f64, seat: &Seat) {
        self.outcome.seats_used += 1;
        if self.cluster.reservation(&seat.uid).is_some_and(|terms| terms.once) {
            let hints = self.cluster.spend_seat(seat);
            self.wake(now, hints);
        }
    }

    fn decide(&mut self, now: f64, popped: Popped) {
        self.decide_next(now, popped);
        self.seek_seats(now);
    }

    fn decide_next(&mut self, now: f64, popped: Popped) {
        if let Some(group) = self.cluster.gang_of(&popped.pod) {
            let members = self.queue.pop_gang(&group, popped).into_iter().flatten();
            let members: Vec<_> = members.map(|member| member.pod).collect();
            return self.decide_gang(now, &group, &members);
        }
        let pod = popped.pod;
        match self.cluster.schedule(&pod, self.random.bits()) {
            Ok(placement) => self.place(now, &pod, &placement),
            Err(unplaced) => {
                let mut why = unplaced.to_string();
                if let Err(refusal) = self.preempt(now, &pod, unplaced.nodes) {
                    why.push_str(&refusal);
                }
                self.wait(now, &pod, why, unplaced.hints);
            }
        }
    }

    fn decide_gang(&mut self, now: f64, group: &GroupName, members: &[Arc<PodInfo>]) {
        let seed = self.random.bits();
        let place = |cluster: &mut Cluster, at: usize| cluster.schedule(&members[at], seed);
        match self.cluster.decide_gang(group, members, seed, true, place) {
            GangDecision::Placed(placements) => {
                for (member, placement) in members.iter().zip(placements) {
                    match placement {
                        Some(placement) => self.place(now, member, &placement),
                        None => self.left_over(now, group, member),
                    }
                }
            }
            GangDecision::Room { why, hints, plans } => {
                for (member, plan) in members.iter().zip(plans) {
                    let Some(plan) = plan else {
                        self.left_over(now, group, member);
                        continue;
                    };
                    self.make_room(now, member, &plan);
                    self.wait(now, member, why.clone(), hints);
                }
                self.wake(now, Hints::POD_GONE);
            }
            GangDecision::Refused { why, hints, keep } => {
                let freed = members.iter().filter(|m| !keep && self.cluster.withdraw(m.uid())).count();
                members.iter().for_each(|m| self.wait(now, m, why.clone(), hints));
                if freed > 0 {
                    self.wake(now, Hints::POD_GONE);
                }
            }
        }
    }

    fn left_over(&mut self, now: f64, group: &GroupName, member: &PodInfo) {
        let why = format!("pod group {:?} is complete without this member", &*group.name);
        self.wait(now, member, why, Hints::POD_GONE.union(Hints::NODE_ADDED));
    }

    fn place(&mut self, now: f64, pod: &PodInfo, placement: &Placement) {
        if pod.holds().is_some() {
            return self.seat(now, pod, placement);
        }
        let uid: Box<str> = pod.uid().into();
        let Some(waiting) = self.waiting.remove(&uid) else { return };
        let elsewhere = self.cluster.nominated_node(&uid).is_some_and(|node| *node != *placement.node);
        if self.cluster.node_of(&uid).is_none() {
            self.cluster.assume_placed(pod.clone(), placement);
        }
        self.outcome.placed += 1;
        self.outcome.waits.add(now - waiting.since);
        let tenant = self.tenant(pod);
        tenant.placed += 1;
        tenant.waits.add(now - waiting.since);
        if let Some(lasts) = waiting.lasts {
            self.agenda.push(now + lasts, Event::End(uid.clone()));
        }
        self.running.insert(uid.clone(), (pod.clone(), waiting.lasts));
        let Self { cluster, queue, .. } = self;
        queue.placed(&uid, millis(now), |next| cluster.would_fit(next));
        self.wake(now, if elsewhere { Hints::POD_ADDED.union(Hints::POD_GONE) } else { Hints::POD_ADDED });
        if let Some(seat) = &placement.seat {
            self.used(now, seat);
        }
    }

    /// What is counted of the tenant of a pod.
    fn tenant(&mut self, pod: &PodInfo) -> &mut TenantOutcome {
        let queue = self.cluster.tenants().map(|t| t.name(t.lane_of(pod)).unwrap_or("").to_owned());
        self.outcome.tenants.entry(queue.unwrap_or_else(|| pod.namespace().to_owned())).or_default()
    }

    pub fn standings(&self) -> Vec<Standing> {
        self.cluster.standings(&self.queue)
    }

    fn wait(&mut self, now: f64, pod: &PodInfo, why: String, hints: Hints) {
        if let Some(waiting) = self.waiting.get_mut(pod.uid()) {
            waiting.why = why;
        }
        let Self { cluster, queue, .. } = self;
        queue.waits_for(pod.uid(), hints, millis(now), |next| cluster.would_fit(next));
    }

    /// Makes others leave for the pod where that helps; they come again, as their controllers would make them anew.
    fn preempt(&mut self, now: f64, pod: &PodInfo, nodes: usize) -> Result<(), String> {
        if nodes == 0 {
            return Ok(());
        }
        let seed = self.random.bits();
        let plan = match self.cluster.preempt(pod, seed, None) {
            Ok(plan) => plan,
            Err(why) => {
                // Room that was kept for it in vain is everybody's again.
                if !keeps_room(&why) && self.cluster.withdraw(pod.uid()) {
                    self.wake(now, Hints::POD_GONE);
                }
                return Err(format!(" preemption: {why}"));
            }
        };
        self.make_room(now, pod, &plan);
        self.wake(now, Hints::POD_GONE);
        Ok(())
    }

    /// Keeps room for the pod; whoever is in the way leaves.
    fn make_room(&mut self, now: f64, pod: &PodInfo, plan: &Preemption) {
        self.cluster.promise(pod, plan);
        self.queue.promised(pod.uid(), millis(now));
        plan.displaced.iter().for_each(|displaced| self.queue.again(displaced.uid()));
        // A seat that gives way has done so, and looks for another node.
        for victim in plan.victims.iter().filter(|victim| victim.holds().is_none()) {
            self.tenant(victim).displaced += 1;
            self.outcome.reclaimed += usize::from(victim.priority() >= pod.priority());
            self.displace(now, victim.uid());
        }
    }

    fn wake(&mut self, now: f64, hints: Hints) {
        if hints != Hints::none() {
            let Self { cluster, queue, .. } = self;
            queue.wake(hints, millis(now), |pod| cluster.would_fit(pod));
        }
    }

    fn change(&mut self, now: f64, change: Change) {
        match change {
            Change::Join(node) => {
                let hints = self.join(&node);
                self.wake(now, hints);
            }
            Change::Lose(name) => self.lose(now, &name),
            Change::LoseLabelled(key, value) => {
                let has = |labels: &BTreeMap<String, String>| labels.get(&key) == Some(&value);
                let names =
                    self.labels.iter().filter(|(_, labels)| has(labels)).map(|(name, _)| name.clone());
                names.collect::<Vec<_>>().iter().for_each(|name| self.lose(now, name));
            }
        }
    }

    fn lose(&mut self, now: f64, name: &str) {
        if self.labels.remove(name).is_none() {
            return;
        }
        let there = self.cluster.node(name).map(|node| node.pods().to_vec()).unwrap_or_default();
        self.cluster.remove_node(name);
        for pod in there.into_iter().filter(|pod| pod.holds().is_none()) {
            self.displace(now, pod.uid());
        }
        self.wake(now, Hints::POD_GONE);
    }

    /// The pod is gone from its node and comes again at once.
    fn displace(&mut self, now: f64, uid: &str) {
        self.cluster.remove_pod(uid);
        self.outcome.displaced += 1;
        if let Some((info, lasts)) = self.running.remove(uid) {
            self.agenda.push(now, Event::Arrival(Box::new(info.again(self.outcome.displaced)), lasts));
        }
    }
}
