//! End-to-end scenarios: real programs, real second kernels.
