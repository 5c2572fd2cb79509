//! The use cases, one file or folder per noun.
