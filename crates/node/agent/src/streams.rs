//! Interactive streams of the kubelet API: WebSocket and SPDY/3.1 framing, and the sessions they carry.
//!
//! Layers, bottom up: [`websocket`] and [`spdy`] frame bytes; [`tunnel`] makes a byte stream of a WebSocket
//! (SPDY inside WebSocket); [`remote`] turns either into the five channels of `exec` and `attach`.

pub mod remote;
pub mod spdy;
pub mod tunnel;
pub mod websocket;

/// Why a stream ended badly.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection failed or went away.
    #[error("stream connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The peer broke the protocol.
    #[error("stream protocol violation: {0}")]
    Protocol(&'static str),
    /// The peer asked for more than we allow.
    #[error("stream limit exceeded: {0}")]
    Limit(&'static str),
    /// The stream or its connection is closed.
    #[error("stream is closed")]
    Closed,
}
