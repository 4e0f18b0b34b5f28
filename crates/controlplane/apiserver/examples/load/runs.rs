//! The runs, one after another.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{Load, Outcome, client::Connection, cost::Meter};

const SPACE: &str = "load";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
/// Times that a list is read.
const LISTS: usize = 20;
/// Objects made while watches are measured.
const WATCHED: usize = 200;

fn pods() -> String {
    format!("/api/v1/namespaces/{SPACE}/pods")
}

fn maps() -> String {
    format!("/api/v1/namespaces/{SPACE}/configmaps")
}

/// A pod as people write them.
fn pod(index: usize) -> Bytes {
    let env: Vec<_> =
        (0..6).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{n}")})).collect();
    let container = json!({
        "name": "main", "image": "registry.example.com/team/app:1.2.3", "args": ["serve", "--port=8080"],
        "ports": [{"containerPort": 8080, "name": "http"}], "env": env,
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
    });
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("pod-{index:06}"),
            "labels": {"app": "load", "tier": format!("tier-{}", index % 7), "index": index.to_string()},
            "annotations": {"example.com/checksum": "0123456789abcdef0123456789abcdef0123456789abcdef"},
        },
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"example.com/nowhere": "true"}},
    });
    body.to_string().into()
}

/// Runs everything, or what was named.
pub async fn all(load: &Arc<Load>) -> Outcome<()> {
    prepare(load).await?;
    let only: Option<Vec<&str>> = load.only.as_deref().map(|only| only.split(',').collect());
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.contains(&name));
    if wanted("create") {
        spread(load, "create pods", |mut at, index| async move {
            let answer = at.send("POST", &pods(), JSON, pod(index)).await?;
            Ok((at, answer, [201, 409]))
        })
        .await?;
    }
    if wanted("get") {
        spread(load, "get", |mut at, index| async move {
            let path = format!("{}/pod-{index:06}", pods());
            let answer = at.send("GET", &path, "", Bytes::new()).await?;
            Ok((at, answer, [200, 200]))
        })
        .await?;
    }
    if wanted("list") {
        list(load, "list").await?;
    }
    if wanted("patch") {
        spread(load, "merge patch", |mut at, index| async move {
            let path = format!("{}/pod-{index:06}", pods());
            let body =
                json!({"metadata": {"annotations": {"example.com/at": index.to_string()}}}).to_string();
            let answer = at.send("PATCH", &path, MERGE, body.into()).await?;
            Ok((at, answer, [200, 200]))
        })
        .await?;
    }
    if wanted("watch") {
        watch(load).await?;
    }
    if wanted("crowd") {
        crowd(load).await?;
    }
    if wanted("delete") && !load.keep {
        spread(load, "delete", |mut at, index| async move {
            let path = format!("{}/pod-{index:06}?gracePeriodSeconds=0", pods());
            let answer = at.send("DELETE", &path, "", Bytes::new()).await?;
            Ok((at, answer, [200, 404]))
        })
        .await?;
    }
    if !load.keep {
        let mut at = load.connect().await?;
        at.send("DELETE", &maps(), "", Bytes::new()).await?;
    }
    Ok(())
}

/// The namespace and its default account, where no controller makes it.
async fn prepare(load: &Load) -> Outcome<()> {
    let mut at = load.connect().await?;
    let named = |kind: &str, name: &str| {
        Bytes::from(json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}).to_string())
    };
    let steps = [
        ("/api/v1/namespaces".to_owned(), named("Namespace", SPACE)),
        (format!("/api/v1/namespaces/{SPACE}/serviceaccounts"), named("ServiceAccount", "default")),
    ];
    for (path, body) in steps {
        let (code, answer) = at.send("POST", &path, JSON, body).await?;
        if !matches!(code.as_u16(), 201 | 409) {
            return Err(format!("{path}: {code} {}", String::from_utf8_lossy(&answer)).into());
        }
    }
    Ok(())
}

/// Sends a request for each index, over all connections, each waiting for its answer.
async fn spread<F, R>(load: &Arc<Load>, name: &str, request: F) -> Outcome<()>
where
    F: Fn(Connection, usize) -> R + Clone + Send + 'static,
    R: Future<Output = Outcome<(Connection, (http::StatusCode, Bytes), [u16; 2])>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        connections.push(load.connect().await?);
    }
    let meter = Meter::start(load)?;
    let mut tasks = JoinSet::new();
    for mut at in connections {
        let (next, request, count) = (next.clone(), request.clone(), load.count);
        tasks.spawn(async move {
            let mut times = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(times);
                }
                let started = Instant::now();
                let (back, (code, answer), good) = request(at, index).await?;
                at = back;
                if !good.contains(&code.as_u16()) {
                    return Err(format!("{code}: {}", String::from_utf8_lossy(&answer)).into());
                }
                times.push(started.elapsed());
            }
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    meter.tell(load, name, times)
}

async fn list(load: &Load, name: &str) -> Outcome<()> {
    let mut at = load.connect().await?;
    let meter = Meter::start(load)?;
    let (mut times, mut size) = (Vec::new(), 0);
    for _ in 0..LISTS {
        let started = Instant::now();
        let (code, answer) = at.send("GET", &pods(), "", Bytes::new()).await?;
        if code != 200 {
            return Err(format!("list: {code}").into());
        }
        size = answer.len();
        times.push(started.elapsed());
    }
    meter.tell(load, &format!("{name} ({:.1} MB)", size as f64 / 1e6), times)
}

/// Opens a watch from now on.
async fn follow(load: &Load) -> Outcome<(Connection, Incoming)> {
    let mut at = load.connect().await?;
    let (_, answer) = at.send("GET", &format!("{}?limit=1", maps()), "", Bytes::new()).await?;
    let list: serde_json::Value = serde_json::from_slice(&answer)?;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let path = format!("{}?watch=1&resourceVersion={revision}&timeoutSeconds=600", maps());
    let (code, body) = at.open("GET", &path, "", Bytes::new()).await?;
    if code != 200 {
        return Err(format!("watch: {code}").into());
    }
    Ok((at, body))
}

/// How many whole lines a frame ends.
async fn lines(body: &mut Incoming) -> Outcome<usize> {
    let frame = body.frame().await.ok_or("a watch ended")??;
    Ok(frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count()))
}

fn map(name: &str) -> Bytes {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
        .to_string()
        .into()
}

/// From the sending of a POST to the event, one at a time.
async fn watch(load: &Load) -> Outcome<()> {
    let (_open, mut body) = follow(load).await?;
    let mut at = load.connect().await?;
    let mut times = Vec::new();
    let meter = Meter::start(load)?;
    for index in 0..WATCHED {
        let started = Instant::now();
        let (path, made) = (maps(), map(&format!("one-{index}-{}", std::process::id())));
        let heard = async {
            while lines(&mut body).await? == 0 {}
            Ok(started.elapsed())
        };
        let (answer, heard) = tokio::join!(at.send("POST", &path, JSON, made), heard);
        let heard: Outcome<Duration> = heard;
        if answer?.0 != 201 {
            return Err("an object could not be made".into());
        }
        times.push(heard?);
    }
    meter.tell(load, "watch, POST to event", times)
}

/// Many watchers of one kind: all of them hear of everything.
async fn crowd(load: &Arc<Load>) -> Outcome<()> {
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut watchers = JoinSet::new();
    for _ in 0..load.watchers {
        let (open, mut body) = follow(load).await?;
        let tell = tell.clone();
        watchers.spawn(async move {
            let mut heard = 0;
            while heard < WATCHED {
                for _ in 0..lines(&mut body).await? {
                    let _ = tell.send(Instant::now());
                    heard += 1;
                }
            }
            drop(open);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    drop(tell);
    let mut at = load.connect().await?;
    let (mut sent, mut times) = (Vec::new(), Vec::new());
    let meter = Meter::start(load)?;
    for index in 0..WATCHED {
        sent.push(Instant::now());
        let name = format!("many-{index}-{}", std::process::id());
        if at.send("POST", &maps(), JSON, map(&name)).await?.0 != 201 {
            return Err("an object could not be made".into());
        }
        // All of them hear of one before the next is made.
        for _ in 0..load.watchers {
            let heard = tokio::time::timeout(Duration::from_secs(60), told.recv()).await?;
            let heard = heard.ok_or("a watcher was ended")?;
            times.push(heard.saturating_duration_since(sent[index]));
        }
    }
    meter.tell(load, &format!("{} watchers, an event", load.watchers), times)?;
    while let Some(done) = watchers.join_next().await {
        done??;
    }
    Ok(())
}
