//! The preload library: the System V IPC calls of an unmodified program, served by Vshmem.
//!
//! One file per call, each thin over [`vshmem_abi`]; a few more for what surrounds them:
//!
//! | module | what it holds |
//! |---|---|
//! | [`routes`] | which keys and ids are Vshmem's and which are the kernel's |
//! | [`kernel`] | the same calls, made to the kernel |
//! | [`syscall`] | `syscall(SYS_semop, …)` |
//! | [`signals`] | sigaction and signal, so that handlers wait until a section ends |
//! | [`files`] | `/proc/sysvipc/*` and `/proc/sys/kernel/{shmmax,sem,…}` as an unmodified `ipcs` reads them |
//! | [`limits`] | writing to `/proc/sys/kernel/{shmmax,sem,…}` |
//! | [`mappings`] | munmap and its like, where a segment is attached |
//! | [`identity`] | setuid and its family: the daemon must know who asks |
//! | [`clone`] | clone, unshare and setns: lists of what is to undo, IPC namespaces |
//! | [`wait`] | wait and its family: a child that was waited for has left nothing to undo |
//! | [`posix`] | POSIX semaphores and conditions that a program keeps in a segment, where the kernel cannot wait on it |
//! | [`exec`] | programs that this library will not be in are named when they are started |
//! | [`dlopen`] | plug-ins loaded with RTLD_DEEPBIND would not see this library |
//! | [`next`] | libc's own functions behind the ones replaced here |
//!
//! What it is not for: meaning. No tokio, no tracing: the library is in every process of a program.

mod clone;
mod dlopen;
mod exec;
mod files;
mod identity;
mod kernel;
mod limits;
mod mappings;
mod msgctl;
mod msgget;
mod msgrcv;
mod msgsnd;
mod next;
mod posix;
mod routes;
mod semctl;
mod semget;
mod semop;
mod semtimedop;
mod shmat;
mod shmctl;
mod shmdt;
mod shmget;
mod signals;
mod syscall;
mod wait;
