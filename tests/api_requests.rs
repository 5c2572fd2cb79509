//! Requests as careless and hostile clients make them: each ends as a clear 4xx, none as a 500, and
//! nothing is changed by it.

#[path = "support/driver.rs"]
mod driver;

use std::time::Duration;

use driver::{POOLS, VMS, WEB1, World};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use vapor::api::openapi;

const JSON: &str = "application/json";

/// Sends these bytes, closes this half, and reads everything that comes back.
async fn speak(world: &World, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(world.folder().join("vapor.sock")).await.expect("socket");
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let _ = writer.write_all(bytes).await;
        let _ = writer.shutdown().await;
    };
    let mut reply = Vec::new();
    let read = async {
        let _ = reader.read_to_end(&mut reply).await;
    };
    tokio::time::timeout(driver::PATIENCE, async { tokio::join!(write, read) })
        .await
        .expect("a reply in time");
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_such_object_are_400_and_change_nothing() {
    let world = World::new().await;
    let before = world.get(VMS).await.header("etag");
    for text in [
        "",
        "{",
        "[]",
        "null",
        "7",
        "\"web9\"",
        "{}",
        "{\"name\":\"web9\"}{}",
        "{\"name\":\"web9\",}",
        "{\"name\":\"web9\",\"name\":\"web8\",\"memory\":64,\"vcpus\":1}",
        "{\"name\":\"web9\",\"memory\":64,\"vcpus\":1,\"extra\":1}",
        "{\"name\":\"web9\",\"memory\":\"64\",\"vcpus\":1}",
        "{\"name\":\"web9\",\"memory\":64.5,\"vcpus\":1}",
        "{\"name\":\"web9\",\"memory\":1e400,\"vcpus\":1}",
        "{\"name\":\"web9\",\"memory\":99999999999999999999999,\"vcpus\":1}",
        "{\"name\":\"web9\",\"memory\":-64,\"vcpus\":1}",
        "{\"name\":[\"web9\"],\"memory\":64,\"vcpus\":1}",
        "{\"name\":null,\"memory\":64,\"vcpus\":1}",
        "{\"name\":\"web9\",\"memory\":64,\"vcpus\":1,\"network\":[\"network\",\"default\",\"virtio\"]}",
        "{\"name\":\"web9\",\"memory\":64,\"vcpus\":1,\"network\":{\"type\":{\"network\":null}}}",
        "{\"name\":\"\\ud800\",\"memory\":64,\"vcpus\":1}",
    ] {
        let reply = world.request(Method::POST, VMS, &[], Some((JSON, text.to_owned()))).await;
        reply.refused(400, "INVALID_REQUEST");
        assert!(!reply.fields().is_empty(), "{text}: {reply}");
    }
    let deep = format!("{{\"name\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    world.request(Method::POST, VMS, &[], Some((JSON, deep))).await.refused(400, "INVALID_REQUEST");
    assert_eq!(world.get(VMS).await.header("etag"), before);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nothing_could_carry_are_400_with_their_field() {
    let world = World::new().await;
    for name in [
        "",
        ".",
        "..",
        "-rf",
        "a/b",
        "../../etc",
        "a b",
        "a\u{0}b",
        "a\nb",
        "<a/>",
        "&amp;",
        "ä",
        "🦀",
        "a%00",
        "$(id)",
        "a;b",
        &"x".repeat(129),
        &"x".repeat(10_000),
    ] {
        let body = json!({"name": name, "memory": 64, "vcpus": 1});
        let reply = world.post(VMS, &body).await;
        reply.refused(400, "INVALID_NAME");
        assert_eq!(reply.fields(), ["name"], "{name:?}");
        assert!(reply.body.len() < 2000, "the name is not repeated whole");
    }
    // A volume may be called what a file may be called.
    let long = "x".repeat(256);
    for name in ["", ".", "..", "a/b", "../../etc", "a\u{0}b", "a\nb", "<a/>", "&amp;", &long] {
        let body = json!({"name": name, "size": 1});
        let reply = world.post(&format!("{POOLS}/default/volumes"), &body).await;
        reply.refused(400, "INVALID_NAME");
        assert_eq!(reply.fields(), ["name"], "{name:?}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_in_paths_are_400_or_404_however_they_are_written() {
    let world = World::new().await;
    let long = "x".repeat(10_000);
    for (id, status) in [
        ("%00", 400),
        ("a%00b", 400),
        ("%0a", 400),
        ("%7f", 400),
        ("%ff", 400),
        ("%C3%28", 400),
        (long.as_str(), 400),
        ("%2e%2e", 404),
        ("a%2Fb", 404),
        ("..%2f..%2fetc", 404),
        ("%F0%9F%A6%80", 404),
        ("%3Cdomain%2F%3E", 404),
        ("a%20b", 404),
        ("%", 404),
        ("%zz", 404),
        ("a+b", 404),
    ] {
        for path in [
            format!("{VMS}/{id}"),
            format!("{POOLS}/{id}"),
            format!("{POOLS}/default/volumes/{id}"),
        ] {
            let reply = world.get(&path).await;
            assert_eq!(reply.status, status, "{reply}");
            assert!(reply.error()["code"].is_string());
        }
    }
    world.get("/api/v1/tasks/not-a-uuid").await.refused(400, "INVALID_REQUEST");
    world
        .get("/api/v1/tasks/00000000-0000-7000-8000-000000000000")
        .await
        .refused(404, "TASK_NOT_FOUND");
    world.stop().await;
}

/// Every string and every number of every example of the document, replaced by what hurts: the
/// reply may be a success where the text is one, and is never a defect of ours.
#[tokio::test(flavor = "multi_thread")]
async fn no_value_in_any_body_makes_a_500() {
    let world = World::new().await;
    let strings = [
        json!(""),
        json!("</name><devices>"),
        json!("\"'<![CDATA[x]]>&lt;"),
        json!("a\u{0}b"),
        json!("\u{1}\u{fffe}"),
        json!("🦀".repeat(300)),
        json!("x".repeat(10_000)),
        json!("../../etc/passwd"),
        json!("%s%n"),
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!(true),
    ];
    let numbers = [
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e308),
        json!(i64::MAX),
        json!(u64::MAX),
        json!("1"),
        json!(null),
        json!([1]),
        json!(2_147_483_648_u64),
        json!(67_108_864),
    ];
    let mut sent = 0;
    for (path, item) in openapi::document()["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let content = &operation["requestBody"]["content"][JSON];
            for example in content["examples"].as_object().into_iter().flatten() {
                let target = path
                    .replace("{id}", "web2")
                    .replace("{pool}", "default")
                    .replace("{volume}", "x");
                let body = &example.1["value"];
                for pointer in leaves(body, "") {
                    let is_text = body.pointer(&pointer).is_some_and(Value::is_string);
                    for value in if is_text { &strings[..] } else { &numbers[..] } {
                        let mut body = body.clone();
                        *body.pointer_mut(&pointer).expect("a leaf") = value.clone();
                        let method = method.to_uppercase().parse().expect("a method");
                        let reply = world.send(method, &target, &[], Some(&body)).await;
                        let fine = (200..300).contains(&reply.status)
                            || (400..500).contains(&reply.status);
                        assert!(fine, "{pointer} = {value}: {reply}");
                        sent += 1;
                        if reply.status == 201 {
                            let _ = world
                                .delete(&format!(
                                    "{VMS}/{}?remove_disks=true&force=true",
                                    body["name"].as_str().unwrap_or_default()
                                ))
                                .await;
                        }
                    }
                }
            }
        }
    }
    assert!(sent > 300, "{sent} requests");
    world.stop().await;
}

/// Pointers to every string and number within.
fn leaves(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(key, value)| {
                leaves(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")))
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(index, item)| leaves(item, &format!("{at}/{index}")))
            .collect(),
        Value::String(_) | Value::Number(_) => vec![at.to_owned()],
        Value::Null | Value::Bool(_) => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_in_texts_comes_back_as_it_was_sent() {
    let world = World::new().await;
    let text = "</description><devices/> & \"quotes\" ]]> <!-- -- --> ümlaut 🦀\ttab\nline";
    let body = json!({"description": text, "labels": {"k": "<x attr='1'>&\"'"}});
    world.patch(&format!("{VMS}/web2"), &body).await.expect(200);
    let vm = world.vm("web2").await;
    assert_eq!(vm["description"], text);
    assert_eq!(vm["labels"], body["labels"]);
    assert_eq!(vm["name"], "web2");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_types_are_415_and_other_accepts_406() {
    let world = World::new().await;
    let body = json!({"action": "start"}).to_string();
    let path = format!("{VMS}/web2/action");
    for media in
        ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
    {
        let reply = world.request(Method::POST, &path, &[], Some((media, body.clone()))).await;
        reply.refused(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    let headers = [("content-encoding", "gzip")];
    let reply = world.request(Method::POST, &path, &headers, Some((JSON, body.clone()))).await;
    reply.refused(415, "UNSUPPORTED_MEDIA_TYPE");
    let headers = [("accept", "image/png")];
    let reply = world.request(Method::POST, &path, &headers, Some((JSON, body))).await;
    reply.refused(406, "NOT_ACCEPTABLE");
    assert_eq!(world.state("web2").await, "shutoff", "nothing was done");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_problems_for_those_who_ask_and_name_their_request() {
    let world = World::new().await;
    let headers = [("accept", "application/problem+json"), ("x-request-id", "mine-7")];
    let reply = world.send(Method::GET, &format!("{VMS}/none"), &headers, None).await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(reply.header("x-request-id"), "mine-7");
    let problem = reply.json();
    assert_eq!(problem["code"], "VM_NOT_FOUND");
    assert_eq!(problem["status"], 404);
    assert_eq!(problem["request_id"], "mine-7");
    // successes stay what they are
    let reply = world.send(Method::GET, &format!("{VMS}/web1"), &headers, None).await;
    assert_eq!(reply.header("content-type"), "application/json");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_that_are_none_are_405_and_404() {
    let world = World::new().await;
    for (method, path, allow) in [
        (Method::DELETE, VMS.to_owned(), "GET,HEAD,POST"),
        (Method::POST, format!("{VMS}/web1"), "DELETE,GET,HEAD,PATCH,PUT"),
        (Method::OPTIONS, "/api/v1/tasks".to_owned(), "GET,HEAD"),
        (Method::TRACE, "/health".to_owned(), "GET,HEAD"),
    ] {
        let reply = world.send(method, &path, &[], None).await;
        reply.refused(405, "METHOD_NOT_ALLOWED");
        let allowed = reply.header("allow");
        let mut words: Vec<&str> = allowed.split(',').collect();
        words.sort_unstable();
        assert_eq!(words.join(","), allow, "{path}");
    }
    for path in ["/", "/api", "/api/v2/tasks", "/api/v1/tasks/", "/api/v1//tasks", "/favicon.ico"] {
        world.get(path).await.refused(404, "ROUTE_NOT_FOUND");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_answers_as_get_without_the_body() {
    let world = World::new().await;
    let get = world.get(VMS).await;
    let head = world.send(Method::HEAD, VMS, &[], None).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for header in ["etag", "content-length", "content-type"] {
        assert_eq!(head.header(header), get.header(header));
    }
    assert_eq!(world.send(Method::HEAD, &format!("{VMS}/none"), &[], None).await.status, 404);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_are_413_wherever_they_are_sent() {
    let world = World::new().await;
    let huge = "x".repeat(50 << 20);
    for path in [VMS.to_owned(), format!("{VMS}/web1/action"), "/api/v1/nowhere".to_owned()] {
        let reply = world.request(Method::POST, &path, &[], Some((JSON, huge.clone()))).await;
        match path.ends_with("nowhere") {
            true => reply.refused(404, "ROUTE_NOT_FOUND"),
            false => reply.refused(413, "PAYLOAD_TOO_LARGE"),
        };
    }
    // without a declared length, too
    let mut text = format!(
        "POST {VMS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..50 {
        text.extend_from_slice(b"100000\r\n");
        text.extend_from_slice(&huge.as_bytes()[..1 << 20]);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    let reply = speak(&world, &text).await;
    assert!(reply.starts_with("HTTP/1.1 413"), "{}", &reply[..reply.len().min(300)]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_framing_is_400_and_the_daemon_goes_on() {
    let world = World::new().await;
    let post = format!("POST {VMS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n");
    for (bytes, status) in [
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("\0\0\0\0\r\n\r\n".to_owned(), "400"),
        ("GET /\u{1} HTTP/1.1\r\n\r\n".to_owned(), "400"),
        (format!("{post}Content-Length: -1\r\n\r\n"), "400"),
        (format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\n{{}}"), "400"),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "400"),
        // it announces more than it sends, and closes its half
        (format!("{post}Content-Length: 100\r\n\r\n{{\"name\":"), "400"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)), "4"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(5000)), "431"),
    ] {
        let reply = speak(&world, bytes.as_bytes()).await;
        let wanted = format!("HTTP/1.1 {status}");
        assert!(reply.starts_with(&wanted), "{:?}: {reply}", &bytes[..bytes.len().min(120)]);
    }
    assert_eq!(world.get(VMS).await.status, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_dawdles_is_408() {
    let world = World::with(driver::NODE, "[limits]\nrequest_seconds = 1\n").await;
    let mut stream = UnixStream::connect(world.folder().join("vapor.sock")).await.expect("socket");
    let head = format!(
        "POST {VMS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Content-Length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut reply = vec![0; 4096];
    let reading = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut reply));
    let read = reading.await.expect("an answer in time").expect("an answer");
    let text = String::from_utf8_lossy(&reply[..read]);
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(text.contains("REQUEST_TIMEOUT"), "{text}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_cancels_nothing() {
    let world = World::new().await;
    let body = json!({"action": "start"}).to_string();
    let request = format!(
        "POST {VMS}/web2/action HTTP/1.1\r\nHost: x\r\n\
        Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = UnixStream::connect(world.folder().join("vapor.sock")).await.expect("socket");
    stream.write_all(request.as_bytes()).await.expect("written");
    drop(stream);
    world.until(&format!("{VMS}/web2"), |vm| vm["state"] == "running").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_gives_the_same_result_and_another_request_422() {
    let world = World::new().await;
    let path = format!("{POOLS}/images/volumes");
    let headers = [("idempotency-key", "k-1")];
    let body = json!({"name": "new.raw", "size": 1, "format": "raw"});
    let first = world.send(Method::POST, &path, &headers, Some(&body)).await;
    let again = world.send(Method::POST, &path, &headers, Some(&body)).await;
    assert_eq!((first.status, again.status), (201, 201), "{first} {again}");
    assert_eq!(first.data(), again.data());
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(first.header("x-task-id"), again.header("x-task-id"));
    let other = json!({"name": "new.raw", "size": 2, "format": "raw"});
    let reply = world.send(Method::POST, &path, &headers, Some(&other)).await;
    reply.refused(422, "IDEMPOTENCY_KEY_REUSED");
    for bad in ["", "a b", &"k".repeat(256)] {
        let reply = world.send(Method::POST, &path, &[("idempotency-key", bad)], Some(&body)).await;
        reply.refused(400, "INVALID_REQUEST");
        assert_eq!(reply.fields(), ["Idempotency-Key"]);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_tag_is_412_and_the_present_one_is_not() {
    let world = World::new().await;
    let path = format!("{VMS}/{WEB1}");
    let tag = world.get(&path).await.header("etag");
    let body = json!({"description": "one"});
    let stale = [("if-match", "\"never\"")];
    let reply = world.send(Method::PATCH, &path, &stale, Some(&body)).await;
    reply.refused(412, "PRECONDITION_FAILED");
    let present = [("if-match", tag.as_str())];
    world.send(Method::PATCH, &path, &present, Some(&body)).await.expect(200);
    let reply =
        world.send(Method::PATCH, &path, &present, Some(&json!({"description": "two"}))).await;
    reply.refused(412, "PRECONDITION_FAILED");
    assert_eq!(world.vm(WEB1).await["description"], "one");
    world.stop().await;
}
