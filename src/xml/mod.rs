//! Text to model and back: a lossless tree for what Vapor edits, an escaping writer for what it authors.
