//! How much memory a process takes, from the kernel's account of it (`/proc/PROCESS/status`, see proc(5)).

/// Memory of this process that is resident now, in bytes. `None` where the system does not tell.
pub fn resident() -> Option<u64> {
    field("self", "VmRSS:")
}

/// The most memory that a running process has had resident so far, in bytes. `None` where the system does not tell,
/// and where the process has ended.
pub fn peak(process: u32) -> Option<u64> {
    field(&process.to_string(), "VmHWM:")
}

fn field(process: &str, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_process() {
        let own = std::process::id();
        let before = resident().unwrap();
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        // The kernel sums up counters of each processor, and may be a few pages behind.
        assert!(resident().unwrap() > before + (60 << 20));
        drop(held);
        assert!(resident().unwrap() < before + (30 << 20));
        assert!(peak(own).unwrap() > before + (60 << 20));
        assert_eq!(peak(u32::MAX), None);
    }
}
