//! InstanceTypes: named shapes that a pod may ask for by name, or have chosen for it.
//!
//! A pod asks by annotation, and what it asks for is put into its spec when it is created ([`apply`]): the shape as the
//! size of the whole pod, or nodes of that type as the only ones for it. So everybody sees it, and the scheduler needs to
//! know nothing but requests and affinity.

mod pod;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::quota::{self, Amounts};

pub use self::pod::{apply, asks, asks_for_shape};

/// The annotation with which a pod asks for a type by name, or for [`AUTO`]; as a label it says which type a pod got.
pub const TYPE: &str = "sampan.io/instance-type";
/// The annotation with which a pod asks for a type of a class; as a label it says of which class a node is.
pub const CLASS: &str = "sampan.io/instance-class";
/// The annotation that says what the type means for nodes: `Prefer` those of its class (the default), `Any`, or `Require`
/// nodes of the type, in which case the pod keeps its own size.
pub const NODES: &str = "sampan.io/instance-nodes";
/// The type is chosen: the smallest that fits.
pub const AUTO: &str = "auto";
/// The label of a node that names its type.
pub const NODE_TYPE: &str = "node.kubernetes.io/instance-type";
/// What types are for.
pub const CLASSES: [&str; 4] = ["general", "compute", "memory", "gpu"];
/// Nodes without the label are of a type when what they have differs by no more than this many percent.
const TOLERANCE: i64 = 10;

/// A type, as its object says.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub class: String,
    /// `cpu`, `memory`, and what else there is of it.
    pub size: Amounts,
    /// By how many percent a node may differ that has no label.
    pub tolerance: i64,
    /// Labels that its nodes get.
    pub labels: BTreeMap<String, String>,
    /// Taints that its nodes get.
    pub taints: Vec<Value>,
}

impl Shape {
    /// Reads an InstanceType.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn read(object: &Value) -> Result<Self, String> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let class = spec.get("class").and_then(Value::as_str).unwrap_or("general");
        if !CLASSES.contains(&class) {
            return Err(format!("spec.class is {class:?} (hint: one of {})", CLASSES.join(", ")));
        }
        let mut size = Amounts::new();
        for (field, resource) in
            [("cpu", "cpu"), ("memory", "memory"), ("ephemeralStorage", "ephemeral-storage")]
        {
            match spec.get(field).filter(|amount| !amount.is_null()) {
                Some(amount) => drop(size.insert(resource.to_owned(), positive(field, amount)?)),
                None if resource == "ephemeral-storage" => {}
                None => return Err(format!("spec.{field} is missing")),
            }
        }
        for (resource, amount) in spec.get("resources").and_then(Value::as_object).into_iter().flatten() {
            if size.contains_key(resource) || !(resource.contains('/') || resource.starts_with("hugepages-"))
            {
                return Err(format!(
                    "spec.resources names {resource:?} (hint: extended resources such as sampan.io/gpu, and huge pages)"
                ));
            }
            size.insert(resource.clone(), positive(&format!("resources[{resource}]"), amount)?);
        }
        let labels = spec.get("labels").and_then(Value::as_object).into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        Ok(Self {
            name: name.to_owned(),
            class: class.to_owned(),
            size,
            tolerance: spec.get("tolerance").and_then(Value::as_i64).unwrap_or(TOLERANCE).clamp(0, 50),
            labels: labels.filter(|(key, _)| key != NODE_TYPE && key != CLASS).collect(),
            taints: spec.get("taints").and_then(Value::as_array).cloned().unwrap_or_default(),
        })
    }

    /// How much there is of a resource.
    pub fn amount(&self, resource: &str) -> Quantity {
        self.size.get(resource).copied().unwrap_or(Quantity::ZERO)
    }

    /// Whether so much fits into it.
    pub fn holds(&self, need: &Amounts) -> bool {
        need.iter().all(|(resource, amount)| *amount <= self.amount(resource))
    }

    /// How large it is beside others: what the pod has no use for counts most, then a core as much as eight gibibytes.
    fn cost(&self, need: &Amounts) -> (usize, f64) {
        let special = |resource: &&String| resource.contains('/') || resource.starts_with("hugepages-");
        let unused = self.size.keys().filter(special).filter(|r| !need.contains_key(*r)).count();
        let gibibytes = self.amount("memory").to_f64() / f64::from(1 << 30);
        (unused, self.amount("cpu").to_f64() + gibibytes / 8.0)
    }

    /// In words: `cpu=2,memory=8Gi`.
    pub fn words(&self) -> String {
        quota::print(&self.size)
    }
}

fn positive(field: &str, value: &Value) -> Result<Quantity, String> {
    match Quantity::from_value(value) {
        Some(amount) if amount > Quantity::ZERO => Ok(amount),
        _ => Err(format!("spec.{field} is {value} (hint: an amount above zero, such as 2, 500m or 8Gi)")),
    }
}

/// The types that so much fits into, the smallest first. What is needed may be what a pod requests, or what it was seen to use.
pub fn fitting<'a>(
    types: impl IntoIterator<Item = &'a Shape>,
    need: &Amounts,
    class: Option<&str>,
) -> Vec<&'a Shape> {
    let able = types.into_iter().filter(|shape| class.is_none_or(|class| class == shape.class));
    let mut able: Vec<&Shape> = able.filter(|shape| shape.holds(need)).collect();
    able.sort_by(|a, b| {
        let ((unused, cost), (other, costs)) = (a.cost(need), b.cost(need));
        unused.cmp(&other).then(cost.total_cmp(&costs)).then_with(|| a.name.cmp(&b.name))
    });
    able
}
