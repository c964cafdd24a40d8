//! The UML port: pool through /dev/mmapper, serial line as stream.
