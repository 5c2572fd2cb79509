//! The smallest HTTP client that measures nothing but the daemon: blocking, over the Unix socket,
//! one connection kept alive.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(60);

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One connection.
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// One reply.
pub struct Reply {
    pub status: u16,
    pub etag: String,
    pub body: Vec<u8>,
    /// From before the request was written until the whole body was read.
    pub took: Duration,
}

impl Reply {
    pub fn json(&self) -> Result<Value, Failure> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// The reply, if it has this status.
    pub fn expect(self, status: u16) -> Result<Reply, Failure> {
        if self.status == status {
            return Ok(self);
        }
        let body = String::from_utf8_lossy(&self.body);
        Err(format!("status {} instead of {status}: {body}", self.status).into())
    }
}

impl Client {
    pub fn open(socket: &Path) -> Result<Client, Failure> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { stream: BufReader::with_capacity(256 * 1024, stream) })
    }

    pub fn get(&mut self, path: &str) -> Result<Reply, Failure> {
        self.send("GET", path, "", "")
    }

    pub fn post(&mut self, path: &str, body: &str) -> Result<Reply, Failure> {
        self.send("POST", path, "content-type: application/json\r\n", body)
    }

    /// `headers` are whole lines.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<Reply, Failure> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let begun = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut head = Vec::with_capacity(512);
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head)? == 0 {
                return Err("the daemon closed the connection".into());
            }
        }
        let head = String::from_utf8(head)?;
        let status: u16 = head.get(9..12).unwrap_or_default().parse()?;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let length: usize = match header("content-length") {
            Some(length) => length.parse()?,
            None if matches!(status, 204 | 304) => 0,
            None => return Err(format!("a reply without a length: {head}").into()),
        };
        let length = if status == 304 { 0 } else { length };
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Reply {
            status,
            etag: header("etag").unwrap_or_default().to_owned(),
            body,
            took: begun.elapsed(),
        })
    }

    /// Turns the connection into a stream of events.
    pub fn events(mut self, query: &str) -> Result<Events, Failure> {
        let request = format!(
            "GET /api/v1/events{query} HTTP/1.1\r\nhost: bench\r\naccept: text/event-stream\r\n\r\n"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        // The greeting comes once the subscription stands.
        while !line.starts_with(": connected") {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err("no stream of events".into());
            }
        }
        Ok(Events { stream: self.stream })
    }
}

/// A stream of events.
pub struct Events {
    stream: BufReader<UnixStream>,
}

impl Events {
    /// The next event and when its last line was read.
    pub fn next(&mut self) -> Result<(Value, SystemTime), Failure> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err("the stream of events has ended".into());
            }
            // Chunk sizes stand on lines of their own.
            if let Some(data) = line.strip_prefix("data:") {
                return Ok((serde_json::from_str(data.trim())?, SystemTime::now()));
            }
        }
    }
}
