//! The one crate that names the ports and picks among them.
