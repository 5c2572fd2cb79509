//! What `vapor vm create` takes for the guest's cloud-init.

use clap::Args;
use serde_json::Value;

use super::super::context::Context;
use super::super::failure::{Exit, Failure, Result};
use super::super::text::quoted;
use super::spec::read_file;
use super::without_nulls;
use crate::model::cloud_init::SshKey;
use crate::model::{CloudInit, Secret};

/// The options of [`CloudInitArgs`].
pub const OPTIONS: [&str; 6] =
    ["cloud_init_hostname", "ssh_key", "user_data", "meta_data", "network_config", "vendor_data"];

/// What the guest's cloud-init is told.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "cloud-init")]
pub struct CloudInitArgs {
    /// The guest's host name; one with a domain sets that, too
    #[arg(long, value_name = "NAME")]
    pub cloud_init_hostname: Option<String>,
    /// A public key for the image's user, or a file of such keys; repeat it for several
    #[arg(long, value_name = "FILE|KEY")]
    pub ssh_key: Vec<String>,
    /// A file with the user-data as it is, - for stdin
    #[arg(long, value_name = "FILE")]
    pub user_data: Option<String>,
    /// A file with the meta-data as it is
    #[arg(long, value_name = "FILE")]
    pub meta_data: Option<String>,
    /// A file with the network-config as it is
    #[arg(long, value_name = "FILE")]
    pub network_config: Option<String>,
    /// A file with the vendor-data as it is
    #[arg(long, value_name = "FILE")]
    pub vendor_data: Option<String>,
}

impl CloudInitArgs {
    /// Whether an option is given.
    pub fn is_given(&self) -> bool {
        let texts = [
            &self.cloud_init_hostname,
            &self.user_data,
            &self.meta_data,
            &self.network_config,
            &self.vendor_data,
        ];
        !self.ssh_key.is_empty() || texts.iter().any(|text| text.is_some())
    }

    /// The body's `cloud_init`, if an option asks for one.
    pub fn body(&self, cx: &mut Context) -> Result<Option<Value>> {
        let mut request = CloudInit::default();
        match &self.cloud_init_hostname {
            Some(name) if name.contains('.') => request.fqdn = Some(name.clone()),
            name => request.hostname.clone_from(name),
        }
        for given in &self.ssh_key {
            request.ssh_keys.extend(keys(cx, given)?);
        }
        let mut read = |file: &Option<String>| -> Result<Option<Secret>> {
            file.as_deref().map(|file| read_file(cx, file).map(Secret::from)).transpose()
        };
        request.user_data = read(&self.user_data)?;
        request.meta_data = read(&self.meta_data)?;
        request.network_config = read(&self.network_config)?;
        request.vendor_data = read(&self.vendor_data)?;
        if request == CloudInit::default() {
            return Ok(None);
        }
        serde_json::to_value(request).map(without_nulls).map(Some).map_err(Failure::unintelligible)
    }
}

/// A key as it is, or every key of a file.
fn keys(cx: &mut Context, given: &str) -> Result<Vec<SshKey>> {
    // A key has its type, a space and the key itself; a file's name may have spaces, but not that.
    let is_key = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| given.starts_with(start))
        && given.contains(' ');
    if is_key {
        return Ok(vec![SshKey(given.to_owned())]);
    }
    let content = read_file(cx, given)?;
    if content.contains("PRIVATE KEY-----") {
        let message = format!("--ssh-key {}: is a private key", quoted(given));
        return Err(
            Failure::new(Exit::Refused, message).with_hint("name the file that ends in .pub")
        );
    }
    let lines = content.lines().map(str::trim);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| SshKey(line.to_owned()))
        .collect())
}
