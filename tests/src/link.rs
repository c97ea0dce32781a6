//! A link between a program and a server on loopback, which a test can cut and restore.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How often a link that holds something back looks whether it may pass it on.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A port on loopback whose connections are those of another port.
pub struct Link {
    port: u16,
    state: Arc<State>,
}

struct State {
    /// Whether new connections are closed at once.
    is_cut: AtomicBool,
    /// Bytes that have come from the server.
    received: AtomicU64,
    /// Bytes that have gone to the server.
    sent: AtomicU64,
    /// The limits on `sent` at which the link cuts itself, or lets nothing more through.
    cut_limit: AtomicU64,
    stall_limit: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

impl Link {
    /// Opens a link to a port.
    ///
    /// # Panics
    /// There is no free port.
    pub fn open(server: u16) -> Link {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let state = Arc::new(State {
            is_cut: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            cut_limit: AtomicU64::new(u64::MAX),
            stall_limit: AtomicU64::new(u64::MAX),
            streams: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        // The thread ends with the test program.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.connect(client, server);
            }
        });
        Link { port, state }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections, and every new one at once.
    pub fn cut(&self) {
        self.state.cut();
    }

    /// Lets connections through again.
    pub fn restore(&self) {
        self.state.cut_limit.store(u64::MAX, Ordering::SeqCst);
        self.state.stall_limit.store(u64::MAX, Ordering::SeqCst);
        self.state.is_cut.store(false, Ordering::SeqCst);
    }

    /// Has the link cut itself when this many more bytes have gone to the server.
    pub fn cut_after_sending(&self, bytes: u64) {
        let limit = self.sent() + bytes;
        self.state.cut_limit.store(limit, Ordering::SeqCst);
    }

    /// Has the link hold back what is sent after this many more bytes.
    pub fn stall_after_sending(&self, bytes: u64) {
        let limit = self.sent() + bytes;
        self.state.stall_limit.store(limit, Ordering::SeqCst);
    }

    /// Whether the link is cut.
    pub fn is_cut(&self) -> bool {
        self.state.is_cut.load(Ordering::SeqCst)
    }

    /// The number of bytes that have come from the server so far.
    pub fn received(&self) -> u64 {
        self.state.received.load(Ordering::SeqCst)
    }

    /// The number of bytes that have gone to the server so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }
}

impl State {
    fn connect(self: &Arc<State>, client: TcpStream, server: u16) {
        if self.is_cut.load(Ordering::SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else {
            return;
        };
        let clones = (client.try_clone(), server.try_clone());
        let (Ok(client_reader), Ok(server_reader)) = clones else {
            return;
        };
        if let (Ok(mut streams), Ok(a), Ok(b)) =
            (self.streams.lock(), client.try_clone(), server.try_clone())
        {
            streams.extend([a, b]);
        }
        let state = Arc::clone(self);
        thread::spawn(move || {
            copy(client_reader, server, |bytes| {
                let sent = state.sent.fetch_add(bytes, Ordering::SeqCst) + bytes;
                if sent >= state.cut_limit.load(Ordering::SeqCst) {
                    state.cut();
                }
                while sent >= state.stall_limit.load(Ordering::SeqCst) {
                    thread::sleep(POLL_INTERVAL);
                }
            });
        });
        let state = Arc::clone(self);
        thread::spawn(move || {
            copy(server_reader, client, |bytes| {
                state.received.fetch_add(bytes, Ordering::SeqCst);
            });
        });
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        if let Ok(mut streams) = self.streams.lock() {
            for stream in streams.drain(..) {
                // It may be closed already.
                drop(stream.shutdown(Shutdown::Both));
            }
        }
    }
}

/// Copies until one of the two ends, and counts the bytes before they are passed on.
fn copy(mut from: TcpStream, mut to: TcpStream, count: impl Fn(u64)) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        count(bytes as u64);
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}
