//! Data-parallel training: one process per GPU, each of which computes a part of every batch.
//!
//! The first process starts the others as copies of itself and keeps a socket to each. After every
//! step, the others send it their gradients and losses (less than a megabyte). It adds them in the
//! order of the workers and sends the sum back, and all make the same update. Only the first
//! process writes files. Workers draw the same random numbers as a single process, so that the
//! losses are those of a single process with the whole batch, except for the order of the
//! additions.

use anyhow::{Context, Result, bail};
use engine::DeviceChoice;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// The flag that gives a worker its rank. The socket of a worker is its standard input.
const RANK_FLAG: &str = "--worker";

/// The place of this process among the processes that train together.
pub struct Workers {
    /// The number of this process; 0 is the first.
    pub rank: usize,
    /// The number of processes.
    pub count: usize,
    /// In the first process the sockets to the others in the order of their ranks, in another
    /// process the socket to the first.
    sockets: Vec<UnixStream>,
    children: Vec<Child>,
}

impl Workers {
    /// The only process of a run.
    pub fn single() -> Workers {
        Workers {
            rank: 0,
            count: 1,
            sockets: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Starts `count - 1` copies of this program, with the same arguments except for the device:
    /// `device` is that of the first process.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn spawn(count: usize, device: DeviceChoice) -> Result<Workers> {
        let mut workers = Workers::single();
        workers.count = count;
        let program = std::env::current_exe().context("this program's own path is not known")?;
        for rank in 1..count {
            let (ours, theirs) =
                UnixStream::pair().context("the socket of a worker cannot be made")?;
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

    /// The place of a process that [`Workers::spawn`] has started as worker `rank`.
    ///
    /// # Errors
    /// Standard input is closed.
    pub fn join(rank: usize, count: usize) -> Result<Workers> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Workers {
            rank,
            count,
            sockets: vec![UnixStream::from(socket)],
            children: Vec::new(),
        })
    }

    /// Whether this is the first process, which writes the files of the run.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Replaces the numbers by their sums over all workers (all-reduce), with the same bits in
    /// each.
    ///
    /// # Errors
    /// Another worker has ended.
    pub fn all_reduce(&mut self, numbers: &mut [f32]) -> Result<()> {
        if self.count == 1 {
            return Ok(());
        }
        let mut bytes = vec![0u8; numbers.len() * 4];
        if self.rank > 0 {
            let socket = &mut self.sockets[0];
            encode(numbers, &mut bytes);
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
        encode(numbers, &mut bytes);
        for (i, socket) in self.sockets.iter_mut().enumerate() {
            let sent = socket.write_all(&bytes);
            sent.with_context(|| format!("worker {} has ended; see its message above", i + 1))?;
        }
        Ok(())
    }
}

fn encode(numbers: &[f32], bytes: &mut [u8]) {
    for (bytes, number) in bytes.chunks_exact_mut(4).zip(numbers) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
}

impl Drop for Workers {
    /// The other workers find their socket closed at their next step, and end.
    fn drop(&mut self) {
        self.sockets.clear();
        for child in &mut self.children {
            // A worker may have ended already, which is no error.
            child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workers_get_the_same_sums() {
        let (a, b) = UnixStream::pair().unwrap();
        let (c, d) = UnixStream::pair().unwrap();
        let worker = |rank, sockets| Workers {
            rank,
            count: 3,
            sockets,
            children: Vec::new(),
        };
        let run = |mut workers: Workers| {
            std::thread::spawn(move || {
                let mut numbers = [1.0 + workers.rank as f32, 0.1];
                workers.all_reduce(&mut numbers).unwrap();
                workers.all_reduce(&mut numbers).unwrap();
                numbers
            })
        };
        let (second, third) = (run(worker(1, vec![b])), run(worker(2, vec![d])));
        let first = run(worker(0, vec![a, c])).join().unwrap();
        assert_eq!(first[0], 18.0);
        assert_eq!(second.join().unwrap(), first);
        assert_eq!(third.join().unwrap(), first);
    }

    #[test]
    fn the_error_names_the_worker_that_ended() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(b);
        let mut first = Workers {
            rank: 0,
            count: 2,
            sockets: vec![a],
            children: Vec::new(),
        };
        let error = first.all_reduce(&mut [0.0]).unwrap_err().to_string();
        assert!(error.contains("worker 1 of 2 has ended"), "{error}");
    }
}
