//! What a VM that is to be made boots.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{Firmware, ResourceName, VolumeRef};

/// What to boot.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OsRequest {
    /// A word such as `linux` or `windows`; it is kept with the VM.
    #[schema(max_length = 64, pattern = "^[A-Za-z0-9_.-]*$")]
    pub r#type: Option<String>,
    /// A libosinfo short id or id, kept with the VM.
    #[schema(max_length = 255, pattern = "^[A-Za-z0-9_.:/-]*$")]
    pub variant: Option<String>,
    /// The host's own if absent.
    pub architecture: Option<ResourceName>,
    /// libvirt's preferred one (`q35` where there is one) if absent.
    pub machine: Option<ResourceName>,
    /// `bios` if absent, unless `secure_boot` asks for UEFI. `uefi` is the same as `efi`.
    pub firmware: Option<Firmware>,
    /// UEFI with Secure Boot.
    pub secure_boot: Option<bool>,
    /// With `secure_boot`: whether the firmware comes with the usual keys (Microsoft's), so that it is
    /// in force at once; true if absent. Without keys the guest, or its owner, enrolls some.
    pub enrolled_keys: Option<bool>,
    /// Boot devices in order: `hd`, `cdrom`, `network`, `fd`.
    #[schema(max_items = 4)]
    pub boot: Option<Vec<BootDevice>>,
    /// Boot a kernel straight from volumes.
    pub direct_boot: Option<DirectBoot>,
}

/// One boot device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BootDevice {
    Hd,
    Cdrom,
    Network,
    Fd,
}

impl BootDevice {
    /// libvirt's word in `<boot dev=…/>`.
    pub const fn as_str(self) -> &'static str {
        match self {
            BootDevice::Hd => "hd",
            BootDevice::Cdrom => "cdrom",
            BootDevice::Network => "network",
            BootDevice::Fd => "fd",
        }
    }
}

/// Kernel, initial RAM disk and command line, without a boot loader.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectBoot {
    pub kernel: VolumeRef,
    #[serde(default)]
    pub initrd: Option<VolumeRef>,
    #[serde(default)]
    #[schema(max_length = 2048, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub cmdline: Option<String>,
}
