//! What the kernel tells of zones and CPUs, below `/sys/devices/system`.

use std::collections::BTreeMap;
use std::path::Path;

use sampan_planner::numa::{Cpu, CpuSet, Machine, MachineZone};

/// Zones with their CPUs, memory and distances; a kernel that knows none has one. A machine with one zone of which nobody
/// wants to know is not looked at any further.
pub fn read(root: &Path, cores: bool, wanted: bool) -> Machine {
    let list = |path: &Path| std::fs::read_to_string(path).ok().and_then(|text| text.parse::<CpuSet>().ok());
    let online = list(&root.join("node/online")).filter(|zones| !zones.is_empty());
    if !wanted && online.as_ref().is_none_or(|zones| zones.len() == 1) {
        return Machine { zones: vec![MachineZone::default()], ..Machine::default() };
    }
    let mut machine = Machine::default();
    let mut numbers = BTreeMap::new();
    let Some(online) = online else {
        machine
            .zones
            .push(MachineZone { id: 0, memory: crate::node::memory().0.try_into().unwrap_or(i64::MAX) });
        machine.distances.push(vec![10]);
        let all = list(&root.join("cpu/online")).unwrap_or_default();
        machine.cpus.extend(all.iter().map(|id| Cpu {
            id,
            zone: 0,
            core: core(root, id, cores, &mut numbers),
        }));
        return machine;
    };
    for (zone, id) in online.iter().enumerate() {
        let dir = root.join(format!("node/node{id}"));
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        let memory = read("meminfo").lines().find_map(|line| {
            let (_, amount) = line.split_once("MemTotal:")?;
            amount.split_ascii_whitespace().next()?.parse::<i64>().ok()
        });
        machine.zones.push(MachineZone { id, memory: memory.unwrap_or(0).saturating_mul(1024) });
        machine
            .distances
            .push(read("distance").split_ascii_whitespace().filter_map(|d| d.parse().ok()).collect());
        let cpus = list(&dir.join("cpulist")).unwrap_or_default();
        machine.cpus.extend(cpus.iter().map(|id| Cpu {
            id,
            zone,
            core: core(root, id, cores, &mut numbers),
        }));
    }
    machine.cpus.sort_by_key(|cpu| cpu.id);
    machine
}

/// A number for the core of a CPU: the kernel's own are unique in a package only.
fn core(root: &Path, id: u32, wanted: bool, numbers: &mut BTreeMap<(i64, i64), u32>) -> u32 {
    if !wanted {
        return id;
    }
    let read = |file: &str| {
        let text = std::fs::read_to_string(root.join(format!("cpu/cpu{id}/topology/{file}")));
        text.ok().and_then(|text| text.trim().parse::<i64>().ok())
    };
    // A CPU of which nothing is told is a core by itself.
    let place = match (read("physical_package_id"), read("core_id")) {
        (Some(package), Some(core)) => (package, core),
        _ => (i64::MIN, i64::from(id)),
    };
    let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
    *numbers.entry(place).or_insert(next)
}

/// A machine with zones of these CPUs and so much memory (KiB) each.
#[cfg(test)]
pub fn fake(root: &Path, zones: &[(&str, u64)]) {
    for (id, (cpus, memory)) in zones.iter().enumerate() {
        let dir = root.join(format!("node/node{id}"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("cpulist"), format!("{cpus}\n")).unwrap();
        std::fs::write(
            dir.join("meminfo"),
            format!("Node {id} MemTotal:       {memory} kB\nNode {id} MemFree: 1 kB\n"),
        )
        .unwrap();
        let row: Vec<String> =
            (0..zones.len()).map(|to| if to == id { "10" } else { "21" }.to_owned()).collect();
        std::fs::write(dir.join("distance"), row.join(" ")).unwrap();
    }
    std::fs::write(root.join("node/online"), format!("0-{}\n", zones.len() - 1)).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_as_the_kernel_tells_them() {
        let dir = tempfile::tempdir().unwrap();
        fake(dir.path(), &[("0,2", 8), ("1,3", 16), ("", 32)]);
        for (cpu, package, core) in [(0, 0, 0), (1, 1, 0), (2, 0, 0), (3, 1, 0)] {
            let topology = dir.path().join(format!("cpu/cpu{cpu}/topology"));
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("physical_package_id"), format!("{package}\n")).unwrap();
            std::fs::write(topology.join("core_id"), format!("{core}\n")).unwrap();
        }
        let machine = read(dir.path(), true, true);
        let memory: Vec<i64> = machine.zones.iter().map(|zone| zone.memory).collect();
        assert_eq!(memory, [8 << 10, 16 << 10, 32 << 10]);
        let cpus: Vec<(u32, usize, u32)> =
            machine.cpus.iter().map(|cpu| (cpu.id, cpu.zone, cpu.core)).collect();
        assert_eq!(cpus, [(0, 0, 0), (1, 1, 1), (2, 0, 0), (3, 1, 1)]);
        assert_eq!(machine.distances[1], [21, 10, 21]);
    }

    #[test]
    fn a_kernel_without_zones_has_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("cpu")).unwrap();
        std::fs::write(dir.path().join("cpu/online"), "0-2\n").unwrap();
        let machine = read(dir.path(), false, true);
        assert_eq!((machine.zones.len(), machine.cpus.len(), machine.zones[0].memory > 0), (1, 3, true));
        assert!(read(dir.path(), false, false).cpus.is_empty(), "nobody asked");
        // This machine.
        let own = read(Path::new("/sys/devices/system"), true, true);
        assert!(!own.zones.is_empty() && !own.cpus.is_empty());
    }
}
