//! The back-end's registry: keys, ids, owners, modes, quotas, pool; a state machine without I/O.
