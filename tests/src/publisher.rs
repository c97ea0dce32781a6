//! A web server on loopback that stands in for a publisher's: a function answers its requests, and
//! an answer may break, stall or be slow. It knows ranges and versions of files (RFC 9110, sections 13 and 14), and
//! records what it sent.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request of a client.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `HEAD` or `POST`.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// The headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// How many requests for this path came before.
    pub earlier: usize,
}

/// What the server answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status; 200 becomes 206 or 416 if the client asks for a range.
    pub status: u16,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The whole file.
    pub body: Arc<Vec<u8>>,
    /// Whether the server knows ranges.
    pub ranges: bool,
    /// The bytes of the body after which the connection is closed.
    pub cut_after: Option<usize>,
    /// The bytes of the body after which the server sends nothing more, and keeps the connection
    /// open until the client closes it.
    pub stall_after: Option<usize>,
    /// The bytes that are sent in a millisecond at most.
    pub bytes_per_ms: Option<usize>,
    /// Whether the length of the body is told.
    pub tell_length: bool,
}

impl Answer {
    /// A file, in any range.
    pub fn file(body: impl Into<Vec<u8>>) -> Answer {
        Answer::shared(Arc::new(body.into()))
    }

    /// A file that several answers share.
    pub fn shared(body: Arc<Vec<u8>>) -> Answer {
        Answer {
            status: 200,
            headers: Vec::new(),
            body,
            ranges: true,
            cut_after: None,
            stall_after: None,
            bytes_per_ms: None,
            tell_length: true,
        }
    }

    /// An answer of this status without a file.
    pub fn status(status: u16) -> Answer {
        Answer {
            status,
            ..Answer::file(format!("status {status}\n"))
        }
    }

    /// A redirection to another address.
    pub fn redirect(status: u16, to: &str) -> Answer {
        Answer::status(status).header("Location", to)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// One answer that the server has sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The method of the request.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// The position of the first byte that was sent.
    pub start: usize,
    /// How many bytes of the body were handed to the connection. The client may have received fewer.
    pub bytes: usize,
}

/// A running server, which stops with the test program.
pub struct Server {
    port: u16,
    sent: Arc<Mutex<Vec<Sent>>>,
    open: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

/// Bytes that are written at a time.
const PIECE: usize = 4096;

impl Server {
    /// Starts a server that answers each request by `answer`, on a thread of its own.
    ///
    /// # Panics
    /// There is no free port.
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
        let open = Arc::new(AtomicUsize::new(0));
        let counts: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let answer = Arc::new(answer);
        let bytes = Arc::new(AtomicUsize::new(0));
        let (log, connections, total) = (sent.clone(), open.clone(), bytes.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log, counts) = (answer.clone(), log.clone(), counts.clone());
                let (connections, total) = (connections.clone(), total.clone());
                connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    // A client that goes away ends its connection alone.
                    drop(serve(&stream, &*answer, &log, &counts, &total));
                    connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Server {
            port: address.port(),
            sent,
            open,
            bytes,
        }
    }

    /// The address of a path on this server, such as `/file`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bytes of all bodies that have been sent so far.
    pub fn bytes_so_far(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Everything that was sent, in the order in which the answers ended. Answers that are still
    /// being sent are waited for.
    pub fn sent(&self) -> Vec<Sent> {
        for _ in 0..2000 {
            if self.open.load(Ordering::SeqCst) == 0 {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.sent.lock().expect("no thread panics with it").clone()
    }

    /// The bytes of a path that were sent, over all requests.
    pub fn bytes_of(&self, path: &str) -> usize {
        let sent = self.sent();
        let of_path = sent.iter().filter(|sent| sent.path == path);
        of_path.map(|sent| sent.bytes).sum()
    }
}

/// Answers the one request of a connection.
fn serve(
    stream: &TcpStream,
    answer: &dyn Fn(&Request) -> Answer,
    log: &Mutex<Vec<Sent>>,
    counts: &Mutex<BTreeMap<String, usize>>,
    total: &AtomicUsize,
) -> io::Result<()> {
    let Some(mut request) = read_request(stream)? else {
        return Ok(());
    };
    {
        let mut counts = counts.lock().expect("no thread panics with it");
        let count = counts.entry(request.path.clone()).or_default();
        request.earlier = *count;
        *count += 1;
    }
    let answer = answer(&request);
    let mut sent = Sent {
        method: request.method.clone(),
        path: request.path.clone(),
        status: answer.status,
        start: 0,
        bytes: 0,
    };
    let result = send(stream, &request, &answer, &mut sent, total);
    log.lock().expect("no thread panics with it").push(sent);
    result
}

fn read_request(stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Some(Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body,
        earlier: 0,
    }))
}

/// Sends an answer, or the range of it that the client asks for.
fn send(
    mut stream: &TcpStream,
    request: &Request,
    answer: &Answer,
    sent: &mut Sent,
    sent_bytes: &AtomicUsize,
) -> io::Result<()> {
    let total = answer.body.len();
    let mut range = 0..total;
    let mut head = String::new();
    if answer.ranges && answer.status == 200 {
        head += "Accept-Ranges: bytes\r\n";
        if let Some(start) = requested_range(request, answer) {
            if start.start >= total {
                sent.status = 416;
                head += &format!("Content-Range: bytes */{total}\r\n");
                range = 0..0;
            } else {
                sent.status = 206;
                range = start.start..start.end.min(total);
                head += &format!(
                    "Content-Range: bytes {}-{}/{total}\r\n",
                    range.start,
                    range.end - 1
                );
            }
        }
    }
    sent.start = range.start;
    if answer.tell_length {
        head += &format!("Content-Length: {}\r\n", range.len());
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let head = format!(
        "HTTP/1.1 {} -\r\n{head}Connection: close\r\n\r\n",
        sent.status
    );
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let body = &answer.body[range];
    let stop = [answer.cut_after, answer.stall_after]
        .into_iter()
        .flatten()
        .min();
    let body = &body[..stop.unwrap_or(body.len()).min(body.len())];
    for piece in body.chunks(answer.bytes_per_ms.unwrap_or(PIECE).clamp(1, PIECE)) {
        stream.write_all(piece)?;
        sent.bytes += piece.len();
        sent_bytes.fetch_add(piece.len(), Ordering::Relaxed);
        if answer.bytes_per_ms.is_some() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    if answer.stall_after.is_some() {
        // Nothing comes from the client before it closes the connection.
        drop(stream.read(&mut [0]));
    }
    stream.shutdown(Shutdown::Both)
}

/// The range that the client asks for, unless it has another version of the file.
fn requested_range(request: &Request, answer: &Answer) -> Option<std::ops::Range<usize>> {
    let range = request.headers.get("range")?.strip_prefix("bytes=")?;
    if let Some(wanted) = request.headers.get("if-range") {
        let is_version = |name: &str| {
            name.eq_ignore_ascii_case("etag") || name.eq_ignore_ascii_case("last-modified")
        };
        let mut versions = answer.headers.iter().filter(|(name, _)| is_version(name));
        if !versions.any(|(_, value)| value == wanted) {
            return None;
        }
    }
    let (start, end) = range.split_once('-')?;
    let end = match end {
        "" => usize::MAX,
        end => end.parse::<usize>().ok()? + 1,
    };
    Some(start.parse().ok()?..end)
}
