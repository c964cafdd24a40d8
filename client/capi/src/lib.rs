//! The C library: vshmem.h and libvshmem.so.
