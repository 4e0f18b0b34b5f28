//! The hash of a pod template, which names ReplicaSets and revisions.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::Serialize;

/// Letters that make no words and cannot be taken for each other.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The label that tells ReplicaSets of one Deployment apart.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The hash of a template; the collision count changes it when two templates hash alike.
pub fn template(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    of(template, collision_count)
}

/// The hash of anything that serialises the same way each time.
pub fn of(value: &impl Serialize, collision_count: Option<i32>) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    feed(&serde_json::to_vec(value).unwrap_or_default());
    if let Some(count) = collision_count {
        feed(&count.to_le_bytes());
    }
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// Whether two templates are the same but for the hash label.
pub fn equal_ignoring_hash(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let plain = |t: &PodTemplateSpec| {
        let mut meta = t.metadata.clone().unwrap_or_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(POD_TEMPLATE_HASH);
        }
        meta.labels = meta.labels.filter(|l| !l.is_empty());
        meta.annotations = meta.annotations.filter(|l| !l.is_empty());
        meta.creation_timestamp = None;
        meta
    };
    a.spec == b.spec && plain(a) == plain(b)
}
