//! A stand-in for the daemon, for the tests of whole command lines: a responder on a Unix socket
//! that answers what each test tells it to. It shares no code with the daemon.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::super::client::Client;
use super::super::context::{Context, Terminal};
use super::super::endpoint::Endpoint;
use super::super::{Cli, run_in};

/// One request as the stand-in got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What the stand-in answers.
pub enum Answer {
    Reply(u16, Value),
    Raw(u16, &'static str, String),
    HangUp,
}

pub fn data(value: Value) -> Answer {
    Answer::Reply(200, json!({"status": "success", "data": value}))
}

pub fn error(status: u16, code: &str, message: &str) -> Answer {
    let error =
        json!({"code": code, "message": message, "hint": "", "details": {}, "request_id": "r"});
    Answer::Reply(status, json!({"status": "error", "error": error}))
}

pub fn accepted(task: &Value) -> Answer {
    Answer::Reply(202, json!({"status": "success", "data": {"task": task}}))
}

/// What each request, by its line and its number, is answered.
type Answers = dyn Fn(&str, usize) -> Answer + Send + Sync;

/// What became of a command line.
pub struct Run {
    pub code: u8,
    pub out: String,
    pub err: String,
    pub seen: Vec<Seen>,
}

#[derive(Clone, Default)]
struct Buffer(Rc<RefCell<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

/// A person at the terminal who types this, or nobody.
pub type Input = Option<&'static str>;

pub fn run_with(
    input: Input,
    args: &[&str],
    answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("vapor.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let log = Arc::clone(&seen);
    let (out, err) = (Buffer::default(), Buffer::default());
    let cli = Cli::try_parse_from([&["vapor"], args].concat()).unwrap();
    let terminal = Terminal {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
        input: Box::new(io::Cursor::new(input.unwrap_or_default())),
        out_is_tty: false,
        err_is_tty: input.is_some(),
        in_is_tty: input.is_some(),
        color: false,
        editor: "sed -i s/old/new/".to_owned(),
    };
    let code = runtime.block_on(async {
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(stand_in(listener, log, Arc::new(answer)));
        let mut cx = Context::new(Client::new(Endpoint::Unix(socket)), terminal, cli.output);
        run_in(&mut cx, cli.command).await
    });
    let seen = seen.lock().unwrap().clone();
    Run { code, out: out.text(), err: err.text(), seen }
}

pub fn run(args: &[&str], answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Run {
    run_with(None, args, answer)
}

async fn stand_in(listener: UnixListener, log: Arc<Mutex<Vec<Seen>>>, answer: Arc<Answers>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
        let service = service_fn(move |request: Request<Incoming>| {
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(|_| "body")?.to_bytes();
                let line = format!("{} {}", parts.method, parts.uri);
                let count = {
                    let mut log = log.lock().unwrap();
                    let body = String::from_utf8(body.to_vec()).unwrap();
                    log.push(Seen { line: line.clone(), headers: parts.headers, body });
                    log.len()
                };
                let (status, media, body) = match answer(&line, count) {
                    Answer::Reply(status, body) => (status, "application/json", body.to_string()),
                    Answer::Raw(status, media, body) => (status, media, body),
                    Answer::HangUp => return Err("hang up"),
                };
                let mut response = Response::new(Full::new(Bytes::from(body)));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                response.headers_mut().insert("content-type", media.parse().unwrap());
                response.headers_mut().insert("etag", "\"v7\"".parse().unwrap());
                Ok::<_, &str>(response)
            }
        });
        tokio::spawn(async move {
            let io = TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            Ok::<_, Infallible>(())
        });
    }
}
