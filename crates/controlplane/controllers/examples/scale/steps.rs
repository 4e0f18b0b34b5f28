//! Work for a cluster, step by step, and what each step takes.
//!
//! `fill:N` makes N pods that wait for a node; `bound:N` waits until so many have one, and `ready:N` until so many run
//! (with `kick:PID` before it, the controllers of `serve --controllers later` begin then). `deployment:N`, `rollout` and
//! `down` bring N replicas behind a Service up, replace and remove them. `drain:N` evicts every pod from N nodes, and
//! `lost:N` waits until N nodes are known to be lost.
//! `objects:N` makes N ConfigMaps with one owner and `collect` deletes that. `namespace:N` makes a namespace with N
//! objects, and `finalize` deletes it. `idle:SECONDS` waits.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::client::{Api, JSON, MERGE};
use crate::cost::{Meter, Process, processes};
use crate::{Outcome, Words};

/// Requests at once.
const AT_ONCE: usize = 128;
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// The same, where a look makes the server send every node.
const LONG_LOOK: Duration = Duration::from_millis(500);
const NAMESPACE: &str = "scale";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/scale/deployments/web";

/// What is worked on.
struct Run {
    api: Api,
    processes: Vec<Process>,
    patience: Duration,
    prefix: String,
}

/// Runs the steps and prints each as a line of JSON.
pub async fn run(words: &Words) -> Outcome<()> {
    let run = Run {
        api: Api::connect(words, words.number("connections", 4)?).await?,
        processes: processes(words.options.get("pids").map_or("", String::as_str))?,
        patience: Duration::from_secs(words.number("patience", 600)?),
        prefix: words.options.get("prefix").map_or("hollow-", String::as_str).to_owned(),
    };
    run.space(NAMESPACE).await?;
    for step in &words.rest[1..] {
        let (name, argument) = step.split_once(':').unwrap_or((step, ""));
        let number = if argument.is_empty() {
            0
        } else {
            argument.parse::<usize>().map_err(|_| format!("{step}?"))?
        };
        let meter = Meter::start(&run.processes);
        let more = run.step(name, number).await.map_err(|error| format!("{step}: {error}"))?;
        let mut told = meter.tell();
        told["step"] = name.into();
        told["count"] = number.into();
        told["more"] = more;
        println!("{told}");
    }
    Ok(())
}

impl Run {
    async fn step(&self, name: &str, number: usize) -> Outcome<Value> {
        match name {
            "fill" => self.fill(number).await,
            "kick" => kick(number),
            "bound" => self.bound(number).await,
            "ready" => self.running(number).await,
            "deployment" => self.deployment(number).await,
            "rollout" => self.rollout().await,
            "down" => self.down().await,
            "drain" => self.drain(number).await,
            "lost" => self.lost(number).await,
            "objects" => self.objects(number).await,
            "collect" => self.collect().await,
            "namespace" => self.namespace(number).await,
            "finalize" => self.finalize().await,
            "idle" => {
                tokio::time::sleep(Duration::from_secs(number as u64)).await;
                Ok(Value::Null)
            }
            _ => Err("no such step".into()),
        }
    }

    async fn make(&self, path: &str, object: &Value) -> Outcome<Value> {
        let (code, body) = self.api.send("POST", path, JSON, object.to_string()).await?;
        let answer: Value = serde_json::from_slice(&body)?;
        if code.as_u16() != 201 && code.as_u16() != 409 {
            return Err(format!("POST {path}: {code} {}", answer["message"]).into());
        }
        Ok(answer)
    }

    /// A namespace, whose default ServiceAccount this makes itself where no controller does.
    async fn space(&self, name: &str) -> Outcome<()> {
        self.make("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
        let account = json!({"metadata": {"name": "default"}});
        self.make(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await.map(drop)
    }

    async fn many<F, Fut>(&self, count: usize, make: F) -> Outcome<()>
    where
        F: FnMut(usize) -> Fut,
        Fut: Future<Output = Outcome<Value>>,
    {
        stream::iter((0..count).map(make)).buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await
    }

    /// Waits until something is so.
    async fn until<T, Fut: Future<Output = Outcome<Option<T>>>>(
        &self,
        what: &str,
        look: impl FnMut() -> Fut,
    ) -> Outcome<T> {
        self.until_every(LOOK, what, look).await
    }

    async fn until_every<T, Fut: Future<Output = Outcome<Option<T>>>>(
        &self,
        pause: Duration,
        what: &str,
        mut look: impl FnMut() -> Fut,
    ) -> Outcome<T> {
        let started = Instant::now();
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if started.elapsed() > self.patience {
                return Err(format!("waited too long for {what}").into());
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// How many objects a list has, without reading them.
    async fn count(&self, path: &str, query: &str) -> Outcome<usize> {
        let list = self.api.get(&format!("{path}?limit=1&{query}")).await?;
        let here = list["items"].as_array().map_or(0, Vec::len);
        let more = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
        Ok(here + usize::try_from(more)?)
    }

    /// Waits until a field selector finds so many pods. They are counted as a watch tells of them: looking at all of them
    /// again and again would cost the server more than what is measured.
    async fn heard(&self, what: &str, fields: &str, count: usize) -> Outcome<()> {
        let deadline = tokio::time::Instant::now() + self.patience;
        let base = format!("/api/v1/namespaces/{NAMESPACE}/pods?watch=1&fieldSelector={fields}");
        let (mut found, mut version) = (0_usize, String::new());
        while found < count {
            let mut lines = self.api.watch(&format!("{base}&resourceVersion={version}")).await?;
            while found < count {
                let next = tokio::time::timeout_at(deadline, lines.next()).await;
                let next = next.map_err(|_| format!("waited too long for {what}: {found} of {count}"))?;
                // A watch that fell behind is cut off; the next one goes on after the last event that was heard.
                let Some(line) = next? else { break };
                match () {
                    () if line.starts_with(b"{\"type\":\"ADDED\"") => found += 1,
                    () if line.starts_with(b"{\"type\":\"DELETED\"") => found = found.saturating_sub(1),
                    () if line.starts_with(b"{\"type\":\"ERROR\"") => {
                        return Err(format!("watching for {what}: {}", String::from_utf8_lossy(&line)).into());
                    }
                    () => {}
                }
                if let Some(at) = version_of(&line) {
                    version = at.to_owned();
                }
            }
        }
        Ok(())
    }

    async fn fill(&self, count: usize) -> Outcome<Value> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        self.many(count, |index| {
            let path = path.clone();
            async move { self.make(&path, &pod(&format!("pod-{index}"))).await }
        })
        .await?;
        Ok(Value::Null)
    }

    async fn bound(&self, count: usize) -> Outcome<Value> {
        self.heard("pods to be bound", "spec.nodeName%21%3D", count).await?;
        Ok(Value::Null)
    }

    async fn running(&self, count: usize) -> Outcome<Value> {
        self.heard("pods to run", "status.phase%3DRunning", count).await?;
        Ok(Value::Null)
    }

    async fn deployment(&self, count: usize) -> Outcome<Value> {
        let service = json!({
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        self.make(&format!("/api/v1/namespaces/{NAMESPACE}/services"), &service).await?;
        let template = pod("web");
        let deployment = json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": count, "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": template["spec"]}},
        });
        self.make(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments"), &deployment).await?;
        self.available(count).await?;
        self.served(count).await
    }

    async fn available(&self, count: usize) -> Outcome<()> {
        self.until("the Deployment to be available", || async {
            let deployment = self.api.get(DEPLOYMENT).await?;
            let status = &deployment["status"];
            let is = |field: &str| status[field].as_u64().unwrap_or(0) == count as u64;
            let current = status["observedGeneration"] == deployment["metadata"]["generation"];
            let done = current && is("availableReplicas") && is("updatedReplicas") && is("replicas");
            Ok(done.then_some(()))
        })
        .await
    }

    /// Waits until slices show so many ready endpoints; tells how many slices there are, and how often they were written.
    async fn served(&self, count: usize) -> Outcome<Value> {
        let started = Instant::now();
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
        let (slices, writes) = self
            .until("endpoints", || async {
                let list = self.api.get(&path).await?;
                let slices = list["items"].as_array().cloned().unwrap_or_default();
                let ready = slices.iter().flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
                let ready = ready.filter(|e| e["conditions"]["ready"] == true).count();
                let writes: u64 = slices.iter().filter_map(|s| s["metadata"]["generation"].as_u64()).sum();
                Ok((ready == count).then_some((slices.len(), writes)))
            })
            .await?;
        Ok(json!({"slices": slices, "writes": writes, "endpoints after": started.elapsed().as_secs_f64()}))
    }

    async fn rollout(&self) -> Outcome<Value> {
        let before = self.api.get(DEPLOYMENT).await?;
        let count = before["spec"]["replicas"].as_u64().unwrap_or(0);
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"round": stamp()}}}}});
        self.patch(DEPLOYMENT, &patch).await?;
        self.available(usize::try_from(count)?).await?;
        self.served(usize::try_from(count)?).await
    }

    async fn down(&self) -> Outcome<Value> {
        self.patch(DEPLOYMENT, &json!({"spec": {"replicas": 0}})).await?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        self.until("pods to be gone", || async {
            Ok((self.count(&path, "labelSelector=app%3Dweb").await? == 0).then_some(()))
        })
        .await?;
        let (code, _) = self.api.send("DELETE", DEPLOYMENT, JSON, "").await?;
        Ok(json!({"deleted": code.as_u16()}))
    }

    async fn patch(&self, path: &str, patch: &Value) -> Outcome<()> {
        let (code, body) = self.api.send("PATCH", path, MERGE, patch.to_string()).await?;
        if code.is_success() {
            Ok(())
        } else {
            Err(format!("PATCH {path}: {code} {}", String::from_utf8_lossy(&body)).into())
        }
    }

    /// Waits until so many nodes are marked as lost.
    async fn lost(&self, nodes: usize) -> Outcome<Value> {
        self.until_every(LONG_LOOK, "nodes to be lost", || async {
            let list = self.api.get("/api/v1/nodes").await?;
            let all = list["items"].as_array().into_iter().flatten();
            let unknown =
                |condition: &Value| condition["type"] == "Ready" && condition["status"] == "Unknown";
            let lost =
                all.filter(|n| n["status"]["conditions"].as_array().into_iter().flatten().any(unknown));
            Ok((lost.count() == nodes).then_some(Value::Null))
        })
        .await
    }

    /// Cordons nodes and evicts what runs there, as `kubectl drain` does; waits until all is available elsewhere.
    async fn drain(&self, nodes: usize) -> Outcome<Value> {
        let deployment = self.api.get(DEPLOYMENT).await?;
        let replicas = usize::try_from(deployment["spec"]["replicas"].as_u64().unwrap_or(0))?;
        self.many(nodes, |index| async move {
            let path = format!("/api/v1/nodes/{}{index}", self.prefix);
            self.patch(&path, &json!({"spec": {"unschedulable": true}})).await.map(|()| Value::Null)
        })
        .await?;
        let evicted = std::sync::atomic::AtomicUsize::new(0);
        let counter = &evicted;
        self.many(nodes, |index| async move {
            let node = format!("{}{index}", self.prefix);
            let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
            // Some may come while the scheduler has not heard of it yet.
            self.until_every(LONG_LOOK, "the node to be empty", || async {
                let pods = self.api.get(&path).await?;
                let pods = pods["items"].as_array().cloned().unwrap_or_default();
                for pod in pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
                    let meta = &pod["metadata"];
                    let (namespace, name) = (meta["namespace"].as_str().unwrap_or(""), meta["name"].as_str().unwrap_or(""));
                    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}});
                    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
                    match self.api.send("POST", &path, JSON, eviction.to_string()).await?.0.as_u16() {
                        201 => drop(counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
                        // It went by itself, or a budget says: later.
                        404 | 429 => {}
                        code => return Err(format!("POST {path}: {code}").into()),
                    }
                }
                Ok(pods.is_empty().then_some(Value::Null))
            })
            .await
        })
        .await?;
        self.available(replicas).await?;
        self.many(nodes, |index| async move {
            let path = format!("/api/v1/nodes/{}{index}", self.prefix);
            self.patch(&path, &json!({"spec": {"unschedulable": null}})).await.map(|()| Value::Null)
        })
        .await?;
        Ok(json!({"evicted": evicted.into_inner()}))
    }

    async fn objects(&self, count: usize) -> Outcome<Value> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        let owner = self.make(&path, &json!({"metadata": {"name": "owner"}})).await?;
        let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}]);
        self.many(count, |index| {
            let (path, reference) = (path.clone(), reference.clone());
            async move {
                let meta = json!({"name": format!("owned-{index}"), "labels": {"owned": "yes"}, "ownerReferences": reference});
                self.make(&path, &json!({"metadata": meta, "data": {"key": "value"}})).await
            }
        })
        .await?;
        Ok(Value::Null)
    }

    async fn collect(&self) -> Outcome<Value> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        self.api.send("DELETE", &format!("{path}/owner?propagationPolicy=Background"), JSON, "").await?;
        self.until("what was owned to be gone", || async {
            Ok((self.count(&path, "labelSelector=owned%3Dyes").await? == 0).then_some(Value::Null))
        })
        .await
    }

    async fn namespace(&self, count: usize) -> Outcome<Value> {
        self.space("doomed").await?;
        let kinds = ["configmaps", "secrets", "services", "pods"];
        self.many(count, |index| async move {
            let name = format!("object-{index}");
            // Half of them ConfigMaps, a quarter Secrets, few Services, the rest pods.
            let kind = kinds[[0, 0, 1, 0, 0, 1, 3, 3, 3, 2][index % 10]];
            let object = match kind {
                "pods" => pod(&name),
                "services" => json!({"metadata": {"name": name}, "spec": {"clusterIP": "None", "selector": {"app": name}, "ports": [{"port": 80}]}}),
                _ => json!({"metadata": {"name": name}}),
            };
            self.make(&format!("/api/v1/namespaces/doomed/{kind}"), &object).await
        })
        .await?;
        Ok(Value::Null)
    }

    async fn finalize(&self) -> Outcome<Value> {
        self.api.send("DELETE", "/api/v1/namespaces/doomed", JSON, "").await?;
        self.until("the namespace to be gone", || async {
            let found = self.api.get("/api/v1/namespaces/doomed").await?;
            Ok(found.is_null().then_some(Value::Null))
        })
        .await
    }
}

/// A pod as small as they come.
pub fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "filler"}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/web:1", "ports": [{"containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}], "terminationGracePeriodSeconds": 1},
    })
}

/// The resourceVersion of the object in a line of a watch.
pub fn version_of(line: &[u8]) -> Option<&str> {
    let mark = b"\"resourceVersion\":\"";
    let from = line.windows(mark.len()).position(|window| window == mark)? + mark.len();
    let to = from + line[from..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&line[from..to]).ok()
}

fn kick(pid: usize) -> Outcome<Value> {
    let told = std::process::Command::new("kill").args(["-USR1", &pid.to_string()]).status()?;
    if told.success() { Ok(Value::Null) } else { Err("no such process".into()) }
}

fn stamp() -> String {
    sampan_daemon::clock::rfc3339_micro(sampan_daemon::clock::now())
}
