//! What a pod asks for, and what is free on a node.

/// What a whole device is.
pub const WHOLE: u16 = 1000;

/// Which models of a device will do, as a set of up to 64 interned models; empty for any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Models(pub u64);

impl Models {
    /// Whether a device of that model will do.
    pub fn allow(self, model: u8) -> bool {
        self.0 == 0 || self.0 & (1_u64 << (model & 63)) != 0
    }
}

/// What a pod asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Demand {
    /// Thousandths of a core.
    pub cpu: i64,
    /// MiB.
    pub memory: i64,
    /// So many devices.
    pub count: u16,
    /// Of each so many thousandths; below [`WHOLE`] only with a count of 1.
    pub milli: u16,
    /// Of these models.
    pub models: Models,
}

impl Demand {
    /// Whether it asks for a part of one device.
    pub fn is_share(&self) -> bool {
        self.count == 1 && self.milli < WHOLE
    }

    /// Thousandths of devices altogether.
    pub fn total(&self) -> u32 {
        u32::from(self.count) * u32::from(self.milli)
    }
}

/// What is free on a node. Nodes with the same room are the same to a packer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Room {
    cpu: i64,
    memory: i64,
    model: u8,
    devices: Vec<u16>,
}

impl Room {
    /// Free CPU (thousandths of a core), memory (MiB), the model of its devices and what is free of each of them.
    pub fn new(cpu: i64, memory: i64, model: u8, mut devices: Vec<u16>) -> Self {
        devices.sort_unstable();
        Self { cpu, memory, model, devices }
    }

    /// What is free of each device, the fullest first.
    pub fn devices(&self) -> &[u16] {
        &self.devices
    }

    /// Thousandths of devices that are free.
    pub fn free(&self) -> u32 {
        self.devices.iter().map(|milli| u32::from(*milli)).sum()
    }

    /// Whether the pod fits.
    pub fn fits(&self, demand: &Demand) -> bool {
        demand.memory <= self.memory && self.fits_but_for_memory(demand)
    }

    /// Whether CPU, models and devices suffice.
    pub(super) fn fits_but_for_memory(&self, demand: &Demand) -> bool {
        demand.cpu <= self.cpu
            && (demand.count == 0
                || demand.models.allow(self.model)
                    // Sorted: the ones with the most free come last.
                    && self.devices.len() >= usize::from(demand.count)
                    && self.devices[self.devices.len() - usize::from(demand.count)] >= demand.milli)
    }

    /// How many such pods fit at once. Only for pods that ask for whole devices.
    pub(super) fn places(&self, demand: &Demand) -> u32 {
        if !self.fits(demand) {
            return 0;
        }
        let unused = self.devices.iter().rev().take_while(|milli| **milli >= demand.milli).count();
        let most = |have: i64, need: i64| if need > 0 { have / need } else { i64::MAX };
        let others = most(self.cpu, demand.cpu).min(most(self.memory, demand.memory));
        let devices = unused / usize::from(demand.count.max(1));
        u32::try_from(others).unwrap_or(u32::MAX).min(u32::try_from(devices).unwrap_or(u32::MAX))
    }

    /// The devices worth trying, as indices: for a share each that differs, else a single 0.
    pub(super) fn choices<'a>(&'a self, demand: &'a Demand) -> impl Iterator<Item = usize> + use<'a> {
        let share = demand.is_share();
        let devices = if share { self.devices.len() } else { 1 };
        (0..devices).filter(move |i| {
            !share
                || self.devices[*i] >= demand.milli && (*i == 0 || self.devices[*i] != self.devices[*i - 1])
        })
    }

    /// What is left when the pod is there; a share on that device. The pod must fit.
    pub fn without(&self, demand: &Demand, device: usize) -> Self {
        let mut room = self.clone();
        room.take(demand, device);
        room.devices.sort_unstable();
        room
    }

    /// Takes the pod in without sorting.
    fn take(&mut self, demand: &Demand, device: usize) {
        self.cpu -= demand.cpu;
        self.memory -= demand.memory;
        if demand.is_share() {
            self.devices[device] -= demand.milli;
        } else {
            let whole = self.devices.iter_mut().rev().filter(|milli| **milli >= WHOLE);
            whole.take(usize::from(demand.count)).for_each(|milli| *milli = 0);
        }
    }

    /// Takes the pod in where it leaves the least of a device; whether it fitted. Leaves the devices sorted.
    pub(super) fn take_best(&mut self, demand: &Demand) -> bool {
        if !self.fits(demand) {
            return false;
        }
        if demand.count > 0 {
            let tightest = self.devices.partition_point(|milli| *milli < demand.milli);
            self.take(demand, tightest);
            self.devices.sort_unstable();
        } else {
            self.take(demand, 0);
        }
        true
    }
}
