//! Boots a guest on the host's own root, and is its init: runs one program in it and passes its input and output through.
