//! The checks of the levels, each with the versions that changed it. Reasons and details are Kubernetes'.

use std::collections::BTreeSet;

use sampan_api::status::go_quote;
use serde_json::Value;

use super::Level;
use crate::call::text;

/// The newest version that changed a check: later ones and `latest` mean it.
const NEWEST: u32 = 35;

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Sysctls that are safe, with the version from which on they count as such.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

/// Volumes that restricted pods may have.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

type Broken = Option<(String, String)>;

/// A pod as a check sees it.
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    minor: u32,
}

/// What is wrong: reason and detail of each check that fails, baseline first.
pub(super) fn run(level: Level, minor: Option<u32>, metadata: &Value, spec: &Value) -> Vec<(String, String)> {
    let pod = Pod { metadata, spec, minor: minor.map_or(NEWEST, |minor| minor.min(NEWEST)) };
    let restricted = level == Level::Restricted;
    if level == Level::Privileged {
        return Vec::new();
    }
    // A restricted check takes the place of a weaker baseline one.
    let baseline = [
        pod.app_armor(),
        if restricted && pod.minor >= 22 { None } else { pod.capabilities() },
        pod.host_namespaces(),
        if restricted { None } else { pod.host_paths() },
        pod.host_ports(),
        if pod.minor >= 34 { pod.probe_hosts() } else { None },
        pod.privileged(),
        if restricted && pod.minor >= 35 { None } else { pod.proc_mount(pod.minor >= 35) },
        pod.selinux(),
        if restricted && pod.minor >= 19 { None } else { pod.seccomp() },
        pod.sysctls(),
        pod.host_process(),
    ];
    let mut out: Vec<_> = baseline.into_iter().flatten().collect();
    if restricted {
        let checks = [
            pod.escalation(),
            if pod.minor >= 22 { pod.dropped_capabilities() } else { None },
            if pod.minor >= 35 { pod.proc_mount(false) } else { None },
            pod.volumes(),
            pod.non_root(),
            if pod.minor >= 23 { pod.root_user() } else { None },
            if pod.minor >= 19 { pod.restricted_seccomp() } else { None },
        ];
        out.extend(checks.into_iter().flatten());
    }
    out
}

fn quote(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.as_ref().to_owned()).collect();
    if items.is_empty() { String::new() } else { format!("\"{}\"", items.join("\", \"")) }
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quote(names))
}

/// Who sets something: the pod, containers, or both.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let mut parts = Vec::new();
    if pod {
        parts.push("pod".to_owned());
    }
    if !names.is_empty() {
        parts.push(containers(names));
    }
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn broken(reason: impl Into<String>, detail: impl Into<String>) -> Broken {
    Some((reason.into(), detail.into()))
}

fn context(container: &Value) -> &Value {
    container.get("securityContext").unwrap_or(&Value::Null)
}

fn set<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|value| !value.is_null())
}

fn strings<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    value.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

impl Pod<'_> {
    fn containers(&self) -> impl Iterator<Item = &Value> {
        let list = |key: &str| self.spec.get(key).and_then(Value::as_array).into_iter().flatten();
        list("initContainers").chain(list("containers")).chain(list("ephemeralContainers"))
    }

    /// The names of the containers of which this is true.
    fn those(&self, mut is: impl FnMut(&Value) -> bool) -> Vec<&str> {
        self.containers()
            .filter(|container| is(container))
            .map(|container| text(container, "/name"))
            .collect()
    }

    fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.metadata.get("annotations").and_then(Value::as_object).into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
    }

    fn is_windows(&self) -> bool {
        text(self.spec, "/os/name") == "windows"
    }

    fn has_users_of_its_own(&self) -> bool {
        self.spec.get("hostUsers") == Some(&Value::Bool(false))
    }

    fn app_armor(&self) -> Broken {
        let mut values = BTreeSet::new();
        let mut bad = |context: &Value| {
            let Some(profile) = set(context, "appArmorProfile") else { return false };
            let kind = text(profile, "/type");
            let wrong = !matches!(kind, "RuntimeDefault" | "Localhost");
            if wrong {
                values.insert(kind.to_owned());
            }
            wrong
        };
        let pod = bad(context(self.spec));
        let names = self.those(|container| bad(context(container)));
        let mut parts: Vec<String> = setters(pod, &names).into_iter().collect();
        let mut values: Vec<String> = values.into_iter().collect();
        let wrong =
            |value: &str| !value.is_empty() && value != "runtime/default" && !value.starts_with("localhost/");
        let mut annotations: Vec<String> = self
            .annotations()
            .filter(|(key, value)| key.starts_with(APPARMOR) && wrong(value))
            .map(|(key, value)| format!("{key}={}", go_quote(value)))
            .collect();
        if !annotations.is_empty() {
            annotations.sort();
            parts.push(plural("annotation", "annotations", annotations.len()).to_owned());
            values.append(&mut annotations);
        }
        if parts.is_empty() {
            return None;
        }
        broken(
            plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
            format!("{} must not set AppArmor profile type to {}", parts.join(" and "), quote(values)),
        )
    }

    fn capabilities(&self) -> Broken {
        let mut added = BTreeSet::new();
        let names = self.those(|container| {
            let capabilities = context(container).get("capabilities").unwrap_or(&Value::Null);
            let before = added.len();
            let bad: Vec<&str> =
                strings(capabilities, "add").filter(|name| !CAPABILITIES.contains(name)).collect();
            added.extend(bad.iter().map(|name| (*name).to_owned()));
            !bad.is_empty() || added.len() > before
        });
        if names.is_empty() {
            return None;
        }
        let list = containers(&names);
        let detail = format!("{list} must not include {} in securityContext.capabilities.add", quote(added));
        broken("non-default capabilities", detail)
    }

    fn host_namespaces(&self) -> Broken {
        let own = ["hostNetwork", "hostPID", "hostIPC"];
        let is = |key: &&str| self.spec.get(*key) == Some(&Value::Bool(true));
        let set: Vec<String> = own.into_iter().filter(is).map(|key| format!("{key}=true")).collect();
        if set.is_empty() { None } else { broken("host namespaces", set.join(", ")) }
    }

    fn volumes_where(&self, is: impl Fn(&Value) -> bool) -> Vec<&Value> {
        let volumes = self.spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
        volumes.filter(|volume| is(volume)).collect()
    }

    fn host_paths(&self) -> Broken {
        let bad = self.volumes_where(|volume| set(volume, "hostPath").is_some());
        let names: Vec<&str> = bad.iter().map(|volume| text(volume, "/name")).collect();
        if names.is_empty() {
            return None;
        }
        let detail = format!("{} {}", plural("volume", "volumes", names.len()), quote(names));
        broken("hostPath volumes", detail)
    }

    fn host_ports(&self) -> Broken {
        let mut ports = BTreeSet::new();
        let names = self.those(|container| {
            let list = container.get("ports").and_then(Value::as_array).into_iter().flatten();
            let host = |port: &Value| port.get("hostPort").and_then(Value::as_i64).filter(|port| *port != 0);
            let bad: Vec<String> = list.filter_map(host).map(|port| port.to_string()).collect();
            let any = !bad.is_empty();
            ports.extend(bad);
            any
        });
        if names.is_empty() {
            return None;
        }
        let uses = plural("uses", "use", names.len());
        let word = plural("hostPort", "hostPorts", ports.len());
        let ports: Vec<String> = ports.into_iter().collect();
        broken("hostPort", format!("{} {uses} {word} {}", containers(&names), ports.join(", ")))
    }

    fn probe_hosts(&self) -> Broken {
        let mut hosts = BTreeSet::new();
        let names = self.those(|container| {
            let handlers = [
                "/livenessProbe",
                "/readinessProbe",
                "/startupProbe",
                "/lifecycle/postStart",
                "/lifecycle/preStop",
            ];
            let mut any = false;
            for handler in handlers.iter().filter_map(|pointer| container.pointer(pointer)) {
                for host in [text(handler, "/httpGet/host"), text(handler, "/tcpSocket/host")] {
                    if !host.is_empty() {
                        any = true;
                        hosts.insert(host.to_owned());
                    }
                }
            }
            any
        });
        if names.is_empty() {
            return None;
        }
        let names: BTreeSet<&str> = names.into_iter().collect();
        let names: Vec<&str> = names.into_iter().collect();
        let uses = plural("uses", "use", names.len());
        let word = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
        broken("probe or lifecycle host", format!("{} {uses} {word} {}", containers(&names), quote(hosts)))
    }

    fn privileged(&self) -> Broken {
        let names = self.those(|container| context(container)["privileged"] == true);
        if names.is_empty() {
            return None;
        }
        broken("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
    }

    fn proc_mount(&self, relaxed: bool) -> Broken {
        if relaxed && self.has_users_of_its_own() {
            return None;
        }
        let mut kinds = BTreeSet::new();
        let names = self.those(|container| {
            let kind = set(context(container), "procMount").and_then(Value::as_str);
            let bad = kind.filter(|kind| *kind != "Default");
            kinds.extend(bad.map(str::to_owned));
            bad.is_some()
        });
        if names.is_empty() {
            return None;
        }
        let list = containers(&names);
        broken("procMount", format!("{list} must not set securityContext.procMount to {}", quote(kinds)))
    }

    fn selinux(&self) -> Broken {
        let (mut kinds, mut user, mut role) = (BTreeSet::new(), false, false);
        let engine = self.minor >= 31;
        let mut bad = |context: &Value| {
            let Some(options) = set(context, "seLinuxOptions") else { return false };
            let kind = text(options, "/type");
            let fine = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
                || (engine && kind == "container_engine_t");
            if !fine {
                kinds.insert(kind.to_owned());
            }
            let (own_user, own_role) =
                (!text(options, "/user").is_empty(), !text(options, "/role").is_empty());
            user |= own_user;
            role |= own_role;
            !fine || own_user || own_role
        };
        let pod = bad(context(self.spec));
        let names = self.those(|container| bad(context(container)));
        let who = setters(pod, &names)?;
        let mut data = Vec::new();
        if !kinds.is_empty() {
            data.push(format!("{} {}", plural("type", "types", kinds.len()), quote(&kinds)));
        }
        if user {
            data.push("user may not be set".to_owned());
        }
        if role {
            data.push("role may not be set".to_owned());
        }
        let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; "));
        broken("seLinuxOptions", detail)
    }

    fn seccomp(&self) -> Broken {
        if self.minor < 19 {
            return self.seccomp_annotations();
        }
        let (pod, names, kinds) = self.bad_seccomp();
        let who = setters(pod, &names)?;
        let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quote(kinds));
        broken("seccompProfile", detail)
    }

    fn seccomp_annotations(&self) -> Broken {
        let known: Vec<String> = std::iter::once(SECCOMP_POD.to_owned())
            .chain(self.containers().map(|c| format!("{SECCOMP_CONTAINER}{}", text(c, "/name"))))
            .collect();
        let fine = |value: &str| {
            matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
        };
        let bad: BTreeSet<String> = self
            .annotations()
            .filter(|(key, value)| known.iter().any(|known| known == key) && !fine(value))
            .map(|(key, value)| format!("{key}={}", go_quote(value)))
            .collect();
        if bad.is_empty() {
            return None;
        }
        let word = plural("annotation", "annotations", bad.len());
        let bad: Vec<String> = bad.into_iter().collect();
        broken("seccompProfile", format!("forbidden {word} {}", bad.join(", ")))
    }

    /// Whether the pod, and which containers, set a forbidden type; and the types.
    fn bad_seccomp(&self) -> (bool, Vec<&str>, BTreeSet<String>) {
        let mut kinds = BTreeSet::new();
        let mut bad = |context: &Value| {
            let Some(profile) = set(context, "seccompProfile") else { return false };
            let kind = text(profile, "/type");
            let wrong = !matches!(kind, "RuntimeDefault" | "Localhost");
            if wrong {
                kinds.insert(kind.to_owned());
            }
            wrong
        };
        let pod = bad(context(self.spec));
        let names = self.those(|container| bad(context(container)));
        (pod, names, kinds)
    }

    fn sysctls(&self) -> Broken {
        let list = context(self.spec).get("sysctls").and_then(Value::as_array).into_iter().flatten();
        let fine = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && self.minor >= *since);
        let bad: Vec<&str> = list.map(|sysctl| text(sysctl, "/name")).filter(|name| !fine(name)).collect();
        if bad.is_empty() { None } else { broken("forbidden sysctls", bad.join(", ")) }
    }

    fn host_process(&self) -> Broken {
        let is = |context: &Value| context.pointer("/windowsOptions/hostProcess") == Some(&Value::Bool(true));
        let names = self.those(|container| is(context(container)));
        let who = setters(is(context(self.spec)), &names)?;
        broken("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
    }

    fn escalation(&self) -> Broken {
        if self.minor < 8 || (self.minor >= 25 && self.is_windows()) {
            return None;
        }
        let names = self.those(|container| context(container)["allowPrivilegeEscalation"] != false);
        if names.is_empty() {
            return None;
        }
        let detail =
            format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
        broken("allowPrivilegeEscalation != false", detail)
    }

    fn dropped_capabilities(&self) -> Broken {
        if self.minor >= 25 && self.is_windows() {
            return None;
        }
        let capabilities = |container: &Value| context(container)["capabilities"].clone();
        let missing = self.those(|c| !strings(&capabilities(c), "drop").any(|name| name == "ALL"));
        let mut added = BTreeSet::new();
        let adding = self.those(|container| {
            let capabilities = capabilities(container);
            let bad: Vec<String> = strings(&capabilities, "add")
                .filter(|name| *name != "NET_BIND_SERVICE")
                .map(str::to_owned)
                .collect();
            let any = !bad.is_empty();
            added.extend(bad);
            any
        });
        let mut details = Vec::new();
        if !missing.is_empty() {
            let list = containers(&missing);
            details.push(format!("{list} must set securityContext.capabilities.drop=[\"ALL\"]"));
        }
        if !adding.is_empty() {
            let list = containers(&adding);
            let added = quote(added);
            details.push(format!("{list} must not include {added} in securityContext.capabilities.add"));
        }
        if details.is_empty() { None } else { broken("unrestricted capabilities", details.join("; ")) }
    }

    fn volumes(&self) -> Broken {
        let bad = self.volumes_where(|volume| !VOLUMES.iter().any(|kind| set(volume, kind).is_some()));
        if bad.is_empty() {
            return None;
        }
        let kind = |volume: &&Value| {
            let mut keys = volume.as_object().into_iter().flatten();
            let kind =
                keys.find(|(key, value)| *key != "name" && !value.is_null()).map(|(key, _)| key.as_str());
            kind.unwrap_or("unknown").to_owned()
        };
        let kinds: BTreeSet<String> = bad.iter().map(kind).collect();
        let names: Vec<&str> = bad.iter().map(|volume| text(volume, "/name")).collect();
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            quote(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quote(kinds)
        );
        broken("restricted volume types", detail)
    }

    fn non_root(&self) -> Broken {
        const REASON: &str = "runAsNonRoot != true";
        if self.minor >= 35 && self.has_users_of_its_own() {
            return None;
        }
        let says = |context: &Value| set(context, "runAsNonRoot").and_then(Value::as_bool);
        let pod = says(context(self.spec));
        let explicit = self.those(|container| says(context(container)) == Some(false));
        if let Some(who) = setters(pod == Some(false), &explicit) {
            return broken(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
        }
        let silent = self.those(|container| says(context(container)).is_none());
        if silent.is_empty() || pod == Some(true) {
            return None;
        }
        broken(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent)))
    }

    fn root_user(&self) -> Broken {
        if self.minor >= 35 && self.has_users_of_its_own() {
            return None;
        }
        let root = |context: &Value| context.get("runAsUser").and_then(Value::as_i64) == Some(0);
        let names = self.those(|container| root(context(container)));
        let who = setters(root(context(self.spec)), &names)?;
        broken("runAsUser=0", format!("{who} must not set runAsUser=0"))
    }

    fn restricted_seccomp(&self) -> Broken {
        if self.minor >= 25 && self.is_windows() {
            return None;
        }
        let (pod, names, kinds) = self.bad_seccomp();
        if let Some(who) = setters(pod, &names) {
            let detail =
                format!("{who} must not set securityContext.seccompProfile.type to {}", quote(kinds));
            return broken("seccompProfile", detail);
        }
        let has = |context: &Value| set(context, "seccompProfile").is_some();
        let silent = self.those(|container| !has(context(container)));
        if silent.is_empty() || has(context(self.spec)) {
            return None;
        }
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&silent)
        );
        broken("seccompProfile", detail)
    }
}
