//! The codec against generated, broken and hostile bytes.

mod dice;
mod round_trip;
mod rubbish;
