//! What a port tells people to add to a virtual machine of their own.

/// How the machine is to get the group's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// From the port's device server.
    Served,
    /// From the pool's file.
    File,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// What to add, as it is: nothing else stands in it.
    pub text: String,
    /// What to know about it.
    pub notes: Vec<String>,
    /// What to do in the guest.
    pub guest: Vec<String>,
}
