//! A web server on loopback that sends the files of a folder, as far as a client asks for ranges
//! of them. It knows `HEAD`, `GET` and `Range`, and no list of its files.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

/// Serves a folder until the test program ends, and returns the port. With `ranges` off it always
/// sends whole files, as Python's `http.server` does.
///
/// # Panics
/// There is no free port.
pub fn serve(folder: &Path, ranges: bool) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let folder = folder.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            // A client that goes away ends its connection alone.
            thread::spawn(move || drop(answer(stream, &folder, ranges)));
        }
    });
    address.port()
}

/// Answers the one request of a connection.
fn answer(stream: TcpStream, folder: &Path, ranges: bool) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut range = None;
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("range") && ranges {
            range = parse(value.trim());
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let path: PathBuf = folder.join(path.trim_start_matches('/'));
    let (status, body, position) = match (fs::read(&path), range) {
        (Err(_), _) => ("404 Not Found", Vec::new(), String::new()),
        (Ok(bytes), None) => ("200 OK", bytes, String::new()),
        (Ok(bytes), Some((start, end))) => {
            let end = bytes.len().min(end + 1);
            let position = format!(
                "Content-Range: bytes {start}-{}/{}\r\n",
                end - 1,
                bytes.len()
            );
            ("206 Partial Content", bytes[start..end].to_vec(), position)
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{position}\
         Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = if method == "HEAD" { &[] } else { &body[..] };
    (&stream).write_all(&[head.as_bytes(), body].concat())
}

/// Parses `bytes=START-END`.
fn parse(range: &str) -> Option<(usize, usize)> {
    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?))
}
