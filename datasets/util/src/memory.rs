//! The resident memory of a process, as the kernel reports it in `/proc/PROCESS/status` (see
//! proc(5)).

/// Returns the resident memory of this process in bytes. `None` if the system does not report it.
pub fn resident() -> Option<u64> {
    field("self", "VmRSS:")
}

/// Returns the peak of the resident memory of a running process, in bytes. `None` if the system
/// does not report it or the process has ended.
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
    fn resident_and_peak_memory_follow_an_allocation() {
        let own = std::process::id();
        let before = resident().unwrap();
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        // The kernel adds up counters of all processors, which may lag by a few pages.
        assert!(resident().unwrap() > before + (60 << 20));
        drop(held);
        assert!(resident().unwrap() < before + (30 << 20));
        assert!(peak(own).unwrap() > before + (60 << 20));
        assert_eq!(peak(u32::MAX), None);
    }
}
