//! Reconcilers that carry plans out, through the API only.
