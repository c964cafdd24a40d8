//! Two unmodified programs in two domains use one segment, one set, one queue.

use anyhow::Result;
use vshmem_testing_vm::{
    Actor, Machine, Place, containers_available, missing, qemu_missing, scenario, uml_available, xen_missing,
};

fn exchange(a: Place, b: Place) -> Result<()> {
    let machine = Machine::start_for(&[a, b])?;
    let mut a = Actor::start(&machine, a)?;
    let mut b = Actor::start(&machine, b)?;
    scenario::exchange(&mut a, &mut b)
}

#[test]
fn two_processes_of_the_kernel_itself() -> Result<()> {
    exchange(Place::Kernel, Place::Kernel)
}

#[test]
fn two_processes_of_one_host() -> Result<()> {
    exchange(Place::Host, Place::Host)
}

#[test]
fn the_c_library_and_the_preload_library() -> Result<()> {
    exchange(Place::Library, Place::Host)?;
    exchange(Place::Host, Place::Library)
}

#[test]
fn two_local_domains() -> Result<()> {
    exchange(Place::Local("a"), Place::Local("b"))
}

#[test]
fn two_uml_guests() -> Result<()> {
    if !uml_available() {
        missing("two UML guests", "linux.uml is not installed");
        return Ok(());
    }
    exchange(Place::Uml("a"), Place::Uml("b"))
}

#[test]
fn the_host_and_a_uml_guest() -> Result<()> {
    if !uml_available() {
        missing("the host and a UML guest", "linux.uml is not installed");
        return Ok(());
    }
    exchange(Place::Host, Place::Uml("a"))?;
    exchange(Place::Uml("a"), Place::Host)
}

#[test]
fn two_qemu_guests() -> Result<()> {
    if let Some(why) = qemu_missing() {
        missing("two QEMU guests", &why);
        return Ok(());
    }
    exchange(Place::Qemu("a"), Place::Qemu("b"))
}

#[test]
fn two_xen_guests() -> Result<()> {
    if let Some(why) = xen_missing() {
        missing("two Xen guests", &why);
        return Ok(());
    }
    exchange(Place::Xen("a"), Place::Xen("b"))
}

#[test]
fn dom0_and_a_xen_guest() -> Result<()> {
    if let Some(why) = xen_missing() {
        missing("dom0 and a Xen guest", &why);
        return Ok(());
    }
    exchange(Place::Host, Place::Xen("a"))
}

#[test]
fn two_containers_and_the_host() -> Result<()> {
    if !containers_available() {
        missing("two containers", "unshare is not permitted or not installed");
        return Ok(());
    }
    exchange(Place::Container("a"), Place::Container("b"))?;
    exchange(Place::Container("host"), Place::Host)
}
