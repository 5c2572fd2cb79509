//! `vapor vm clone`.

use std::collections::BTreeMap;

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};

use super::super::client::{Request, vm_path};
use super::super::context::Context;
use super::super::failure::Result;
use super::super::operation::{ChangeArgs, change};
use super::super::suggest::Meant;
use super::spec;
use crate::model::{LabelKey, LabelValue};

/// What is cloned, and what becomes of it.
#[derive(Args, Debug)]
pub struct CloneArgs {
    /// Name or UUID of the virtual machine to be cloned
    #[arg(value_name = "SOURCE", value_parser = super::vm_name())]
    pub source: String,
    /// The name of the new one
    #[arg(value_name = "NAME", value_parser = super::vm_name())]
    pub name: String,
    /// Share what was written until now instead of copying it; the source must be stopped
    #[arg(long)]
    pub linked: bool,
    /// The pool of the new disks
    #[arg(long)]
    pub pool: Option<String>,
    /// Where one disk goes; repeat it for several
    #[arg(long = "disk", value_name = "TARGET=[POOL/][VOLUME]", value_parser = disk)]
    pub disks: Vec<(String, Value)>,
    /// Free text; the source's if absent
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// A label in the place of the source's; repeat it for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = spec::label)]
    pub label: Vec<(LabelKey, LabelValue)>,
    /// Start it with the host
    #[arg(long)]
    pub autostart: bool,
    /// Start it as soon as it is made
    #[arg(long)]
    pub start: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `vda=images/`, `vda=web2.qcow2`, `vda=images/web2.qcow2`.
fn disk(text: &str) -> Result<(String, Value), String> {
    let (target, place) = text.split_once('=').ok_or("say TARGET=POOL/VOLUME")?;
    let (pool, volume) = place.split_once('/').unwrap_or(("", place));
    if target.is_empty() || (pool.is_empty() && volume.is_empty()) {
        return Err("say TARGET=POOL/VOLUME, TARGET=POOL/ or TARGET=VOLUME".to_owned());
    }
    let mut members = Map::new();
    for (key, word) in [("pool", pool), ("name", volume)] {
        if !word.is_empty() {
            members.insert(key.to_owned(), word.into());
        }
    }
    Ok((target.to_owned(), members.into()))
}

/// Clones a VM.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, args: &CloneArgs) -> Result<()> {
    let disks: Map<String, Value> = args.disks.iter().cloned().collect();
    let labels: BTreeMap<_, _> = args.label.iter().cloned().collect();
    let mut body = super::without_nulls(json!({
        "name": args.name,
        "linked": args.linked,
        "pool": args.pool,
        "description": args.description,
        "autostart": args.autostart,
        "start": args.start,
    }));
    if !disks.is_empty() {
        body["disks"] = disks.into();
    }
    if !labels.is_empty() {
        body["labels"] = json!(labels);
    }
    let request = Request::new(Method::POST, vm_path(&args.source, "/clone")).json(&body);
    change(cx, request, &args.change, Meant::Vm(&args.source), &args.name, "created").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_goes_to_a_pool_a_volume_or_both() {
        for (text, wanted) in [
            ("vda=images/", json!({"pool": "images"})),
            ("vda=a.qcow2", json!({"name": "a.qcow2"})),
            ("vda=images/a b.qcow2", json!({"pool": "images", "name": "a b.qcow2"})),
        ] {
            assert_eq!(disk(text).unwrap(), ("vda".to_owned(), wanted));
        }
        for bad in ["vda", "=x", "vda=", "vda=/"] {
            assert!(disk(bad).is_err(), "{bad}");
        }
    }
}
