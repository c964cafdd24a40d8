//! The back-end and the front-end daemons, and the keeper that holds their descriptors.
