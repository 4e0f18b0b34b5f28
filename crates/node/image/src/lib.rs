//! Content store, pull, import, unpack, build.
