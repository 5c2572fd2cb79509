//! `vapor pool create`, and the options that it shares with `update`.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::super::client::{POOLS, Request};
use super::super::context::Context;
use super::super::failure::Result;
use super::super::operation::{ChangeArgs, Ended, perform, show_done};
use super::super::vm::{overlay, read_body, without_nulls, word, yes_no};
use crate::model::pool::{
    AuthType, PoolAdapter, PoolAuth, PoolDevice, PoolHost, PoolPermissions, PoolSource, PoolTarget,
    SecretRef,
};
use crate::model::{PoolType, ResourceName};

/// What a pool stands on.
#[derive(Args, Debug, Default)]
pub struct PlaceArgs {
    /// Where it is on this host: its folder, for dir, fs, netfs and vstorage
    #[arg(long)]
    pub path: Option<String>,
    /// The folder's mode, such as 0711
    #[arg(long, value_name = "OCTAL")]
    pub mode: Option<String>,
    /// The folder's owner, a number
    #[arg(long, value_name = "UID")]
    pub owner: Option<u32>,
    /// The folder's group, a number
    #[arg(long, value_name = "GID")]
    pub group: Option<u32>,
    /// A server, with [:PORT]; repeat it for several
    #[arg(long, value_name = "HOST", value_parser = host)]
    pub host: Vec<PoolHost>,
    /// A block device, or an iSCSI target's name; repeat it for several
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// What the server exports
    #[arg(long, value_name = "DIR")]
    pub source_dir: Option<String>,
    /// The volume group, or the name of the server's pool or volume
    #[arg(long, value_name = "NAME")]
    pub source_name: Option<String>,
    /// The source's format, such as ext4, nfs or gpt
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// A SCSI adapter, such as scsi_host1
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// The name (iqn....) that this host calls itself
    #[arg(long, value_name = "IQN")]
    pub initiator: Option<String>,
    /// The version of NFS
    #[arg(long, value_name = "VERSION")]
    pub protocol_version: Option<String>,
    /// Who the pool is to the server: chap:USER:SECRET or ceph:USER:SECRET, a secret of libvirt by
    /// its UUID or usage
    #[arg(long, value_name = "AUTH", value_parser = auth)]
    pub auth: Option<PoolAuth>,
}

impl PlaceArgs {
    /// The members of a request that the options amount to.
    pub fn body(&self) -> Value {
        let PlaceArgs { path, mode, owner, group, .. } = self;
        let has_permissions = mode.is_some() || owner.is_some() || group.is_some();
        let permissions = PoolPermissions { mode: mode.clone(), owner: *owner, group: *group };
        let target =
            PoolTarget { path: path.clone(), permissions: has_permissions.then_some(permissions) };
        let source = PoolSource {
            hosts: self.host.clone(),
            devices: self.device.iter().map(|path| PoolDevice { path: path.clone() }).collect(),
            dir: self.source_dir.clone(),
            name: self.source_name.clone(),
            format: self.format.clone(),
            adapter: self
                .adapter
                .clone()
                .map(|name| PoolAdapter { name: Some(name), ..PoolAdapter::default() }),
            initiator: self.initiator.clone(),
            auth: self.auth.clone(),
            protocol_version: self.protocol_version.clone(),
        };
        let mut body = json!({});
        if source != PoolSource::default() {
            body["source"] = without_nulls(json!(source));
        }
        if target != PoolTarget::default() {
            body["target"] = without_nulls(json!(target));
        }
        body
    }
}

/// What the new pool is.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Its name
    #[arg(value_name = "NAME", required_unless_present = "file")]
    pub name: Option<ResourceName>,
    /// dir, fs, netfs, logical, disk, iscsi, iscsi-direct, scsi, mpath, rbd, sheepdog, gluster, zfs
    /// or vstorage (dir if absent)
    #[arg(long, value_name = "TYPE", value_parser = word::<PoolType>)]
    pub r#type: Option<PoolType>,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Make what it stands on; a folder is made anyway unless no is said
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", value_parser = yes_no)]
    pub build: Option<bool>,
    /// With --build: also where the device holds something, which is lost
    #[arg(long)]
    pub overwrite: bool,
    /// Start it at once (yes if absent)
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", value_parser = yes_no)]
    pub start: Option<bool>,
    /// Start it with the host (yes if absent)
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", value_parser = yes_no)]
    pub autostart: Option<bool>,
    /// Read the body from a JSON (or .toml) file, - for stdin; options given besides win
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Creates.
pub async fn run(cx: &mut Context, args: &CreateArgs) -> Result<()> {
    let flags = json!({
        "name": args.name,
        "type": args.r#type,
        "build": args.build,
        "overwrite": args.overwrite.then_some(true),
        "start": args.start,
        "autostart": args.autostart,
    });
    let body = overlay(read_body(cx, args.file.as_deref())?, without_nulls(flags));
    let body = overlay(body, args.place.body());
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let request = Request::new(Method::POST, POOLS.to_owned()).json(&body);
    match perform(cx, request, &args.change).await? {
        Ended::Done(data) => {
            let running = data.get("state").is_some_and(|state| state == "running");
            show_done(cx, &data, &name, if running { "created and started" } else { "created" })
        }
        Ended::Planned | Ended::Accepted => Ok(()),
    }
}

/// `NAME`, `NAME:PORT`, `[ADDRESS]:PORT` or an IPv6 address.
fn host(text: &str) -> Result<PoolHost, String> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest.strip_prefix(':')),
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let port =
        port.map(|port| port.parse().map_err(|_| format!("{port:?} is not a port"))).transpose()?;
    if name.is_empty() {
        return Err("a host has a name".to_owned());
    }
    Ok(PoolHost { name: name.to_owned(), port })
}

/// `TYPE:USER:SECRET`.
fn auth(text: &str) -> Result<PoolAuth, String> {
    let mut parts = text.splitn(3, ':');
    let (Some(r#type), Some(username), Some(secret)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err("say chap:USER:SECRET or ceph:USER:SECRET".to_owned());
    };
    let secret = match secret.parse() {
        Ok(uuid) => SecretRef { uuid: Some(uuid), usage: None },
        Err(_) => SecretRef { uuid: None, usage: Some(secret.to_owned()) },
    };
    Ok(PoolAuth { r#type: word::<AuthType>(r#type)?, username: username.to_owned(), secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_ports_and_addresses() {
        let of = |text| host(text).map(|host| (host.name, host.port));
        assert_eq!(of("nas1"), Ok(("nas1".to_owned(), None)));
        assert_eq!(of("nas1:2049"), Ok(("nas1".to_owned(), Some(2049))));
        assert_eq!(of("fd00::1"), Ok(("fd00::1".to_owned(), None)));
        assert_eq!(of("[fd00::1]:3260"), Ok(("fd00::1".to_owned(), Some(3260))));
        for bad in ["", ":1", "a:b", "a:70000"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_named_by_its_uuid_or_its_usage() {
        let one = auth("chap:iqn-user:libvirt:iscsi").unwrap();
        assert_eq!(one.secret.usage.as_deref(), Some("libvirt:iscsi"));
        let two = auth("ceph:admin:dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566").unwrap();
        assert!(two.secret.uuid.is_some() && two.secret.usage.is_none());
        assert!(auth("ceph:admin").is_err() && auth("plain:a:b").is_err());
    }

    #[test]
    fn only_what_is_said_is_sent() {
        assert_eq!(PlaceArgs::default().body(), json!({}));
        let args = PlaceArgs {
            path: Some("/srv/a".to_owned()),
            mode: Some("0700".to_owned()),
            ..PlaceArgs::default()
        };
        let wanted = json!({"target": {"path": "/srv/a", "permissions": {"mode": "0700"}}});
        assert_eq!(args.body(), wanted);
    }
}
