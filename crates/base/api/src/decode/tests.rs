//! Bodies as clients send them, good and bad.
