//! Kubernetes objects: kinds, schema facts, defaults, validation, selectors, patches, tables. No I/O.
