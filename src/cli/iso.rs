//! `vapor iso …`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::client::{ISOS, Request, escape};
use super::context::Context;
use super::failure::Result;
use super::operation::{ChangeArgs, change};
use super::output::{Column, Format, Listing, Sheet, fetch_list, read};
use super::several::{DeletionArgs, Victim, delete_each};
use super::suggest::Meant;
use super::text::{bytes, moment, or_none, plain, quoted, safe, yes_no};
use super::volume::Name;
use super::{transfer, upload};
use crate::model::{Iso, VolumeRef};

/// What can be done with ISO images.
#[derive(Subcommand, Debug)]
pub enum IsoCommand {
    /// List the registered images
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one image
    Show(OneArgs),
    /// Register a volume as an image
    Register(RegisterArgs),
    /// Upload a file into the library
    Upload(upload::IsoUploadArgs),
    /// Make a file of an image
    Download(DownloadArgs),
    /// Compute the checksum of an image anew
    Checksum(ChecksumArgs),
    /// Delete images from the library
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Which images are listed.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only those of this name; `*` stands for any text
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Only those of this OS variant; `*` stands for any text
    #[arg(long, value_name = "SHORT-ID")]
    pub os: Option<String>,
}

/// One image.
#[derive(Args, Debug)]
pub struct OneArgs {
    /// Name or id
    #[arg(value_name = "ISO", value_parser = NonEmptyStringValueParser::new())]
    pub iso: String,
}

/// What is registered.
#[derive(Args, Debug)]
pub struct RegisterArgs {
    /// The volume
    #[arg(value_name = "POOL/VOLUME", value_parser = super::vm::volume)]
    pub volume: VolumeRef,
    /// What it is called; the volume's name if absent
    #[arg(long)]
    pub name: Option<String>,
    /// The system on it, such as debian12; recognised if absent
    #[arg(long, value_name = "SHORT-ID")]
    pub os_variant: Option<String>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which image becomes which file.
#[derive(Args, Debug)]
pub struct DownloadArgs {
    /// Name or id
    #[arg(value_name = "ISO", value_parser = NonEmptyStringValueParser::new())]
    pub iso: String,
    /// The file, which must not exist; the volume's name if absent, - for standard output
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Go on where the file ends
    #[arg(long)]
    pub resume: bool,
}

/// Whose checksum is computed.
#[derive(Args, Debug)]
pub struct ChecksumArgs {
    /// Name or id
    #[arg(value_name = "ISO", value_parser = NonEmptyStringValueParser::new())]
    pub iso: String,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which images go.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Names or ids
    #[arg(value_name = "ISO", required = true, value_parser = NonEmptyStringValueParser::new())]
    pub isos: Vec<String>,
    /// Delete their volumes, too
    #[arg(long)]
    pub delete_volume: bool,
    #[command(flatten)]
    pub deletion: DeletionArgs,
}

const LISTING: Listing<'_, Iso> = Listing {
    noun: "isos",
    name: |iso| iso.name.clone(),
    columns: &[
        Column::text("NAME", |iso, _| iso.name.clone()),
        Column::text("STATE", |iso, _| word(&iso.state)),
        Column::number("SIZE", |iso, _| bytes(iso.size_bytes)),
        Column::text("OS", |iso, _| or_none(iso.os_variant.as_deref())),
        Column::text("CHECKSUM", |iso, _| word(&iso.checksum.status)),
        Column::text("INSERTED IN", |iso, _| or_none(Some(&iso.inserted_in.join(",")))),
        Column::wide("VOLUME", |iso, _| format!("{}/{}", iso.pool, iso.volume)),
        Column::wide("LABEL", |iso, _| or_none(iso.header.volume_id.as_deref())),
        Column::wide("SHA-256", |iso, _| or_none(iso.checksum.sha256.as_deref())),
        Column::wide("ID", |iso, _| iso.id.to_string()),
    ],
};

/// The word that the API uses for this.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).map_or_else(|_| "?".to_owned(), |word| plain(&word))
}

fn path(iso: &str) -> String {
    format!("{ISOS}/{}", escape(iso))
}

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: IsoCommand) -> Result<()> {
    match command {
        IsoCommand::List(args) => {
            let request = Request::get(ISOS)
                .maybe("name", args.name.as_deref())
                .maybe("os", args.os.as_deref());
            let data = fetch_list(cx, request, "isos", None).await?;
            LISTING.show(cx, &data)
        }
        IsoCommand::Show(args) => show(cx, &args.iso).await,
        IsoCommand::Register(args) => register(cx, &args).await,
        IsoCommand::Upload(args) => upload::upload_iso(cx, args).await,
        IsoCommand::Download(args) => {
            let iso: Iso = read(data(cx, &args.iso).await?)?;
            let DownloadArgs { file, resume, .. } = args;
            let volume = Name { pool: iso.pool, volume: iso.volume };
            let args = transfer::DownloadArgs { volume, file, resume, force: false };
            transfer::download(cx, args).await
        }
        IsoCommand::Checksum(args) => {
            let request = Request::new(Method::POST, format!("{}/checksum", path(&args.iso)));
            let iso = args.iso.as_str();
            change(cx, request, &args.change, Meant::Iso(iso), iso, "has its checksum").await
        }
        IsoCommand::Delete(args) => delete(cx, &args).await,
    }
}

/// What the API says of an image.
async fn data(cx: &Context, name: &str) -> Result<Value> {
    Meant::Iso(name).fetch(cx, Request::get(path(name))).await
}

async fn show(cx: &mut Context, name: &str) -> Result<()> {
    let data = data(cx, name).await?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let iso: Iso = read(data)?;
    if cx.format == Format::Name {
        return cx.print(&format!("{}\n", safe(&iso.name)));
    }
    let mut sheet = Sheet::default();
    sheet.row("name", &iso.name).row("id", iso.id.to_string()).row("state", word(&iso.state));
    if !iso.description.is_empty() {
        sheet.rows("description", iso.description.lines().map(str::to_owned));
    }
    sheet.row("volume", format!("{}/{}", iso.pool, iso.volume));
    sheet.row("size", bytes(iso.size_bytes));
    sheet.row("os variant", or_none(iso.os_variant.as_deref()));
    if let Some(os) = &iso.detected_os {
        let live = if os.live { ", live" } else { "" };
        sheet.row("recognised", format!("{} ({}{live})", os.name, os.architecture));
    }
    sheet.row("format", &iso.header.format);
    for (label, text) in [
        ("label", &iso.header.volume_id),
        ("system", &iso.header.system_id),
        ("publisher", &iso.header.publisher),
        ("application", &iso.header.application),
    ] {
        if let Some(text) = text {
            sheet.row(label, text);
        }
    }
    sheet.row("bootable", yes_no(iso.header.bootable));
    let checksum = iso.checksum.sha256.clone().unwrap_or_else(|| word(&iso.checksum.status));
    sheet.row("sha-256", checksum);
    sheet.rows("inserted in", iso.inserted_in.iter().cloned());
    sheet.row("registered", moment(cx.now, iso.created_at));
    let text = sheet.render();
    cx.print(&text)
}

async fn register(cx: &mut Context, args: &RegisterArgs) -> Result<()> {
    let mut body = json!({"pool": args.volume.pool, "volume": args.volume.volume});
    for (field, text) in
        [("name", &args.name), ("os_variant", &args.os_variant), ("description", &args.description)]
    {
        if let Some(text) = text {
            body[field] = Value::from(text.as_str());
        }
    }
    let name = args.name.as_deref().unwrap_or(&args.volume.volume);
    let request = Request::new(Method::POST, ISOS).json(&body);
    let pool = Meant::Pool(&args.volume.pool);
    change(cx, request, &args.change, pool, name, "registered").await
}

async fn delete(cx: &mut Context, args: &DeleteArgs) -> Result<()> {
    let volume = if args.delete_volume { "with its volume" } else { "and leave its volume" };
    let victims = args.isos.iter().map(|name| Victim {
        meant: Meant::Iso(name),
        request: Request::new(Method::DELETE, path(name)).flag("delete_volume", args.delete_volume),
        question: format!("delete {} {volume}?", quoted(name)),
    });
    delete_each(cx, "deleting an ISO image", victims, &args.deletion).await
}
