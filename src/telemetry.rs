//! The log: where it goes, in which form, and how loud it is.
//!
//! The daemon calls [`init`] once, right after the configuration is known. Under systemd the log
//! goes to the journal with its fields (`VAPOR_REQUEST_ID=…`), else to standard error as text or
//! JSON. Rooms log through `tracing`; spans carry the request id. Never logged: bodies, XML with
//! secrets, credentials.

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::check::level_problem;
use crate::config::{Log, LogFormat};
use crate::error::{Error, Kind, Result};

/// The running log.
#[derive(Clone)]
pub struct Telemetry {
    levels: reload::Handle<Targets, Registry>,
    output: Output,
}

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard error, for people.
    Text,
    /// Standard error, one JSON object on each line.
    Json,
    /// The journal, with fields.
    Journal,
}

/// Starts the log of this process, and has panics logged. `Config` if the journal is wanted and
/// not there, or if the level is none; `Internal` if the process has a log already.
pub fn init(log: &Log) -> Result<Telemetry> {
    let output = choose(log.format, journal_is_stderr());
    let (filter, levels) = reload::Layer::new(targets(&log.level)?);
    let sink: Box<dyn Layer<_> + Send + Sync> = match output {
        Output::Journal => {
            let journal = tracing_journald::layer().map_err(|cause| {
                Error::new(
                    Kind::Config,
                    "[log] format is \"journal\", and the journal does not answer",
                )
                .with_hint("use \"auto\", which takes the journal where it is there")
                .with_source(cause)
            })?;
            Box::new(
                journal
                    .with_field_prefix(Some("VAPOR".to_owned()))
                    .with_priority_mappings(priorities()),
            )
        }
        Output::Json => json(std::io::stderr),
        Output::Text => Box::new(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal()),
        ),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(sink)
        .try_init()
        .map_err(|cause| Error::internal(format!("the log was started twice: {cause}")))?;
    log_panics();
    Ok(Telemetry { levels, output })
}

impl Telemetry {
    /// Changes the level while the daemon runs; `level` as in the configuration.
    pub fn set_level(&self, level: &str) -> Result<()> {
        let targets = targets(level)?;
        self.levels
            .reload(targets)
            .map_err(|cause| Error::internal(format!("the log's level cannot be changed: {cause}")))
    }

    /// Where the log goes.
    pub fn output(&self) -> Output {
        self.output
    }
}

/// syslog's words, which `journalctl -p` filters by. A notice is no part of them: what is logged at
/// `info` is the daemon's ordinary work.
fn priorities() -> PriorityMappings {
    PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    }
}

fn choose(format: LogFormat, journal_is_stderr: bool) -> Output {
    match format {
        LogFormat::Auto if journal_is_stderr => Output::Journal,
        LogFormat::Auto | LogFormat::Text => Output::Text,
        LogFormat::Json => Output::Json,
        LogFormat::Journal => Output::Journal,
    }
}

/// Whether standard error is the stream to the journal that systemd connected. The variable alone
/// does not say: a child whose output was redirected inherits it.
fn journal_is_stderr() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream.to_str() == Some(format!("{}:{}", stderr.dev(), stderr.ino()).as_str())
}

fn targets(level: &str) -> Result<Targets> {
    let refused = |problem: &str| Error::new(Kind::Config, format!("the log's level {problem}"));
    level_problem(level).map_err(|problem| refused(&problem))?;
    let compact: String = level.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    Targets::from_str(&compact).map_err(|cause| refused("cannot be read").with_source(cause))
}

fn json<S, W>(writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_writer(writer);
    Box::new(layer)
}

/// A panic is a defect that must be findable in the log, not only on standard error.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("something that is no text");
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let trace = std::backtrace::Backtrace::capture();
        tracing::error!(place, thread, %trace, "panicked: {what}");
    }));
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, act: impl FnOnce(&Telemetry)) -> Vec<serde_json::Value> {
        let kept = Kept::default();
        let writer = kept.clone();
        let (filter, levels) = reload::Layer::new(targets(level).unwrap());
        let subscriber =
            tracing_subscriber::registry().with(filter).with(json(move || writer.clone()));
        let telemetry = Telemetry { levels, output: Output::Json };
        tracing::subscriber::with_default(subscriber, || act(&telemetry));
        let bytes = kept.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_in_json_carries_its_fields_and_the_request_id_of_its_span() {
        let lines = logged("info", |_| {
            let _span = tracing::info_span!("request", request_id = "r-7").entered();
            tracing::info!(vm = "web1", "started\nwith a \"line\" in it");
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["vm"], "web1");
        assert_eq!(lines[0]["message"], "started\nwith a \"line\" in it");
        assert_eq!(lines[0]["span"]["request_id"], "r-7");
    }

    #[test]
    fn the_level_changes_while_the_program_runs() {
        let lines = logged("warn, vapor::quiet=error", |telemetry| {
            tracing::info!("one");
            tracing::warn!("two");
            tracing::warn!(target: "vapor::quiet", "three");
            telemetry.set_level("debug").unwrap();
            tracing::debug!("four");
            assert_eq!(telemetry.set_level("loud").unwrap_err().kind(), Kind::Config);
            tracing::debug!("five");
        });
        let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["two", "four", "five"]);
    }

    #[test]
    fn the_journal_is_taken_by_itself_only_where_standard_error_is_it() {
        assert_eq!(choose(LogFormat::Auto, true), Output::Journal);
        assert_eq!(choose(LogFormat::Auto, false), Output::Text);
        assert_eq!(choose(LogFormat::Text, true), Output::Text);
        assert_eq!(choose(LogFormat::Json, true), Output::Json);
        assert_eq!(choose(LogFormat::Journal, false), Output::Journal);
    }
}
