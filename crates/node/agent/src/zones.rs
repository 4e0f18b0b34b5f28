//! The zones (NUMA nodes) of this machine: who holds which CPUs and which memory of them, and what the API hears of that.
//!
//! What a pod holds is decided when it is admitted ([`sampan_planner::numa::place`]) and lies in its record, so that it
//! holds it until it has ended, whatever becomes of this process. Everybody else shares the other CPUs: when those become
//! more or fewer, workers are told. A machine with one zone and no policy has none of this.

mod machine;
mod publish;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::PodSpec;
use sampan_daemon::{Backoff, Policy};
use sampan_planner::numa::{self, CpuSet, Holding, MOST_ZONES, Machine, NodeTopology, Refusal, Rules};
use tokio::sync::watch;

use crate::context::Context;
use crate::options::Error;
use crate::worker::Message;

/// How CPUs and memory are given to pods.
#[derive(Clone, Debug)]
pub struct ZoneOptions {
    /// The policies.
    pub rules: Rules,
    /// Where the kernel tells of zones and CPUs.
    pub sysfs: PathBuf,
}

impl Default for ZoneOptions {
    fn default() -> Self {
        Self { rules: Rules::default(), sysfs: PathBuf::from("/sys/devices/system") }
    }
}

/// The zones and who holds what of them.
pub struct Zones {
    machine: Machine,
    rules: Rules,
    held: Mutex<BTreeMap<String, Holding>>,
    /// What is shared.
    pool: watch::Sender<CpuSet>,
    /// Counts changes of what is held.
    changes: watch::Sender<u64>,
}

impl Zones {
    /// Look at the machine.
    pub fn new(options: &ZoneOptions) -> Result<Self, Error> {
        let rules = options.rules.clone();
        let active = rules.cpus || rules.memory || rules.policy != numa::Policy::None;
        let reserves = !rules.reserved_cpus.is_empty() || !rules.reserved_memory.is_empty();
        let machine = machine::read(&options.sysfs, rules.cpus, active || reserves);
        check(&machine, &rules, active).map_err(Error::Zones)?;
        let pool = machine.all();
        Ok(Self {
            machine,
            rules,
            held: Mutex::default(),
            pool: watch::channel(pool).0,
            changes: watch::channel(0).0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Holding>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is something to tell of zones.
    fn is_told(&self) -> bool {
        self.machine.zones.len() > 1 || self.rules.policy != numa::Policy::None
    }

    /// CPUs that pods get nothing of.
    #[must_use]
    pub fn reserved_cpus(&self) -> usize {
        self.rules.reserved_cpus.len()
    }

    /// Bytes that pods get nothing of.
    #[must_use]
    pub fn reserved_memory(&self) -> u64 {
        self.rules.reserved_memory.values().filter_map(|bytes| u64::try_from(*bytes).ok()).sum()
    }

    /// The CPUs of everybody who has none alone; `None` where nobody has any alone.
    #[must_use]
    pub fn shared(&self) -> Option<CpuSet> {
        self.rules.cpus.then(|| self.pool.borrow().clone())
    }

    /// Take over what pods held before this process.
    pub fn restore<'a>(&self, pods: impl Iterator<Item = (&'a String, &'a Holding)>) {
        let mut held = self.lock();
        held.extend(pods.filter(|(_, holding)| !holding.is_empty()).map(|(uid, h)| (uid.clone(), h.clone())));
        self.changed(&held);
    }

    /// What a pod gets, from now on.
    ///
    /// # Errors
    /// Why it gets nothing, and holds what it held before.
    pub fn hold(&self, uid: &str, spec: &PodSpec) -> Result<Holding, Refusal> {
        let asks = if self.rules.cpus || self.rules.memory { numa::asks(spec) } else { Vec::new() };
        let mut held = self.lock();
        let others: Vec<&Holding> = held.iter().filter(|(other, _)| *other != uid).map(|(_, h)| h).collect();
        let got = numa::place(&self.machine, &self.rules, &others, &asks, held.get(uid))?;
        let before = match got.is_empty() {
            true => held.remove(uid),
            false => held.insert(uid.to_owned(), got.clone()),
        };
        if before.unwrap_or_default() != got {
            self.changed(&held);
        }
        Ok(got)
    }

    /// Whether a pod could get what it asks for if nobody else held anything.
    #[must_use]
    pub fn could_hold(&self, spec: &PodSpec) -> bool {
        numa::place(&self.machine, &self.rules, &[], &numa::asks(spec), None).is_ok()
    }

    /// A pod has ended.
    pub fn release(&self, uid: &str) {
        let mut held = self.lock();
        if held.remove(uid).is_some() {
            self.changed(&held);
        }
    }

    /// Has the API told again how things are: the node was registered, perhaps anew.
    pub fn tell_again(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    fn changed(&self, held: &BTreeMap<String, Holding>) {
        let shared = held.values().fold(self.machine.all(), |shared, holding| shared.without(&holding.cpus));
        self.pool.send_if_modified(|pool| {
            let differs = *pool != shared;
            *pool = shared;
            differs
        });
        self.changes.send_modify(|number| *number += 1);
    }

    fn report(&self, node: &str) -> NodeTopology {
        let held = self.lock();
        numa::report(
            node,
            &self.machine,
            &self.rules,
            held.iter().map(|(uid, holding)| (uid.as_str(), holding)),
        )
    }
}

/// Whether the rules make sense for the machine.
fn check(machine: &Machine, rules: &Rules, active: bool) -> Result<(), String> {
    let zones = machine.zones.len();
    if active && zones > MOST_ZONES {
        return Err(format!(
            "this machine has {zones} NUMA nodes, and pods are aligned on at most {MOST_ZONES} (hint: leave the topology, CPU \
             and memory manager policies at none)"
        ));
    }
    let all = machine.all();
    let strange = rules.reserved_cpus.without(&all);
    if !strange.is_empty() {
        return Err(format!("there are no CPUs {strange} to reserve (hint: this machine has {all})"));
    }
    if rules.cpus && rules.reserved_cpus.is_empty() {
        return Err(
            "the static CPU manager needs CPUs that it gives to nobody alone (hint: --reserved-cpus 0)"
                .to_owned(),
        );
    }
    if rules.reserved_cpus == all && !all.is_empty() {
        return Err(format!(
            "all CPUs ({all}) are reserved, and none is left for pods (hint: reserve fewer)"
        ));
    }
    for (id, bytes) in &rules.reserved_memory {
        let zone = machine.zones.iter().find(|zone| zone.id == *id);
        let zone = zone.ok_or_else(|| format!("there is no NUMA node {id} to reserve memory of"))?;
        if zone.memory <= *bytes {
            return Err(format!(
                "NUMA node {id} has {} bytes of memory, and {bytes} are reserved (hint: reserve less)",
                zone.memory
            ));
        }
    }
    Ok(())
}

/// Start to tell workers of what they share, and the API of what is left.
pub fn start(ctx: &Arc<Context>) {
    if ctx.zones.rules.cpus {
        let (own, mut pool) = (Arc::clone(ctx), ctx.zones.pool.subscribe());
        let token = ctx.supervisor.token();
        ctx.supervisor.spawn("shared-cpus", async move {
            let tell = async {
                while pool.changed().await.is_ok() {
                    for entry in own.pods.all() {
                        // A worker that is gone shares nothing.
                        let _ = entry.inbox.send(Message::SharedCpus).await;
                    }
                }
            };
            tokio::select! {
                () = tell => {}
                () = token.cancelled() => {}
            }
        });
    }
    let is_told = ctx.zones.is_told();
    if is_told || publish::was_told(ctx) {
        let keeper = Arc::clone(ctx);
        ctx.supervisor.supervise("node-topology", Policy::Restart(Backoff::default()), move || {
            let ctx = Arc::clone(&keeper);
            async move { if is_told { publish::keep(&ctx).await } else { publish::withdraw(&ctx).await } }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Rules);

    fn rules(change: impl FnOnce(&mut Rules)) -> Rules {
        let mut rules = Rules { cpus: true, reserved_cpus: "0".parse().unwrap(), ..Rules::default() };
        change(&mut rules);
        rules
    }

    #[test]
    fn rules_that_make_no_sense_are_told() {
        let dir = tempfile::tempdir().unwrap();
        machine::fake(dir.path(), &[("0-1", 1000), ("2-3", 1000)]);
        let problem = |rules: Rules| {
            let options = ZoneOptions { rules, sysfs: dir.path().to_owned() };
            Zones::new(&options).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(problem(rules(|_| {})), "");
        let changes: [(Change, &str); 5] = [
            (|rules| rules.reserved_cpus = CpuSet::default(), "hint: --reserved-cpus 0"),
            (|rules| rules.reserved_cpus = "0-3".parse().unwrap(), "none is left for pods"),
            (
                |rules| rules.reserved_cpus = "3-5".parse().unwrap(),
                "no CPUs 4-5 to reserve (hint: this machine has 0-3)",
            ),
            (|rules| rules.reserved_memory = [(2, 1)].into(), "no NUMA node 2"),
            (|rules| rules.reserved_memory = [(1, 1 << 40)].into(), "reserve less"),
        ];
        for (change, want) in changes {
            let told = problem(rules(change));
            assert!(told.contains(want), "{told}");
        }
    }

    #[test]
    fn what_is_shared_follows_who_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        machine::fake(dir.path(), &[("0-1", 1000), ("2-3", 1000)]);
        let zones = |rules: Rules| Zones::new(&ZoneOptions { rules, sysfs: dir.path().to_owned() }).unwrap();
        assert_eq!(zones(Rules::default()).shared(), None);
        let all = zones(rules(|_| {}));
        let spec = |cpu: &str| -> PodSpec {
            let limits = serde_json::json!({"cpu": cpu, "memory": "1Ki"});
            let container =
                serde_json::json!({"name": "a", "resources": {"limits": limits, "requests": limits}});
            serde_json::from_value(serde_json::json!({"containers": [container]})).unwrap()
        };
        let shared = |zones: &Zones| zones.shared().unwrap().to_string();
        let got = all.hold("x", &spec("2")).unwrap();
        assert_eq!((got.cpus.to_string(), shared(&all)), ("2-3".to_owned(), "0-1".to_owned()));
        assert_eq!(all.hold("y", &spec("2")).unwrap_err().reason(), "UnexpectedAdmissionError");
        assert_eq!(all.hold("x", &spec("1")).unwrap().cpus.to_string(), "2");
        assert!(all.hold("y", &spec("500m")).unwrap().is_empty());
        // The next process.
        let next = zones(rules(|_| {}));
        let records = BTreeMap::from([("x".to_owned(), got), ("z".to_owned(), Holding::default())]);
        next.restore(records.iter());
        assert_eq!(shared(&next), "0-1");
        next.release("x");
        assert_eq!(shared(&next), "0-3");
    }
}
