//! A client's side: connection, attachments, fork, signals, waiting, errno.
