//! Pods as shared namespaces: shim, cgroups, mounts, exec, logs.
