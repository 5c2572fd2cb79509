//! The daemon: arguments, signals, exit codes.
//!
//! Exit codes: 0 stopped as asked, 1 could not start or run, 2 wrong usage, 64 configuration that
//! cannot be used.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use vapor::config::Config;
use vapor::daemon::Daemon;
use vapor::error::{Error, Kind, Result};
use vapor::{api, systemd, telemetry};

const EXIT_CONFIG: u8 = 64;

/// REST daemon for a single libvirt host.
#[derive(Parser)]
#[command(name = "vapord", version, about)]
struct Arguments {
    /// The configuration file [default: /etc/vapor/vapor.conf, or the user's].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
    /// Print the OpenAPI document and exit.
    #[arg(long, conflicts_with = "check_config")]
    print_openapi: bool,
    /// Print the error catalogue (docs/errors.md) and exit.
    #[arg(long, conflicts_with_all = ["check_config", "print_openapi"])]
    print_errors: bool,
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
    let config = Config::load(arguments.config.as_deref())?;
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
    systemd::ready("serving");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = reload.recv() => match Config::load(arguments.config.as_deref()) {
                Ok(fresh) => match telemetry.set_level(&fresh.log.level) {
                    Ok(()) => tracing::info!(level = %fresh.log.level, "log level read anew"),
                    Err(error) => tracing::error!(error = ?error, "the log level stays"),
                },
                Err(error) => tracing::error!(error = ?error, "the configuration stays as it was"),
            },
        }
    }
    systemd::stopping("draining");
    tracing::info!("stopping");
    daemon.stop().await;
    Ok(())
}
