//! `vapor vm …`: one file per kind of thing done to a VM.

mod create;
mod delete;
mod list;
mod power;
mod show;
mod spec;
mod update;
mod xml;

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;

use super::context::Context;
use super::failure::{Exit, Failure, Result};
pub use spec::read_file;

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
    Update(update::UpdateArgs),
    /// Delete virtual machines
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    /// Show, replace or edit the definition (domain XML)
    Xml(xml::XmlArgs),
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
        VmCommand::Delete(args) => delete::run(cx, &args).await,
        VmCommand::Xml(args) => xml::run(cx, &args).await,
    }
}

/// A VM's name or UUID on the command line: anything but nothing, which would be a list.
fn vm_name() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

/// Goes on after a failure with one of several VMs, and remembers the first one's exit code.
#[derive(Default)]
struct Tally {
    failed: Option<Exit>,
}

impl Tally {
    /// Shows the failure, if there is one.
    ///
    /// # Errors
    /// A failure that ends the rest, too: Ctrl-C, or a daemon that cannot be reached.
    fn add(&mut self, cx: &mut Context, result: Result<()>) -> Result<()> {
        match result {
            Err(failure) => match failure.exit {
                Exit::Interrupted | Exit::Unreachable => Err(failure),
                // nobody reads the output any more; the rest is to be done all the same
                Exit::Ok => Ok(()),
                exit => {
                    cx.report(&failure);
                    self.failed.get_or_insert(exit);
                    Ok(())
                }
            },
            Ok(()) => Ok(()),
        }
    }

    fn end(self) -> Result<()> {
        self.failed.map_or(Ok(()), |exit| Err(Failure::silent(exit)))
    }
}

/// A request body without the members that say nothing.
fn without_nulls(value: Value) -> Value {
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
