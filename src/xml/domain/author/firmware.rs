//! The firmware and the TPM of a new VM.
//!
//! UEFI is said as what the firmware shall be able to do; libvirt chooses the image and the file of
//! its variables by the descriptors that the host's packages bring ("firmware auto-selection") and
//! writes both into the definition.

use crate::model::firmware::{TpmModel, TpmVersion};
use crate::xml::tree::Element;

use super::DomainSpec;

/// UEFI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EfiSpec {
    pub secure_boot: bool,
    /// Whether the variables come with keys, so that Secure Boot is in force from the first boot.
    pub enrolled_keys: bool,
    /// Whether the machine needs System Management Mode, in which x86 firmware guards its variables.
    pub smm: bool,
}

/// A TPM played by swtpm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TpmSpec {
    pub model: TpmModel,
    pub version: TpmVersion,
}

/// The value of `<os firmware=…>`; BIOS is what libvirt takes without one.
pub(super) fn word(spec: &DomainSpec) -> Option<&'static str> {
    spec.efi.map(|_| "efi")
}

/// `<firmware>` in `<os>`. Both features are always said: where a definition leaves one open,
/// libvirt takes the first image that fits, which may be one with Secure Boot in force.
pub(super) fn features(spec: &DomainSpec) -> Option<Element<'static>> {
    spec.efi.map(wanted)
}

/// The same for one firmware.
pub(in crate::xml::domain) fn wanted(efi: EfiSpec) -> Element<'static> {
    let feature = |enabled: bool, name: &str| {
        Element::new("feature")
            .with_attr("enabled", if enabled { "yes" } else { "no" })
            .with_attr("name", name)
    };
    let keys = efi.secure_boot.then(|| feature(efi.enrolled_keys, "enrolled-keys"));
    let firmware = Element::new("firmware").with_child(feature(efi.secure_boot, "secure-boot"));
    firmware.with_children(keys)
}

/// `<smm>` in `<features>`.
pub(super) fn smm(spec: &DomainSpec) -> Option<Element<'static>> {
    let needed = spec.efi.is_some_and(|efi| efi.secure_boot && efi.smm);
    needed.then(|| Element::new("smm").with_attr("state", "on"))
}

/// `<tpm>` in `<devices>`.
pub(super) fn tpm(spec: &DomainSpec) -> Option<Element<'static>> {
    spec.tpm.map(emulated)
}

/// A TPM played by swtpm.
pub(in crate::xml::domain) fn emulated(tpm: TpmSpec) -> Element<'static> {
    let backend = Element::new("backend")
        .with_attr("type", "emulator")
        .with_attr("version", tpm.version.as_str());
    Element::new("tpm").with_attr("model", tpm.model.as_str()).with_child(backend)
}
