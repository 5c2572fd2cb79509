//! What needs a host of its own, in a virtual machine (`tests/lab/hostvm.sh`): the package, and storage
//! on real block devices, with the kernel, libvirt and LVM of a whole Debian under the daemon.

#[path = "../support/mod.rs"]
mod support;

mod block_pools;
mod logical_pools;
mod package;

use serde_json::Value;

use support::{Client, Hardware, HostVm, Reply};

const POOLS: &str = "/api/v1/virtualization/storages/pools";
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The machine with the daemon in it.
struct Place {
    host: HostVm,
    client: Client,
}

impl Place {
    async fn pool(&self, name: &str) -> Value {
        self.client.get(format!("{POOLS}/{name}")).await.data().clone()
    }

    /// Does `start`, `stop` or `refresh`.
    async fn act(&self, pool: &str, action: &str) -> Reply {
        self.client.call("POST", format!("{POOLS}/{pool}/{action}")).send().await
    }

    async fn create(&self, body: &Value) -> Reply {
        self.client.post(POOLS, body).await
    }

    async fn volume(&self, pool: &str, volume: &str) -> Reply {
        self.client.get(format!("{POOLS}/{pool}/volumes/{volume}")).await
    }

    /// What libvirt's own client says.
    #[track_caller]
    fn virsh(&self, line: &str) -> String {
        self.host.run(&format!("virsh -q {line}"))
    }

    /// Every pool that libvirt has defined.
    fn defined(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.virsh("pool-list --all --name").split_whitespace().map(Into::into).collect();
        names.sort();
        names
    }
}

/// One machine for all of them, because its boot takes longer than what they do.
#[tokio::test(flavor = "multi_thread")]
async fn the_package_and_pools_of_volume_groups_disks_and_file_systems() {
    let disks = &[("alpha", "4G"), ("beta", "2G"), ("gamma", "2G"), ("delta", "2G")];
    let hardware = Hardware { disks, ..Hardware::default() };
    let Some(host) = HostVm::start("storage", &hardware) else { return };
    let client = host.vapord("").await;
    let place = Place { host, client };

    package::the_group_runs_guests_that_outlive_the_daemon(&place).await;
    logical_pools::a_new_volume_group(&place).await;
    logical_pools::volumes_are_plain_logical_volumes(&place).await;
    logical_pools::a_volume_is_a_disk_and_then_stays(&place).await;
    logical_pools::a_pulled_disk_is_told_and_heals(&place).await;
    logical_pools::a_volume_group_of_others(&place).await;
    logical_pools::the_end_of_a_volume_group(&place).await;
    block_pools::a_file_system_on_a_device(&place).await;
    block_pools::a_disk_with_partitions(&place).await;

    assert!(place.defined().is_empty(), "{:?}", place.defined());
    place.host.finish(1);
}
