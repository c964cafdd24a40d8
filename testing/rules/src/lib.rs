//! System V rules, each a test, run against the kernel and against Vshmem.
