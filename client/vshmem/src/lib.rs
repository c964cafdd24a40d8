//! System V shared memory, semaphores and message queues between virtual machines, for Rust programs.
