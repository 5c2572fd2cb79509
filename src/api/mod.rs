//! HTTP alone.
