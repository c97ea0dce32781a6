//! A Slurm of its own for a test: one node, which is this machine, with 8 CPUs whatever the machine
//! has. It needs root and the programs of Debian's `slurm-wlm` and `munge`.
//!
//! All its files, among them the munge key, lie in a temporary folder, and all its ports are free
//! ones of the loopback interface, so that it meets no other Slurm. The daemons are child processes
//! in the foreground. They end with the value, and also if the process of the test dies.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{CommandOutput, EXIT_DONE, run, send_signal, temp};

/// The programs that are started or called.
const PROGRAMS: [&str; 6] = ["munged", "slurmctld", "slurmd", "sbatch", "srun", "setpriv"];

/// The time after which a daemon that does not answer, or a job that does not end, fails the test.
const LIMIT: Duration = Duration::from_secs(300);

/// How long a requeued job waits before it starts again, in seconds. Slurm takes no less.
const REQUEUE_SECONDS: u32 = 5;

/// Returns what this machine lacks for a Slurm of its own, if it lacks anything.
pub fn lacking() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .collect();
    let is_found = |name: &&str| folders.iter().any(|folder| folder.join(name).is_file());
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|name| !is_found(name))
        .collect();
    if !missing.is_empty() {
        return Some(format!(
            "no {}; `./setup test-slurm` installs slurm-wlm and munge",
            missing.join(", ")
        ));
    }
    let owner = fs::metadata("/proc/self").map(|own| own.uid());
    (owner.ok() != Some(0)).then(|| "a Slurm of its own needs root".to_owned())
}

/// What Slurm tells about a job.
#[derive(Debug, Clone)]
pub struct Job {
    /// The state, such as `COMPLETED`.
    pub state: String,
    /// The exit code and the signal, such as `42:0`.
    pub exit_code: String,
    /// How often the job was put back into the queue.
    pub restarts: u32,
}

impl Job {
    /// Whether the job has ended for good.
    pub fn has_ended(&self) -> bool {
        ![
            "PENDING",
            "RUNNING",
            "COMPLETING",
            "CONFIGURING",
            "SUSPENDED",
            "REQUEUED",
        ]
        .contains(&self.state.as_str())
    }
}

/// A running Slurm.
pub struct Slurm {
    folder: tempfile::TempDir,
    node: String,
    /// In the order in which they were started.
    daemons: Vec<Child>,
}

impl Slurm {
    /// Starts munge, the controller and the node, and waits until the node takes jobs.
    ///
    /// # Panics
    /// A daemon does not start; the message has its log. [`lacking`] tells before whether one can.
    pub fn start() -> Slurm {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux has this file");
        let node = host.trim().split('.').next().unwrap_or_default().to_owned();
        let mut slurm = Slurm {
            folder: temp(),
            node,
            daemons: Vec::new(),
        };
        slurm.write_files();
        let folder = slurm.folder.path().to_owned();
        let in_folder = |name: &str| folder.join(name).display().to_string();
        slurm.spawn(
            "munged",
            &[
                "--foreground".to_owned(),
                "--force".to_owned(),
                format!("--key-file={}", in_folder("munge/key")),
                format!("--socket={}", in_folder("munge/socket")),
                format!("--pid-file={}", in_folder("munge/pid")),
                format!("--log-file={}", in_folder("munge/log")),
                format!("--seed-file={}", in_folder("munge/seed")),
            ],
        );
        let socket = folder.join("munge/socket");
        slurm.wait_until("munge answers", || socket.exists());
        let conf = in_folder("slurm.conf");
        let foreground = ["-D".to_owned(), "-f".to_owned(), conf];
        slurm.spawn("slurmctld", &foreground);
        slurm.spawn("slurmd", &foreground);
        slurm.wait_until("the node takes jobs", || {
            let nodes = slurm.call("sinfo", ["--noheader", "--format=%T"]);
            nodes.stdout.trim() == "idle"
        });
        slurm
    }

    /// Writes the munge key and `slurm.conf`.
    fn write_files(&self) {
        let folder = self.folder.path();
        for name in ["munge", "state", "spool"] {
            fs::create_dir(folder.join(name)).expect("the folder is new");
        }
        let mut key = [0; 128];
        let mut random = fs::File::open("/dev/urandom").expect("Linux has this file");
        random.read_exact(&mut key).expect("it never ends");
        let path = folder.join("munge/key");
        fs::write(&path, key).expect("the folder is new");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("the file is new");
        // Both are free now, and different because both listen.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = ports.map(|one| one.local_addr().expect("it listens").port());
        let conf = configuration(&self.node, folder, ports);
        fs::write(folder.join("slurm.conf"), conf).expect("the folder is new");
    }

    /// Starts a daemon, which gets SIGTERM if this thread dies.
    fn spawn(&mut self, program: &str, arguments: &[String]) {
        let log = self.folder.path().join(format!("{program}.out"));
        let log = fs::File::create(log).expect("the folder is new");
        let mut command = self.command("setpriv");
        command.args(["--pdeathsig", "TERM", program]);
        command.args(arguments).stdin(Stdio::null());
        command
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        let child = command.spawn().expect("the program was found");
        self.daemons.push(child);
    }

    /// A command that talks to this Slurm. Programs that the node starts inherit its environment,
    /// from which the variables of an outer job are removed.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let outer = std::env::vars_os().map(|(name, _)| name).filter(|name| {
            let name = name.to_string_lossy();
            ["SLURM_", "SBATCH_", "SRUN_", "U2A_", "JOB_COMPLETION"]
                .iter()
                .any(|start| name.starts_with(start))
        });
        for name in outer {
            command.env_remove(name);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{path}:/usr/sbin"))
            .env("SLURM_CONF", self.folder.path().join("slurm.conf"))
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null());
        command
    }

    /// Calls one of Slurm's programs, which may fail.
    pub fn call<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> CommandOutput {
        run(self.command(program).args(arguments))
    }

    /// Submits a script and returns the id of the job.
    #[track_caller]
    pub fn submit(&self, folder: &Path, arguments: &[&str]) -> String {
        let mut command = self.command("sbatch");
        command.arg("--parsable").args(arguments);
        let submitted = run(command.current_dir(folder)).expect(EXIT_DONE);
        submitted.stdout.trim().to_owned()
    }

    /// What Slurm tells about a job, or about the task `ID_TASK` of an array.
    ///
    /// # Panics
    /// Slurm knows no such job.
    #[track_caller]
    pub fn job(&self, id: &str) -> Job {
        let shown = self
            .call("scontrol", ["--oneliner", "show", "job", id])
            .expect(EXIT_DONE)
            .stdout;
        let field = |name: &str| {
            let mut words = shown.split_whitespace();
            let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_else(|| panic!("no {name} in {shown}"))
        };
        Job {
            state: field("JobState").to_owned(),
            exit_code: field("ExitCode").to_owned(),
            restarts: field("Restarts").parse().expect("a number"),
        }
    }

    /// Waits until a job has ended, and returns how.
    #[track_caller]
    pub fn wait_for(&self, id: &str) -> Job {
        self.wait_until(&format!("job {id} ends"), || self.job(id).has_ended());
        self.job(id)
    }

    /// Waits until something holds.
    ///
    /// # Panics
    /// It does not within some minutes.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            if start.elapsed() > LIMIT {
                let queue = self.call("squeue", ["--all"]).stdout;
                panic!("not within {LIMIT:?}: {what}\n{queue}\n{}", self.logs());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Drains the node, so that it starts no more jobs, or takes that back.
    #[track_caller]
    pub fn drain(&self, drains: bool) {
        let state = if drains {
            "State=DRAIN"
        } else {
            "State=RESUME"
        };
        let node = format!("NodeName={}", self.node);
        self.call("scontrol", ["update", &node, state, "Reason=test"])
            .expect(EXIT_DONE);
    }

    /// The ends of the daemons' logs.
    fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["munged.out", "slurmctld.log", "slurmd.log"] {
            let log = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(15)..];
            text += &format!("--- {name}\n{}\n", end.join("\n"));
        }
        text
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        // The processes of jobs are not children of the node's daemon and would outlive it. A test
        // that panics gets here too, so nothing here may panic.
        let quiet = |program: &str, arguments: &[&str]| {
            let mut command = self.command(program);
            command.args(arguments).stderr(Stdio::null());
            command.output().map(|output| output.stdout).ok()
        };
        quiet("scancel", &["--user=root"]);
        let start = Instant::now();
        while quiet("squeue", &["--noheader"]).is_some_and(|queue| !queue.is_empty())
            && start.elapsed() < Duration::from_secs(20)
        {
            thread::sleep(Duration::from_millis(50));
        }
        // The last one first: the node signs off at the controller, and munge signs all messages.
        for daemon in self.daemons.iter_mut().rev() {
            send_signal(daemon.id(), "TERM");
            let start = Instant::now();
            while daemon.try_wait().is_ok_and(|status| status.is_none()) {
                if start.elapsed() > Duration::from_secs(20) {
                    drop(daemon.kill());
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// The contents of `slurm.conf`.
fn configuration(node: &str, folder: &Path, [controller, daemon]: [u16; 2]) -> String {
    let folder = folder.display();
    format!(
        "\
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that was put back into the queue waits as long as a credential is valid.
AuthInfo=socket={folder}/munge/socket,cred_expire={REQUEUE_SECONDS}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
NodeName={node} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=test Nodes={node} Default=YES MaxTime=INFINITE State=UP
"
    )
}
