//! Storage pools through the API of the built daemon, on a private libvirtd: virsh and the file
//! system tell what really happened.

#[path = "../support/mod.rs"]
mod support;

mod failure;
mod foreign;
mod kill9;
mod life;
mod mounted;

use serde_json::{Value, json};
use tempfile::TempDir;

use support::{Lab, Reply, World};

/// The pools' path.
pub const POOLS: &str = "/api/v1/virtualization/storages/pools";

/// A daemon on a libvirtd of its own, and a folder for pools.
pub struct Place {
    pub world: World,
    pub folder: TempDir,
}

impl Place {
    pub async fn start(name: &str) -> Option<Place> {
        let world = World::start(name).await?;
        let folder = tempfile::Builder::new().prefix("vapor-pool-").tempdir().expect("a folder");
        Some(Place { world, folder })
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn dir(&self, name: &str) -> Value {
        json!({"name": name, "type": "dir", "target": {"path": self.path(name)}})
    }

    pub async fn create(&self, body: &Value) -> Reply {
        self.world.client.post(POOLS, body).await
    }

    pub async fn made(&self, body: &Value) -> Value {
        let reply = self.create(body).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.data().clone()
    }

    pub async fn get(&self, name: &str) -> Value {
        self.world.client.get(format!("{POOLS}/{name}")).await.data().clone()
    }

    pub async fn order(&self, name: &str, what: &str) -> Reply {
        self.world.client.call("POST", format!("{POOLS}/{name}/{what}")).send().await
    }

    pub async fn put(&self, name: &str, body: &Value) -> Reply {
        self.world.client.call("PUT", format!("{POOLS}/{name}")).json(body).send().await
    }

    pub async fn delete(&self, name: &str, query: &str) -> Reply {
        self.world.client.delete(format!("{POOLS}/{name}{query}")).await
    }
}

/// The names of all pools that libvirt knows.
pub fn pools(lab: &Lab) -> Vec<String> {
    lab.names(&["pool-list", "--all", "--name"])
}

/// One line of `virsh pool-info`.
pub fn info(lab: &Lab, pool: &str, label: &str) -> String {
    let text = lab.virsh(&["pool-info", pool]);
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{label}:")));
    line.unwrap_or_else(|| panic!("no {label} in {text}")).trim().to_owned()
}
