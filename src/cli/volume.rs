//! `vapor volume …`. A volume is named `POOL/NAME`, as `vapor volume list -o name` prints it.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

use super::client::{POOLS, Request, escape};
use super::context::Context;
use super::failure::Result;
use super::operation::{ChangeArgs, change};
use super::output::{Column, Format, Listing, Sheet, fetch_list, read};
use super::several::{DeletionArgs, Victim, delete_each};
use super::suggest::Meant;
use super::text::{bytes, moment, or_none, parse_bytes, quoted, safe};
use super::{transfer, upload};
use crate::model::{Volume, VolumeUse};

/// What can be done with volumes.
#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// List the volumes of one pool, or of all
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one volume
    Show(ShowArgs),
    /// Create a volume
    Create(CreateArgs),
    /// Grow a volume, or shrink it
    Resize(ResizeArgs),
    /// Copy a volume, or base a new one on it
    Clone(CloneArgs),
    /// Overwrite a volume
    Wipe(WipeArgs),
    /// Delete volumes
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Make a volume of a file
    Upload(upload::UploadArgs),
    /// Make a file of a volume
    Download(transfer::DownloadArgs),
    /// Convert an uploaded image into a new volume
    Import(transfer::ImportArgs),
}

/// A volume on the command line.
#[derive(Clone, Debug)]
pub struct Name {
    pub pool: String,
    pub volume: String,
}

impl Name {
    /// The path of the volume, or of something below it, in the API.
    pub fn path(&self, below: &str) -> String {
        format!("{}/{}{below}", volumes(&self.pool), escape(&self.volume))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pool, self.volume)
    }
}

/// Reads `POOL/NAME`.
pub fn name(text: &str) -> std::result::Result<Name, String> {
    match text.split_once('/') {
        Some((pool, volume)) if !pool.is_empty() && !volume.is_empty() => {
            Ok(Name { pool: pool.to_owned(), volume: volume.to_owned() })
        }
        _ => Err("name the pool, too: POOL/NAME".to_owned()),
    }
}

/// The path of a pool's volumes in the API.
pub fn volumes(pool: &str) -> String {
    format!("{POOLS}/{}/volumes", escape(pool))
}

/// Which volumes are listed.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// The pool; all pools if absent
    #[arg(value_name = "POOL", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub pool: Option<String>,
}

/// Which volume is shown.
#[derive(Args, Debug)]
pub struct ShowArgs {
    #[arg(value_name = "POOL/NAME", value_parser = name)]
    pub volume: Name,
}

/// What a new volume is like.
#[derive(Args, Debug)]
pub struct CreateArgs {
    #[arg(value_name = "POOL/NAME", value_parser = name)]
    pub volume: Name,
    /// GiB, or with a unit: 512M, 20G, 1T
    #[arg(value_name = "SIZE", value_parser = parse_bytes)]
    pub size: u64,
    /// qcow2 where the pool holds files, else raw
    #[arg(long, value_parser = ["qcow2", "raw"])]
    pub format: Option<String>,
    /// How much of its room is taken at once
    #[arg(long, value_parser = ["off", "metadata", "falloc", "full"])]
    pub preallocation: Option<String>,
    /// Read from this volume what is not written to the new one
    #[arg(long, value_name = "POOL/NAME", value_parser = name)]
    pub backing: Option<Name>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Another capacity.
#[derive(Args, Debug)]
pub struct ResizeArgs {
    #[arg(value_name = "POOL/NAME", value_parser = name)]
    pub volume: Name,
    /// GiB, or with a unit: 512M, 20G, 1T
    #[arg(value_name = "SIZE", value_parser = parse_bytes)]
    pub size: u64,
    /// Make it smaller: what lies beyond the new end is lost
    #[arg(long)]
    pub shrink: bool,
    /// Do not ask before shrinking
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// A copy.
#[derive(Args, Debug)]
pub struct CloneArgs {
    #[arg(value_name = "POOL/NAME", value_parser = name)]
    pub volume: Name,
    /// The name of the copy, or POOL/NAME to have it in another pool
    #[arg(value_name = "NEW")]
    pub new: String,
    /// The source's if absent
    #[arg(long, value_parser = ["qcow2", "raw"])]
    pub format: Option<String>,
    /// Copy nothing: read from the source what is not written to the new volume
    #[arg(long)]
    pub linked: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// How a volume is overwritten.
#[derive(Args, Debug)]
pub struct WipeArgs {
    #[arg(value_name = "POOL/NAME", value_parser = name)]
    pub volume: Name,
    /// All but zero and trim need scrub on the host
    #[arg(long, default_value = "zero", value_parser = ["zero", "nnsa", "dod", "bsi", "gutmann",
        "schneier", "pfitzner7", "pfitzner33", "random", "trim"])]
    pub algorithm: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which volumes go.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    #[arg(value_name = "POOL/NAME", required = true, value_parser = name)]
    pub volumes: Vec<Name>,
    #[command(flatten)]
    pub deletion: DeletionArgs,
}

const LISTING: Listing<'_, Volume> = Listing {
    noun: "volumes",
    name: |volume| format!("{}/{}", volume.pool, volume.name),
    columns: &[
        Column::text("POOL", |volume, _| volume.pool.clone()),
        Column::text("NAME", |volume, _| volume.name.clone()),
        Column::text("FORMAT", |volume, _| or_none(volume.format.as_deref())),
        Column::number("CAPACITY", |volume, _| bytes(volume.capacity_bytes)),
        Column::number("TAKEN", |volume, _| bytes(volume.allocation_bytes)),
        Column::text("USED BY", |volume, _| or_none(Some(&volume.used_by.join(",")))),
        Column::wide("TYPE", |volume, _| volume.r#type.clone()),
        Column::wide("BACKING", |volume, _| or_none(volume.backing_path.as_deref())),
        Column::wide_number("BACKING OF", |volume, _| volume.backing_of.len().to_string()),
        Column::wide("PATH", |volume, _| volume.path.clone()),
    ],
};

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: VolumeCommand) -> Result<()> {
    match command {
        VolumeCommand::List(args) => list(cx, args.pool.as_deref()).await,
        VolumeCommand::Show(args) => show(cx, &args.volume).await,
        VolumeCommand::Create(args) => create(cx, &args).await,
        VolumeCommand::Resize(args) => resize(cx, &args).await,
        VolumeCommand::Clone(args) => clone(cx, &args).await,
        VolumeCommand::Wipe(args) => wipe(cx, &args).await,
        VolumeCommand::Delete(args) => delete(cx, &args).await,
        VolumeCommand::Upload(args) => upload::upload(cx, args).await,
        VolumeCommand::Download(args) => transfer::download(cx, args).await,
        VolumeCommand::Import(args) => transfer::import(cx, args).await,
    }
}

async fn list(cx: &mut Context, pool: Option<&str>) -> Result<()> {
    let data = match pool {
        None => fetch_list(cx, Request::get("/virtualization/volumes"), "volumes", None).await?,
        Some(pool) => {
            let listed = fetch_list(cx, Request::get(volumes(pool)), "volumes", None).await;
            Meant::Pool(pool).checked(cx, listed).await?
        }
    };
    LISTING.show(cx, &data)
}

async fn show(cx: &mut Context, volume: &Name) -> Result<()> {
    let data = Meant::Volume(volume).fetch(cx, Request::get(volume.path(""))).await?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let volume: Volume = read(data)?;
    if cx.format == Format::Name {
        return cx.print(&format!("{}\n", safe(&(LISTING.name)(&volume))));
    }
    let text = sheet(cx, &volume).render();
    cx.print(&text)
}

fn sheet(cx: &Context, volume: &Volume) -> Sheet {
    let mut sheet = Sheet::default();
    sheet.row("name", &volume.name).row("pool", &volume.pool).row("path", &volume.path);
    sheet.row("type", &volume.r#type).row("format", or_none(volume.format.as_deref()));
    sheet.row("capacity", bytes(volume.capacity_bytes));
    sheet.row("taken", bytes(volume.allocation_bytes));
    if let Some(physical) = volume.physical_bytes {
        sheet.row("length", bytes(physical));
    }
    if let Some(encryption) = &volume.encryption {
        sheet.row("encryption", encryption);
    }
    sheet.rows(
        "backing",
        volume.backing_chain.iter().map(|file| {
            let place = match (&file.pool, &file.volume) {
                (Some(pool), Some(volume)) => format!("{pool}/{volume}"),
                _ => file.path.clone(),
            };
            format!("{place} ({})", or_none(file.format.as_deref()))
        }),
    );
    sheet.rows("backing of", volume.backing_of.iter().map(ToString::to_string));
    sheet.rows(
        "used by",
        volume.used_as.iter().map(|(vm, used_as)| match used_as {
            VolumeUse::Disk => vm.clone(),
            VolumeUse::Backing => format!("{vm} (below a disk)"),
            VolumeUse::Ignition => format!("{vm} (Ignition)"),
        }),
    );
    if let Some(permissions) = &volume.permissions {
        let owner = format!("{}:{}", permissions.owner, permissions.group);
        sheet.row("permissions", format!("{} {owner}", permissions.mode));
    }
    for (label, then) in [("created", volume.created_at), ("changed", volume.modified_at)] {
        if let Some(then) = then {
            sheet.row(label, moment(cx.now, then));
        }
    }
    sheet
}

async fn create(cx: &mut Context, args: &CreateArgs) -> Result<()> {
    let mut body = json!({"name": args.volume.volume, "capacity_bytes": args.size});
    if let Some(format) = &args.format {
        body["format"] = json!(format);
    }
    if let Some(preallocation) = &args.preallocation {
        body["preallocation"] = json!(preallocation);
    }
    if let Some(backing) = &args.backing {
        body["backing"] = json!({"pool": backing.pool, "volume": backing.volume});
    }
    let request = Request::new(Method::POST, volumes(&args.volume.pool)).json(&body);
    let volume = &args.volume;
    change(cx, request, &args.change, Meant::Volume(volume), &volume.to_string(), "created").await
}

async fn resize(cx: &mut Context, args: &ResizeArgs) -> Result<()> {
    let (volume, size) = (&args.volume, bytes(args.size));
    if args.shrink && !args.change.dry_run {
        let question = format!("shrink {} to {size}?", quoted(&volume.to_string()));
        cx.confirm(args.yes, "shrinking a volume", &question)?;
    }
    let body = json!({"capacity_bytes": args.size, "shrink": args.shrink});
    let request = Request::new(Method::POST, volume.path("/resize")).json(&body);
    let words = format!("resized to {size}");
    change(cx, request, &args.change, Meant::Volume(volume), &volume.to_string(), &words).await
}

async fn clone(cx: &mut Context, args: &CloneArgs) -> Result<()> {
    let new = match args.new.split_once('/') {
        Some((pool, volume)) => Name { pool: pool.to_owned(), volume: volume.to_owned() },
        None => Name { pool: args.volume.pool.clone(), volume: args.new.clone() },
    };
    let mut body = json!({"name": new.volume, "pool": new.pool, "linked": args.linked});
    if let Some(format) = &args.format {
        body["format"] = json!(format);
    }
    let request = Request::new(Method::POST, args.volume.path("/clone")).json(&body);
    let words = format!("cloned from {}", args.volume);
    change(cx, request, &args.change, Meant::Volume(&args.volume), &new.to_string(), &words).await
}

async fn wipe(cx: &mut Context, args: &WipeArgs) -> Result<()> {
    let volume = &args.volume;
    if !args.change.dry_run {
        let question = format!("overwrite {}?", quoted(&volume.to_string()));
        cx.confirm(args.yes, "wiping a volume", &question)?;
    }
    let body = json!({"algorithm": args.algorithm});
    let request = Request::new(Method::POST, volume.path("/wipe")).json(&body);
    change(cx, request, &args.change, Meant::Volume(volume), &volume.to_string(), "wiped").await
}

async fn delete(cx: &mut Context, args: &DeleteArgs) -> Result<()> {
    let victims = args.volumes.iter().map(|volume| Victim {
        meant: Meant::Volume(volume),
        request: Request::new(Method::DELETE, volume.path("")),
        question: format!("delete {}?", quoted(&volume.to_string())),
    });
    delete_each(cx, "deleting a volume", victims, &args.deletion).await
}
