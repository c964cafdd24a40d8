//! The only door to memory that a peer may write: a trait, the real mapping, a plain heap, a scribbler.
