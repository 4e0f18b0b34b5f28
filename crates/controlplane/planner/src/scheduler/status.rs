//! Why a node, by itself, cannot take a pod: a number, so that nodes with the same reasons can be counted.

/// The verdict about one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Status(u64);

const KIND: u32 = 56;
/// What is asked for is more than the node has: nobody's leaving helps.
const HOPELESS: u64 = 1 << 55;
const PODS: u64 = 1 << 54;
const GPUS: u64 = 1 << 53;
/// Beyond so many resources the last bit stands for all others.
const BITS: usize = 52;

const FIT: u64 = 1 << KIND;

impl Status {
    pub const OK: Self = Self(0);
    pub const CORDONED: Self = Self(2 << KIND);
    pub const UNTOLERATED: Self = Self(3 << KIND);
    pub const AFFINITY: Self = Self(4 << KIND);
    pub const PORTS: Self = Self(5 << KIND);
    /// More CPU is used there than a profile allows.
    pub const HOT_CPU: Self = Self(6 << KIND);
    /// More memory is.
    pub const HOT_MEMORY: Self = Self(7 << KIND);
    /// It would refuse the pod: no zone has room for one of its containers.
    pub const UNALIGNED_CONTAINER: Self = Self(8 << KIND);
    /// It would refuse the pod: no zone has room for it.
    pub const UNALIGNED_POD: Self = Self(9 << KIND);
    /// There is no such node.
    pub const GONE: Self = Self(u64::MAX);

    /// The number.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The status of that number.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }

    pub const fn is_fit(self) -> bool {
        self.0 >> KIND == 1
    }

    pub fn lacks(&mut self, resource: usize, hopeless: bool) {
        self.0 |= FIT | 1 << resource.min(BITS - 1) | if hopeless { HOPELESS } else { 0 };
    }

    pub fn lacks_pods(&mut self) {
        self.0 |= FIT | PODS;
    }

    pub fn lacks_gpu(&mut self, hopeless: bool) {
        self.0 |= FIT | GPUS | if hopeless { HOPELESS } else { 0 };
    }

    pub const fn has_too_many_pods(self) -> bool {
        self.is_fit() && self.0 & PODS != 0
    }

    pub const fn is_lacking_gpu(self) -> bool {
        self.is_fit() && self.0 & GPUS != 0
    }

    pub const fn is_lacking(self, resource: usize) -> bool {
        let bit = if resource < BITS { resource } else { BITS - 1 };
        self.is_fit() && self.0 & (1 << bit) != 0
    }

    /// Whether the leaving of pods from the node could change it.
    pub fn is_resolvable(self) -> bool {
        (self.is_fit() && self.0 & HOPELESS == 0) || self == Self::PORTS
    }
}
