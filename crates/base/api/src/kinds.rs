//! Which kinds are served, and everything that is true of a kind by name: path, verbs, short names, categories,
//! subresources, selectable fields, and where its objects are kept. A new kind is a new row of the table.

pub(crate) mod autoscalers;
pub mod convert;
mod events;
pub mod intern;
mod table;

/// The annotation of a bound pod that says which seat of a reservation it took: `NAMESPACE/NAME/INDEX/UID` of the
/// reservation. Only a binding sets it.
pub const RESERVATION_SEAT: &str = "sampan.io/reservation-seat";

/// A group, version and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gvk {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
}

impl Gvk {
    /// `v1` or `apps/v1`, as an object's apiVersion says it.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }
}

/// A field that a field selector may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectableField {
    /// The name in the selector, `spec.nodeName` for example.
    pub label: &'static str,
    /// Where the value lies in the stored object; the first path that holds a non-empty value counts.
    pub paths: &'static [&'static str],
    /// What the field is when the object lacks it: empty for text, `0` or `false`.
    pub absent: &'static str,
}

/// Where the objects of a resource are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Under their own group and plural.
    Own,
    /// Together with those of another resource (group, version, plural), whose field names the stored object has.
    Shared(&'static str, &'static str, &'static str),
    /// Nowhere: the object is a question, answered at once.
    Virtual,
}

/// A kind that is served under a path of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The kind of a list, where it is not the kind with `List` behind it; else empty.
    pub listed_as: &'static str,
    /// The plural, which is the name in the path.
    pub plural: &'static str,
    /// The singular name.
    pub singular: &'static str,
    /// What kubectl users type instead of the plural.
    pub short_names: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// The verbs, sorted, as discovery shows them.
    pub verbs: &'static [&'static str],
    /// Groups of kinds, `all` for example.
    pub categories: &'static [&'static str],
    /// The subresources.
    pub subresources: &'static [Subresource],
    /// What a field selector may name besides metadata.name and metadata.namespace.
    pub fields: &'static [SelectableField],
    /// Where objects are kept.
    pub storage: Storage,
}

/// A path below an object, `pods/NAME/log` for example, with the kind that its bodies have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// The last part of the path.
    pub name: &'static str,
    /// The API group of the kind; empty for the core group.
    pub group: &'static str,
    /// The version of the kind.
    pub version: &'static str,
    /// The kind, which may differ from the parent's (`Scale`, `Eviction`).
    pub kind: &'static str,
    /// The verbs, sorted, as discovery shows them.
    pub verbs: &'static [&'static str],
}

impl Subresource {
    /// The kind of the bodies.
    pub fn gvk(&self) -> Gvk {
        Gvk { group: self.group, version: self.version, kind: self.kind }
    }
}

impl Resource {
    /// The kind.
    pub fn gvk(&self) -> Gvk {
        Gvk { group: self.group, version: self.version, kind: self.kind }
    }

    /// `v1` or `apps/v1`, as an object's apiVersion says it.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The kind of a list of these objects.
    pub fn list_kind(&self) -> String {
        if self.listed_as.is_empty() { format!("{}List", self.kind) } else { self.listed_as.to_owned() }
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the verb is offered.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether nothing of this kind is kept: the answer to the create is all there is.
    pub fn is_virtual(&self) -> bool {
        self.storage == Storage::Virtual
    }

    /// The resource whose form stored objects have and under whose key they lie: itself for most, core events for
    /// the events of events.k8s.io, nothing for virtual ones.
    pub fn stored_as(&'static self) -> Option<&'static Resource> {
        match self.storage {
            Storage::Own => Some(self),
            Storage::Shared(group, version, plural) => by_path(group, version, plural),
            Storage::Virtual => None,
        }
    }
}

/// Every resource, in the order in which discovery shows them: by group, in a group by version and plural.
pub fn resources() -> &'static [Resource] {
    table::resources()
}

/// The resource under a path.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The resource of a kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.kind == kind && r.group == group && r.version == version)
}

/// The resource of an object's own apiVersion and kind.
pub fn by_api_version(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = split_api_version(api_version);
    by_kind(group, version, kind)
}

/// Every group with its versions, the preferred first, in the order of discovery; the core group is the empty name.
pub fn groups() -> &'static [(&'static str, &'static [&'static str])] {
    table::GROUPS
}

/// Whether any resource is served under the group and version.
pub fn serves(group: &str, version: &str) -> bool {
    groups().iter().any(|(g, versions)| *g == group && versions.contains(&version))
}

/// The kind as the registry itself names it, for kinds that are served anywhere, subresources included.
pub fn known(group: &str, version: &str, kind: &str) -> Option<Gvk> {
    let whole = by_kind(group, version, kind).map(Resource::gvk);
    whole.or_else(|| {
        let bodies = resources().iter().flat_map(|r| r.subresources).map(Subresource::gvk);
        bodies
            .chain(table::OTHER_KINDS.iter().copied())
            .find(|g| g.kind == kind && g.version == version && g.group == group)
    })
}

/// Orders versions as discovery shows them: stable ones first, then beta and alpha, newer before older; names of
/// another shape come last, by the alphabet.
pub fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    let rank = |text: &str| -> Option<(u8, u64, u64)> {
        let rest = text.strip_prefix('v')?;
        let digits = |text: &str| -> Option<u64> {
            (!text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()))
                .then(|| text.parse().ok())?
        };
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, stage) = rest.split_at(end);
        let major = digits(major)?;
        if stage.is_empty() {
            return Some((2, major, 0));
        }
        let (level, minor) = match (stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
            (Some(minor), _) => (1, minor),
            (_, Some(minor)) => (0, minor),
            _ => return None,
        };
        Some((level, major, digits(minor)?))
    };
    match (rank(a), rank(b)) {
        (Some(x), Some(y)) => y.cmp(&x),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Joins a group and a version as an object's apiVersion says it.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits an apiVersion into group (empty for core) and version.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

#[cfg(test)]
mod tests;
