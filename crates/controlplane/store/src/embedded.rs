//! The engine inside the binary.
