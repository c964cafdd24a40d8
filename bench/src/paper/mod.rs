//! The paper's evaluation: its programs in its programming models, and what its readers use today.
//!
//! The programs are C (`bench/programs`), carried in this crate as text and compiled when they are to run, all with the same compiler and options:
//! what is compared is the programming model. What runs with the kernel's System V IPC, under `vshmem run` and in virtual machines is one and the same file.
//!
//! | module | what it holds |
//! |---|---|
//! | [`workshop`] | compiles the programs, and says what cannot be compiled here and why |
//! | [`group`] | runs the processes of one program together, to an end |
//! | [`field`] | where programs run: this kernel, Vshmem's domains, guests |
//! | `jobs`, `models` | which programs of which sizes; the programming models |
//! | [`dwarfs`] | linear algebra, Laplace, π, n-body, collectives in every model |
//! | [`exchange`] | control passed to and fro: System V, sockets, and the peers of today |
//! | [`iceoryx2`] | builds the program that measures iceoryx2, which this crate does not depend on |
//! | [`campaign`] | batches in rounds, with progress and the time left |
//! | [`sample`] | one measurement |
//! | [`report`] | the report: raw values, figures, claims |
//! | [`summary`] | what many runs say together |

pub mod campaign;
pub mod dwarfs;
pub mod exchange;
pub mod field;
pub mod group;
pub mod iceoryx2;
mod jobs;
mod models;
pub mod report;
pub mod sample;
pub mod summary;
pub mod workshop;

pub use campaign::{Campaign, Outcome};
pub use field::Field;
pub use sample::{Sample, Spread};
pub use workshop::Workshop;

/// Parties of every program here: one a core, as in the paper.
pub const PARTIES: usize = 2;

/// How much to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A few sizes and repetitions: seconds a program.
    Short,
    /// The paper's, and larger ones.
    Long,
}
