//! What a node may promise to batch pods beyond what it has promised already: what is asked for but not used.
//!
//! Batch pods ask for the resources [`CPU`] (thousandths of a core) and [`MEMORY`] (bytes) and for no ordinary CPU and
//! memory. A node offers of these what is left below a bound when everything else, at its peaks, is taken off. When the
//! node gets short all the same, batch pods go, the least important first.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::usage::Amount;
use crate::{pods, quantity};

/// Thousandths of a CPU for batch pods.
pub const CPU: &str = "sampan.io/batch-cpu";
/// Bytes of memory for batch pods.
pub const MEMORY: &str = "sampan.io/batch-memory";
/// The annotation of a node with bounds of its own, as [`Bounds::parse`] reads them; `off` for no offer at all.
pub const ANNOTATION: &str = "sampan.io/overcommit";
/// Less change of an offer than this part of a node is not worth writing: 1/20.
const NOTICED: i64 = 20;
/// When batch pods must go, so many go that use falls so many hundredths below the bound.
const RELIEF: i64 = 5;

/// Bounds in hundredths of what a node has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Up to here a node may be used by all pods together, batch pods included.
    pub fill: Amount,
    /// Beyond this batch pods are evicted.
    pub evict: Amount,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { fill: Amount::new(65, 65), evict: Amount::new(90, 85) }
    }
}

impl std::str::FromStr for Bounds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::default().parse(text)
    }
}

impl Bounds {
    /// Reads `cpu=65,memory=65,evict-cpu=90,evict-memory=85` over these bounds; what is not named stays. The error says
    /// what is wrong.
    pub fn parse(self, text: &str) -> Result<Self, String> {
        let mut bounds = self;
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=PERCENT"))?;
            let slot = match name {
                "cpu" => &mut bounds.fill.milli_cpu,
                "memory" => &mut bounds.fill.memory,
                "evict-cpu" => &mut bounds.evict.milli_cpu,
                "evict-memory" => &mut bounds.evict.memory,
                _ => return Err(format!("{name:?} is none of cpu, memory, evict-cpu, evict-memory")),
            };
            let percent = value.parse().ok().filter(|percent| (0..=100).contains(percent));
            *slot = percent.ok_or_else(|| format!("{part:?} is no percentage of 0 to 100"))?;
        }
        Ok(bounds)
    }

    /// Those of a node; `None` where it takes no batch pods. An annotation that cannot be read is as good as none.
    pub fn of_node(self, node: &Node) -> Option<Self> {
        match pods::annotation(&node.metadata, ANNOTATION) {
            Some("off") => None,
            Some(text) => Some(self.parse(text).unwrap_or(self)),
            None => Some(self),
        }
    }

    /// What a node of that size offers while everything but batch pods uses so much at its peaks.
    pub fn offer(self, have: Amount, others: Amount) -> Amount {
        have.percent(self.fill).minus(others).max(Amount::default())
    }
}

/// What a pod asks for as a batch pod; `None` when it is none.
pub fn asked(pod: &Pod) -> Option<Amount> {
    let spec = pod.spec.as_ref()?;
    let of = |name: &str, quantity: &dyn Fn(&str) -> Option<i64>| {
        let requests =
            spec.containers.iter().filter_map(|c| c.resources.as_ref()?.requests.as_ref()?.get(name));
        requests.map(|Quantity(text)| quantity(text).unwrap_or(0)).reduce(i64::saturating_add)
    };
    let (cpu, memory) = (of(CPU, &quantity::value), of(MEMORY, &quantity::value));
    (cpu.is_some() || memory.is_some()).then(|| Amount::new(cpu.unwrap_or(0), memory.unwrap_or(0)))
}

/// What a node offers now.
pub fn offered(node: &Node) -> Option<Amount> {
    let list = node.status.as_ref()?.allocatable.as_ref()?;
    let of = |name: &str| list.get(name).and_then(|Quantity(text)| quantity::value(text));
    Some(Amount::new(of(CPU)?, of(MEMORY)?))
}

/// Whether an offer differs enough from the one before it to be told. That there is nothing any more is always told.
pub fn is_news(old: Option<Amount>, new: Amount, have: Amount) -> bool {
    let Some(old) = old else { return new != Amount::default() };
    let far = |old: i64, new: i64, have: i64| {
        old != new && (new == 0 || (old - new).abs().saturating_mul(NOTICED) >= have)
    };
    far(old.milli_cpu, new.milli_cpu, have.milli_cpu) || far(old.memory, new.memory, have.memory)
}

/// A batch pod on a node that may have to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// What it uses.
    pub used: Amount,
    /// Its priority.
    pub priority: i32,
    /// When it started, in seconds since 1970.
    pub started: i64,
    /// It has been asked to leave.
    pub leaving: bool,
}

/// Which guests must leave a node of that size, by their numbers, and why. Memory counts as it is used now, CPU as it has
/// been for some time: a moment without CPU harms nobody, as guests get only what others leave.
pub fn evict(
    bounds: Bounds,
    have: Amount,
    (now, lasting): (Amount, Option<Amount>),
    guests: &[Guest],
) -> Option<(Vec<usize>, String)> {
    let cpu = lasting.map(|lasting| lasting.milli_cpu.min(now.milli_cpu));
    let shortages = [
        ("memory", now.memory, have.memory, bounds.evict.memory, (|a| a.memory) as fn(Amount) -> i64),
        ("cpu", cpu.unwrap_or(0), have.milli_cpu, bounds.evict.milli_cpu, |a| a.milli_cpu),
    ];
    for (what, used, have, bound, of) in shortages {
        let percent =
            |part: i64| i64::try_from(i128::from(have) * i128::from(part) / 100).unwrap_or(i64::MAX);
        if have <= 0 || used <= percent(bound) {
            continue;
        }
        let leaving: i64 = guests.iter().filter(|guest| guest.leaving).map(|guest| of(guest.used)).sum();
        let mut missing = used - percent((bound - RELIEF).max(0)) - leaving;
        let mut order: Vec<usize> = (0..guests.len()).filter(|at| !guests[*at].leaving).collect();
        // What uses nothing of it helps nobody by going.
        order.retain(|at| of(guests[*at].used) > 0);
        order.sort_by_key(|at| {
            let guest = &guests[*at];
            (guest.priority, std::cmp::Reverse(of(guest.used)), std::cmp::Reverse(guest.started))
        });
        let mut gone = Vec::new();
        for at in order {
            if missing <= 0 {
                break;
            }
            missing -= of(guests[at].used);
            gone.push(at);
        }
        if !gone.is_empty() {
            let part = i128::from(used) * 100 / i128::from(have);
            return Some((
                gone,
                format!("{part} % of the node's {what} are used; batch pods may stay up to {bound} %"),
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GIB: i64 = 1 << 30;

    fn guest(milli: i64, gib: i64, priority: i32) -> Guest {
        Guest { used: Amount::new(milli, gib * GIB), priority, started: 0, leaving: false }
    }

    #[test]
    fn what_is_left_below_the_bound_is_offered() {
        let have = Amount::new(10_000, 100 * GIB);
        let bounds = Bounds::default();
        assert_eq!(bounds.offer(have, Amount::new(1500, 15 * GIB)), Amount::new(5000, 50 * GIB));
        assert_eq!(bounds.offer(have, Amount::new(7000, 15 * GIB)), Amount::new(0, 50 * GIB));
        let offer = Amount::new(5000, 50 * GIB);
        assert!(is_news(None, offer, have) && !is_news(None, Amount::default(), have));
        assert!(!is_news(Some(offer), Amount::new(5400, 50 * GIB), have), "a ripple");
        assert!(is_news(Some(offer), Amount::new(5500, 50 * GIB), have));
        assert!(is_news(Some(Amount::new(100, 0)), Amount::default(), have), "nothing any more");
    }

    #[test]
    fn bounds_are_read_and_mistakes_named() {
        let bounds = Bounds::default();
        let read = bounds.parse("cpu=50, evict-memory=70").unwrap();
        assert_eq!((read.fill, read.evict), (Amount::new(50, 65), Amount::new(90, 70)));
        for (bad, why) in
            [("cpu", "NAME=PERCENT"), ("disk=1", "none of"), ("cpu=101", "0 to 100"), ("cpu=x", "0 to 100")]
        {
            assert!(bounds.parse(bad).unwrap_err().contains(why), "{bad}");
        }
        let node = |text: &str| {
            serde_json::from_value::<Node>(json!({"metadata": {"annotations": {ANNOTATION: text}}})).unwrap()
        };
        assert_eq!(bounds.of_node(&node("off")), None);
        assert_eq!(bounds.of_node(&node("nonsense")), Some(bounds));
        assert_eq!(bounds.of_node(&node("cpu=1")).unwrap().fill.milli_cpu, 1);
    }

    #[test]
    fn pods_are_known_by_what_they_ask_for() {
        let pod = |requests: serde_json::Value| {
            let container = json!({"name": "c", "resources": {"requests": requests}});
            serde_json::from_value(json!({"spec": {"containers": [container.clone(), container]}})).unwrap()
        };
        assert_eq!(asked(&pod(json!({"cpu": "1"}))), None);
        assert_eq!(asked(&pod(json!({CPU: "500", MEMORY: "1Gi"}))), Some(Amount::new(1000, 2 * GIB)));
    }

    #[test]
    fn the_least_important_leave_until_the_node_is_well() {
        let have = Amount::new(10_000, 100 * GIB);
        let guests = [guest(1000, 10, 5), guest(2000, 3, 0), guest(100, 9, 0), guest(0, 0, -1)];
        let of =
            |now: Amount, lasting: Option<Amount>| evict(Bounds::default(), have, (now, lasting), &guests);
        assert_eq!(of(Amount::new(10_000, 85 * GIB), None), None, "CPU for a moment, memory at the bound");
        let (gone, why) = of(Amount::new(0, 90 * GIB), None).unwrap();
        assert_eq!(
            (gone, why.as_str()),
            (vec![2, 1], "90 % of the node's memory are used; batch pods may stay up to 85 %")
        );
        let hot = Amount::new(9600, 0);
        assert_eq!(of(hot, Some(hot)).unwrap().0, [1]);
        assert_eq!(of(Amount::new(5000, 0), Some(hot)), None, "it is over already");
        // Whoever leaves already counts as gone.
        let mut leaving = guests;
        leaving[1].leaving = true;
        assert_eq!(evict(Bounds::default(), have, (hot, Some(hot)), &leaving), None);
    }
}
