//! Reading: list, find, inspect, rootfs, disk usage.
use super::*;
fn absent<T>(name: &str) -> Result<T> { Err(crate::Error::NotPresent { name: name.into() }) }
impl Inner {
    pub(crate) fn list(&self) -> Result<Vec<ImageSummary>> { Ok(vec![]) }
    pub(crate) fn find(&self, _reference: &str) -> Result<Option<ImageSummary>> { Ok(None) }
    pub(crate) fn inspect(&self, reference: &str) -> Result<ImageDetails> { absent(reference) }
    pub(crate) fn rootfs(&self, reference: &str, _holder: &str) -> Result<RootfsPlan> { absent(reference) }
    pub(crate) fn tag(&self, source: &str, _target: &str) -> Result<ImageSummary> { absent(source) }
    pub(crate) fn remove(&self, reference: &str, _force: bool) -> Result<Removed> { absent(reference) }
    pub(crate) fn disk_usage(&self) -> Result<DiskUsage> { Ok(DiskUsage::default()) }
}
