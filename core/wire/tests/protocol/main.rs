//! The codec against generated, broken and hostile bytes.

mod dice;
mod links;
mod round_trip;
mod rubbish;
