//! Kubernetes REST over the store.
