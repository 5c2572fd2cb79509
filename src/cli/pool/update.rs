//! `vapor pool update`.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::super::client::Request;
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Result};
use super::super::operation::{ChangeArgs, change};
use super::super::suggest::Meant;
use super::super::vm::{overlay, read_body, without_nulls, yes_no};
use super::create::PlaceArgs;

/// What changes; what is not named stays.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// Its name
    #[arg(value_name = "POOL", value_parser = super::pool_name())]
    pub name: String,
    /// Start it with the host
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", value_parser = yes_no)]
    pub autostart: Option<bool>,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Read the body from a JSON (or .toml) file, - for stdin; options given besides win
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Changes.
pub async fn run(cx: &mut Context, args: &UpdateArgs) -> Result<()> {
    let flags = without_nulls(json!({ "autostart": args.autostart }));
    let body = overlay(read_body(cx, args.file.as_deref())?, flags);
    let body = overlay(body, args.place.body());
    if body.as_object().is_none_or(serde_json::Map::<String, Value>::is_empty) {
        return Err(Failure::new(Exit::Refused, "nothing to change was named")
            .with_hint("see `vapor pool update --help`"));
    }
    let request = Request::new(Method::PUT, super::path(&args.name, "")).json(&body);
    change(cx, request, &args.change, Meant::Pool(&args.name), &args.name, "updated").await
}
