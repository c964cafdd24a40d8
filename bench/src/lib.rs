//! Micro-benchmarks and the paper's programs, each against its baseline in the same run.
