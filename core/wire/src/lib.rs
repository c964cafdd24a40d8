//! Messages between clients, front-ends and the back-end, and their codec.
