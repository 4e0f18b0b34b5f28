//! Pods made by a client within the server's process, as scheduler_perf makes them: no TLS, and nobody else's processor time.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use sampan_apiserver::{LocalService, UserInfo};
use serde_json::json;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::serve::plane::Plane;
use crate::steps::pod;
use crate::{Outcome, Words};

const NAMESPACE: &str = "inside";
/// Tasks that make pods.
const LANES: usize = 8;

/// A client, and how many requests it has under way.
#[derive(Clone)]
pub struct Client {
    service: LocalService,
    at_once: usize,
}

impl Client {
    pub fn new(plane: &Plane, words: &Words) -> Outcome<Self> {
        let service = plane.api.client(UserInfo::admin("administrator"));
        Ok(Self { service, at_once: words.number("at-once", 128)? })
    }

    async fn post(&self, path: &str, object: &serde_json::Value) -> Outcome<()> {
        let request = Request::post(path).header("content-type", "application/json");
        let response =
            self.service.clone().oneshot(request.body(Full::new(Bytes::from(object.to_string())))?).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::CONFLICT => Ok(()),
            code => Err(format!("POST {path}: {code}").into()),
        }
    }

    /// Makes so many pods and hears of each when it is bound.
    pub async fn place(&self, count: usize) -> Outcome<()> {
        self.post("/api/v1/namespaces", &json!({"metadata": {"name": NAMESPACE}})).await?;
        let account = json!({"metadata": {"name": "default"}});
        self.post(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), &account).await?;
        let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        // What a request takes is done by the task that asks: several ask, as several connections would be served.
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let (client, pods) = (self.clone(), pods.clone());
            lanes.spawn(async move { client.make(&pods, (lane..count).step_by(LANES)).await });
        }
        let made = async {
            while let Some(made) = lanes.join_next().await {
                made??;
            }
            Outcome::Ok(())
        };
        tokio::try_join!(self.bound(&pods, count), made).map(drop)
    }

    async fn make(&self, pods: &str, which: impl Iterator<Item = usize>) -> Outcome<()> {
        let make = |index: usize| async move { self.post(pods, &pod(&format!("pod-{index}"))).await };
        let made = stream::iter(which.map(make)).buffer_unordered(self.at_once.div_ceil(LANES));
        made.try_for_each(|()| async { Ok(()) }).await
    }

    /// Reads of a watch until so many have been bound.
    async fn bound(&self, pods: &str, count: usize) -> Outcome<()> {
        let (mut found, mut version) = (0_usize, "0".to_owned());
        while found < count {
            let uri = format!("{pods}?watch=1&fieldSelector=spec.nodeName%21%3D&resourceVersion={version}");
            let mut watch =
                self.service.clone().oneshot(Request::get(uri).body(Full::new(Bytes::new()))?).await?;
            // A watch that fell behind is cut off; the next one goes on after the last event that was heard.
            let mut rest = Vec::new();
            while let Some(frame) = watch.body_mut().frame().await {
                rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
                let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
                for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    if line.starts_with(b"{\"type\":\"ERROR\"") {
                        return Err(String::from_utf8_lossy(line).into());
                    }
                    found += usize::from(line.starts_with(b"{\"type\":\"ADDED\""));
                    version = crate::steps::version_of(line).unwrap_or(&version).to_owned();
                }
                rest.drain(..whole);
                if found >= count {
                    break;
                }
            }
        }
        Ok(())
    }
}
