//! Bridge, addresses, service tables, DNS.
