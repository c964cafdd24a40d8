//! The preload library: System V IPC calls of unmodified programs.
