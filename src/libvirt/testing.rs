//! A hypervisor on libvirt's test driver, for this room's tests: each has a node file, and with it a
//! world, of its own.

use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Hypervisor, HypervisorConfig, Lane, LibvirtEvent, Session};
use crate::error::Result;

/// Three domains (`web1` runs, `web2` is shut off, `db1` is paused), two networks, a pool with two
/// volumes.
pub(super) const NODE: &str = r#"<node>
  <cpu><mhz>2400</mhz><model>x86_64</model><active>4</active><nodes>1</nodes>
    <sockets>1</sockets><cores>4</cores><threads>1</threads></cpu>
  <memory>8388608</memory>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>web1</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
    <memory>524288</memory><currentMemory>262144</currentMemory><vcpu current="1">2</vcpu>
    <os><type>hvm</type></os>
  </domain>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>web2</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa1</uuid>
    <memory>1048576</memory><vcpu>4</vcpu>
    <os><type>hvm</type></os>
    <test:runstate>5</test:runstate>
  </domain>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>db1</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa2</uuid>
    <memory>1048576</memory><vcpu>1</vcpu>
    <os><type>hvm</type></os>
    <test:runstate>3</test:runstate>
  </domain>
  <network><name>default</name><uuid>dd8fe884-6c02-601e-7551-cca97df1c5df</uuid>
    <bridge name="virbr0"/><forward/>
    <ip address="192.168.122.1" netmask="255.255.255.0">
      <dhcp><range start="192.168.122.2" end="192.168.122.254"/></dhcp></ip></network>
  <network><name>lab</name><uuid>dd8fe884-6c02-601e-7551-cca97df1c5d0</uuid>
    <bridge name="virbr1"/></network>
  <pool type="dir"><name>images</name><uuid>dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566</uuid>
    <target><path>/pool/images</path></target>
    <volume><name>a.qcow2</name><capacity>1000000</capacity><allocation>50000</allocation>
      <target><path>/pool/images/a.qcow2</path><format type="qcow2"/></target></volume>
    <volume><name>b.raw</name><capacity>2000000</capacity><allocation>2000000</allocation>
      <target><path>/pool/images/b.raw</path><format type="raw"/></target></volume></pool>
</node>"#;

pub(super) const WEB1: uuid::Uuid = uuid::uuid!("4dea22b3-1d52-d8f3-2516-782e98ab3fa0");
pub(super) const WEB2: uuid::Uuid = uuid::uuid!("4dea22b3-1d52-d8f3-2516-782e98ab3fa1");
pub(super) const DB1: uuid::Uuid = uuid::uuid!("4dea22b3-1d52-d8f3-2516-782e98ab3fa2");

/// Long enough for a busy machine; a test that waits this long fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct World {
    pub(super) hypervisor: Hypervisor,
    pub(super) events: UnboundedReceiver<LibvirtEvent>,
    _folder: TempDir,
}

impl World {
    /// A connected hypervisor on [`NODE`].
    pub(super) async fn new() -> World {
        World::with(|_| {}).await
    }

    pub(super) async fn with(adjust: impl FnOnce(&mut HypervisorConfig)) -> World {
        let folder = tempfile::tempdir().expect("a folder for the node file");
        let path = folder.path().join("node.xml");
        std::fs::write(&path, NODE).expect("the node file is written");
        let mut config = HypervisorConfig::new(format!("test://{}", path.display()));
        config.reconnect_min = Duration::from_millis(10);
        config.reconnect_max = Duration::from_millis(50);
        adjust(&mut config);
        let (hypervisor, mut events) = Hypervisor::start(config).expect("the threads start");
        let first = wait(&mut events).await;
        assert!(matches!(first, LibvirtEvent::Connected { .. }), "{first:?}");
        World { hypervisor, events, _folder: folder }
    }

    /// Runs `f` on the quick lane.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.hypervisor.run(Lane::Quick, PATIENCE, f).await
    }

    /// The next event that `wanted` accepts.
    pub(super) async fn event(&mut self, wanted: impl Fn(&LibvirtEvent) -> bool) -> LibvirtEvent {
        loop {
            let event = wait(&mut self.events).await;
            if wanted(&event) {
                return event;
            }
        }
    }
}

async fn wait(events: &mut UnboundedReceiver<LibvirtEvent>) -> LibvirtEvent {
    tokio::time::timeout(PATIENCE, events.recv())
        .await
        .expect("an event in time")
        .expect("the channel is open")
}
