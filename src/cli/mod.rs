//! The `vapor` client.
