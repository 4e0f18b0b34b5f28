//! What a pod's containers get of a machine, as a kubelet's static CPU and memory managers give it.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde::{Deserialize, Serialize};

use super::cpuset::CpuSet;
use super::hints::{Hint, Mask, Policy, Scope, Verdict, hints, merge};
use crate::quantity;

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its zones, by number.
    pub zones: Vec<MachineZone>,
    /// Its CPUs, by number.
    pub cpus: Vec<Cpu>,
    /// How far zones are apart, by their places.
    pub distances: Vec<Vec<u32>>,
}

/// A zone of a machine: a NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineZone {
    /// Its number.
    pub id: u32,
    /// Its memory, bytes.
    pub memory: i64,
}

/// A CPU that the system schedules on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: u32,
    /// The place of its zone.
    pub zone: usize,
    /// Its core, unique in the machine: CPUs of one core are its threads.
    pub core: u32,
}

impl Machine {
    /// All CPUs.
    #[must_use]
    pub fn all(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// Of each zone, how many of these CPUs are there.
    #[must_use]
    pub fn count(&self, cpus: &CpuSet) -> Vec<i64> {
        let mut counts = vec![0; self.zones.len()];
        for cpu in self.cpus.iter().filter(|cpu| cpus.contains(cpu.id)) {
            counts[cpu.zone] += 1;
        }
        counts
    }

    fn zones_of(&self, cpus: &CpuSet) -> Mask {
        self.cpus.iter().filter(|cpu| cpus.contains(cpu.id)).map(|cpu| cpu.zone).collect()
    }

    fn in_zones(&self, mask: Mask) -> CpuSet {
        self.cpus.iter().filter(|cpu| mask.has(cpu.zone)).map(|cpu| cpu.id).collect()
    }

    fn mask_of(&self, ids: &[u32]) -> Mask {
        let place = |id: &u32| self.zones.iter().position(|zone| zone.id == *id);
        ids.iter().filter_map(place).collect()
    }

    fn ids(&self, mask: Mask) -> Vec<u32> {
        mask.zones().filter_map(|zone| self.zones.get(zone)).map(|zone| zone.id).collect()
    }

    /// So many of these CPUs: whole zones first, then whole cores, then what is left over, all where the least is free.
    fn take(&self, from: &CpuSet, mut number: usize) -> CpuSet {
        let mut left: Vec<Cpu> = self.cpus.iter().filter(|cpu| from.contains(cpu.id)).copied().collect();
        let mut taken = CpuSet::default();
        while number > 0 && !left.is_empty() {
            let of_zone = |all: &[Cpu], zone: usize| all.iter().filter(|cpu| cpu.zone == zone).count();
            let of_core = |all: &[Cpu], core: u32| all.iter().filter(|cpu| cpu.core == core).count();
            let whole_zone = left.iter().map(|cpu| cpu.zone).find(|zone| {
                let free = of_zone(&left, *zone);
                free <= number && free == of_zone(&self.cpus, *zone)
            });
            let whole_core = || {
                let cores = left.iter().filter(|cpu| {
                    let free = of_core(&left, cpu.core);
                    free <= number && free == of_core(&self.cpus, cpu.core)
                });
                cores.min_by_key(|cpu| (of_zone(&left, cpu.zone), cpu.core)).map(|cpu| cpu.core)
            };
            let chosen: CpuSet = if let Some(zone) = whole_zone {
                left.iter().filter(|cpu| cpu.zone == zone).map(|cpu| cpu.id).collect()
            } else if let Some(core) = whole_core() {
                left.iter().filter(|cpu| cpu.core == core).map(|cpu| cpu.id).collect()
            } else {
                let least = |cpu: &&Cpu| (of_zone(&left, cpu.zone), of_core(&left, cpu.core), cpu.id);
                left.iter().min_by_key(least).map(|cpu| cpu.id).into_iter().collect()
            };
            number -= chosen.len();
            left.retain(|cpu| !chosen.contains(cpu.id));
            taken.add(&chosen);
        }
        taken
    }
}

/// How a node gives its CPUs and memory away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// What happens when resources do not agree on zones.
    pub policy: Policy,
    /// What is aligned.
    pub scope: Scope,
    /// Of equally many zones take those that are closest.
    pub closest: bool,
    /// Containers of Guaranteed pods that ask for whole CPUs have them alone.
    pub cpus: bool,
    /// Containers of Guaranteed pods get their memory from zones of theirs.
    pub memory: bool,
    /// CPUs that nobody has alone.
    pub reserved_cpus: CpuSet,
    /// Memory that nobody gets, by the number of the zone.
    pub reserved_memory: BTreeMap<u32, i64>,
}

/// When a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// To its end, before the next: what it has, others get after it.
    Init,
    /// From its turn on, beside all others.
    Sidecar,
    /// When all that come first are through.
    Main,
}

impl Kind {
    /// Of a container among those that come first.
    pub(crate) fn of_init(container: &Container) -> Self {
        if container.restart_policy.as_deref() == Some("Always") { Self::Sidecar } else { Self::Init }
    }
}

/// What a container of a Guaranteed pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its name.
    pub name: String,
    /// When it runs.
    pub kind: Kind,
    /// Whole CPUs that it is to have alone; 0 when it asks for parts of one.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: i64,
}

/// All containers with their kinds, in the order in which they start.
pub(crate) fn containers(spec: &PodSpec) -> impl Iterator<Item = (Kind, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| (Kind::of_init(container), container));
    init.chain(spec.containers.iter().map(|container| (Kind::Main, container)))
}

fn amount(container: &Container, limit: bool, resource: &str) -> Option<i64> {
    let resources = container.resources.as_ref()?;
    let list = if limit { resources.limits.as_ref() } else { resources.requests.as_ref() };
    quantity::milli(&list?.get(resource)?.0).filter(|amount| *amount > 0)
}

/// Whether a pod is of the quality of service class Guaranteed.
#[must_use]
pub fn is_guaranteed(spec: &PodSpec) -> bool {
    let both = |container: &Container| {
        ["cpu", "memory"].iter().all(|resource| {
            let limit = amount(container, true, resource);
            limit.is_some() && amount(container, false, resource).is_none_or(|request| Some(request) == limit)
        })
    };
    // What is asked for a pod as a whole is nobody's alone.
    spec.resources.is_none() && containers(spec).all(|(_, container)| both(container))
}

/// What containers of a pod ask for that could be theirs alone; nothing unless the pod is Guaranteed.
#[must_use]
pub fn asks(spec: &PodSpec) -> Vec<Ask> {
    if !is_guaranteed(spec) {
        return Vec::new();
    }
    let ask = |(kind, container): (Kind, &Container)| {
        let milli = amount(container, true, "cpu").unwrap_or(0);
        let cpus = if milli % 1000 == 0 { usize::try_from(milli / 1000).unwrap_or(0) } else { 0 };
        let memory = amount(container, true, "memory").unwrap_or(0) / 1000;
        Ask { name: container.name.clone(), kind, cpus, memory }
    };
    containers(spec).map(ask).collect()
}

/// What a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pin {
    /// CPUs that are its alone; none when it shares.
    pub cpus: CpuSet,
    /// The numbers of the zones that its memory comes from; none when it comes from anywhere.
    pub zones: Vec<u32>,
}

/// What a pod has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holding {
    /// Its containers by name; those are left out that have nothing of their own.
    pub containers: BTreeMap<String, Pin>,
    /// All CPUs that are kept for it.
    pub cpus: CpuSet,
    /// Bytes that are kept for it, by the number of the zone.
    pub memory: BTreeMap<u32, i64>,
}

impl Holding {
    /// Whether nothing is kept for it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }
}

/// Why a pod cannot run on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its resources do not come from zones as the policy wants it.
    Topology,
    /// There are not so many CPUs.
    Cpus {
        /// Asked for.
        asked: usize,
        /// Free.
        free: usize,
    },
    /// There is not so much memory in zones that may be taken together.
    Memory,
}

impl Refusal {
    /// The reason in the pod's status, as a kubelet names it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Topology => "TopologyAffinityError",
            Self::Cpus { .. } | Self::Memory => "UnexpectedAdmissionError",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topology => f.write_str("Resources cannot be allocated with Topology locality"),
            Self::Cpus { asked, free } => write!(
                f,
                "Allocate failed due to not enough cpus available to satisfy request: requested={asked}, available={free}, \
                 which is unexpected"
            ),
            Self::Memory => f.write_str(
                "Allocate failed due to no NUMA nodes with enough memory that may be used together, which is unexpected",
            ),
        }
    }
}

/// The state while one container after the other gets its part.
struct Desk<'a> {
    machine: &'a Machine,
    rules: &'a Rules,
    /// What each zone has altogether.
    size: Vec<i64>,
    room: Vec<i64>,
    /// CPUs that others do not have, less those that containers of this pod keep.
    pool: CpuSet,
    /// Of these, those of containers that have ended by then.
    reusable: CpuSet,
    memory: Vec<i64>,
    reusable_memory: Vec<i64>,
    /// The sets of zones that others have memory from.
    groups: Vec<Mask>,
    before: Option<&'a Holding>,
    holding: Holding,
}

/// What the containers of a pod get beside others, or why they do not. With `before`, which the pod holds already, they
/// stay where they are if they can.
///
/// # Errors
/// The reason with which a kubelet would refuse the pod.
pub fn place(
    machine: &Machine,
    rules: &Rules,
    others: &[&Holding],
    asks: &[Ask],
    before: Option<&Holding>,
) -> Result<Holding, Refusal> {
    if asks.is_empty() || !(rules.cpus || rules.memory) {
        return Ok(Holding::default());
    }
    let kept = before.filter(|before| !before.is_empty());
    let stays = kept.map(|_| Desk::new(machine, rules, others, kept).serve(asks));
    match stays {
        Some(Ok(holding)) => Ok(holding),
        _ => Desk::new(machine, rules, others, None).serve(asks),
    }
}

impl<'a> Desk<'a> {
    fn new(machine: &'a Machine, rules: &'a Rules, others: &[&Holding], before: Option<&'a Holding>) -> Self {
        let mut pool = machine.all().without(&rules.reserved_cpus);
        let room: Vec<i64> = machine
            .zones
            .iter()
            .map(|zone| (zone.memory - rules.reserved_memory.get(&zone.id).copied().unwrap_or(0)).max(0))
            .collect();
        let mut memory = room.clone();
        for other in others {
            pool = pool.without(&other.cpus);
            for (zone, free) in machine.zones.iter().zip(&mut memory) {
                *free -= other.memory.get(&zone.id).copied().unwrap_or(0);
            }
        }
        let pins = others.iter().flat_map(|other| other.containers.values());
        let groups: Vec<Mask> = pins.map(|pin| machine.mask_of(&pin.zones)).collect();
        Self {
            size: machine.count(&machine.all()),
            reusable_memory: vec![0; machine.zones.len()],
            machine,
            rules,
            room,
            pool,
            reusable: CpuSet::default(),
            memory,
            groups,
            before,
            holding: Holding::default(),
        }
    }

    fn serve(mut self, asks: &[Ask]) -> Result<Holding, Refusal> {
        let together = match self.rules.scope {
            Scope::Pod => {
                Some(self.verdict(total(asks, |ask| ask.cpus as i64), total(asks, |ask| ask.memory), {
                    self.before.map(|before| before.cpus.clone()).unwrap_or_default()
                })?)
            }
            Scope::Container => None,
        };
        for ask in asks {
            let had = self.before.and_then(|before| before.containers.get(&ask.name));
            let had = had.map(|pin| pin.cpus.clone()).unwrap_or_default();
            let verdict = match together {
                Some(verdict) => verdict,
                None => {
                    let mut held = had.and(&self.pool);
                    held.add(&self.reusable);
                    self.verdict(ask.cpus as i64, ask.memory, held)?
                }
            };
            let mut pin = Pin::default();
            if self.rules.cpus && ask.cpus > 0 {
                pin.cpus = self.cpus(ask, verdict.mask, &had)?;
            }
            if self.rules.memory && ask.memory > 0 {
                pin.zones = self.memory(ask, verdict.mask)?;
            }
            if pin != Pin::default() {
                self.holding.containers.insert(ask.name.clone(), pin);
            }
        }
        Ok(self.holding)
    }

    /// On which zones so much is to come from.
    fn verdict(&self, cpus: i64, memory: i64, held: CpuSet) -> Result<Verdict, Refusal> {
        let mut lists: Vec<Option<Vec<Hint>>> = Vec::new();
        if self.rules.cpus {
            let held = self.machine.zones_of(&held);
            let free = self.machine.count(&self.pool);
            lists.push((cpus > 0).then(|| hints(&self.size, &free, cpus, held, |_| true)));
        }
        if self.rules.memory {
            lists.push((memory > 0).then(|| self.memory_hints(memory, Mask::default())));
        }
        let distances = self.rules.closest.then_some(self.machine.distances.as_slice());
        let verdict = merge(self.rules.policy, self.machine.zones.len(), distances, &lists);
        if verdict.admitted { Ok(verdict) } else { Err(Refusal::Topology) }
    }

    /// Memory of one zone alone and of several together does not come from the same zones.
    fn memory_hints(&self, asked: i64, held: Mask) -> Vec<Hint> {
        let apart =
            |mask: Mask| self.groups.iter().all(|group| *group == mask || group.and(mask).count() == 0);
        let free: Vec<i64> = self.memory.iter().zip(&self.reusable_memory).map(|(a, b)| a + b).collect();
        hints(&self.room, &free, asked, held, apart)
    }

    fn cpus(&mut self, ask: &Ask, mask: Option<Mask>, had: &CpuSet) -> Result<CpuSet, Refusal> {
        if self.pool.len() < ask.cpus {
            return Err(Refusal::Cpus { asked: ask.cpus, free: self.pool.len() });
        }
        let aligned =
            mask.map_or_else(|| self.pool.clone(), |mask| self.pool.and(&self.machine.in_zones(mask)));
        let sources = [aligned.and(had), aligned.and(&self.reusable), aligned, self.pool.clone()];
        let mut got = CpuSet::default();
        for source in sources {
            let missing = ask.cpus - got.len();
            got.add(&self.machine.take(&source.without(&got), missing));
        }
        self.holding.cpus.add(&got);
        if ask.kind == Kind::Init {
            self.reusable.add(&got);
        } else {
            self.reusable = self.reusable.without(&got);
            self.pool = self.pool.without(&got);
        }
        Ok(got)
    }

    fn memory(&mut self, ask: &Ask, mask: Option<Mask>) -> Result<Vec<u32>, Refusal> {
        let best = |held: Mask| {
            let hints = self.memory_hints(ask.memory, held);
            let best = hints.into_iter().filter_map(|hint| Some((!hint.preferred, hint.mask?)));
            best.min_by_key(|(other, mask)| (*other, mask.count(), *mask)).map(|(_, mask)| mask)
        };
        let fits =
            |mask: &Mask| self.memory_hints(ask.memory, *mask).iter().any(|hint| hint.mask == Some(*mask));
        let mask = match mask {
            None => best(Mask::default()),
            Some(mask) if fits(&mask) => Some(mask),
            // Not all of it is there: what else belongs to it, too.
            Some(mask) => best(mask),
        };
        let mask = mask.ok_or(Refusal::Memory)?;
        let mut missing = ask.memory;
        for zone in mask.zones() {
            let again = missing.min(self.reusable_memory[zone]).max(0);
            let fresh = (missing - again).min(self.memory[zone]).max(0);
            missing -= again + fresh;
            self.memory[zone] -= fresh;
            *self.holding.memory.entry(self.machine.zones[zone].id).or_insert(0) += fresh;
            match ask.kind {
                Kind::Init => self.reusable_memory[zone] += fresh,
                _ => self.reusable_memory[zone] -= again,
            }
        }
        self.holding.memory.retain(|_, bytes| *bytes > 0);
        Ok(self.machine.ids(mask))
    }
}

/// What containers ask for at the moment when that is the most.
fn total(asks: &[Ask], of: impl Fn(&Ask) -> i64) -> i64 {
    let (mut beside, mut most) = (0_i64, 0_i64);
    for ask in asks {
        match ask.kind {
            Kind::Init => most = most.max(beside.saturating_add(of(ask))),
            Kind::Sidecar | Kind::Main => beside = beside.saturating_add(of(ask)),
        }
    }
    most.max(beside)
}
