//! What else a VM that is to be made consists of.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Kind, Result};
use crate::model::ResourceName;

/// One graphical console to be; it listens on loopback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphicsRequest {
    pub r#type: GraphicsType,
}

/// The kind of a graphical console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GraphicsType {
    Vnc,
    Spice,
    /// Renders OpenGL on the host for another console; it shows nothing itself.
    #[serde(rename = "egl-headless")]
    EglHeadless,
    /// No graphics and no video device.
    None,
}

impl GraphicsType {
    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            GraphicsType::Vnc => "vnc",
            GraphicsType::Spice => "spice",
            GraphicsType::EglHeadless => "egl-headless",
            GraphicsType::None => "none",
        }
    }
}

/// Devices that a VM gets by request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DevicesRequest {
    /// A model that this host has; `virtio` or `vga` if absent and there are graphics.
    pub video: Option<ResourceName>,
    pub sound: Option<SoundModel>,
    pub watchdog: Option<WatchdogRequest>,
    /// A random number generator; where the host has one for guests if absent.
    pub rng: Option<bool>,
    pub vsock: Option<VsockRequest>,
    /// Directories of the host shared through virtiofs, within `[security] virtiofs_roots`.
    #[schema(max_items = 16)]
    pub filesystems: Option<Vec<FilesystemRequest>>,
    /// PCI devices of the host to be passed through, such as `0000:03:00.0`.
    #[schema(max_items = 16, value_type = Option<Vec<crate::model::network_request::PciAddress>>)]
    pub pci: Option<Vec<PciAddress>>,
}

words! {
    /// The model of a sound device; `none` for no such device.
    SoundModel { Ich9 = "ich9", Ich6 = "ich6", Ac97 = "ac97", Usb = "usb", Virtio = "virtio",
        None = "none" }
    /// The model of a watchdog; `none` for no such device.
    WatchdogModel { Itco = "itco", I6300esb = "i6300esb", None = "none" }
    /// What happens when a guest no longer feeds its watchdog.
    WatchdogAction { Reset = "reset", Shutdown = "shutdown", Poweroff = "poweroff",
        Pause = "pause", None = "none", Dump = "dump", InjectNmi = "inject-nmi" }
    /// What the guest's hardware clock shows.
    ClockOffset { Utc = "utc", Localtime = "localtime", Timezone = "timezone" }
}

/// A watchdog to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WatchdogRequest {
    /// `itco` on machines that have it built in, else `i6300esb`, if absent.
    pub model: Option<WatchdogModel>,
    /// `reset` if absent.
    pub action: Option<WatchdogAction>,
}

/// A socket between host and guest to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VsockRequest {
    /// The guest's context id; chosen at each start if absent.
    #[schema(minimum = 3, maximum = 4294967295_u64)]
    pub cid: Option<u32>,
}

/// A directory to be shared with the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesystemRequest {
    /// An absolute path on the host, within `[security] virtiofs_roots`.
    #[schema(max_length = 4096)]
    pub source: String,
    /// What the guest mounts it by.
    #[schema(min_length = 1, max_length = 35, pattern = "^[A-Za-z0-9_.-]{1,35}$")]
    pub tag: String,
    #[serde(default)]
    pub read_only: bool,
}

/// The clock of a VM to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClockRequest {
    /// `localtime` for Windows, else `utc`, if absent.
    pub offset: Option<ClockOffset>,
    /// For `timezone`: a name such as `Europe/Berlin`.
    #[schema(max_length = 64, pattern = "^[A-Za-z0-9_+/-]*$")]
    pub timezone: Option<String>,
}

/// The address of a PCI device of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    pub domain: u16,
    pub bus: u8,
    pub slot: u8,
    pub function: u8,
}

impl TryFrom<String> for PciAddress {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, slot) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
            let hex = |text: &str, digits: usize| {
                let plain = text.len() == digits && text.chars().all(|c| c.is_ascii_hexdigit());
                u16::from_str_radix(text, 16).ok().filter(|_| plain)
            };
            let address = PciAddress {
                domain: hex(domain, 4)?,
                bus: u8::try_from(hex(bus, 2)?).ok()?,
                slot: u8::try_from(hex(slot, 2)?).ok().filter(|slot| *slot < 32)?,
                function: u8::try_from(hex(function, 1)?).ok().filter(|f| *f < 8)?,
            };
            Some(address)
        };
        parse().ok_or_else(|| {
            Error::new(Kind::InvalidRequest, "a PCI address is written as 0000:03:00.0")
        })
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress { domain, bus, slot, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
    }
}
