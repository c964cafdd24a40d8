//! The commands, one file each.

pub(crate) mod announced;
pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod doctor_memory;
pub(crate) mod evaluation;
pub(crate) mod ftok;
pub(crate) mod ipcmk;
pub(crate) mod ipcrm;
pub(crate) mod ipcs;
pub(crate) mod join;
pub(crate) mod lsipc;
pub(crate) mod papers;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod share;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod vm;
pub(crate) mod vm_attach;
pub(crate) mod vm_flags;
