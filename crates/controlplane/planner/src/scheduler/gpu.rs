//! GPUs as devices that can be shared by thousandths.
//!
//! A node says `sampan.io/gpu: N`. A pod asks for whole devices (`sampan.io/gpu: 2`) or for a share of one
//! (`sampan.io/gpu-milli: 250`); the model is an ordinary node label
//! (`sampan.io/gpu-model`). Which devices a pod
//! got is written to its annotation `sampan.io/gpu-devices`, as `0,3`.

use super::resources::Resources;

/// Whole devices.
pub const GPU: &str = "sampan.io/gpu";
/// Thousandths of one device.
pub const GPU_MILLI: &str = "sampan.io/gpu-milli";
/// The label of a node that names the model of its devices.
pub const GPU_MODEL: &str = "sampan.io/gpu-model";
/// The annotation that names the devices of a bound pod.
pub const GPU_DEVICES: &str = "sampan.io/gpu-devices";
/// What a whole device is.
pub const WHOLE: u16 = 1000;

/// Most devices that a node can have; more are not seen.
const MOST: usize = 64;

/// How many devices a node with such an allocatable has.
pub(super) fn devices(allocatable: &Resources) -> usize {
    usize::try_from(allocatable.get(GPU)).unwrap_or(0).min(MOST)
}

/// What a pod asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct GpuRequest {
    /// So many devices.
    pub count: u16,
    /// Of each so many thousandths.
    pub milli: u16,
}

impl GpuRequest {
    /// Reads it out of what a pod requests. A share beyond one device is rounded up to whole devices.
    pub fn of(requests: &Resources) -> Self {
        let whole = requests.get(GPU);
        let share = requests.get(GPU_MILLI);
        let milli = i64::from(WHOLE);
        match (whole, share) {
            (0, 0) => Self::default(),
            (0, share) if share <= milli => Self { count: 1, milli: u16::try_from(share).unwrap_or(WHOLE) },
            (whole, share) => {
                let count = whole.saturating_add((share.saturating_add(milli - 1)) / milli);
                Self { count: u16::try_from(count).unwrap_or(u16::MAX), milli: WHOLE }
            }
        }
    }

    /// Whether it asks for none.
    pub fn is_none(self) -> bool {
        self.count == 0
    }

    /// Thousandths of a device altogether.
    pub fn total(self) -> u32 {
        u32::from(self.count) * u32::from(self.milli)
    }
}

/// The devices of one node: what is free of each, in thousandths. Negative when promised twice by others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpus {
    free: Vec<i32>,
}

impl Gpus {
    /// What is free of each device.
    pub fn free(&self) -> &[i32] {
        &self.free
    }

    /// Whether the request fits.
    pub fn fits(&self, request: GpuRequest) -> bool {
        let milli = i32::from(request.milli);
        self.free.iter().filter(|free| **free >= milli).count() >= usize::from(request.count)
    }

    /// Whether it would fit if nothing ran here.
    pub fn could_fit(&self, request: GpuRequest) -> bool {
        self.free.len() >= usize::from(request.count)
    }

    /// The devices to take: those with the least left that have enough.
    pub fn choose(&self, request: GpuRequest) -> Vec<u8> {
        if request.is_none() {
            return Vec::new();
        }
        let milli = i32::from(request.milli);
        let mut fitting: Vec<u8> = (0..self.free.len())
            .filter(|i| self.free[*i] >= milli)
            .filter_map(|i| u8::try_from(i).ok())
            .collect();
        fitting.sort_by_key(|i| (self.free[usize::from(*i)], *i));
        fitting.truncate(usize::from(request.count));
        fitting
    }

    /// Takes (`sign` 1) or gives back (-1) the devices.
    pub(super) fn charge(&mut self, request: GpuRequest, devices: &[u8], sign: i32) {
        for device in devices {
            if let Some(free) = self.free.get_mut(usize::from(*device)) {
                *free -= sign * i32::from(request.milli);
            }
        }
    }

    /// Sets the number of devices; whether that is a change. All are free then, and what pods hold must be charged.
    pub(super) fn resize(&mut self, devices: usize) -> bool {
        let changed = devices != self.free.len();
        if changed {
            self.free = vec![i32::from(WHOLE); devices];
        }
        changed
    }
}

/// The devices that an annotation names.
pub(crate) fn parse_devices(text: &str) -> Vec<u8> {
    text.split(',').filter_map(|part| part.trim().parse().ok()).take(MOST).collect()
}

/// How an annotation names devices.
pub fn format_devices(devices: &[u8]) -> String {
    devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
