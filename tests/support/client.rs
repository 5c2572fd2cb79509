//! HTTP/1.1 over the daemon's Unix socket, a connection for each request.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::{TASKS, V, eventually};

/// No request of these tests takes longer, even where it waits for a guest.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A reply, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// Null where the body is no JSON.
    pub json: Value,
    pub text: String,
    pub bytes: Bytes,
}

impl Reply {
    /// What a success carries.
    ///
    /// # Panics
    /// If it is a failure.
    #[track_caller]
    pub fn data(&self) -> &Value {
        assert!(self.is_success(), "a failure: {self:?}");
        &self.json["data"]
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The error's code, or nothing.
    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn details(&self) -> &Value {
        &self.json["error"]["details"]
    }

    /// Checks that it was refused so, and hands itself on.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Reply {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The task of a mutation, finished or not.
    pub fn task(&self) -> Option<String> {
        let named = self.header("x-task-id").map(str::to_owned);
        named.or_else(|| Some(self.details()["task"].as_str()?.to_owned()))
    }
}

/// One request to be.
pub struct Call<'c> {
    client: &'c Client,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call<'_> {
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header");
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into();
        self.header("content-type", "application/json")
    }

    pub fn xml(mut self, body: &str) -> Self {
        self.body = body.to_owned().into();
        self.header("content-type", "application/xml")
    }

    pub fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The reply, or what went wrong with the connection.
    pub async fn try_send(self) -> Result<Reply, String> {
        let what = format!("{} {}", self.method, self.path);
        let exchange = async {
            let mut request = Request::builder().method(self.method).uri(&self.path);
            request.headers_mut().expect("a request").extend(self.headers);
            let request = request.header("host", "vapor").body(Full::new(self.body)).unwrap();
            let stream = UnixStream::connect(&self.client.socket).await.map_err(text)?;
            let io = TokioIo::new(stream);
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(io).await.map_err(text)?;
            tokio::spawn(connection);
            let reply = sender.send_request(request).await.map_err(text)?;
            let (head, body) = reply.into_parts();
            let bytes = body.collect().await.map_err(text)?.to_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let is_json = head
                .headers
                .get(CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
            let json = if is_json && !text.is_empty() {
                serde_json::from_str(&text).map_err(|error| format!("bad JSON: {error}: {text}"))?
            } else {
                Value::Null
            };
            Ok::<_, String>(Reply {
                status: head.status.as_u16(),
                headers: head.headers,
                json,
                text,
                bytes,
            })
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(format!("{what}: {error}")),
            Err(_) => panic!("{what}: no reply within {PATIENCE:?}"),
        }
    }

    /// The reply.
    ///
    /// # Panics
    /// If the connection fails.
    pub async fn send(self) -> Reply {
        self.try_send().await.unwrap_or_else(|error| panic!("{error}"))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Client {
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    pub fn call(&self, method: &str, path: impl Into<String>) -> Call<'_> {
        Call {
            client: self,
            method: method.parse().expect("a method"),
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    pub async fn get(&self, path: impl Into<String>) -> Reply {
        self.call("GET", path).send().await
    }

    pub async fn post(&self, path: impl Into<String>, body: &Value) -> Reply {
        self.call("POST", path).json(body).send().await
    }

    pub async fn put(&self, path: impl Into<String>, body: &Value) -> Reply {
        self.call("PUT", path).json(body).send().await
    }

    pub async fn patch(&self, path: impl Into<String>, body: &Value) -> Reply {
        self.call("PATCH", path).json(body).send().await
    }

    pub async fn delete(&self, path: impl Into<String>) -> Reply {
        self.call("DELETE", path).send().await
    }

    /// A VM that must be there.
    pub async fn vm(&self, name: &str) -> Value {
        self.get(format!("{V}/{name}")).await.data().clone()
    }

    /// Every VM.
    pub async fn vms(&self) -> Vec<Value> {
        let reply = self.get(format!("{V}?limit=1000")).await;
        reply.data()["vms"].as_array().expect("an array").clone()
    }

    /// Does one action, without further words.
    pub async fn act(&self, name: &str, action: &str) -> Reply {
        self.act_with(name, json!({"action": action})).await
    }

    pub async fn act_with(&self, name: &str, request: Value) -> Reply {
        self.post(format!("{V}/{name}/action"), &request).await
    }

    /// Does one action, which must succeed while the reply waits for it.
    pub async fn done(&self, name: &str, action: &str) -> Value {
        let reply = self.act(name, action).await;
        assert_eq!(reply.status, 200, "{action} {name}: {reply:?}");
        reply.data().clone()
    }

    /// The task as it stands.
    pub async fn task(&self, id: &str) -> Value {
        self.get(format!("{TASKS}/{id}")).await.data().clone()
    }

    /// The task as soon as it has finished.
    pub async fn finished(&self, id: &str, within: Duration) -> Value {
        eventually(&format!("task {id} is finished"), within, async || {
            let task = self.get(format!("{TASKS}/{id}?wait=5")).await.data().clone();
            is_finished(&task).then_some(task)
        })
        .await
    }

    /// Every task, oldest first.
    pub async fn tasks(&self) -> Vec<Value> {
        let mut all = Vec::new();
        let mut path = format!("{TASKS}?limit=200");
        loop {
            let reply = self.get(path.clone()).await;
            let data = reply.data();
            all.extend(data["tasks"].as_array().expect("an array").iter().cloned());
            match data["next"].as_str() {
                Some(next) => path = format!("{TASKS}?limit=200&cursor={next}"),
                None => break,
            }
        }
        all.reverse();
        all
    }

    /// A stream of server-sent events from now on: name and data of each.
    pub async fn stream(&self, query: &str) -> mpsc::UnboundedReceiver<(String, Value)> {
        let stream = UnixStream::connect(&self.socket).await.expect("the socket");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let request = Request::builder()
            .uri(format!("/api/v1/events{query}"))
            .header("host", "vapor")
            .header("accept", "text/event-stream")
            .body(Full::new(Bytes::new()))
            .unwrap();
        let reply = sender.send_request(request).await.expect("a reply");
        assert_eq!(reply.status().as_u16(), 200);
        let mut body = reply.into_body();
        // The greeting says that the subscription stands.
        let mut text = String::new();
        while !text.contains("\n\n") {
            let frame = body.frame().await.expect("a greeting").expect("a frame");
            text.push_str(&String::from_utf8_lossy(frame.data_ref().map_or(&[][..], |d| d)));
        }
        let (events, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                while let Some(end) = text.find("\n\n") {
                    let block: String = text.drain(..end + 2).collect();
                    let field = |name: &str| {
                        let mut lines = block.lines();
                        lines.find_map(|line| line.strip_prefix(name)).map(str::trim)
                    };
                    if let (Some(event), Some(data)) = (field("event:"), field("data:")) {
                        let data = serde_json::from_str(data).expect("JSON");
                        if events.send((event.to_owned(), data)).is_err() {
                            return;
                        }
                    }
                }
                let Some(Ok(frame)) = body.frame().await else { return };
                text.push_str(&String::from_utf8_lossy(frame.data_ref().map_or(&[][..], |d| d)));
            }
        });
        received
    }
}

/// Whether nothing more will happen to a task.
pub fn is_finished(task: &Value) -> bool {
    !matches!(task["status"].as_str(), Some("queued" | "running"))
}
