//! What a guest with cloud-init is told: from a request to the image that the guest reads it from.
//!
//! ```text
//!   CloudInit ──▶ prepare: checked, passwords hashed, YAML read ──▶ Prepared
//!                                         the documents of the present image ─┐
//!   Prepared ──▶ complete ◀───────────────────────────────────────────────────┘ (a change)
//!                   └──▶ Documents ──▶ image: FAT, labelled CIDATA ──▶ a volume
//! ```
//!
//! Nothing here touches libvirt. A plain password lives from the request to [`prepare`], which is the
//! first thing that is done with a request; only its hash goes on. Documents are shown by nothing.
//!
//! The image is FAT and sits on a virtio disk, because kernels for virtual machines, such as Debian's,
//! have no driver for the SATA CD drives that other tools put it into. cloud-init's NoCloud knows
//! both.

mod build;
mod check;
mod image;
mod password;
mod yaml;

#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::Value;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::model::CloudInit;
use crate::service::page::stable_hash;

pub use image::{LARGEST, image, read_image};

/// The documents that a request gives; what is absent is not spoken of.
#[derive(Clone, Default)]
pub struct Prepared {
    user_data: Option<String>,
    meta_data: Option<Meta>,
    network_config: Option<String>,
    vendor_data: Option<String>,
}

/// The meta-data that a request gives.
#[derive(Clone)]
enum Meta {
    /// As it is.
    Raw(String),
    Hostname(String),
}

/// Everything that is in an image.
#[derive(Clone, Default, PartialEq)]
pub struct Documents {
    pub user_data: String,
    pub meta_data: String,
    pub network_config: Option<String>,
    pub vendor_data: Option<String>,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared(…)")
    }
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Documents(…)")
    }
}

/// Checks a request, reads its YAML, hashes its passwords and builds its documents. Hashing takes
/// milliseconds for each password, so it happens on a thread for blocking work.
///
/// # Errors
/// 400 for values out of range and for documents that cannot be read, with line and column; 422 for
/// fields that contradict each other.
pub async fn prepare(request: CloudInit) -> Result<Prepared> {
    tokio::task::spawn_blocking(move || prepare_now(&request)).await.map_err(Error::internal)?
}

fn prepare_now(request: &CloudInit) -> Result<Prepared> {
    check::fields(request)?;
    let text = |secret: &Option<crate::model::Secret>| {
        secret.as_ref().map(|secret| secret.reveal().to_owned())
    };
    let (user_data, meta_data) = (text(&request.user_data), text(&request.meta_data));
    let (network_config, vendor_data) = (text(&request.network_config), text(&request.vendor_data));
    if let Some(document) = &user_data {
        yaml::check_data("cloud_init.user_data", document)?;
    }
    if let Some(document) = &vendor_data {
        yaml::check_data("cloud_init.vendor_data", document)?;
    }
    if let Some(document) = &meta_data {
        yaml::mapping("cloud_init.meta_data", document)?;
    }
    if let Some(document) = &network_config {
        yaml::network("cloud_init.network_config", document)?;
    }
    let hostname = request.fqdn.clone().or_else(|| request.hostname.clone());
    Ok(Prepared {
        user_data: match user_data {
            None => build::user_data(request)?,
            given => given,
        },
        meta_data: meta_data.map(Meta::Raw).or_else(|| hostname.map(Meta::Hostname)),
        network_config: match network_config {
            None => request.network.as_ref().map(build::network_config).transpose()?,
            given => given,
        },
        vendor_data,
    })
}

impl Prepared {
    /// Whether the request gives user-data, or what they are built of.
    pub fn has_user_data(&self) -> bool {
        self.user_data.is_some()
    }

    /// The whole of the documents for a VM: what the request does not speak of stays as it is in
    /// `present`. Unless the request names an `instance-id`, it is made of the VM's UUID and of the
    /// documents, so that cloud-init takes changed documents for those of a new instance.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind::Internal) if a document cannot be written.
    pub fn complete(self, vm: (&str, Uuid), present: Option<Documents>) -> Result<Documents> {
        let (name, uuid) = vm;
        let present = present.unwrap_or_default();
        let kept = yaml::meta(&present.meta_data);
        let user_data =
            self.user_data.or(Some(present.user_data).filter(|document| !document.is_empty()));
        let mut documents = Documents {
            user_data: user_data.unwrap_or_else(|| "#cloud-config\n{}\n".to_owned()),
            meta_data: String::new(),
            network_config: self.network_config.or(present.network_config),
            vendor_data: self.vendor_data.or(present.vendor_data),
        };
        let mut meta = match self.meta_data {
            Some(Meta::Raw(document)) => {
                let meta = yaml::meta(&document);
                if meta.contains_key("instance-id") {
                    documents.meta_data = document;
                    return Ok(documents);
                }
                meta
            }
            Some(Meta::Hostname(hostname)) => {
                let mut meta = kept;
                meta.insert("local-hostname".to_owned(), hostname.into());
                meta
            }
            None => kept,
        };
        meta.entry("local-hostname").or_insert_with(|| hostname_of(name).into());
        meta.remove("instance-id");
        let mut with_id = serde_json::Map::new();
        with_id.insert("instance-id".to_owned(), documents.instance_id(&meta, uuid)?.into());
        with_id.extend(meta);
        documents.meta_data = build::document(&with_id)?;
        Ok(documents)
    }
}

impl Documents {
    /// An id made of the VM's UUID, of these documents and of the rest of the meta-data.
    fn instance_id(&self, meta: &serde_json::Map<String, Value>, uuid: Uuid) -> Result<String> {
        let bytes = serde_json::to_vec(meta).map_err(Error::internal)?;
        let mut hashed = stable_hash(&bytes);
        let others = [self.network_config.as_deref(), self.vendor_data.as_deref()];
        for document in std::iter::once(Some(self.user_data.as_str())).chain(others) {
            let part = document.map_or(0, |document| stable_hash(document.as_bytes()));
            hashed = hashed.rotate_left(17) ^ part;
        }
        // No more than tells versions apart: it must not help anybody to guess what was hashed.
        Ok(format!("{uuid}-{:08x}", hashed as u32))
    }

    /// What cloud-init knows the VM by, and its host name, as the meta-data says.
    pub fn identity(&self) -> (String, Option<String>) {
        let meta = yaml::meta(&self.meta_data);
        let text = |key: &str| meta.get(key).map(yaml::word).filter(|text| !text.is_empty());
        let hostname = text("local-hostname").or_else(|| text("hostname"));
        (text("instance-id").unwrap_or_default(), hostname)
    }
}

/// A host name that is as near to a VM's name as may be.
fn hostname_of(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let plain = plain.trim_matches('-');
    if plain.is_empty() { "vm".to_owned() } else { plain.to_owned() }
}
