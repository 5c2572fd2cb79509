//! What a guest is told at its boot: cloud-init (NoCloud) and Ignition.
//!
//! Each of cloud-init's four documents is given as it is, or built from fields in plain words. All of
//! it is secret, because passwords, keys and scripts are in it: `Debug` shows nothing of it, and no
//! answer of the API repeats it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Secret, VolumeRef};

/// cloud-init's documents for a VM. A document that is given as it is contradicts the fields that it
/// would be built from: `user_data` all but `hostname`, `fqdn` and `network`; `meta_data` the
/// `hostname` and `fqdn`; `network_config` the `network`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CloudInit {
    /// The user-data as it is: `#cloud-config` and YAML, a script with `#!`, `#include`,
    /// `## template: jinja`, a MIME archive, or another format with its header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262144)]
    pub user_data: Option<Secret>,
    /// The meta-data as it is, a YAML mapping. Without an `instance-id` it is given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 65536)]
    pub meta_data: Option<Secret>,
    /// The network-config as it is, a YAML mapping of version 1 or 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 65536)]
    pub network_config: Option<Secret>,
    /// The vendor-data as it is, in one of the formats of `user_data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262144)]
    pub vendor_data: Option<Secret>,
    /// The VM's name if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 63, pattern = "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")]
    pub hostname: Option<String>,
    /// The host name with its domain; its first label is `hostname`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 253,
        pattern = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+$"
    )]
    pub fqdn: Option<String>,
    /// Public keys of the image's default user, as in `authorized_keys`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub ssh_keys: Vec<SshKey>,
    /// A password for the image's default user. Only a hash of it is handed on and kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub password: Option<Secret>,
    /// Users beside the image's default one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub users: Vec<CloudUser>,
    /// Packages to be installed at the first boot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub packages: Vec<PackageName>,
    /// Whether to fetch the lists of packages at the first boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_update: Option<bool>,
    /// Commands for the end of the first boot, each a line for the shell or a list of words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub runcmd: Vec<Command>,
    /// Files to be written at the first boot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub write_files: Vec<WriteFile>,
    /// Such as `Europe/Berlin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64, pattern = "^[A-Za-z][A-Za-z0-9_+/-]*$")]
    pub timezone: Option<String>,
    /// Such as `en_US.UTF-8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64, pattern = "^[A-Za-z][A-Za-z0-9_.@-]*$")]
    pub locale: Option<String>,
    /// The guest's interfaces; each takes DHCP if neither this nor `network_config` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<CloudNetwork>,
}

impl fmt::Debug for CloudInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloudInit(…)")
    }
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $max:tt, $pattern:tt) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, min_length = 1, max_length = $max, pattern = $pattern)]
        pub struct $name(pub String);
    };
}

text_type! {
    /// A public key: its type, the key in base64, and perhaps a comment; options before it are
    /// allowed.
    SshKey, 16384, r"^[^\x00-\x1F\x7F]+$"
}
text_type! {
    /// The name of a package, as the guest's distribution calls it, perhaps with a version.
    PackageName, 256, "^[A-Za-z0-9][A-Za-z0-9+.:~=_/@-]*$"
}
text_type! {
    /// A line for the shell.
    CommandLine, 16384, r"^[^\x00]+$"
}
text_type! {
    /// The name of a group.
    GroupName, 32, "^[a-z_][a-z0-9_-]*$"
}

/// A command: a line for the shell, or a program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Command {
    Line(CommandLine),
    Words(CommandWords),
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Vec<String>, min_items = 1, max_items = 256)]
pub struct CommandWords(pub Vec<String>);

/// A user to be made in the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloudUser {
    #[schema(min_length = 1, max_length = 32, pattern = "^[a-z_][a-z0-9_-]*$")]
    pub name: String,
    /// Groups beside the user's own; they are made if they are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub groups: Vec<GroupName>,
    /// A rule for sudo, such as `ALL=(ALL) NOPASSWD:ALL`; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 1024, pattern = r"^[^\x00-\x1F\x7F]+$")]
    pub sudo: Option<String>,
    /// `/bin/bash` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255, pattern = "^/[A-Za-z0-9_./-]*$")]
    pub shell: Option<String>,
    /// Public keys, as in `authorized_keys`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub ssh_keys: Vec<SshKey>,
    /// A password. Only a hash of it is handed on and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub password: Option<Secret>,
    /// A hash of the password in the form of crypt(5), instead of `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512, pattern = r"^\$[0-9a-z]+\$[A-Za-z0-9./$=,+-]+$")]
    pub password_hash: Option<Secret>,
    /// Whether the password cannot be used; without a password it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<bool>,
}

/// A file to be written in the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    #[schema(min_length = 2, max_length = 4096, pattern = r"^/[^\x00-\x1F\x7F]+$")]
    pub path: String,
    #[schema(max_length = 262144)]
    pub content: Secret,
    /// In octal, such as `0644`, which is so if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^0?[0-7]{3,4}$")]
    pub permissions: Option<String>,
    /// `USER` or `USER:GROUP`; `root:root` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 65, pattern = "^[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?$")]
    pub owner: Option<String>,
    /// Append to what is there.
    #[serde(default)]
    pub append: bool,
    /// Write it at the end of the first boot, when users and packages are there.
    #[serde(default)]
    pub defer: bool,
}

/// The guest's network, written down as network-config version 2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloudNetwork {
    #[schema(min_items = 1, max_items = 16)]
    pub interfaces: Vec<CloudInterface>,
}

/// One interface of the guest, found by its MAC address or by its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CloudInterface {
    /// The interface's name; the one with `mac` is given it (`eth0`, … by its place if absent).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 15, pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]
    pub mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp4: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp6: Option<bool>,
    /// Addresses with their prefix, such as `10.0.0.5/24`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub addresses: Vec<String>,
    /// The default gateway for IPv4, for IPv6, or for both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 2)]
    pub gateway: Vec<String>,
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub dns: Vec<String>,
    /// Domains in which short names are looked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 68, maximum = 65535)]
    pub mtu: Option<u32>,
}

/// What can be told of a VM's cloud-init: none of its documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CloudInitState {
    /// The disk that the guest reads them from, such as `vdb`.
    pub target: String,
    /// The volume behind it; null if no known pool holds it.
    pub volume: Option<VolumeRef>,
    /// What cloud-init knows the VM by: another one makes it begin anew.
    pub instance_id: String,
    pub hostname: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        let text = r##"{"user_data":"#!sesame","password":"sesame","users":[{"name":"u",
            "password":"sesame"}],"write_files":[{"path":"/x","content":"sesame"}],
            "runcmd":["echo sesame"]}"##;
        let request: CloudInit = serde_json::from_str(text).unwrap();
        assert!(
            !format!("{request:?} {:?} {:?}", request.users, request.write_files)
                .contains("sesame")
        );
        // The wire is another matter.
        assert!(serde_json::to_string(&request).unwrap().contains("sesame"));
    }
}
