//! Data-parallel training: one process per GPU, each with a part of every batch.
//!
//! The first process starts the others as copies of itself and keeps a socket to each. After every
//! step gradients and losses (under a megabyte) go to the first one, which adds them up in the order
//! of the workers and sends the sum back; everyone then makes the same update. Only the first writes
//! files. Workers draw the same random numbers as one process would: the losses are those of one
//! process with the whole batch, but for the order in which sums are formed.

use anyhow::{Context, Result, bail};
use engine::DeviceChoice;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// Tells a worker its number; its socket is its standard input.
pub const RANK_FLAG: &str = "--worker";

/// This process among those that train together.
pub struct Workers {
    /// Its number; 0 is the first process.
    pub rank: usize,
    /// How many there are.
    pub count: usize,
    /// The first process: to the others, in order. Another: to the first.
    sockets: Vec<UnixStream>,
    children: Vec<Child>,
}

impl Workers {
    /// A process that trains alone.
    pub fn alone() -> Workers {
        Workers {
            rank: 0,
            count: 1,
            sockets: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Starts `count - 1` copies of this program with the same arguments, but for the device: `device` is what the
    /// first process trains on.
    pub fn start(count: usize, device: DeviceChoice) -> Result<Workers> {
        let mut workers = Workers::alone();
        workers.count = count;
        let program = std::env::current_exe().context("this program's own path is not known")?;
        for rank in 1..count {
            let (ours, theirs) = UnixStream::pair().context("no socket for a worker")?;
            let child = Command::new(&program)
                .args(std::env::args_os().skip(1))
                .args([
                    RANK_FLAG,
                    &rank.to_string(),
                    "--device",
                    &device.to_string(),
                ])
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                .spawn()
                .with_context(|| format!("worker {rank} cannot be started"))?;
            workers.sockets.push(ours);
            workers.children.push(child);
        }
        Ok(workers)
    }

    /// Worker `rank`, which [`Workers::start`] started.
    pub fn join(rank: usize, count: usize) -> Result<Workers> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Workers {
            rank,
            count,
            sockets: vec![UnixStream::from(socket)],
            children: Vec::new(),
        })
    }

    /// Whether this process writes the run's files.
    pub fn writes(&self) -> bool {
        self.rank == 0
    }

    /// Replaces the numbers by their sum over all workers, the same bits in each.
    pub fn sum(&mut self, numbers: &mut [f32]) -> Result<()> {
        if self.count == 1 {
            return Ok(());
        }
        let mut bytes = vec![0u8; numbers.len() * 4];
        if self.rank > 0 {
            let socket = &mut self.sockets[0];
            fill(&mut bytes, numbers);
            let exchanged = socket
                .write_all(&bytes)
                .and_then(|()| socket.read_exact(&mut bytes));
            exchanged.context("the first worker has ended")?;
            for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
                *number = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            return Ok(());
        }
        for rank in 1..self.count {
            if self.sockets[rank - 1].read_exact(&mut bytes).is_err() {
                bail!(
                    "worker {rank} of {} has ended; see its message above",
                    self.count
                );
            }
            for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
                *number += f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        fill(&mut bytes, numbers);
        for (i, socket) in self.sockets.iter_mut().enumerate() {
            let sent = socket.write_all(&bytes);
            sent.with_context(|| format!("worker {} has ended; see its message above", i + 1))?;
        }
        Ok(())
    }
}

fn fill(bytes: &mut [u8], numbers: &[f32]) {
    for (bytes, number) in bytes.chunks_exact_mut(4).zip(numbers) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
}

impl Drop for Workers {
    /// Workers see the closed socket at their next step and end; none is left behind.
    fn drop(&mut self) {
        self.sockets.clear();
        for child in &mut self.children {
            // A worker that has ended already is no fault here.
            child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_the_same_everywhere() {
        let (a, b) = UnixStream::pair().unwrap();
        let (c, d) = UnixStream::pair().unwrap();
        let of = |rank, sockets| Workers {
            rank,
            count: 3,
            sockets,
            children: Vec::new(),
        };
        let run = |mut workers: Workers| {
            std::thread::spawn(move || {
                let mut numbers = [1.0 + workers.rank as f32, 0.1];
                workers.sum(&mut numbers).unwrap();
                workers.sum(&mut numbers).unwrap();
                numbers
            })
        };
        let (second, third) = (run(of(1, vec![b])), run(of(2, vec![d])));
        let first = run(of(0, vec![a, c])).join().unwrap();
        assert_eq!(first[0], 18.0);
        assert_eq!(second.join().unwrap(), first);
        assert_eq!(third.join().unwrap(), first);
    }

    #[test]
    fn a_worker_that_ends_is_named() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(b);
        let mut first = Workers {
            rank: 0,
            count: 2,
            sockets: vec![a],
            children: Vec::new(),
        };
        let error = first.sum(&mut [0.0]).unwrap_err().to_string();
        assert!(error.contains("worker 1 of 2 has ended"), "{error}");
    }
}
