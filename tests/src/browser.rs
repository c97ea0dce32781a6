//! Pages in a real browser: a headless Chromium, which a test starts for each look at a page. It
//! has a profile of its own in a temporary folder, and ends with the call.
//!
//! A test hands a script with it, which runs at the end of the page, as a person at the keyboard
//! would act after it has loaded:
//!
//! ```no_run
//! # use std::path::Path;
//! use tests::browser::{self, View};
//!
//! let script = "tell(document.querySelectorAll('svg').length)";
//! let visit = browser::open(Path::new("page.html"), View::PHONE, script);
//! assert_eq!(visit.told, [10]);
//! assert_eq!(visit.messages, [""; 0]);
//! assert_eq!(visit.requests, [""; 0]);
//! ```

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{send_signal, temp};

/// The names of the browser in the distributions.
const PROGRAMS: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// How long a script may take. It waits in real time: in the browser's virtual time there are no
/// frames, and what is drawn when it becomes visible never is.
const LIMIT: Duration = Duration::from_secs(120);

/// What the script's end tells.
const END: &str = "told: \"end of the script\"";

/// What the browser marks requests with that it makes for itself and no page has asked for.
const BROWSER_OWN: &str = "not an origin";

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// The width of the window's content in pixels.
    pub width: u32,
    /// Its height in pixels.
    pub height: u32,
    /// Whether the person prefers dark pages.
    pub dark: bool,
}

impl View {
    /// A wide window with a light page.
    pub const DESKTOP: View = View {
        width: 1400,
        height: 900,
        dark: false,
    };
    /// A phone with a dark page.
    pub const PHONE: View = View {
        width: 420,
        height: 900,
        dark: true,
    };
}

/// What was seen of a page.
#[derive(Debug)]
pub struct Visit {
    /// What the script has passed to `tell`.
    pub told: Vec<Value>,
    /// Everything else on the browser's console, such as errors of scripts.
    pub messages: Vec<String>,
    /// All URLs that the page asked the network for. Files on the disk and `data:` are none.
    pub requests: Vec<String>,
}

/// Returns what this machine lacks for opening pages, if it lacks anything.
pub fn lacking() -> Option<String> {
    let missing = || "no chromium; `./setup test-browser` installs it".to_owned();
    program().is_none().then(missing)
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let places = PROGRAMS
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    places.into_iter().find(|place| place.is_file())
}

/// Opens a page, runs `script` in it, and returns what was seen. In the script,
/// `await wait(MILLISECONDS)` waits and `tell(VALUE)` reports.
///
/// # Panics
/// There is no browser (see [`lacking`]), it fails, or the page cannot be copied: the script is
/// appended to a copy beside it.
#[track_caller]
pub fn open(page: &Path, view: View, script: &str) -> Visit {
    let program = program().expect("callers have looked for a browser");
    let html = std::fs::read_to_string(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
    let name = page.file_name().unwrap_or_default().to_string_lossy();
    let copy = page.with_file_name(format!(".visited-{}-{name}", std::process::id()));
    let driver = format!(
        "<script type=\"module\">const tell = (value) => console.log(\"told: \" + JSON.stringify(value));\n\
         const wait = (time) => new Promise((done) => setTimeout(done, time));\n\
         try {{ {script}\n }} catch (error) {{ console.error(error); }}\n\
         tell(\"end of the script\");</script>\n"
    );
    std::fs::write(&copy, html + &driver).unwrap_or_else(|e| panic!("{}: {e}", copy.display()));
    let profile = temp();
    let network = profile.path().join("network.json");
    let View { width, height, .. } = view;
    let mut command = Command::new(program);
    command
        // A full-screen window has the size of the screen: others are at least 500 pixels wide.
        .args(["--headless", "--kiosk", "--hide-scrollbars"])
        .arg(format!("--screen-info={{{width}x{height}}}"))
        .arg(format!("--window-size={width},{height}"))
        .arg(format!(
            "--blink-settings=preferredColorScheme={}",
            u8::from(!view.dark)
        ))
        .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync"])
        .args(["--disable-extensions", "--disable-quic"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("--enable-logging=stderr")
        .arg(format!("--log-net-log={}", network.display()))
        .arg(&copy);
    let log = run(&mut command);
    std::fs::remove_file(&copy).unwrap_or_else(|e| panic!("{}: {e}", copy.display()));
    let mut visit = Visit {
        told: Vec::new(),
        messages: Vec::new(),
        requests: requests(&network),
    };
    for message in console(&log) {
        match message.strip_prefix("told: ").map(serde_json::from_str) {
            Some(Ok(value)) => visit.told.push(value),
            _ => visit.messages.push(message.to_owned()),
        }
    }
    // That of the script's end.
    visit.told.pop();
    visit
}

/// Runs a browser until the script has ended, and returns its log.
#[track_caller]
fn run(command: &mut Command) -> String {
    let mut browser = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let lines = lines_of(&mut browser);
    let start = Instant::now();
    let mut log = String::new();
    while !log.contains(END) && start.elapsed() < LIMIT {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => log += &line,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    // It then writes the rest of its log of the network.
    send_signal(browser.id(), "TERM");
    let status = browser.wait();
    assert!(
        log.contains(END),
        "{command:?}: {status:?} before the end of the script\n{log}"
    );
    log
}

/// Reads the lines of a process's standard error on a thread, so that a full pipe never blocks it.
fn lines_of(process: &mut Child) -> Receiver<String> {
    let pipe = process.stderr.take().expect("standard error is a pipe");
    let (lines, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            // Nobody may listen any more; the pipe is emptied nevertheless.
            drop(lines.send(String::from_utf8_lossy(&line).into_owned()));
            line.clear();
        }
    });
    receiver
}

/// Returns the messages on the console, from the browser's log, whose lines are
/// `[PROCESS:TIME:INFO:CONSOLE:LINE] "MESSAGE", source: URL (LINE)`.
fn console(log: &str) -> impl Iterator<Item = &str> {
    log.split(":CONSOLE").skip(1).map(|rest| {
        let message = rest.split_once("] \"").map_or(rest, |(_, message)| message);
        let end = message.find("\", source: ");
        &message[..end.unwrap_or(message.len())]
    })
}

/// Returns the URLs that pages asked for, from the browser's log of the network.
fn requests(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    // Each event has a line of its own. The end of the file is missing if the browser was killed.
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line.trim_end_matches(',')).ok())
        .collect();
    let of_pages = events.iter().map(|event| &event["params"]).filter(|of| {
        // Requests have a method, and those of pages an origin, if only that of a file.
        of["method"].is_string() && of["initiator"].as_str() != Some(BROWSER_OWN)
    });
    let urls = of_pages.filter_map(|of| of["url"].as_str());
    urls.filter(|url| !url.starts_with("data:"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_the_log() {
        let log = "[1:1:0101/1.2:INFO:CONSOLE:1] \"told: [1,\"a\"]\", source: file:///p.html (3)\n\
                   [1:2:0101/1.3:ERROR:dbus/bus.cc:405] no bus\n\
                   [1:1:0101/1.4:INFO:CONSOLE:7] \"Uncaught E: two\nlines\", source: file:///p.html (4)\n";
        let found: Vec<&str> = console(log).collect();
        assert_eq!(found, ["told: [1,\"a\"]", "Uncaught E: two\nlines"]);
    }
}
