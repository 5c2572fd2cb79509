//! `vapor vm history`, `vapor vm diff`, `vapor vm rollback`: the versions of a definition.

use clap::Args;
use http::Method;
use serde_json::Value;

use super::super::client::{Request, vm_path};
use super::super::context::Context;
use super::super::failure::Result;
use super::super::operation::{ChangeArgs, Ended, perform, show_done};
use super::super::output::{Column, Listing, fetch_list, read};
use super::super::plan;
use super::super::suggest::Meant;
use super::super::text::{age, bytes, or_none};
use crate::model::{DefinitionContent, DefinitionDiff, DefinitionVersion};

/// A version's number on the command line.
fn version() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=9_007_199_254_740_991)
}

/// Whose history is shown.
#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// Name or UUID
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    /// Show the definition (domain XML) of this version
    #[arg(value_name = "VERSION", value_parser = version())]
    pub version: Option<u64>,
}

/// Which versions are compared.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// Name or UUID
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    /// The version that the difference is seen from
    #[arg(value_name = "VERSION", value_parser = version())]
    pub from: u64,
    /// The other version; without it the present definition
    #[arg(value_name = "OTHER", value_parser = version())]
    pub to: Option<u64>,
}

/// Which version is gone back to.
#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// Name or UUID
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    /// The version that becomes the definition again
    #[arg(value_name = "VERSION", value_parser = version())]
    pub version: u64,
    #[command(flatten)]
    pub change: ChangeArgs,
}

const LISTING: Listing<'_, DefinitionVersion> = Listing {
    noun: "definitions",
    name: |version| version.number.to_string(),
    columns: &[
        Column::number("VERSION", |version, _| version.number.to_string()),
        Column::number("AGE", |version, now| age(now, version.at)),
        Column::text("BY", |version, _| version.by.clone().unwrap_or_else(|| "outside".to_owned())),
        Column::text("OPERATION", |version, _| or_none(version.operation.as_deref())),
        Column::wide("TASK", |version, _| {
            or_none(version.task.map(|task| task.to_string()).as_deref())
        }),
        Column::wide("WHEN", |version, _| version.at.to_string()),
        Column::wide_number("SIZE", |version, _| bytes(version.bytes)),
    ],
};

/// Shows the versions, or one of them.
pub async fn history(cx: &mut Context, args: &HistoryArgs) -> Result<()> {
    let Some(version) = args.version else {
        let list = Request::get(vm_path(&args.name, "/definitions"));
        let listed = fetch_list(cx, list, "definitions", None).await;
        let data = Meant::Vm(&args.name).checked(cx, listed).await?;
        return LISTING.show(cx, &data);
    };
    let one = Request::get(vm_path(&args.name, &format!("/definitions/{version}")));
    let data = Meant::Vm(&args.name).fetch(cx, one).await?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let content: DefinitionContent = read(data)?;
    cx.print_document(content.xml.as_bytes())
}

/// Shows what differs between two versions.
pub async fn diff(cx: &mut Context, args: &DiffArgs) -> Result<()> {
    let path = vm_path(&args.name, &format!("/definitions/{}/diff", args.from));
    let to = args.to.map(|to| to.to_string());
    let request = Request::get(path).maybe("to", to.as_deref());
    let data = Meant::Vm(&args.name).fetch(cx, request).await?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let found: DefinitionDiff = read(data)?;
    if found.diff.is_empty() {
        cx.note("no difference");
        return Ok(());
    }
    let lines: Vec<String> = found.diff.lines().map(|line| plan::diff_line(cx, line)).collect();
    cx.print(&format!("{}\n", lines.join("\n")))
}

/// Makes a version the definition again.
pub async fn rollback(cx: &mut Context, args: &RollbackArgs) -> Result<()> {
    let path = vm_path(&args.name, &format!("/definitions/{}/rollback", args.version));
    let done = perform(cx, Request::new(Method::POST, path), &args.change).await;
    let result = match done {
        Ok(Ended::Done(data)) => {
            let words = format!("rolled back to version {}", args.version);
            show_done(cx, &data, &args.name, &words).map(|()| waits(cx, &data))
        }
        Ok(Ended::Planned | Ended::Accepted) => Ok(()),
        Err(failure) => Err(failure),
    };
    Meant::Vm(&args.name).checked(cx, result).await
}

/// Says so if a running VM has still to take it up.
fn waits(cx: &mut Context, data: &Value) {
    let pending = data.get("pending").is_some_and(|pending| !pending.is_null());
    if pending && !cx.format.is_data() {
        cx.note("it takes hold with the next boot");
    }
}
