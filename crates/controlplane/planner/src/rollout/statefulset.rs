//! statefulset
