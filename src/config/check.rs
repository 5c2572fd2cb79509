//! Every key, its default and what it may be. `vapor.conf.example` documents the same keys, and a
//! test holds the two together.

use std::net::{IpAddr, Ipv4Addr};

use super::file::Reader;
use super::{
    Config, Database, DomainType, Libvirt, Limits, Log, LogFormat, MemoryOvercommit, Places,
    Security, Server,
};
use crate::store::Synchronous;

/// The kernel's limit for the path of a Unix socket.
const SOCKET_PATH_BYTES: usize = 107;
/// The levels of the log, from silent to verbose.
pub(crate) const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Asks for every key; what is wrong is with the reader.
pub(super) fn build(reader: &mut Reader<'_>, places: &Places) -> Config {
    Config {
        source: None,
        server: server(reader, places),
        database: database(reader, places),
        libvirt: libvirt(reader, places),
        security: security(reader),
        limits: limits(reader),
        log: log(reader),
    }
}

fn server(reader: &mut Reader<'_>, places: &Places) -> Server {
    const S: &str = "server";
    let socket = reader.path(S, "socket").unwrap_or_else(|| places.socket.clone());
    if socket.as_os_str().len() > SOCKET_PATH_BYTES {
        let problem = format!("is longer than the {SOCKET_PATH_BYTES} bytes of a Unix socket");
        reader.reject(S, "socket", &problem);
    }
    let socket_group = reader.text(S, "socket_group");
    let socket_mode = match reader.text(S, "socket_mode") {
        None => 0o660,
        Some(text) => match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => mode,
            _ => {
                let problem =
                    "must be permission bits such as \"0660\", with read and write for the owner";
                reader.reject(S, "socket_mode", problem);
                0o600
            }
        },
    };
    let host = match reader.text(S, "host").as_deref() {
        None | Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(text) => match text.parse::<IpAddr>() {
            Ok(address) if address.is_loopback() => address,
            Ok(_) => {
                let problem = "must be a loopback address such as 127.0.0.1 or ::1: TCP clients are \
                               not asked who they are, so other hosts must not reach it";
                reader.reject(S, "host", problem);
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            }
            Err(_) => {
                reader.reject(S, "host", "must be a loopback address such as 127.0.0.1 or ::1");
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            }
        },
    };
    let port = reader.number(S, "port", 1..=65_535);
    Server { socket, socket_group, socket_mode, host, port }
}

fn database(reader: &mut Reader<'_>, places: &Places) -> Database {
    const S: &str = "database";
    let words = [("full", Synchronous::Full), ("normal", Synchronous::Normal)];
    Database {
        path: reader.path(S, "path").unwrap_or_else(|| places.database.clone()),
        synchronous: reader.word(S, "synchronous", &words).unwrap_or_default(),
        readers: reader.number(S, "readers", 1..=64).unwrap_or(4),
    }
}

fn libvirt(reader: &mut Reader<'_>, places: &Places) -> Libvirt {
    const S: &str = "libvirt";
    let types = [("auto", DomainType::Auto), ("kvm", DomainType::Kvm), ("qemu", DomainType::Qemu)];
    Libvirt {
        enabled: reader.flag(S, "enabled").unwrap_or(true),
        uri: reader.text(S, "uri").unwrap_or_else(|| places.uri.to_owned()),
        domain_type: reader.word(S, "domain_type", &types).unwrap_or_default(),
        reconcile_seconds: reader.number(S, "reconcile_seconds", 1..=86_400).unwrap_or(30),
        keepalive_seconds: reader.number(S, "keepalive_seconds", 1..=3_600).unwrap_or(5),
        keepalive_count: reader.number(S, "keepalive_count", 1..=100).unwrap_or(3),
        queue_depth: reader.number(S, "queue_depth", 1..=100_000).unwrap_or(256),
    }
}

fn security(reader: &mut Reader<'_>) -> Security {
    Security { virtiofs_roots: reader.paths("security", "virtiofs_roots").unwrap_or_default() }
}

fn limits(reader: &mut Reader<'_>) -> Limits {
    const S: &str = "limits";
    let default = Limits::default();
    let mut number = |key, range, default| reader.number(S, key, range).unwrap_or(default);
    let limits = Limits {
        memory_overcommit: MemoryOvercommit::default(),
        body_bytes: number("body_bytes", 1_024..=1 << 30, default.body_bytes),
        max_connections: number("max_connections", 1..=1_000_000, default.max_connections),
        header_seconds: number("header_seconds", 1..=3_600, default.header_seconds),
        request_seconds: number("request_seconds", 1..=86_400, default.request_seconds),
        wait_seconds: number("wait_seconds", 1..=300, default.wait_seconds),
        drain_seconds: number("drain_seconds", 0..=86_400, default.drain_seconds),
        tasks_keep_days: number("tasks_keep_days", 1..=36_500, default.tasks_keep_days),
        events_keep: number("events_keep", 1_000..=100_000_000, default.events_keep),
        definition_versions: number("definition_versions", 0..=10_000, default.definition_versions),
        transfers: number("transfers", 1..=256, default.transfers),
        upload_expire_seconds: number(
            "upload_expire_seconds",
            1..=31_536_000,
            default.upload_expire_seconds,
        ),
        upload_stall_seconds: number(
            "upload_stall_seconds",
            1..=3_600,
            default.upload_stall_seconds,
        ),
    };
    let overcommit = [("warn", MemoryOvercommit::Warn), ("refuse", MemoryOvercommit::Refuse)];
    let memory_overcommit = reader.word(S, "memory_overcommit", &overcommit).unwrap_or_default();
    Limits { memory_overcommit, ..limits }
}

fn log(reader: &mut Reader<'_>) -> Log {
    const S: &str = "log";
    let level = reader.text(S, "level").unwrap_or_else(|| "info".to_owned());
    if let Err(problem) = level_problem(&level) {
        reader.reject(S, "level", &problem);
    }
    let formats = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
        ("journal", LogFormat::Journal),
    ];
    Log { level, format: reader.word(S, "format", &formats).unwrap_or_default() }
}

/// What is wrong with a level such as `info` or `info,vapor::libvirt=debug`, if anything is. A
/// word alone must be a level: taken for a target, a mistyped one would log everything.
pub(crate) fn level_problem(text: &str) -> Result<(), String> {
    for part in text.split(',').map(str::trim) {
        let level = part.split_once('=').map_or(part, |(_, level)| level.trim());
        let target = part.split_once('=').map(|(target, _)| target.trim());
        if !LEVELS.contains(&level) {
            return Err(format!("must be a level ({}), not {level:?}", LEVELS.join(", ")));
        }
        if target.is_some_and(str::is_empty) {
            return Err(format!("has no target before the '=' of {part:?}"));
        }
    }
    Ok(())
}
