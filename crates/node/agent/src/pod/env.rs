//! The environment of a container: values, references, service variables and `$(NAME)` expansion.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVar, Pod, ResourceFieldSelector, Secret, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::spec;

/// Why a container cannot be configured: shown as `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Where references are looked up.
pub trait Objects: Sync {
    /// A ConfigMap of the pod's namespace.
    fn config_map(&self, name: &str) -> Option<&ConfigMap>;
    /// A Secret of the pod's namespace.
    fn secret(&self, name: &str) -> Option<&Secret>;
}

/// What a pod's fields resolve to beyond its spec.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The pod's address.
    pub pod_ip: String,
    /// The node's address.
    pub host_ip: String,
    /// Allocatable resources of the node: defaults for absent limits.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// The container's environment in order, later definitions replacing earlier ones.
pub fn environment(
    pod: &Pod,
    container: &Container,
    objects: &dyn Objects,
    services: &[Service],
    facts: &Facts,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut result = Env::default();
    for source in container.env_from.iter().flatten() {
        from_source(source, objects, pod, &mut result)?;
    }
    let service_env = service_variables(pod, services);
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(_)) => match reference(pod, container, variable, objects, facts)? {
                Some(value) => value,
                None => continue,
            },
            (Some(value), None) => {
                expand(value, |name| result.get(name).or_else(|| service_env.get(name)).cloned())
            }
            (None, None) => String::new(),
        };
        result.set(&variable.name, value);
    }
    for (name, value) in service_env {
        if result.get(&name).is_none() {
            result.set(&name, value);
        }
    }
    Ok(result.0)
}

#[derive(Default)]
struct Env(Vec<(String, String)>);

impl Env {
    fn get(&self, name: &str) -> Option<&String> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

fn secret_text(secret: &Secret, key: &str) -> Option<String> {
    secret.data.as_ref()?.get(key).map(|value| String::from_utf8_lossy(&value.0).into_owned())
}

fn from_source(
    source: &EnvFromSource,
    objects: &dyn Objects,
    pod: &Pod,
    result: &mut Env,
) -> Result<(), ConfigError> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_ref {
        match objects.config_map(&reference.name) {
            Some(map) => {
                for (key, value) in map.data.iter().flatten() {
                    result.set(&format!("{prefix}{key}"), value.clone());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(ConfigError(format!("configmap \"{}\" not found", reference.name))),
        }
    }
    if let Some(reference) = &source.secret_ref {
        match objects.secret(&reference.name) {
            Some(secret) => {
                for key in secret.data.iter().flatten().map(|(key, _)| key) {
                    if let Some(value) = secret_text(secret, key) {
                        result.set(&format!("{prefix}{key}"), value);
                    }
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(ConfigError(format!("secret \"{}\" not found", reference.name))),
        }
    }
    let _ = pod;
    Ok(())
}

fn reference(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    objects: &dyn Objects,
    facts: &Facts,
) -> Result<Option<String>, ConfigError> {
    let Some(from) = &variable.value_from else { return Ok(None) };
    let place = || format!("{}/{}", spec::namespace(pod), spec::name(pod));
    if let Some(field) = &from.field_ref {
        return field_path(pod, &field.field_path, facts).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        let chosen = match &resource.container_name {
            Some(name) => {
                pod.spec.as_ref().and_then(|spec| spec::container(spec, name)).map(|(_, found)| found)
            }
            None => Some(container),
        };
        let chosen = chosen.ok_or_else(|| ConfigError(format!("container not found in pod {}", place())))?;
        return resource_field(chosen, resource, facts).map(Some);
    }
    if let Some(selector) = &from.config_map_key_ref {
        let optional = selector.optional == Some(true);
        return match objects.config_map(&selector.name) {
            None if optional => Ok(None),
            None => Err(ConfigError(format!("configmap \"{}\" not found", selector.name))),
            Some(map) => match map.data.as_ref().and_then(|data| data.get(&selector.key)) {
                Some(value) => Ok(Some(value.clone())),
                None if optional => Ok(None),
                None => Err(ConfigError(format!(
                    "couldn't find key {} in ConfigMap {}/{}",
                    selector.key,
                    spec::namespace(pod),
                    selector.name
                ))),
            },
        };
    }
    if let Some(selector) = &from.secret_key_ref {
        let optional = selector.optional == Some(true);
        return match objects.secret(&selector.name) {
            None if optional => Ok(None),
            None => Err(ConfigError(format!("secret \"{}\" not found", selector.name))),
            Some(secret) => match secret_text(secret, &selector.key) {
                Some(value) => Ok(Some(value)),
                None if optional => Ok(None),
                None => Err(ConfigError(format!(
                    "couldn't find key {} in Secret {}/{}",
                    selector.key,
                    spec::namespace(pod),
                    selector.name
                ))),
            },
        };
    }
    Err(ConfigError(format!(
        "environment variable {} has no known source (hint: pod {})",
        variable.name,
        place()
    )))
}

/// The value of a downward API field.
pub fn field_path(pod: &Pod, path: &str, facts: &Facts) -> Result<String, ConfigError> {
    let meta = &pod.metadata;
    let empty = k8s_openapi::api::core::v1::PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let formatted = |map: &Option<BTreeMap<String, String>>| {
        let lines = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let keyed = |map: &Option<BTreeMap<String, String>>, key: &str| {
        let key = key.trim_end_matches(']').trim_matches(['\'', '"']);
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => formatted(&meta.labels),
        "metadata.annotations" => formatted(&meta.annotations),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        other => {
            if let Some(key) = other.strip_prefix("metadata.labels[") {
                keyed(&meta.labels, key)
            } else if let Some(key) = other.strip_prefix("metadata.annotations[") {
                keyed(&meta.annotations, key)
            } else {
                return Err(ConfigError(format!("unsupported fieldPath: {other}")));
            }
        }
    })
}

/// The value of a container's resource request or limit, divided and rounded up.
pub fn resource_field(
    container: &Container,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, ConfigError> {
    let (kind, name) = selector.resource.split_once('.').unwrap_or(("", &selector.resource));
    let resources = container.resources.as_ref();
    let find =
        |map: Option<&BTreeMap<String, Quantity>>| map.and_then(|map| map.get(name)).and_then(spec::milli);
    let limit = find(resources.and_then(|r| r.limits.as_ref()));
    let milli = match kind {
        "limits" => limit.or_else(|| facts.allocatable.get(name).and_then(spec::milli)).unwrap_or(0),
        "requests" => find(resources.and_then(|r| r.requests.as_ref())).or(limit).unwrap_or(0),
        _ => return Err(ConfigError(format!("unsupported container resource : {}", selector.resource))),
    };
    let divisor =
        selector.divisor.as_ref().and_then(spec::milli).filter(|divisor| *divisor > 0).unwrap_or(1000);
    Ok(((milli + divisor - 1) / divisor).to_string())
}

/// Expand `$(NAME)`; `$$` is a dollar, unknown names stay as they are.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

fn service_variables(pod: &Pod, services: &[Service]) -> BTreeMap<String, String> {
    let links = pod.spec.as_ref().is_none_or(|spec| spec.enable_service_links != Some(false));
    let namespace = spec::namespace(pod);
    let mut out = BTreeMap::new();
    for service in services {
        let (Some(name), home) = (&service.metadata.name, service.metadata.namespace.as_deref()) else {
            continue;
        };
        let master = home == Some("default") && name == "kubernetes";
        if !(master || links && home == Some(namespace)) {
            continue;
        }
        let Some(details) = &service.spec else { continue };
        let ip = match details.cluster_ip.as_deref() {
            Some(ip) if !ip.is_empty() && ip != "None" => ip,
            _ => continue,
        };
        let prefix = name.to_uppercase().replace('-', "_");
        let ports = details.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(port_name) = &port.name {
                let port_name = port_name.to_uppercase().replace('-', "_");
                out.insert(format!("{prefix}_SERVICE_PORT_{port_name}"), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{ip}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            let stem = format!("{prefix}_PORT_{}_{protocol}", port.port);
            out.insert(stem.clone(), url);
            out.insert(format!("{stem}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{stem}_PORT"), port.port.to_string());
            out.insert(format!("{stem}_ADDR"), ip.to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Fixed(ConfigMap, Secret);

    impl Objects for Fixed {
        fn config_map(&self, name: &str) -> Option<&ConfigMap> {
            (name == "cm").then_some(&self.0)
        }
        fn secret(&self, name: &str) -> Option<&Secret> {
            (name == "s").then_some(&self.1)
        }
    }

    fn run(container: serde_json::Value) -> Result<Vec<(String, String)>, ConfigError> {
        let objects = Fixed(
            serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).unwrap(),
            serde_json::from_value(json!({"data": {"k": "djE="}})).unwrap(),
        );
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"x": "y"}},
            "spec": {"containers": [container], "nodeName": "node"},
        }))
        .unwrap();
        let services: Vec<Service> = vec![
            serde_json::from_value(json!({"metadata": {"name": "my-db", "namespace": "n"},
                "spec": {"clusterIP": "10.43.0.7", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}}))
            .unwrap(),
            serde_json::from_value(json!({"metadata": {"name": "hidden", "namespace": "other"},
                "spec": {"clusterIP": "10.43.0.8", "ports": [{"port": 1}]}}))
            .unwrap(),
        ];
        let facts = Facts { pod_ip: "10.42.0.5".into(), host_ip: "192.0.2.1".into(), ..Default::default() };
        environment(&pod, &pod.spec.as_ref().unwrap().containers[0], &objects, &services, &facts)
    }

    fn value(env: &[(String, String)], name: &str) -> Option<String> {
        env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn all_sources() {
        let env = run(json!({"name": "c", "resources": {"limits": {"memory": "64Mi", "cpu": "250m"}},
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "nope", "optional": true}}],
            "env": [
                {"name": "A", "value": "x"}, {"name": "B", "value": "$(A)-$(P_a)-$$(A)-$(NONE)-$(MY_DB_SERVICE_HOST)"},
                {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}},
                {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "zz", "optional": true}}}]}))
        .unwrap();
        for (name, want) in [
            ("P_b", "2"),
            ("B", "x-1-$(A)-$(NONE)-10.43.0.7"),
            ("K", "v1"),
            ("IP", "10.42.0.5"),
            ("L", "y"),
            ("M", "64"),
            ("C", "1"),
            ("MY_DB_SERVICE_PORT_SQL", "5432"),
            ("MY_DB_PORT", "tcp://10.43.0.7:5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.43.0.7"),
        ] {
            assert_eq!(value(&env, name).as_deref(), Some(want), "{name}");
        }
        assert_eq!(value(&env, "O"), None);
        assert_eq!(value(&env, "HIDDEN_SERVICE_HOST"), None);
    }

    #[test]
    fn missing_references_say_what_kubelet_says() {
        let error = |source: serde_json::Value| {
            run(json!({"name": "c", "env": [{"name": "A", "valueFrom": source}]})).unwrap_err().0
        };
        assert_eq!(
            error(json!({"configMapKeyRef": {"name": "zz", "key": "a"}})),
            "configmap \"zz\" not found"
        );
        assert_eq!(
            error(json!({"configMapKeyRef": {"name": "cm", "key": "z"}})),
            "couldn't find key z in ConfigMap n/cm"
        );
        assert_eq!(
            error(json!({"secretKeyRef": {"name": "s", "key": "z"}})),
            "couldn't find key z in Secret n/s"
        );
    }
}
