//! What a port tells people to add to a virtual machine of their own.

/// How the machine is to get the group's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// From the port's device server.
    Served,
    /// From the pool's file.
    File,
}

/// By which way the machine's stream is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A serial port of the machine, which the hypervisor connects to the back-end's socket.
    Serial,
    /// vsock, by the host's kernel.
    Vsock,
    /// vsock, by a program that turns it into unix sockets.
    VsockUser,
}

/// How the machine is to reach the back-end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Its memory.
    pub device: Device,
    /// Its stream.
    pub way: Way,
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
