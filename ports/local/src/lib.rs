//! The local port: processes and containers under one kernel.
