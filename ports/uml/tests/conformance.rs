//! The port conformance suite, with UML guests as domains.
//!
//! The program is both sides: as the first process of a guest it is the agent, over the guest's own serial line and `/dev/mmapper`.
//! Where `linux.uml` is missing every check is skipped, by name, with the reason.

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use vshmem_port::boot::{Boot, Inside};
use vshmem_port::conformance::{CHECKS, Domain, Fixture, POOL_BYTES, boot, in_guest};
use vshmem_port::store::{Serial, Store};
use vshmem_port_local::PoolStore;
use vshmem_port_uml::boot::UmlBoot;
use vshmem_port_uml::guest::UmlGuest;
use vshmem_port_uml::inside::UmlInside;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        in_guest(|| UmlInside.arrive(), &UmlGuest);
    }
    let trials = CHECKS
        .iter()
        .map(|check| {
            Trial::test(format!("uml::{}", check.name), move || {
                let boot = UmlBoot::new();
                if let Err(why) = boot.check() {
                    eprintln!("skipped: {why}");
                    return Ok(());
                }
                check
                    .run(&Uml { boot })
                    .map_err(|why| Failed::from(format!("{why:#}")))
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

struct Uml {
    boot: UmlBoot,
}

impl Fixture for Uml {
    fn new_store(&self) -> anyhow::Result<Box<dyn Store>> {
        Ok(Box::new(PoolStore::new(POOL_BYTES)?))
    }

    fn start(&self, store: &dyn Store) -> anyhow::Result<Box<dyn Domain>> {
        let pools = vec![store.descriptor(Serial(0), true)?.0];
        boot(&self.boot, "conformance".to_owned(), 64 << 20, pools)
    }
}
