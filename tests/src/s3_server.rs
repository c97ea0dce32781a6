//! An S3 server on loopback: that of moto, from PyPI. It keeps objects in memory.
//!
//! Programs under test sign their requests as for any S3 server. The requests of the tests
//! themselves are plain HTTP; moto checks no signature unless [`S3Server::refuse_credentials`] was
//! called.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The bucket that every server has.
pub const BUCKET: &str = "bucket";

/// What moto takes for a signature.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
                             SignedHeaders=host, Signature=none";

/// A running server, which ends when it is dropped.
pub struct S3Server {
    process: Child,
    port: u16,
}

impl S3Server {
    /// Starts a server with one empty bucket. `None` if this Python lacks moto.
    ///
    /// # Panics
    /// The server ends by itself, or makes no bucket.
    pub fn start(python: &Path) -> Option<S3Server> {
        let mut probe = Command::new(python);
        probe.args(["-c", "import moto.server"]);
        let probe = probe.stderr(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut process = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Python was started before");
        let stderr = process.stderr.take().expect("stderr is piped");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let port = lines
            .by_ref()
            .find_map(|line| {
                let (_, rest) = line.split_once("http://127.0.0.1:")?;
                let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
                digits.parse().ok()
            })
            .expect("moto names its port");
        // The log of requests must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let server = S3Server { process, port };
        server.send("PUT", &format!("/{BUCKET}"), b"");
        Some(server)
    }

    /// The port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a prefix in the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// Sets the environment with which a program reaches the server, through another port where
    /// the test has something between the two.
    pub fn configure<'a>(&self, command: &'a mut Command, port: u16) -> &'a mut Command {
        command
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env_remove("AWS_SESSION_TOKEN")
    }

    /// The keys of the objects whose names begin with this, sorted.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let path = format!("/{BUCKET}?list-type=2&max-keys=100000&prefix={prefix}");
        elements(&self.send("GET", &path, b""), "Key")
    }

    /// The bytes of the objects whose names begin with this, by the rest of their names.
    pub fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let keys = self.keys(prefix).into_iter();
        keys.map(|key| {
            let bytes = self.send("GET", &format!("/{BUCKET}/{key}"), b"");
            (key[prefix.len()..].to_owned(), bytes)
        })
        .collect()
    }

    /// Writes an object.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.send("PUT", &format!("/{BUCKET}/{key}"), bytes);
    }

    /// Removes an object.
    pub fn delete(&self, key: &str) {
        self.send("DELETE", &format!("/{BUCKET}/{key}"), b"");
    }

    /// The keys of the multipart uploads that are neither completed nor aborted and have parts, for
    /// which the owner of a bucket pays.
    pub fn unfinished_uploads(&self) -> Vec<String> {
        let list = self.send("GET", &format!("/{BUCKET}?uploads"), b"");
        let uploads = elements(&list, "Key").into_iter();
        let uploads = uploads.zip(elements(&list, "UploadId"));
        let has_parts = |(key, id): &(String, String)| {
            let parts = self.send("GET", &format!("/{BUCKET}/{key}?uploadId={id}"), b"");
            !elements(&parts, "PartNumber").is_empty()
        };
        uploads.filter(has_parts).map(|(key, _)| key).collect()
    }

    /// From now on no access key is known to the server, so that every request is refused.
    pub fn refuse_credentials(&self) {
        self.send("POST", "/moto-api/reset-auth", b"0");
    }

    /// Sends a request and returns the body of the response.
    ///
    /// # Panics
    /// The server does not answer, or with an error.
    fn send(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let mut stream =
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the server listens");
        // A response to HTTP/1.0 has no chunks, and its connection is closed.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nAuthorization: {AUTHORIZATION}\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        let mut response = Vec::new();
        stream
            .write_all(&[head.as_bytes(), body].concat())
            .and_then(|()| stream.read_to_end(&mut response))
            .expect("the server answers");
        let end = response.windows(4).position(|four| four == b"\r\n\r\n");
        let body = end.map_or(response.len(), |end| end + 4);
        let status = String::from_utf8_lossy(&response[..response.len().min(12)]).into_owned();
        assert!(
            status.split(' ').nth(1).is_some_and(|c| c.starts_with('2')),
            "{method} {path}: {}",
            String::from_utf8_lossy(&response)
        );
        response.split_off(body)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The texts of all elements of this name in an XML document.
fn elements(xml: &[u8], name: &str) -> Vec<String> {
    let xml = String::from_utf8_lossy(xml);
    let (start, end) = (format!("<{name}>"), format!("</{name}>"));
    let parts = xml.split(&start).skip(1);
    let texts = parts.filter_map(|part| part.split(&end).next().map(str::to_owned));
    texts.collect()
}
