//! Walls around a decode worker: which files it may read, and which system calls it may make.
//!
//! A decoder that a hostile clip has taken over can then read the raw data and answer its parent, and nothing else: no
//! other file, nothing written, no network, no other program, no signal to anybody. Two walls of the kernel's, each
//! of which may be absent: landlock (files by path, from Linux 5.13) and seccomp (system calls). What is absent is told to
//! the parent, which tells the user. The limits on memory and time are in `sys`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope, path_beneath_rules,
};

use crate::sys;

/// The newest landlock this was written for; older kernels do what they can.
const LANDLOCK: ABI = ABI::V6;

/// Confines the calling thread and its children for good: of files, only what lies below `readable` can be read.
///
/// Returns what this kernel cannot do, in words; empty where both walls stand.
pub fn close(readable: &[PathBuf]) -> Vec<String> {
    let mut absent = Vec::new();
    match restrict_files(readable) {
        Ok(RulesetStatus::NotEnforced) => absent.push(
            "this kernel has no landlock, so a decoder could read any file that this user can"
                .to_owned(),
        ),
        Ok(_) => {}
        Err(error) => absent.push(format!("landlock does not work here ({error})")),
    }
    match filter::program() {
        Some(program) => {
            if let Err(error) = sys::filter_calls(&program) {
                absent.push(format!(
                    "this kernel has no seccomp filters ({error}), so a decoder could use the network"
                ));
            }
        }
        None => absent.push("seccomp filters are not written for this processor".to_owned()),
    }
    absent
}

fn restrict_files(readable: &[PathBuf]) -> Result<RulesetStatus, landlock::RulesetError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::ReadFile))?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// The folders that hold these files (paths below `raw`), as the kernel knows them, and how many of the files are reached
/// by links that lead out of `raw`. Such links are the user's own choice and are followed.
pub fn folders<'a>(
    raw: &Path,
    files: impl Iterator<Item = &'a Path>,
) -> std::io::Result<(Vec<PathBuf>, usize)> {
    let root = raw.canonicalize()?;
    let (mut parents, mut outside, mut links) = (BTreeSet::new(), BTreeSet::new(), 0);
    for file in files {
        let path = raw.join(file);
        if let Some(parent) = path.parent()
            && !parents.contains(parent)
        {
            parents.insert(parent.to_owned());
        }
        // What is not there fails when it is opened.
        if path.is_symlink()
            && let Ok(target) = path.canonicalize()
            && !target.starts_with(&root)
        {
            links += 1;
            outside.insert(target.parent().unwrap_or(&target).to_owned());
        }
    }
    let parents = parents
        .iter()
        .filter_map(|parent| parent.canonicalize().ok());
    outside.extend(parents.filter(|parent| !parent.starts_with(&root)));
    outside.insert(root);
    Ok((outside.into_iter().collect(), links))
}

/// The seccomp filter: what a decoder calls is allowed, everything else fails with EPERM.
mod filter {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

    /// A condition on one argument of a call.
    enum When {
        /// None of these bits.
        Without(u32, u32),
        /// One of these bits.
        With(u32, u32),
        /// This value.
        Is(u32, u32),
    }
    use When::{Is, With, Without};

    #[cfg(target_arch = "x86_64")]
    const ARCHITECTURE: Option<u32> = Some(0xC000_003E);
    #[cfg(target_arch = "aarch64")]
    const ARCHITECTURE: Option<u32> = Some(0xC000_00B7);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const ARCHITECTURE: Option<u32> = None;

    /// Open modes that could change a file or make one.
    const WRITING: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u32;

    /// Allowed whatever the arguments, the frequent ones first: what allocators, libav and the standard library need.
    const PLAIN: &[i64] = &[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_lseek,
        libc::SYS_futex,
        libc::SYS_munmap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_mremap,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_readlinkat,
        libc::SYS_fcntl,
        libc::SYS_fadvise64,
        libc::SYS_ppoll,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_getrusage,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_membarrier,
        libc::SYS_rseq,
        libc::SYS_set_robust_list,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
    ];

    /// Allowed where every condition holds.
    fn conditional() -> Vec<(i64, Vec<When>)> {
        let executable = libc::PROT_EXEC as u32;
        vec![
            (libc::SYS_mmap, vec![Without(2, executable)]),
            (libc::SYS_mprotect, vec![Without(2, executable)]),
            (libc::SYS_openat, vec![Without(2, WRITING)]),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_open, vec![Without(1, WRITING)]),
            // A thread of its own, no process.
            (libc::SYS_clone, vec![With(0, libc::CLONE_THREAD as u32)]),
            // Only its own processor time: root may raise the other limits.
            (libc::SYS_prlimit64, vec![Is(0, 0), Is(1, libc::RLIMIT_CPU)]),
            // An abort signals oneself.
            (libc::SYS_tgkill, vec![Is(0, std::process::id())]),
        ]
    }

    const fn step(code: u32, k: u32, yes: u8, no: u8) -> sock_filter {
        sock_filter {
            code: code as u16,
            jt: yes,
            jf: no,
            k,
        }
    }

    const fn load(offset: u32) -> sock_filter {
        step(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
    }

    const fn refuse(errno: i32) -> sock_filter {
        let code = libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA);
        step(BPF_RET | BPF_K, code, 0, 0)
    }

    const ALLOW: sock_filter = step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0);

    /// Jumps over `no` steps unless the loaded value is `k`.
    const fn unless(k: u32, no: u8) -> sock_filter {
        step(BPF_JMP | BPF_JEQ | BPF_K, k, 0, no)
    }

    /// The filter for this processor, if there is one. Offsets are those of `struct seccomp_data`.
    pub fn program() -> Option<Vec<sock_filter>> {
        let kill = step(BPF_RET | BPF_K, libc::SECCOMP_RET_KILL_PROCESS, 0, 0);
        let mut steps = vec![
            load(4),
            // Another architecture's numbers would mean other calls.
            step(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE?, 1, 0),
            kill,
            load(0),
        ];
        for &call in PLAIN {
            steps.extend([unless(call as u32, 1), ALLOW]);
        }
        for (call, conditions) in conditional() {
            steps.push(unless(call as u32, 3 * conditions.len() as u8 + 1));
            for condition in conditions {
                // The low half of an argument: all of these are 32 bits wide.
                let (argument, test) = match condition {
                    Without(n, bits) => (n, step(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1)),
                    With(n, bits) => (n, step(BPF_JMP | BPF_JSET | BPF_K, bits, 1, 0)),
                    Is(n, value) => (n, step(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0)),
                };
                steps.extend([load(16 + 8 * argument), test, refuse(libc::EPERM)]);
            }
            steps.push(ALLOW);
        }
        // The C library then takes the older call, which has a rule.
        steps.extend([unless(libc::SYS_clone3 as u32, 1), refuse(libc::ENOSYS)]);
        steps.push(refuse(libc::EPERM));
        Some(steps)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;

    /// Both walls are per thread, so that a thread can be walled in and tell.
    #[test]
    fn nothing_but_the_raw_data_can_be_reached() {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("raw");
        fs::create_dir(&raw).unwrap();
        let (inside, outside) = (raw.join("clip"), folder.path().join("secret"));
        fs::write(&inside, "clip").unwrap();
        fs::write(&outside, "secret").unwrap();
        std::os::unix::fs::symlink(&outside, raw.join("link")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let other = std::os::unix::process::parent_id() as i32;
        let confined = std::thread::spawn(move || {
            let absent = close(std::slice::from_ref(&raw));
            if !absent.is_empty() {
                eprintln!("skipped: {absent:?}");
                return;
            }
            assert_eq!(fs::read_to_string(&inside).unwrap(), "clip");
            let denied = [
                ("another file", File::open(&outside).map(drop)),
                ("a link to it", File::open(raw.join("link")).map(drop)),
                ("a way around", File::open(raw.join("../secret")).map(drop)),
                ("/etc/passwd", File::open("/etc/passwd").map(drop)),
                ("its own memory", File::open("/proc/self/mem").map(drop)),
                ("a new file", File::create(raw.join("new")).map(drop)),
                (
                    "an old file",
                    File::options().append(true).open(&inside).map(drop),
                ),
                ("removing", fs::remove_file(&inside)),
                ("renaming", fs::rename(&inside, raw.join("other"))),
                ("a folder", fs::create_dir(raw.join("folder"))),
                ("tcp", TcpStream::connect(address).map(drop)),
                ("udp", UdpSocket::bind("127.0.0.1:0").map(drop)),
                ("a unix socket", UnixStream::pair().map(drop)),
                ("a program", Command::new("/bin/true").status().map(drop)),
            ];
            for (what, outcome) in denied {
                assert!(outcome.is_err(), "{what} was allowed");
            }
            // SAFETY: signal 0 does nothing but ask.
            assert_eq!(unsafe { libc::kill(other, 0) }, -1);
            // A thread is no process.
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        });
        confined.join().unwrap();
        assert!(folder.path().join("raw/clip").exists());
        assert!(!folder.path().join("raw/new").exists());
    }

    #[test]
    fn links_out_of_the_raw_root_are_followed_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for name in ["raw/a", "far/b", "other"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["raw/a/1", "far/b/2", "other/3"] {
            fs::write(at(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(at("far"), at("raw/far")).unwrap();
        std::os::unix::fs::symlink(at("other/3"), at("raw/a/3")).unwrap();
        std::os::unix::fs::symlink("1", at("raw/a/4")).unwrap();
        let files = ["a/1", "far/b/2", "a/3", "a/4", "gone"].map(Path::new);
        let (found, links) = folders(&at("raw"), files.into_iter()).unwrap();
        let mut expected = ["raw", "far/b", "other"].map(|name| at(name).canonicalize().unwrap());
        expected.sort();
        assert_eq!((found, links), (expected.to_vec(), 1));
    }
}
