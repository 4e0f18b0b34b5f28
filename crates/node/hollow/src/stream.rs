//! The pods of one or all nodes, as a list and then a watch tell of them, for ever.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use futures::{Stream, stream};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use sampan_daemon::Backoff;

use crate::{
    fleet::Fleet,
    link::{Ask, Failure},
    pod::{self, Line, Seen, Shapes},
};

/// Pods in one page of the list.
const PAGE: usize = 2000;
/// The longest line of a watch; a server that sends more is not believed.
const LINE: usize = 8 << 20;
/// The largest page of the list.
const LIST: usize = 256 << 20;

/// What came.
#[derive(Debug)]
pub(crate) enum Told {
    /// A page of the list: the first one or a later one, perhaps the last one.
    Page { pods: Vec<Seen>, first: bool, last: bool },
    /// A pod is so now.
    Pod(Seen),
    /// The pod of this uid is gone.
    Gone(Box<str>),
    /// A request failed and will be made again.
    Failed,
}

enum State {
    List { more: String },
    Watch { version: String },
    Open { version: String, body: Incoming, rest: BytesMut },
}

struct Pods {
    fleet: Arc<Fleet>,
    /// The node whose pods they are; none: those of all nodes, over the first connection.
    node: Option<usize>,
    state: State,
    shapes: Shapes,
    backoff: Backoff,
    pause: bool,
}

/// The pods of a node, or those of all nodes.
pub(crate) fn pods(fleet: Arc<Fleet>, node: Option<usize>) -> impl Stream<Item = Told> {
    let pods = Pods {
        fleet,
        node,
        state: State::List { more: String::new() },
        shapes: Shapes::default(),
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
        pause: false,
    };
    stream::unfold(pods, |mut pods| async move {
        let told = pods.next().await;
        Some((told, pods))
    })
}

impl Pods {
    async fn next(&mut self) -> Told {
        if std::mem::take(&mut self.pause) {
            tokio::time::sleep(self.backoff.next_delay()).await;
        }
        loop {
            match self.step().await {
                Ok(Some(told)) => {
                    self.backoff.reset();
                    return told;
                }
                Ok(None) => {}
                Err(failure) => {
                    tracing::debug!(node = self.node, "watching pods: {failure}");
                    if matches!(failure.code(), 400 | 410) {
                        self.state = State::List { more: String::new() };
                    } else if let State::Open { version, .. } = &mut self.state {
                        self.state = State::Watch { version: std::mem::take(version) };
                    }
                    self.pause = true;
                    return Told::Failed;
                }
            }
        }
    }

    async fn get(&self, query: &str) -> Result<Incoming, Failure> {
        let node = self.node.map_or("", |node| self.fleet.nodes[node].name.as_str());
        let fields = if node.is_empty() {
            "spec.nodeName%21%3D".to_owned()
        } else {
            format!("spec.nodeName%3D{node}")
        };
        let path = format!("/api/v1/pods?fieldSelector={fields}&{query}");
        let ask = Ask { method: Method::GET, path: &path, kind: "", body: Vec::new(), node };
        self.fleet.link(self.node.unwrap_or(0)).open(ask).await
    }

    async fn step(&mut self) -> Result<Option<Told>, Failure> {
        match &mut self.state {
            State::List { more } => {
                let more = more.clone();
                self.list(&more).await.map(Some)
            }
            State::Watch { version } => {
                let version = version.clone();
                let query =
                    format!("watch=1&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion={version}");
                let body = self.get(&query).await?;
                self.state = State::Open { version, body, rest: BytesMut::new() };
                Ok(None)
            }
            State::Open { version, body, rest } => {
                if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let bytes = rest.split_to(end + 1);
                    let (line, new) = pod::line(&bytes, &mut self.shapes).map_err(|e| garbage(&e))?;
                    if let Line::Ended(code, why) = line {
                        return Err(Failure::Refused(
                            StatusCode::from_u16(code).unwrap_or(StatusCode::GONE),
                            why,
                        ));
                    }
                    *version = new;
                    return Ok(match line {
                        Line::Pod(seen) => Some(Told::Pod(seen)),
                        Line::Gone(uid) => Some(Told::Gone(uid)),
                        Line::Mark | Line::Ended(..) => None,
                    });
                }
                if rest.len() > LINE {
                    return Err(Failure::Transport("a line of the watch has no end".to_owned()));
                }
                match body.frame().await {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            rest.extend_from_slice(&data);
                        }
                    }
                    Some(Err(error)) => return Err(Failure::Transport(error.to_string())),
                    None => self.state = State::Watch { version: std::mem::take(version) },
                }
                Ok(None)
            }
        }
    }

    async fn list(&mut self, more: &str) -> Result<Told, Failure> {
        let body = self.get(&format!("limit={PAGE}&continue={}", escape(more))).await?;
        let read = Limited::new(body, LIST).collect().await;
        let bytes = read.map_err(|e| Failure::Transport(e.to_string()))?.to_bytes();
        let page = pod::page(&bytes, &mut self.shapes).map_err(|e| garbage(&e))?;
        let (first, last) = (more.is_empty(), page.more.is_empty());
        self.state =
            if last { State::Watch { version: page.version } } else { State::List { more: page.more } };
        Ok(Told::Page { pods: page.pods, first, last })
    }
}

fn garbage(error: &serde_json::Error) -> Failure {
    Failure::Transport(format!("an answer that is none: {error}"))
}

/// Percent-encoding of a continue token, which is base64.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").replace('&', "%26")
}
