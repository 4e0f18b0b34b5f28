//! The Recreate strategy: everything old ends before anything new begins.

use k8s_openapi::api::core::v1::Pod;

use super::{Set, Work};
use crate::pods;

impl Work<'_> {
    pub(super) fn recreate(&mut self, pods: &[&Pod]) {
        self.sync_revision(false);
        let active: Vec<String> =
            self.old.iter().filter(|s| s.replicas > 0).map(|s| s.name().to_owned()).collect();
        if !active.is_empty() {
            active.iter().for_each(|name| self.resize(name, 0));
            return;
        }
        if self.old_pods_running(pods) {
            return;
        }
        match &self.new {
            None => self.sync_revision(true),
            Some(new) if new.replicas != self.replicas() => {
                let name = new.name().to_owned();
                self.resize(&name, self.replicas());
            }
            Some(_) => {}
        }
        if self.complete() {
            self.clean_history();
        }
    }

    fn old_pods_running(&self, pods: &[&Pod]) -> bool {
        let new = self.new.as_ref().map(|s| pods::uid(&s.object.metadata));
        let of_new = |pod: &Pod| pods::controller(&pod.metadata).map(|o| o.uid.as_str()) == new;
        self.old.iter().map(Set::actual).sum::<i32>() > 0
            || pods.iter().any(|pod| (new.is_none() || !of_new(pod)) && !pods::finished(pod))
    }
}
