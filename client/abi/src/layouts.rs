//! The kernel's structures on 64-bit processors, which are also libc's, and how to fill them.
//!
//! Linux: include/uapi/linux/{ipc,shm,sem,msg}.h and asm-generic/*buf.h.

#![allow(missing_docs)] // The fields are those of shmctl(2), semctl(2) and msgctl(2).

use vshmem_wire::{Info, Perm, Pid, Stat, StatBody};

/// `struct ipc_perm`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct IpcPerm {
    key: i32,
    pub uid: u32,
    pub gid: u32,
    cuid: u32,
    cgid: u32,
    pub mode: u32,
    seq: u16,
    unused: [u16; 3],
    reserved: [u64; 2],
}

impl From<&Perm> for IpcPerm {
    fn from(perm: &Perm) -> Self {
        IpcPerm {
            key: perm.key,
            uid: perm.uid,
            gid: perm.gid,
            cuid: perm.cuid,
            cgid: perm.cgid,
            mode: perm.mode.into(),
            seq: perm.seq,
            ..IpcPerm::default()
        }
    }
}

/// `struct shmid_ds`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct ShmidDs {
    pub perm: IpcPerm,
    pub segsz: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: i32,
    pub lpid: i32,
    pub nattch: u64,
    reserved: [u64; 2],
}

/// `struct semid_ds`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct SemidDs {
    pub perm: IpcPerm,
    pub otime: i64,
    #[cfg(target_arch = "x86_64")]
    reserved1: u64,
    pub ctime: i64,
    #[cfg(target_arch = "x86_64")]
    reserved2: u64,
    pub nsems: u64,
    reserved: [u64; 2],
}

/// `struct msqid_ds`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct MsqidDs {
    pub perm: IpcPerm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: u64,
    pub qnum: u64,
    pub qbytes: u64,
    pub lspid: i32,
    pub lrpid: i32,
    reserved: [u64; 2],
}

/// `struct shminfo`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Shminfo {
    shmmax: u64,
    shmmin: u64,
    shmmni: u64,
    shmseg: u64,
    shmall: u64,
    reserved: [u64; 4],
}

/// `struct shm_info`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct ShmInfo {
    used_ids: i32,
    gap: u32,
    shm_tot: u64,
    shm_rss: u64,
    shm_swp: u64,
    swap_attempts: u64,
    swap_successes: u64,
}

/// `struct seminfo`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Seminfo {
    semmap: i32,
    semmni: i32,
    semmns: i32,
    semmnu: i32,
    semmsl: i32,
    semopm: i32,
    semume: i32,
    semusz: i32,
    semvmx: i32,
    semaem: i32,
}

/// `struct msginfo`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Msginfo {
    msgpool: i32,
    msgmap: i32,
    msgmax: i32,
    msgmnb: i32,
    msgmni: i32,
    msgssz: i32,
    msgtql: i32,
    msgseg: u16,
    gap: u16,
}

const _: () = {
    assert!(size_of::<IpcPerm>() == 48);
    assert!(size_of::<ShmidDs>() == 112);
    assert!(size_of::<MsqidDs>() == 120);
    assert!(size_of::<Shminfo>() == 72);
    assert!(size_of::<ShmInfo>() == 48);
    assert!(size_of::<Seminfo>() == 40);
    assert!(size_of::<Msginfo>() == 32);
    assert!(size_of::<ShmidDs>() == size_of::<libc::shmid_ds>());
    assert!(size_of::<SemidDs>() == size_of::<libc::semid_ds>());
    assert!(size_of::<MsqidDs>() == size_of::<libc::msqid_ds>());
};

/// A pid as the reader's domain sees it.
pub fn pid(pid: Pid, domain: u16) -> i32 {
    if pid.domain == domain { pid.pid as i32 } else { 0 }
}

/// `shmid_ds` of a segment, for a reader in `domain`.
pub fn shmid_ds(stat: &Stat, domain: u16) -> Option<ShmidDs> {
    let StatBody::Shm {
        segsz,
        atime,
        dtime,
        cpid,
        lpid,
        nattch,
        ..
    } = stat.body
    else {
        return None;
    };
    Some(ShmidDs {
        perm: (&stat.perm).into(),
        segsz,
        atime,
        dtime,
        ctime: stat.ctime,
        cpid: pid(cpid, domain),
        lpid: pid(lpid, domain),
        nattch,
        ..ShmidDs::default()
    })
}

/// `semid_ds` of a set.
pub fn semid_ds(stat: &Stat) -> Option<SemidDs> {
    let StatBody::Sem { nsems, otime } = stat.body else {
        return None;
    };
    Some(SemidDs {
        perm: (&stat.perm).into(),
        otime,
        ctime: stat.ctime,
        nsems: nsems.into(),
        ..SemidDs::default()
    })
}

/// `msqid_ds` of a queue, for a reader in `domain`.
pub fn msqid_ds(stat: &Stat, domain: u16) -> Option<MsqidDs> {
    let StatBody::Msg {
        cbytes,
        qnum,
        qbytes,
        stime,
        rtime,
        lspid,
        lrpid,
    } = stat.body
    else {
        return None;
    };
    Some(MsqidDs {
        perm: (&stat.perm).into(),
        stime,
        rtime,
        ctime: stat.ctime,
        cbytes,
        qnum,
        qbytes,
        lspid: pid(lspid, domain),
        lrpid: pid(lrpid, domain),
        ..MsqidDs::default()
    })
}

fn int(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// `shminfo`.
pub fn shminfo(info: &Info) -> Shminfo {
    Shminfo {
        shmmax: info.limits.shmmax,
        shmmin: 1,
        shmmni: info.limits.shmmni.into(),
        shmseg: info.limits.shmmni.into(),
        shmall: info.limits.shmall,
        ..Shminfo::default()
    }
}

/// `shm_info`.
pub fn shm_info(info: &Info) -> ShmInfo {
    ShmInfo {
        used_ids: int(info.used.into()),
        shm_tot: info.units,
        shm_rss: info.bytes / 4096,
        ..ShmInfo::default()
    }
}

/// `seminfo`, by IPC_INFO or, with what is in use, by SEM_INFO.
pub fn seminfo(info: &Info, in_use: bool) -> Seminfo {
    let limits = &info.limits;
    // Linux fills what it does not use with what the limits are at its start.
    const MOST: i32 = 32_000 * 32_000;
    Seminfo {
        semmap: MOST,
        semmni: int(limits.semmni.into()),
        semmns: int(limits.semmns.into()),
        semmnu: MOST,
        semmsl: int(limits.semmsl.into()),
        semopm: int(limits.semopm.into()),
        semume: 500,
        semusz: if in_use { int(info.used.into()) } else { 20 },
        semvmx: 32767,
        semaem: if in_use { int(info.units) } else { 32767 },
    }
}

/// `msginfo`, by IPC_INFO or, with what is in use, by MSG_INFO.
pub fn msginfo(info: &Info, in_use: bool) -> Msginfo {
    let limits = &info.limits;
    // As above.
    const BYTES: i32 = 16_384;
    const POOL: i32 = 32_000 * (BYTES / 1024);
    Msginfo {
        msgpool: if in_use { int(info.used.into()) } else { POOL },
        msgmap: if in_use { int(info.units) } else { BYTES },
        msgmax: int(limits.msgmax.into()),
        msgmnb: int(limits.msgmnb.into()),
        msgmni: int(limits.msgmni.into()),
        msgssz: 16,
        msgtql: if in_use { int(info.bytes) } else { BYTES },
        msgseg: 0xffff,
        gap: 0,
    }
}
