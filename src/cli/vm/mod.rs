//! `vapor vm …`: one file per kind of thing done to a VM.

mod clone;
mod create;
mod create_cloud_init;
mod delete;
mod hardware;
mod history;
mod list;
mod media;
mod power;
mod show;
mod spec;
mod spec_change;
mod update;
mod update_hardware;
mod xml;

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;

use super::context::Context;
use super::failure::Result;
pub use media::volume;
pub use spec::{overlay, read_body, read_file, word, yes_no};

/// What can be done to VMs.
#[derive(Subcommand, Debug)]
pub enum VmCommand {
    /// List the virtual machines
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show one virtual machine
    Show(show::ShowArgs),
    /// Create a virtual machine
    Create(Box<create::CreateArgs>),
    /// Make a virtual machine like another one
    Clone(clone::CloneArgs),
    /// Start virtual machines
    Start(power::PlainArgs),
    /// Shut the guests down and wait until they have stopped
    #[command(visible_alias = "shutdown")]
    Stop(power::StopArgs),
    /// Shut the guests down and start them again, with what has been changed meanwhile
    Restart(power::StopArgs),
    /// Cut the power; what the guest has not written is lost
    #[command(visible_alias = "destroy")]
    ForceStop(power::DangerArgs),
    /// Press the reset button; what the guest has not written is lost
    Reset(power::DangerArgs),
    /// Ask the guests to reboot
    Reboot(power::PlainArgs),
    /// Halt the virtual CPUs; memory is kept
    #[command(visible_alias = "suspend")]
    Pause(power::PlainArgs),
    /// Let paused virtual machines go on
    Resume(power::PlainArgs),
    /// Write the memory to disk and stop
    Save(power::PlainArgs),
    /// Start from the saved memory
    Restore(power::PlainArgs),
    /// Change a virtual machine
    Update(Box<update::UpdateArgs>),
    /// Give a stopped virtual machine another name
    Rename(update::RenameArgs),
    /// Insert a medium into an optical drive
    Insert(media::InsertArgs),
    /// Eject the medium of an optical drive
    Eject(media::EjectArgs),
    /// Delete virtual machines
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    /// Show, replace or edit the definition (domain XML)
    Xml(xml::XmlArgs),
    /// List the versions of the definition, or show one of them
    History(history::HistoryArgs),
    /// Compare a version of the definition with another one, or with the present one
    Diff(history::DiffArgs),
    /// Make an old version of the definition the present one again
    Rollback(history::RollbackArgs),
}

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: VmCommand) -> Result<()> {
    use crate::model::VmAction as A;
    match command {
        VmCommand::List(args) => list::run(cx, &args).await,
        VmCommand::Show(args) => show::run(cx, &args).await,
        VmCommand::Create(args) => create::run(cx, &args).await,
        VmCommand::Clone(args) => clone::run(cx, &args).await,
        VmCommand::Start(args) => power::plain(cx, A::Start, "started", &args).await,
        VmCommand::Stop(args) => power::stop(cx, A::Stop, "stopped", &args).await,
        VmCommand::Restart(args) => power::stop(cx, A::Restart, "restarted", &args).await,
        VmCommand::ForceStop(args) => power::danger(cx, A::ForceStop, "stopped", &args).await,
        VmCommand::Reset(args) => power::danger(cx, A::Reset, "reset", &args).await,
        VmCommand::Reboot(args) => power::plain(cx, A::Reboot, "asked to reboot", &args).await,
        VmCommand::Pause(args) => power::plain(cx, A::Pause, "paused", &args).await,
        VmCommand::Resume(args) => power::plain(cx, A::Resume, "resumed", &args).await,
        VmCommand::Save(args) => power::plain(cx, A::Save, "saved and stopped", &args).await,
        VmCommand::Restore(args) => {
            power::plain(cx, A::RestoreSaved, "restored and running", &args).await
        }
        VmCommand::Update(args) => update::run(cx, &args).await,
        VmCommand::Rename(args) => update::rename(cx, &args).await,
        VmCommand::Insert(args) => media::insert(cx, &args).await,
        VmCommand::Eject(args) => media::eject(cx, &args).await,
        VmCommand::Delete(args) => delete::run(cx, &args).await,
        VmCommand::Xml(args) => xml::run(cx, &args).await,
        VmCommand::History(args) => history::history(cx, &args).await,
        VmCommand::Diff(args) => history::diff(cx, &args).await,
        VmCommand::Rollback(args) => history::rollback(cx, &args).await,
    }
}

/// A VM's name or UUID on the command line: anything but nothing, which would be a list.
fn vm_name() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

/// A request body without the members that say nothing.
pub fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
