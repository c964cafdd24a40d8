//! The port contract: what a hypervisor must offer, and the conformance suite that holds it.
