//! The sandbox of a decode worker: Landlock decides which files it may read, seccomp which system
//! calls it may make.
//!
//! A decoder that a hostile clip has taken over can then read the raw data and reply to its parent.
//! It can read no other file, write nothing, use no network, start no program and send no signal.
//! Landlock needs Linux 5.13. What the kernel does not support is reported to the parent, which
//! warns the user. The limits on memory and time are in [`super::process_limits`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope, path_beneath_rules,
};

/// The newest version of Landlock that is used. An older kernel enforces the part that it supports.
const LANDLOCK: ABI = ABI::V6;

/// Puts the calling thread and the threads that it starts into the sandbox until they end. Only
/// files below the paths of `readable` can be read.
///
/// Returns what this kernel does not support, as sentences for the user. The list is empty if the
/// sandbox is complete.
pub fn enter(readable: &[PathBuf]) -> Vec<String> {
    let mut unsupported = Vec::new();
    match restrict_files(readable) {
        Ok(RulesetStatus::NotEnforced) => unsupported.push(
            "this kernel has no landlock, so a decoder could read any file that this user can"
                .to_owned(),
        ),
        Ok(_) => {}
        Err(error) => unsupported.push(format!("landlock does not work here ({error})")),
    }
    if let Err(error) = filter::apply() {
        unsupported.push(format!(
            "seccomp filters do not work here ({error}), so a decoder could use the network"
        ));
    }
    unsupported
}

/// Applies the Landlock rules: files below `readable` may be read, and nothing else is allowed.
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

/// Returns the canonical paths of the folders that hold these files, which are paths below `raw`,
/// and the number of files that are links out of `raw`. Such links are the user's own choice and
/// are followed.
///
/// # Errors
/// `raw` does not exist or cannot be read.
pub fn folders_of<'a>(
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
        // A file that does not exist fails later, when it is opened.
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

/// The seccomp filter. The system calls that a decoder makes are allowed, all others fail with
/// EPERM.
mod filter {
    use std::collections::BTreeMap;

    use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
    use seccompiler::{
        BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
        SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
    };

    /// Allowed system calls by number. One of a call's rules must match its arguments. Without
    /// rules all arguments are allowed.
    type Calls = BTreeMap<i64, Vec<SeccompRule>>;

    /// Flags of `open` that change or create a file.
    const WRITE_FLAGS: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;

    /// Calls that are allowed with all arguments: those of allocators, libav and the standard
    /// library.
    const ALLOWED: &[i64] = &[
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

    /// A condition on one argument of a call: its index, the comparison and the value.
    type Condition = (u8, SeccompCmpOp, u64);

    /// Calls that are allowed if all conditions on their arguments hold.
    fn conditional() -> Vec<(i64, Vec<Condition>)> {
        let executable = libc::PROT_EXEC as u64;
        let thread = libc::CLONE_THREAD as u64;
        vec![
            (libc::SYS_mmap, vec![(2, MaskedEq(executable), 0)]),
            (libc::SYS_mprotect, vec![(2, MaskedEq(executable), 0)]),
            (libc::SYS_openat, vec![(2, MaskedEq(WRITE_FLAGS), 0)]),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_open, vec![(1, MaskedEq(WRITE_FLAGS), 0)]),
            // Only threads may be started, no processes.
            (libc::SYS_clone, vec![(0, MaskedEq(thread), thread)]),
            // Only the limit of its own processor time may be set: root could raise the other
            // limits.
            (
                libc::SYS_prlimit64,
                vec![(0, Eq, 0), (1, Eq, libc::RLIMIT_CPU.into())],
            ),
            // `abort` sends a signal to the process itself.
            (libc::SYS_tgkill, vec![(0, Eq, std::process::id().into())]),
        ]
    }

    /// All calls that a decoder may make.
    fn allowed() -> Result<Calls, BackendError> {
        let mut calls: Calls = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
        for (call, conditions) in conditional() {
            let conditions = conditions
                .into_iter()
                // Each of these arguments has 32 bits.
                .map(|(i, op, value)| SeccompCondition::new(i, SeccompCmpArgLen::Dword, op, value))
                .collect::<Result<_, _>>()?;
            calls.insert(call, vec![SeccompRule::new(conditions)?]);
        }
        Ok(calls)
    }

    /// Applies the filter to this thread and to all that it starts. A call by the numbers of
    /// another architecture kills the process.
    pub fn apply() -> Result<(), Error> {
        let program = |calls, otherwise, action| -> Result<BpfProgram, BackendError> {
            let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
            SeccompFilter::new(calls, otherwise, action, architecture)?.try_into()
        };
        let error = |number: i32| SeccompAction::Errno(number as u32);
        // A filter has one action for all its calls, and of two filters the stricter action counts.
        // So clone3, whose flags a filter cannot read, is refused by the first filter and passed by
        // the second. ENOSYS makes the C library use clone instead.
        let clone3 = libc::SYS_clone3;
        let no_clone3 = program(
            Calls::from([(clone3, Vec::new())]),
            SeccompAction::Allow,
            error(libc::ENOSYS),
        )?;
        let mut calls = allowed()?;
        calls.insert(clone3, Vec::new());
        let only_allowed = program(calls, error(libc::EPERM), SeccompAction::Allow)?;
        apply_filter(&no_clone3)?;
        apply_filter(&only_allowed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::chown;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use rustix::process::{Resource, getppid, getrlimit, setrlimit, test_kill_process};

    use super::*;

    /// A sandbox holds for one thread, so a thread of the test can enter one and report.
    #[test]
    fn only_the_raw_data_can_be_read_in_the_sandbox() {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("raw");
        fs::create_dir(&raw).unwrap();
        let (inside, outside) = (raw.join("clip"), folder.path().join("secret"));
        fs::write(&inside, "clip").unwrap();
        fs::write(&outside, "secret").unwrap();
        std::os::unix::fs::symlink(&outside, raw.join("link")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let parent = getppid().unwrap();
        let files = getrlimit(Resource::Nofile);
        let confined = std::thread::spawn(move || {
            let unsupported = enter(std::slice::from_ref(&raw));
            if !unsupported.is_empty() {
                util::skip::skip(
                    util::skip::Missing::Platform,
                    format_args!("no {unsupported:?}"),
                );
                return;
            }
            assert_eq!(fs::read_to_string(&inside).unwrap(), "clip");
            let denied = [
                ("another file", File::open(&outside).map(drop)),
                ("a link to it", File::open(raw.join("link")).map(drop)),
                (
                    "a path with ..",
                    File::open(raw.join("../secret")).map(drop),
                ),
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
            // These are refused by seccomp alone, so the error is that of the filter.
            let refused: [(&str, io::Result<()>); 3] = [
                ("a signal", test_kill_process(parent).map_err(Into::into)),
                (
                    "a limit",
                    setrlimit(Resource::Nofile, files).map_err(Into::into),
                ),
                ("an owner", chown(&inside, None, None)),
            ];
            for (what, outcome) in refused {
                let error = outcome.expect_err(what).raw_os_error();
                assert_eq!(error, Some(libc::EPERM), "{what}");
            }
            // Threads are allowed.
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
        let (found, links) = folders_of(&at("raw"), files.into_iter()).unwrap();
        let mut expected = ["raw", "far/b", "other"].map(|name| at(name).canonicalize().unwrap());
        expected.sort();
        assert_eq!((found, links), (expected.to_vec(), 1));
    }
}
