//! The daemon: arguments, signals, exit codes.
//!
//! Exit codes: 0 stopped as asked, 1 could not start or run, 2 wrong usage, 64 configuration that
//! cannot be used.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tokio::signal::unix::{SignalKind, signal};
use vapor::config::{Config, document};
use vapor::daemon::Daemon;
use vapor::error::{Error, Kind, Result};
use vapor::{api, systemd, telemetry};

const EXIT_CONFIG: u8 = 64;

/// What closing libvirt's connections and the database takes at most, after operations have ended.
const CLOSING: Duration = Duration::from_secs(20);

/// REST daemon for a single libvirt host.
#[derive(Parser)]
#[command(name = "vapord", version, about)]
struct Arguments {
    /// The configuration file [default: /etc/vapor/vapor.conf, or the user's].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Be the host's daemon whoever runs it: /etc/vapor/vapor.conf, /run/vapor, /var/lib/vapor and
    /// qemu:///system are the defaults, as for root.
    #[arg(long)]
    system: bool,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
    /// Print the OpenAPI document and exit.
    #[arg(long, conflicts_with = "check_config")]
    print_openapi: bool,
    /// Print the error catalogue (docs/errors.md) and exit.
    #[arg(long, conflicts_with_all = ["check_config", "print_openapi"])]
    print_errors: bool,
    /// Print what can be configured (docs/configuration.md) and exit.
    #[arg(long, conflicts_with_all = ["check_config", "print_openapi", "print_errors"])]
    print_configuration: bool,
    /// Print a manual page and exit.
    #[arg(long, value_name = "PAGE", hide = true)]
    print_man: Option<ManPage>,
}

/// The manual pages that are the daemon's.
#[derive(Clone, Copy, clap::ValueEnum)]
enum ManPage {
    Vapord,
    #[value(name = "vapor.conf")]
    Configuration,
}

impl Arguments {
    fn load(&self) -> Result<Config> {
        let path = self.config.as_deref();
        if self.system { Config::load_for_system(path) } else { Config::load(path) }
    }
}

fn main() -> ExitCode {
    vapor::libvirt::prepare_process();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vapord: {}", error.message());
            eprintln!("hint: {}", error.hint());
            let mut cause = std::error::Error::source(&error);
            while let Some(next) = cause {
                eprintln!("cause: {next}");
                cause = next.source();
            }
            ExitCode::from(if error.kind() == Kind::Config { EXIT_CONFIG } else { 1 })
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.print_openapi {
        println!("{:#}", api::openapi::document());
        return Ok(());
    }
    if arguments.print_errors {
        print!("{}", api::status::catalogue_markdown());
        return Ok(());
    }
    if arguments.print_configuration {
        print!("{}", document::markdown());
        return Ok(());
    }
    match arguments.print_man {
        Some(ManPage::Vapord) => return print_manual(),
        Some(ManPage::Configuration) => {
            print!("{}", document::man());
            return Ok(());
        }
        None => {}
    }
    let config = arguments.load()?;
    if arguments.check_config {
        println!("the configuration is valid");
        return Ok(());
    }
    let telemetry = telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("vapord")
        .enable_all()
        .build()
        .map_err(|error| Error::internal("the runtime cannot be started").with_source(error))?;
    runtime.block_on(serve(&config, arguments, &telemetry))
}

const MANUAL_DESCRIPTION: &str = include_str!("../../packaging/man/vapord-description.8");
const MANUAL: &str = include_str!("../../packaging/man/vapord-more.8");

/// vapord(8): the options as they are parsed, and the sections that no parser knows.
fn print_manual() -> Result<()> {
    let mut page = Vec::new();
    let command = Arguments::command();
    let man = clap_mangen::Man::new(command).section("8").manual("Vapor");
    man.render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| page.write_all(MANUAL_DESCRIPTION.as_bytes()))
        .and_then(|()| man.render_options_section(&mut page))
        .and_then(|()| page.write_all(MANUAL.as_bytes()))
        .and_then(|()| std::io::stdout().write_all(&page))
        .map_err(|error| Error::internal("the manual page cannot be written").with_source(error))
}

async fn serve(
    config: &Config,
    arguments: &Arguments,
    telemetry: &telemetry::Telemetry,
) -> Result<()> {
    let handler = |kind| {
        signal(kind).map_err(|error| Error::internal("no signal handler").with_source(error))
    };
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let mut reload = handler(SignalKind::hangup())?;
    let daemon = Daemon::start(config).await?;
    systemd::ready(&daemon.services.host.summary());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = reload.recv() => read_anew(arguments, &daemon, telemetry),
        }
    }
    // More than the unit's stop time if the configuration grants operations more than that.
    systemd::extend_timeout(daemon.grace() + CLOSING);
    systemd::stopping("draining");
    tracing::info!("stopping");
    daemon.stop().await;
    Ok(())
}

/// Takes over what of the configuration a running daemon can. A configuration that cannot be used
/// changes nothing.
fn read_anew(arguments: &Arguments, daemon: &Daemon, telemetry: &telemetry::Telemetry) {
    systemd::reloading();
    let fresh = arguments.load().and_then(|fresh| {
        telemetry.set_level(&fresh.log.level)?;
        Ok(fresh)
    });
    match fresh {
        Ok(fresh) => {
            let waiting = daemon.reload(&fresh);
            tracing::info!(level = %fresh.log.level, "log level and limits read anew");
            if !waiting.is_empty() {
                tracing::warn!("changed, but needs a restart: {}", waiting.join(", "));
            }
        }
        Err(error) => {
            tracing::error!(error = ?error, "the configuration stays as it was: {}", error.message());
        }
    }
    systemd::ready(&daemon.services.host.summary());
}
