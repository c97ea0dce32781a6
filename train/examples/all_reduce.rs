//! What the all-reduce of a training step costs, beside three other ways to do it, and whether the
//! sums have the same bits in every rank and those of an addition in the order of the ranks.
//!
//! ```text
//! cargo build -p train --features mpi --example all_reduce
//! mpirun -n 4 --bind-to none target/debug/examples/all_reduce 270000
//! ```
//!
//! The number is that of the floats: the learnable parameters of a model. One line for each way:
//! its name, the median and the least time in milliseconds, `yes` or `no` for the bits of the
//! ranks, `yes` or `no` for the order.

use anyhow::{Context, Result, bail};
use engine::{Compute, DeviceChoice};
use mpi::collective::SystemOperation;
use mpi::topology::{Process, SimpleCommunicator};
use mpi::traits::{Communicator, CommunicatorCollectives, Root};
use std::process::ExitCode;
use std::time::Instant;
use train::training::ranks::Ranks;

/// Exchanges of each way, of which the first is not counted.
const EXCHANGES: usize = 41;

fn main() -> Result<ExitCode> {
    let ranks = Ranks::join()?;
    let result = measure_all(&ranks);
    ranks.end(result.map(|()| ExitCode::SUCCESS))
}

fn measure_all(ranks: &Ranks) -> Result<()> {
    if ranks.count() == 1 {
        bail!("a single process exchanges nothing; start this with mpirun");
    }
    let count = std::env::args().nth(1).unwrap_or("270000".to_string());
    let count: usize = count
        .parse()
        .with_context(|| format!("{count}: is no number"))?;
    // As in a training, the memory of one exchange is kept for the next.
    Compute::open(DeviceChoice::Cpu, Some(1))?;
    let world = SimpleCommunicator::world();
    let gather = |numbers: &[f32]| {
        let mut all = vec![0f32; numbers.len() * ranks.count()];
        world.all_gather_into(numbers, &mut all[..]);
        in_order(&all, numbers.len())
    };
    let measured = Measured {
        world: &world,
        first: ranks.is_first(),
        own: (0..count)
            .map(|i| value(world.rank() as usize, i))
            .collect(),
        wanted: {
            let all = (0..ranks.count()).flat_map(|rank| (0..count).map(move |i| value(rank, i)));
            in_order(&all.collect::<Vec<_>>(), count)
        },
    };
    measured.report("train", |own| {
        let mut sums = own.to_vec();
        ranks.all_reduce(&mut sums);
        sums
    });
    measured.report("MPI_Allreduce", |own| {
        let mut sums = vec![0f32; own.len()];
        world.all_reduce_into(own, &mut sums[..], SystemOperation::sum());
        sums
    });
    measured.report("MPI_Reduce+MPI_Bcast", |own| {
        reduce_and_broadcast(&world.process_at_rank(0), own)
    });
    measured.report("MPI_Allgather", gather);
    Ok(())
}

/// Numbers of mixed signs and sizes, whose sum depends on the order.
fn value(rank: usize, i: usize) -> f32 {
    let mixed = (i * 48_271 + rank * 69_621) % 65_521;
    (mixed as f32 - 32_760.0) / 977.0
}

/// The sums of the numbers of all ranks, `count` each, in the order of the ranks.
fn in_order(all: &[f32], count: usize) -> Vec<f32> {
    let mut sums = all[..count].to_vec();
    for other in all[count..].chunks_exact(count) {
        sums.iter_mut().zip(other).for_each(|(sum, n)| *sum += n);
    }
    sums
}

fn reduce_and_broadcast(first: &Process, own: &[f32]) -> Vec<f32> {
    let mut sums = vec![0f32; own.len()];
    if first.is_self() {
        first.reduce_into_root(own, &mut sums[..], SystemOperation::sum());
    } else {
        first.reduce_into(own, SystemOperation::sum());
    }
    first.broadcast_into(&mut sums[..]);
    sums
}

struct Measured<'a> {
    world: &'a SimpleCommunicator,
    first: bool,
    /// This rank's numbers.
    own: Vec<f32>,
    /// The sums in the order of the ranks.
    wanted: Vec<f32>,
}

impl Measured<'_> {
    /// Prints a line about a way.
    fn report(&self, name: &str, exchange: impl Fn(&[f32]) -> Vec<f32>) {
        let (mut times, mut sums) = (Vec::new(), Vec::new());
        for _ in 0..EXCHANGES {
            self.world.barrier();
            let start = Instant::now();
            sums = exchange(&self.own);
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        let mut all = vec![0f32; sums.len() * self.world.size() as usize];
        self.world.all_gather_into(&sums[..], &mut all[..]);
        let bits = |numbers: &[f32]| numbers.iter().map(|n| n.to_bits()).collect::<Vec<_>>();
        let same = all
            .chunks_exact(sums.len())
            .all(|other| bits(other) == bits(&sums));
        let ordered = bits(&sums) == bits(&self.wanted);
        if self.first {
            let yes = |holds: bool| if holds { "yes" } else { "no" };
            println!(
                "{name} {:.3} {:.3} {} {}",
                times[times.len() / 2],
                times[0],
                yes(same),
                yes(ordered)
            );
        }
    }
}
