//! The port conformance suite, with QEMU guests as domains.
//!
//! The program is both sides: as the first process of a guest it is the agent, over the guest's own virtio-serial port and ivshmem device. Atomics are checked
//! like everything else: a machine of one possible virtual CPU under software emulation fails there.
//! Where QEMU or a kernel for guests is missing every check is skipped, by name, with the reason.

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use vshmem_port::boot::{Boot, Inside};
use vshmem_port::conformance::{CHECKS, Domain, Fixture, POOL_BYTES, boot, in_guest};
use vshmem_port::store::{Serial, Store};
use vshmem_port_ivshmem::boot::QemuBoot;
use vshmem_port_ivshmem::guest::IvshmemGuest;
use vshmem_port_ivshmem::inside::QemuInside;
use vshmem_port_local::PoolStore;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        in_guest(|| QemuInside.arrive(), &IvshmemGuest::default());
    }
    let trials = CHECKS
        .iter()
        .map(|check| {
            Trial::test(format!("qemu::{}", check.name), move || {
                let boot = QemuBoot::new();
                if let Err(why) = boot.check().and_then(|()| boot.prepare()) {
                    eprintln!("skipped: {why}");
                    return Ok(());
                }
                check
                    .run(&Qemu { boot })
                    .map_err(|why| Failed::from(format!("{why:#}")))
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

struct Qemu {
    boot: QemuBoot,
}

impl Fixture for Qemu {
    fn new_store(&self) -> anyhow::Result<Box<dyn Store>> {
        Ok(Box::new(PoolStore::new(POOL_BYTES)?))
    }

    fn start(&self, store: &dyn Store) -> anyhow::Result<Box<dyn Domain>> {
        let pools = vec![store.descriptor(Serial(0), true)?.0];
        boot(&self.boot, "conformance".to_owned(), 128 << 20, pools)
    }
}
