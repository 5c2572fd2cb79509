//! `vapor`, the command line: a client of the daemon's API and of nothing else.
//!
//! The binary parses, calls [`run`] and exits with its code. Each noun of the command line has a
//! file (`vm/`, `task`, `event`, `pool`, `volume`, `upload` and `transfer` for images, `network`,
//! `iso`, `template`, `os_variant`, `db`, `status`, `raw` for `vapor api`);
//! under them lie the parts they share:
//!
//! - `endpoint` and `client`: where the daemon is, and HTTP to it;
//! - `operation`, `several` and `progress`: changes, their plans, and waiting for their tasks;
//! - `context`: the terminal; `output`, `text`, `yaml` and `plan`: what is written on it;
//! - `failure`: what is said, and which exit code, when something does not work;
//! - `suggest`: the nearest name to a mistyped one; `sse`: the stream of events.
//!
//! What the daemon sends is data from outside: no name in it reaches a terminal unescaped.

mod client;
mod context;
mod db;
mod endpoint;
mod event;
mod failure;
mod host;
mod iso;
mod network;
mod operation;
mod os_variant;
mod output;
mod plan;
mod pool;
mod progress;
mod raw;
mod several;
mod sse;
mod status;
mod suggest;
mod task;
mod template;
mod text;
mod transfer;
mod upload;
mod vm;
mod volume;
mod yaml;

#[cfg(test)]
mod tests;

use clap::{CommandFactory, Parser, Subcommand};

use client::{Client, Request, vm_path};
use context::{Context, Terminal};
use endpoint::Endpoint;
use failure::{Exit, Failure, Result};
use output::Format;
use suggest::Meant;

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  the daemon reported a failure that no other code names
    2  wrong usage, or a confirmation that was not given
    3  no such thing (virtual machine, pool, task, path)
    4  in the way: exists already, in use, busy, in the wrong state, changed meanwhile
    5  the daemon cannot be reached
    6  libvirt cannot be reached; the daemon can
    7  waiting took too long: --wait is over (the operation goes on), or the guest
       or libvirt did not answer in time
  130  interrupted by Ctrl-C; an operation under way goes on";

/// Manage the virtual machines of this host through vapord.
#[derive(Parser, Debug)]
#[command(name = "vapor", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// The daemon: a socket's path or http://127.0.0.1:PORT; /run/vapor/vapor.sock if absent, or
    /// the user's own daemon's
    #[arg(
        long,
        global = true,
        env = "VAPOR_SOCKET",
        value_name = "ADDRESS",
        hide_env_values = true,
        help_heading = "Everywhere",
        display_order = 1000
    )]
    socket: Option<String>,
    /// table, wide (more columns), json (the API's data), yaml (the same), or name (one per line)
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true,
        help_heading = "Everywhere",
        display_order = 1001
    )]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Virtual machines
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// Operations under way and done
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// What happens on this host
    #[command(subcommand)]
    Event(event::EventCommand),
    /// Storage pools
    #[command(subcommand)]
    Pool(pool::PoolCommand),
    /// Volumes of storage pools
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Virtual networks
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// The daemon's own database
    #[command(subcommand)]
    Db(db::DbCommand),
    /// ISO images
    #[command(subcommand)]
    Iso(iso::IsoCommand),
    /// Templates of virtual machines
    #[command(subcommand, visible_alias = "templates")]
    Template(template::TemplateCommand),
    /// Operating systems that guests may run
    #[command(subcommand)]
    OsVariant(os_variant::OsVariantCommand),
    /// Show the host: its processors, its memory and its load
    Host,
    /// Show what guests can have on this host
    Capabilities(host::CapabilitiesArgs),
    /// Show whether the daemon and libvirt are well
    Status,
    /// Send any request to the API, and print the reply
    Api(raw::ApiArgs),
    /// Print the completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages of vapor and its commands into a folder
    #[command(hide = true)]
    Man { folder: std::path::PathBuf },
}

/// Runs one command line, and returns the exit code.
pub fn run(cli: Cli) -> u8 {
    let terminal = Terminal::standard();
    let endpoint = Endpoint::choose(cli.socket.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (endpoint, runtime) = match (endpoint, runtime) {
        (Ok(endpoint), Ok(runtime)) => (endpoint, runtime),
        (Err(failure), _) => return end(terminal, &failure),
        (_, Err(error)) => {
            let failure = Failure::new(Exit::Failed, format!("cannot start: {error}"));
            return end(terminal, &failure);
        }
    };
    let mut cx = Context::new(Client::new(endpoint), terminal, cli.output);
    let code = runtime.block_on(run_in(&mut cx, cli.command));
    // a read of stdin that nobody waits for any more must not keep the process
    runtime.shutdown_background();
    code
}

fn end(mut terminal: Terminal, failure: &Failure) -> u8 {
    let _ = terminal.err.write_all(failure.render().as_bytes());
    failure.exit as u8
}

async fn run_in(cx: &mut Context, command: Command) -> u8 {
    match dispatch(cx, command).await {
        Ok(()) => Exit::Ok as u8,
        Err(failure) => {
            cx.report(&failure);
            failure.exit as u8
        }
    }
}

async fn dispatch(cx: &mut Context, command: Command) -> Result<()> {
    match command {
        Command::Vm(command) => vm::run(cx, command).await,
        Command::Task(command) => task::run(cx, command).await,
        Command::Event(command) => event::run(cx, command).await,
        Command::Pool(command) => pool::run(cx, command).await,
        Command::Volume(command) => volume::run(cx, command).await,
        Command::Network(command) => network::run(cx, command).await,
        Command::Db(command) => db::run(cx, command).await,
        Command::Iso(command) => iso::run(cx, command).await,
        Command::Template(command) => template::run(cx, command).await,
        Command::OsVariant(command) => os_variant::run(cx, command).await,
        Command::Host => host::run(cx).await,
        Command::Capabilities(args) => host::capabilities(cx, &args).await,
        Command::Status => status::run(cx).await,
        Command::Api(args) => raw::run(cx, &args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "vapor", &mut script);
            cx.print_document(&script)
        }
        Command::Man { folder } => {
            clap_mangen::generate_to(Cli::command(), &folder).map_err(|error| {
                let what = format!("cannot write manual pages into {}: {error}", folder.display());
                Failure::new(Exit::Failed, what)
            })
        }
    }
}

/// The UUID of a VM by its name or UUID, for filters that know only UUIDs.
async fn vm_uuid(cx: &Context, id: &str) -> Result<String> {
    if let Ok(uuid) = id.parse::<uuid::Uuid>() {
        return Ok(uuid.to_string());
    }
    let request = Request::get(vm_path(id, ""));
    let data = Meant::Vm(id).fetch(cx, request).await?;
    let uuid = data.get("uuid").and_then(serde_json::Value::as_str);
    uuid.map(str::to_owned).ok_or_else(|| Failure::unintelligible("the VM has no uuid"))
}
