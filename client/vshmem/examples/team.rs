//! A team of processes integrates 4 / (1 + x²) from 0 to 1, which is π. Run `vshmem serve &` first, then as many of these as you say there are, in any domains.
//!
//! `team PARTIES [KEY [ROUNDS]]`: with rounds, the sum is repeated so often, which gives time to kill one of them and see what the others say.

use vshmem::{CollectiveError, Key, Reduction, Team};

const INTERVALS: u64 = 1_000_000;

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut number = |usual: usize| {
        arguments
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(usual)
    };
    let (parties, key, rounds) = (number(1), number(0x7ea0), number(1));
    match work(parties, Key::new(key as i32), rounds) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("team: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn work(parties: usize, key: Key, rounds: usize) -> Result<(), CollectiveError> {
    let mut team = Team::options(key).parties(parties).join()?;
    println!("rank {} of {}", team.rank(), team.parties());
    for _ in 0..rounds {
        // Rank 0 says how finely, everybody adds up its share, and all get the sum.
        let mut intervals = INTERVALS.to_ne_bytes();
        team.broadcast(0, &mut intervals)?;
        let intervals = u64::from_ne_bytes(intervals);
        let width = 1.0 / intervals as f64;
        let mine = (team.rank() as u64..intervals).step_by(parties);
        let share = mine.map(|i| {
            let x = (i as f64 + 0.5) * width;
            4.0 / (1.0 + x * x)
        });
        let mut pi = [share.sum::<f64>() * width];
        team.allreduce(Reduction::Sum, &mut pi)?;
        assert!((pi[0] - std::f64::consts::PI).abs() < 1e-9, "{}", pi[0]);
        if rounds == 1 {
            println!("pi is {:.12}", pi[0]);
        }
    }
    team.disband()
}
