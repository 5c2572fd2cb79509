//! Which firmware and which TPM a new VM gets, or why it cannot have what was asked for.
//!
//! libvirt's capabilities tell whether there is UEFI at all, whether any of it has Secure Boot, and
//! which TPMs there are. Whether some image fits the machine and comes with keys libvirt tells only
//! when it is to store the definition; `libvirt/error.rs` says its refusal in our words.

use super::check::{clash, not_supported};
use crate::error::Result;
use crate::model::OsRequest;
use crate::model::firmware::{Firmware, TpmChoice, TpmModel, TpmRequest};
use crate::model::host::DomainCapabilities;
use crate::xml::domain::author::{EfiSpec, TpmSpec};

/// The machine that a VM is made for.
pub(in crate::service::vm) struct For<'a> {
    pub architecture: &'a str,
    /// libvirt's default if absent.
    pub machine: Option<&'a str>,
    /// The domain capabilities, if they are of this architecture.
    pub preferred: Option<&'a DomainCapabilities>,
}

impl For<'_> {
    fn is_x86(&self) -> bool {
        matches!(self.architecture, "x86_64" | "i686")
    }

    fn is_q35(&self) -> bool {
        self.machine.is_some_and(|machine| machine.contains("q35"))
    }
}

/// UEFI, or none for BIOS.
///
/// # Errors
/// 422 for fields that contradict each other or the machine, and for what the host does not have.
pub(in crate::service::vm) fn firmware(os: &OsRequest, host: &For<'_>) -> Result<Option<EfiSpec>> {
    let secure_boot = os.secure_boot.unwrap_or(false);
    let bios = os.firmware == Some(Firmware::Bios);
    if os.enrolled_keys == Some(true) && !secure_boot {
        return Err(clash("os.enrolled_keys", "needs os.secure_boot, which the keys are for"));
    }
    if secure_boot && bios {
        return Err(clash("os.secure_boot", "contradicts os.firmware bios: Secure Boot is UEFI's")
            .with_hint("say os.firmware efi, or leave it out"));
    }
    // Secure Boot means UEFI; whoever asks for it need not say so twice.
    if !secure_boot && !os.firmware.is_some_and(Firmware::is_efi) {
        return Ok(None);
    }
    let efi = |found: &DomainCapabilities| found.firmware.iter().any(|known| known == "efi");
    if !host.preferred.is_none_or(efi) {
        return Err(not_supported("os.firmware", "this host has no UEFI firmware for guests")
            .with_hint("install one (package ovmf or edk2-ovmf on the host), or say bios"));
    }
    if secure_boot && host.is_x86() && !host.is_q35() {
        let machine = host.machine.unwrap_or("libvirt's default");
        let problem = format!("cannot be had with the machine {machine}, only with q35");
        return Err(clash("os.secure_boot", problem)
            .with_hint("the firmware guards its keys in System Management Mode, which q35 has"));
    }
    if let Some(found) = host.preferred.filter(|found| secure_boot && !found.secure_boot) {
        let problem = "this host has no UEFI firmware with Secure Boot";
        return Err(not_supported("os.secure_boot", problem)
            .with_hint("install one (package ovmf or edk2-ovmf), or leave Secure Boot out")
            .with_detail("loaders", found.loaders.clone()));
    }
    Ok(Some(EfiSpec {
        secure_boot,
        enrolled_keys: secure_boot && os.enrolled_keys.unwrap_or(true),
        smm: host.is_x86(),
    }))
}

/// The TPM, if one is asked for.
///
/// # Errors
/// 422 if the host or the machine has none of that kind.
pub(in crate::service::vm) fn tpm(
    request: Option<TpmRequest>,
    host: &For<'_>,
) -> Result<Option<TpmSpec>> {
    let choice = match request {
        None | Some(TpmRequest::Simple(false)) => return Ok(None),
        Some(TpmRequest::Simple(true)) => TpmChoice::default(),
        Some(TpmRequest::Full(choice)) => choice,
    };
    let version = choice.version.unwrap_or_default();
    let capability =
        host.preferred.and_then(|found| found.devices.iter().find(|device| device.name == "tpm"));
    // A libvirt that tells of no TPM at all is older than what it would tell, or no QEMU's driver.
    let nothing = host.preferred.is_some_and(|found| found.devices.is_empty());
    let offers = |property: &str, wanted: &str| {
        let values = capability.and_then(|tpm| tpm.variants.iter().find(|v| v.name == property));
        values.is_none_or(|known| known.values.iter().any(|value| value == wanted))
    };
    if nothing
        || capability.is_some_and(|tpm| !tpm.supported)
        || !offers("backendModel", "emulator")
    {
        return Err(not_supported("tpm", "this host can emulate no TPM")
            .with_hint("install swtpm and swtpm-tools on the host"));
    }
    if !offers("backendVersion", version.as_str()) {
        let problem = format!("this host emulates no TPM {}", version.as_str());
        return Err(not_supported("tpm.version", problem));
    }
    if choice.model == Some(TpmModel::TpmCrb) && !host.is_x86() {
        let problem = format!("is for x86 machines, not for {}", host.architecture);
        return Err(clash("tpm.model", problem).with_hint("say tpm-tis, or no model"));
    }
    let model = match choice.model {
        Some(model) if !offers("model", model.as_str()) => {
            let problem = format!("this host has no {}", model.as_str());
            return Err(not_supported("tpm.model", problem));
        }
        Some(model) => model,
        None if host.is_x86() && offers("model", TpmModel::TpmCrb.as_str()) => TpmModel::TpmCrb,
        None => TpmModel::TpmTis,
    };
    Ok(Some(TpmSpec { model, version }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::model::firmware::TpmVersion;
    use crate::xml::capabilities::parse_domain_capabilities;

    const Q35: &str = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/corpus/host/domcapabilities-q35.xml"
    ));

    fn q35() -> DomainCapabilities {
        parse_domain_capabilities(Q35).unwrap()
    }

    fn on<'a>(found: &'a DomainCapabilities, machine: &'a str) -> For<'a> {
        For { architecture: "x86_64", machine: Some(machine), preferred: Some(found) }
    }

    fn asked(firmware: Option<Firmware>, secure: Option<bool>, keys: Option<bool>) -> OsRequest {
        OsRequest { firmware, secure_boot: secure, enrolled_keys: keys, ..OsRequest::default() }
    }

    #[test]
    fn what_is_asked_for_is_what_is_chosen() {
        let found = q35();
        let choose = |firmware, secure, keys| {
            let efi = super::firmware(&asked(firmware, secure, keys), &on(&found, "q35")).unwrap();
            efi.map(|efi| (efi.secure_boot, efi.enrolled_keys))
        };
        assert_eq!(choose(None, None, None), None);
        assert_eq!(choose(Some(Firmware::Bios), Some(false), Some(false)), None);
        assert_eq!(choose(Some(Firmware::Efi), None, None), Some((false, false)));
        assert_eq!(choose(Some(Firmware::Uefi), Some(false), Some(false)), Some((false, false)));
        assert_eq!(choose(Some(Firmware::Efi), Some(true), None), Some((true, true)));
        assert_eq!(choose(None, Some(true), Some(false)), Some((true, false)));
    }

    #[test]
    fn contradictions_name_the_field_and_what_would_do() {
        let found = q35();
        let refuse = |os: OsRequest, machine: &str| {
            let error = super::firmware(&os, &on(&found, machine)).unwrap_err();
            assert_eq!(error.kind(), Kind::Impossible, "{error:?}");
            error.details()["fields"][0]["field"].as_str().unwrap().to_owned()
        };
        let bios = asked(Some(Firmware::Bios), Some(true), None);
        assert_eq!(refuse(bios, "q35"), "os.secure_boot");
        let keys = asked(Some(Firmware::Efi), None, Some(true));
        assert_eq!(refuse(keys, "q35"), "os.enrolled_keys");
        for machine in ["pc", "pc-i440fx-10.0", "isapc"] {
            assert_eq!(refuse(asked(None, Some(true), None), machine), "os.secure_boot");
        }
        let versioned = super::firmware(&asked(None, Some(true), None), &on(&found, "pc-q35-9.1"));
        assert!(versioned.unwrap().is_some_and(|efi| efi.smm));
    }

    #[test]
    fn what_the_host_lacks_is_said() {
        let lacking = DomainCapabilities { firmware: Vec::new(), ..q35() };
        let efi = asked(Some(Firmware::Efi), None, None);
        let error = super::firmware(&efi, &on(&lacking, "q35")).unwrap_err();
        assert_eq!(error.kind(), Kind::NotSupported);
        let insecure = DomainCapabilities { secure_boot: false, ..q35() };
        assert!(super::firmware(&efi, &on(&insecure, "q35")).unwrap().is_some());
        let secure = asked(None, Some(true), None);
        let error = super::firmware(&secure, &on(&insecure, "q35")).unwrap_err();
        assert_eq!(error.kind(), Kind::NotSupported);
        let mut no_swtpm = q35();
        let tpm = no_swtpm.devices.iter_mut().find(|device| device.name == "tpm").unwrap();
        tpm.variants.iter_mut().for_each(|v| v.values.retain(|value| value != "emulator"));
        for found in [no_swtpm, DomainCapabilities::default()] {
            let error = super::tpm(Some(TpmRequest::Simple(true)), &on(&found, "q35")).unwrap_err();
            assert_eq!(error.kind(), Kind::NotSupported);
            assert_eq!(error.details()["fields"][0]["field"], "tpm");
        }
    }

    #[test]
    fn a_tpm_without_a_model_is_what_the_machine_has_best() {
        let found = q35();
        let choose = |request, host: &For<'_>| super::tpm(Some(request), host).unwrap();
        let yes = TpmRequest::Simple(true);
        let crb = TpmSpec { model: TpmModel::TpmCrb, version: TpmVersion::V2 };
        assert_eq!(choose(yes, &on(&found, "q35")), Some(crb));
        assert_eq!(choose(TpmRequest::Simple(false), &on(&found, "q35")), None);
        let arm = For { architecture: "aarch64", machine: Some("virt"), preferred: None };
        assert_eq!(choose(yes, &arm).unwrap().model, TpmModel::TpmTis);
        let choice = TpmChoice { model: Some(TpmModel::TpmCrb), version: None };
        let error = super::tpm(Some(TpmRequest::Full(choice)), &arm).unwrap_err();
        assert_eq!(error.kind(), Kind::Impossible);
    }
}
