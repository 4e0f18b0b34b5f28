//! What Prometheus asks for.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

/// Kinds of requests.
pub(crate) const ROUTES: [&str; 8] =
    ["base", "manifest", "blob", "upload", "tags", "referrers", "admin", "other"];

/// Counters and gauges.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By route and first digit of the status.
    requests: [[AtomicU64; 6]; 8],
    /// Time in requests until the head of the answer, microseconds, by route.
    micros: [AtomicU64; 8],
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) connections: AtomicI64,
    pub(crate) collected: AtomicU64,
    pub(crate) collected_bytes: AtomicU64,
    pub(crate) unlinked: AtomicU64,
    pub(crate) collections: AtomicU64,
    pub(crate) packed: AtomicU64,
    pub(crate) packed_before: AtomicU64,
    pub(crate) packed_after: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) proxied: AtomicU64,
    pub(crate) proxy_failures: AtomicU64,
    pub(crate) replicated: AtomicU64,
    pub(crate) replication_failures: AtomicU64,
    pub(crate) webhooks: AtomicU64,
    pub(crate) webhook_failures: AtomicU64,
}

impl Metrics {
    pub(crate) fn request(&self, route: usize, status: u16, micros: u64) {
        self.requests[route][usize::from(status / 100).min(5)].fetch_add(1, Relaxed);
        self.micros[route].fetch_add(micros, Relaxed);
    }

    /// The text format; `gauges` are computed by the caller.
    pub(crate) fn text(&self, gauges: &[(&str, &str, u64)]) -> String {
        let mut out = String::from(
            "# HELP sampan_registry_requests_total Requests by kind and class of status.\n# TYPE sampan_registry_requests_total counter\n",
        );
        for (route, counts) in ROUTES.iter().zip(&self.requests) {
            for (class, count) in counts.iter().enumerate() {
                let count = count.load(Relaxed);
                if count > 0 {
                    let _ = writeln!(
                        out,
                        "sampan_registry_requests_total{{route=\"{route}\",status=\"{class}xx\"}} {count}"
                    );
                }
            }
        }
        out.push_str("# HELP sampan_registry_request_seconds_total Time until the head of the answer.\n# TYPE sampan_registry_request_seconds_total counter\n");
        for (route, micros) in ROUTES.iter().zip(&self.micros) {
            let seconds = micros.load(Relaxed) as f64 / 1e6;
            let _ = writeln!(out, "sampan_registry_request_seconds_total{{route=\"{route}\"}} {seconds}");
        }
        let counters = [
            ("received_bytes_total", "Bytes of bodies received.", &self.received),
            ("sent_bytes_total", "Bytes of blobs and manifests sent.", &self.sent),
            ("gc_runs_total", "Collections that ended.", &self.collections),
            ("gc_contents_total", "Contents collected.", &self.collected),
            ("gc_bytes_total", "Bytes of contents collected.", &self.collected_bytes),
            ("gc_links_total", "Blobs removed from repositories that nothing there needed.", &self.unlinked),
            ("packed_contents_total", "Contents cut into shared chunks.", &self.packed),
            ("packed_before_bytes_total", "Bytes they had before.", &self.packed_before),
            ("packed_after_bytes_total", "Bytes that were written for them.", &self.packed_after),
            ("damaged_contents_total", "Contents found damaged.", &self.damaged),
            ("proxied_total", "Manifests and blobs fetched from upstreams.", &self.proxied),
            ("proxy_failures_total", "Upstream requests that failed.", &self.proxy_failures),
            ("replicated_total", "Images copied by rules.", &self.replicated),
            ("replication_failures_total", "Copies that failed.", &self.replication_failures),
            ("webhooks_total", "Webhook deliveries.", &self.webhooks),
            ("webhook_failures_total", "Webhook deliveries given up.", &self.webhook_failures),
        ];
        for (name, help, value) in counters {
            let value = value.load(Relaxed);
            let _ = writeln!(
                out,
                "# HELP sampan_registry_{name} {help}\n# TYPE sampan_registry_{name} counter\nsampan_registry_{name} {value}"
            );
        }
        let connections = u64::try_from(self.connections.load(Relaxed)).unwrap_or(0);
        for (name, help, value) in gauges.iter().chain(&[("connections", "Open connections.", connections)]) {
            let _ = writeln!(
                out,
                "# HELP sampan_registry_{name} {help}\n# TYPE sampan_registry_{name} gauge\nsampan_registry_{name} {value}"
            );
        }
        out
    }
}
