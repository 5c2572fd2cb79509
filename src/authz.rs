//! Who may do what: one table, pure.
