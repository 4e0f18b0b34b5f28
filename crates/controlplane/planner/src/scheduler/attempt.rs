//! Trying something out on the cluster, and taking it back.

use std::collections::HashSet;

use super::cluster::{Cluster, Undo};

impl Cluster {
    /// Tries something and takes every step of it back, unless it says to keep them.
    pub fn attempt<T>(&mut self, what: impl FnOnce(&mut Self) -> (T, bool)) -> T {
        let outer = self.undo.replace(Vec::new());
        let (result, keep) = what(self);
        let steps = std::mem::replace(&mut self.undo, outer).unwrap_or_default();
        if keep {
            match &mut self.undo {
                Some(outer) => outer.extend(steps),
                None => self.learn_from(&steps),
            }
            return result;
        }
        // Taking back is trying out, too: what it does is not for good.
        let outer = self.undo.replace(Vec::new());
        for step in steps.into_iter().rev() {
            match step {
                Undo::Remove(uid) => {
                    self.remove_pod(&uid);
                }
                Undo::Place(pod) => self.place(pod),
                Undo::Withdraw(uid) => {
                    self.withdraw(&uid);
                }
                Undo::Nominate(pod, node) => self.nominate(&pod, &node),
            }
        }
        self.undo = outer;
        result
    }

    /// Learns from the pods that came by these steps, and were not merely moved.
    fn learn_from(&mut self, steps: &[Undo]) {
        let moved: HashSet<&str> =
            steps.iter().filter_map(|s| if let Undo::Place(p) = s { Some(&*p.uid) } else { None }).collect();
        for step in steps {
            let Undo::Remove(uid) = step else { continue };
            if let Some(pod) =
                self.pods.get(uid).filter(|_| !moved.contains(&**uid)).map(|bound| bound.pod.clone())
            {
                self.learn(&pod);
            }
        }
    }
}
