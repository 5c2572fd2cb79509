//! `vapor os-variant …`.

use clap::{Args, Subcommand};

use super::client::Request;
use super::context::Context;
use super::failure::Result;
use super::output::{Column, Listing, fetch_list};
use super::text::{bytes, mib, or_none, safe};
use crate::model::OsVariant;
use crate::model::os_variant::ResourceNeed;

/// What can be asked about operating systems.
#[derive(Subcommand, Debug)]
pub enum OsVariantCommand {
    /// List the operating systems that libosinfo's database knows
    #[command(visible_alias = "ls")]
    List(ListArgs),
}

/// Which systems are listed.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only those of this short id or name; `*` stands for any text
    #[arg(value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Only this family, such as linux or winnt
    #[arg(long)]
    pub family: Option<String>,
    /// Only this distribution, such as debian
    #[arg(long)]
    pub distro: Option<String>,
    /// Only what is known for this architecture
    #[arg(long)]
    pub architecture: Option<String>,
    /// Only released, prerelease, snapshot or rolling ones
    #[arg(long, value_name = "STATUS")]
    pub release_status: Option<String>,
}

const LISTING: Listing<'_, OsVariant> = Listing {
    noun: "os_variants",
    name: |os| os.short_id.clone(),
    columns: &[
        Column::text("SHORT ID", |os, _| os.short_id.clone()),
        Column::text("NAME", |os, _| os.name.clone()),
        Column::text("VERSION", |os, _| or_none(os.version.as_deref())),
        Column::text("RELEASED", |os, _| or_none(os.release_date.as_deref())),
        Column::text("END OF LIFE", |os, _| or_none(os.eol_date.as_deref())),
        Column::number("MEMORY", |os, _| need(os, |need| need.memory.map(mib))),
        Column::number("DISK", |os, _| need(os, |need| need.storage_bytes.map(bytes))),
        Column::wide("FAMILY", |os, _| or_none(os.family.as_deref())),
        Column::wide("DISTRO", |os, _| or_none(os.distro.as_deref())),
        Column::wide("ARCHITECTURES", |os, _| or_none(Some(&os.architectures.join(",")))),
        Column::wide("ID", |os, _| os.id.clone()),
    ],
};

/// What is recommended, else the least that is needed.
fn need(os: &OsVariant, part: impl Fn(&ResourceNeed) -> Option<String>) -> String {
    let recommended = os.resources.iter().filter_map(|all| all.recommended.as_ref());
    let minimum = os.resources.iter().filter_map(|all| all.minimum.as_ref());
    or_none(recommended.chain(minimum).find_map(part).as_deref())
}

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: OsVariantCommand) -> Result<()> {
    match command {
        OsVariantCommand::List(args) => {
            let request = Request::get("/virtualization/os-variants")
                .maybe("name", args.name.as_deref())
                .maybe("family", args.family.as_deref())
                .maybe("distro", args.distro.as_deref())
                .maybe("architecture", args.architecture.as_deref())
                .maybe("release_status", args.release_status.as_deref());
            let data = fetch_list(cx, request, "os_variants", None).await?;
            LISTING.show(cx, &data)?;
            if let Some(hint) = data.get("hint").and_then(serde_json::Value::as_str) {
                cx.note(&format!("hint: {}", safe(hint)));
            }
            Ok(())
        }
    }
}
