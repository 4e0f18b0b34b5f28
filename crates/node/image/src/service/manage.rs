//! Changing names: tag and remove.

use super::{ImageSummary, Inner, Removed};
use crate::error::{Error, Result};
use crate::reference::Reference;

impl Inner {
    pub(crate) fn tag(&self, source: &str, target: &str) -> Result<ImageSummary> {
        let name = Reference::parse(target)?;
        if name.digest().is_some() {
            let reason = "a new name has a tag, not a digest".to_owned();
            return Err(Error::InvalidName { name: target.to_owned(), reason });
        }
        let from = self.require(source)?;
        let info = self.store.info(&from.digest)?;
        self.store.update_index(|index| {
            let named = index.images.get(&from.reference);
            let same = || index.images.values().find(|there| there.digest == from.digest);
            let descriptor = named.or_else(same).cloned();
            let descriptor = descriptor.ok_or_else(|| Error::NotPresent { name: from.reference.clone() })?;
            index.images.insert(name.to_string(), descriptor);
            Ok((true, ()))
        })?;
        Ok(info.summary(&name.to_string()))
    }

    pub(crate) fn remove(&self, reference: &str, force: bool) -> Result<Removed> {
        let target = self.require(reference)?;
        let mut removed = self.store.update_index(|index| {
            let names: Vec<String> = match (target.by_name, index.images.contains_key(&target.reference)) {
                (true, true) => vec![target.reference.clone()],
                _ => index
                    .images
                    .iter()
                    .filter(|(_, there)| there.digest == target.digest)
                    .map(|(name, _)| name.clone())
                    .collect(),
            };
            let same = index.images.values().filter(|there| there.digest == target.digest).count();
            let last = same <= names.len();
            // Read under the lock that holds are written under.
            let uses = self.store.uses()?;
            let holders: Vec<&str> = uses
                .iter()
                .filter(|hold| hold.digest == target.digest)
                .map(|hold| hold.holder.as_str())
                .collect();
            if last && !force && !holders.is_empty() {
                let users = holders.join(", ");
                return Err(Error::InUse { name: target.reference.clone(), users });
            }
            for name in &names {
                index.images.remove(name);
            }
            let deleted = if last { vec![target.digest] } else { Vec::new() };
            Ok((true, Removed { untagged: names, deleted, freed: 0 }))
        })?;
        if !removed.deleted.is_empty() {
            removed.freed = self.store.collect(false)?.freed;
        }
        Ok(removed)
    }
}
