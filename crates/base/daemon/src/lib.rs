//! What every long-running part shares.
