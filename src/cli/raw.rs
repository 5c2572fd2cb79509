//! `vapor api`: any request, for what has no command of its own.

use clap::Args;
use http::{HeaderName, Method};
use uuid::Uuid;

use super::client::Request;
use super::context::Context;
use super::failure::{Exit, Failure, Result};
use super::output::Format;
use super::vm::read_file;

/// The request.
#[derive(Args, Debug)]
pub struct ApiArgs {
    /// GET, POST, PUT, PATCH or DELETE
    #[arg(value_parser = method)]
    pub method: Method,
    /// A path below /api/v1, such as /tasks?limit=5, or one that begins with /api/
    #[arg(value_parser = path)]
    pub path: String,
    /// The body; @FILE reads it from a file, - from stdin
    #[arg(long, short, value_name = "BODY", allow_hyphen_values = true)]
    pub data: Option<String>,
    /// A header, NAME: VALUE; repeat it for several
    #[arg(long, short = 'H', value_name = "HEADER", value_parser = header)]
    pub header: Vec<(HeaderName, String)>,
    /// Print the status and the headers, too
    #[arg(long, short)]
    pub include: bool,
}

fn method(text: &str) -> Result<Method, String> {
    let method: Result<Method, _> = text.to_ascii_uppercase().parse();
    method.map_err(|_| format!("{text:?} is no method"))
}

fn path(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c.is_control() || c == ' ') {
        return Err(
            "a path is not empty, and holds neither spaces nor control characters".to_owned()
        );
    }
    match super::client::absolute(text).parse::<http::Uri>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn header(text: &str) -> Result<(HeaderName, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is no header's name"))?;
    Ok((name, value.trim().to_owned()))
}

/// Sends the request and prints the reply's body, whatever it is.
///
/// # Errors
/// A reply that is no success ends with its exit code, after its body has been printed.
pub async fn run(cx: &mut Context, args: &ApiArgs) -> Result<()> {
    let mut request = Request::new(args.method.clone(), args.path.clone());
    if let Some(data) = &args.data {
        let body = match data.strip_prefix('@') {
            Some(file) => read_file(cx, file)?,
            None if data == "-" => read_file(cx, "-")?,
            None => data.clone(),
        };
        request = request.body("application/json", body);
    }
    if !args.method.is_safe() {
        let key = HeaderName::from_static("idempotency-key");
        request = request.header(key, &Uuid::new_v4().to_string());
    }
    for (name, value) in &args.header {
        request = request.header(name.clone(), value);
    }
    let reply = cx.client.send(&request).await?;
    if args.include {
        let mut head = format!("HTTP/1.1 {}\n", reply.status);
        for (name, value) in &reply.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            head.push_str(&format!("{name}: {}\n", super::text::safe(&value)));
        }
        cx.print(&format!("{head}\n"))?;
    }
    let value = if reply.is_json() { serde_json::from_slice(&reply.body).ok() } else { None };
    match value {
        Some(value) if cx.format == Format::Yaml || cx.terminal.out_is_tty => {
            cx.print_value(&value)?
        }
        Some(_) => {
            cx.print_document(&reply.body)?;
            cx.print("\n")?;
        }
        None => cx.print_document(&reply.body)?,
    }
    if reply.status.is_client_error() || reply.status.is_server_error() {
        let failure = reply.failure();
        return Err(match &failure.code {
            // the body, which says it all, has been printed
            Some(_) => Failure::silent(failure.exit),
            None => failure,
        });
    }
    if reply.status.is_redirection() && !args.include {
        return Err(Failure::new(Exit::Failed, format!("the daemon answered {}", reply.status)));
    }
    Ok(())
}
