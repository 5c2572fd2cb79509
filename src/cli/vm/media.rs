//! `vapor vm insert` and `vapor vm eject`.

use clap::Args;
use http::Method;

use super::super::client::{Request, vm_path};
use super::super::context::Context;
use super::super::failure::{Failure, Result};
use super::super::operation::{ChangeArgs, change};
use super::super::suggest::Meant;
use crate::model::{MediaAction, MediaRequest, VolumeRef};

/// What goes into which drive.
#[derive(Args, Debug)]
pub struct InsertArgs {
    /// Name or UUID of the virtual machine
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    /// Name or id of a registered image
    #[arg(value_name = "ISO", required_unless_present = "volume", value_parser = super::vm_name())]
    pub iso: Option<String>,
    /// A volume instead of a registered image
    #[arg(long, value_name = "POOL/VOLUME", conflicts_with = "iso", value_parser = volume)]
    pub volume: Option<VolumeRef>,
    #[command(flatten)]
    pub drive: DriveArgs,
}

/// Which drive is emptied.
#[derive(Args, Debug)]
pub struct EjectArgs {
    /// Name or UUID of the virtual machine
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    #[command(flatten)]
    pub drive: DriveArgs,
}

/// The drive, and how.
#[derive(Args, Debug)]
pub struct DriveArgs {
    /// The drive, such as sda; needed only where several are possible
    #[arg(long, value_name = "DRIVE")]
    pub target: Option<String>,
    /// Open the tray even if the guest has locked it
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `POOL/VOLUME`, as lists show it.
pub fn volume(text: &str) -> Result<VolumeRef, String> {
    match text.split_once('/') {
        Some((pool, volume)) if !pool.is_empty() && !volume.is_empty() => {
            Ok(VolumeRef { pool: pool.to_owned(), volume: volume.to_owned() })
        }
        _ => Err("say POOL/VOLUME".to_owned()),
    }
}

/// Inserts a medium.
pub async fn insert(cx: &mut Context, args: &InsertArgs) -> Result<()> {
    let (iso, volume) = (args.iso.clone(), args.volume.clone());
    let done = exchange(cx, MediaAction::Insert, &args.name, iso, volume, &args.drive).await;
    match &args.iso {
        Some(iso) => Meant::Iso(iso).checked(cx, done).await,
        None => done,
    }
}

/// Ejects a medium.
pub async fn eject(cx: &mut Context, args: &EjectArgs) -> Result<()> {
    exchange(cx, MediaAction::Eject, &args.name, None, None, &args.drive).await
}

async fn exchange(
    cx: &mut Context,
    action: MediaAction,
    name: &str,
    iso: Option<String>,
    volume: Option<VolumeRef>,
    drive: &DriveArgs,
) -> Result<()> {
    let target = drive.target.clone();
    let request = MediaRequest { action, iso, volume, target, force: drive.force };
    let mut body = serde_json::to_value(request).map_err(Failure::unintelligible)?;
    if let Some(members) = body.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    let words = match action {
        MediaAction::Insert => "has the medium",
        MediaAction::Eject => "has an empty drive",
    };
    let request = Request::new(Method::POST, vm_path(name, "/media")).json(&body);
    change(cx, request, &drive.change, Meant::Vm(name), name, words).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_pool_and_a_name() {
        let found = volume("isos/a/b c.iso").unwrap();
        assert_eq!((found.pool.as_str(), found.volume.as_str()), ("isos", "a/b c.iso"));
        for bad in ["", "isos", "/a", "isos/"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }
}
