//! Processors and memory of a draft: whether what is asked for adds up, and whether this host has it.

use std::collections::BTreeSet;

use super::check::{clash, not_supported};
use crate::error::{Error, Kind, Result};
use crate::model::host::{Capabilities, DomainCapabilities};
use crate::model::vm_request::{CpuMode, CpuRequest, MemoryRequest};
use crate::xml::domain::author::{CpuSpec, MemorySpec, NumaSpec};

/// The processors.
///
/// # Errors
/// 400 for what is out of range; 422 for what contradicts itself or is not there.
pub(in crate::service::vm) fn cpu(
    request: &CpuRequest,
    usual: Option<String>,
    (max_vcpus, max_memory_mib): (u32, u64),
    capabilities: &Capabilities,
    preferred: Option<&DomainCapabilities>,
) -> Result<CpuSpec> {
    let features = request.features.clone().unwrap_or_default();
    let mut names = BTreeSet::new();
    for (index, feature) in features.iter().enumerate() {
        let field = format!("cpu.features[{index}].name");
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if feature.name.is_empty() || feature.name.len() > 64 || !feature.name.chars().all(plain) {
            return Err(Error::field(field, "is not a feature's name"));
        }
        if !names.insert(feature.name.as_str()) {
            return Err(clash(field, "is there twice"));
        }
    }
    if features.len() > 128 {
        return Err(Error::field("cpu.features", "has more than 128 entries"));
    }
    if let Some(topology) = request.topology {
        let parts = [
            ("sockets", topology.sockets),
            ("dies", topology.dies.unwrap_or(1)),
            ("cores", topology.cores),
            ("threads", topology.threads.unwrap_or(1)),
        ];
        for (name, count) in parts {
            if !(1..=1024).contains(&count) {
                return Err(Error::field(
                    format!("cpu.topology.{name}"),
                    "must be between 1 and 1024",
                ));
            }
        }
        let all: u64 = parts.iter().map(|(_, count)| u64::from(*count)).product();
        if all != u64::from(max_vcpus) {
            return Err(clash(
                "cpu.topology",
                format!("comes to {all} CPUs, and max_vcpus is {max_vcpus}"),
            ));
        }
    }
    let (mode, model) = mode(request, usual, preferred)?;
    Ok(CpuSpec {
        mode,
        model,
        features,
        topology: request.topology,
        pins: pins(request, max_vcpus, capabilities)?,
        numa: numa(request, max_vcpus, max_memory_mib)?,
    })
}

fn mode(
    request: &CpuRequest,
    usual: Option<String>,
    preferred: Option<&DomainCapabilities>,
) -> Result<(Option<String>, Option<String>)> {
    let mode = match (request.mode, &request.model) {
        (Some(CpuMode::Custom), None) => {
            return Err(clash("cpu.model", "is required for the mode custom"));
        }
        (Some(CpuMode::Custom) | None, Some(_)) => Some(CpuMode::Custom),
        (Some(_), Some(_)) => return Err(clash("cpu.model", "is for the mode custom")),
        (mode, None) => mode,
    };
    let Some(mode) = mode else { return Ok((usual, None)) };
    let modes = preferred.map(|preferred| preferred.cpu_modes.as_slice()).unwrap_or_default();
    if !modes.is_empty() && !modes.iter().any(|known| known == mode.as_str()) {
        return Err(not_supported(
            "cpu.mode",
            format!("new VMs on this host cannot have {}", mode.as_str()),
        )
        .with_hint(format!("they can have {}", modes.join(", "))));
    }
    let model = request.model.as_ref().map(ToString::to_string);
    let models = preferred.map(|preferred| preferred.cpu_models.as_slice()).unwrap_or_default();
    if let Some(model) = &model
        && !models.is_empty()
    {
        match models.iter().find(|known| known.name == *model) {
            None => {
                return Err(not_supported("cpu.model", format!("libvirt knows no CPU {model}"))
                    .with_hint("GET /api/v1/virtualization/capabilities lists the models"));
            }
            Some(known) if known.usable == Some(false) => {
                return Err(not_supported("cpu.model", format!("this host cannot run {model}"))
                    .with_hint("GET /api/v1/virtualization/capabilities says which are usable"));
            }
            Some(_) => {}
        }
    }
    Ok((Some(mode.as_str().to_owned()), model))
}

fn pins(
    request: &CpuRequest,
    max_vcpus: u32,
    capabilities: &Capabilities,
) -> Result<Vec<(u32, String)>> {
    let host: BTreeSet<u32> =
        capabilities.hardware.numa.iter().flat_map(|cell| cell.cpus.iter().copied()).collect();
    let mut pinned = BTreeSet::new();
    let mut pins = Vec::new();
    for (index, pin) in request.pinning.iter().flatten().enumerate() {
        let field = |name: &str| format!("cpu.pinning[{index}].{name}");
        if pin.vcpu >= max_vcpus {
            return Err(clash(field("vcpu"), format!("is beyond the last one, {}", max_vcpus - 1)));
        }
        if !pinned.insert(pin.vcpu) {
            return Err(clash(field("vcpu"), "is pinned twice"));
        }
        let cpus = cpu_list(&field("cpus"), &pin.cpus)?;
        if let Some(missing) = cpus.iter().find(|cpu| !host.is_empty() && !host.contains(cpu)) {
            return Err(clash(field("cpus"), format!("this host has no CPU {missing}")));
        }
        pins.push((pin.vcpu, pin.cpus.clone()));
    }
    Ok(pins)
}

fn numa(request: &CpuRequest, max_vcpus: u32, max_memory_mib: u64) -> Result<Vec<NumaSpec>> {
    let mut placed = BTreeSet::new();
    let mut memory: u64 = 0;
    let mut cells = Vec::new();
    for (index, cell) in request.numa.iter().flatten().enumerate() {
        let field = |name: &str| format!("cpu.numa[{index}].{name}");
        if !(1..=67_108_864).contains(&cell.memory) {
            return Err(Error::field(field("memory"), "must be between 1 and 67108864 MiB"));
        }
        for cpu in cpu_list(&field("cpus"), &cell.cpus)? {
            if cpu >= max_vcpus {
                return Err(clash(field("cpus"), format!("there is no virtual CPU {cpu}")));
            }
            if !placed.insert(cpu) {
                return Err(clash(field("cpus"), format!("CPU {cpu} is in two cells")));
            }
        }
        memory += cell.memory;
        cells.push(NumaSpec { cpus: cell.cpus.clone(), memory_mib: cell.memory });
    }
    if cells.is_empty() {
        return Ok(cells);
    }
    if placed.len() != max_vcpus as usize {
        return Err(clash(
            "cpu.numa",
            format!("places {} CPUs, and max_vcpus is {max_vcpus}", placed.len()),
        ));
    }
    if memory != max_memory_mib {
        return Err(clash(
            "cpu.numa",
            format!("comes to {memory} MiB, and the VM has at most {max_memory_mib} MiB"),
        ));
    }
    Ok(cells)
}

/// `0-3,8` as numbers.
pub(in crate::service::vm) fn cpu_list(field: &str, text: &str) -> Result<BTreeSet<u32>> {
    let wrong = || Error::field(field, "is not a list of CPUs such as 0-3,8");
    if text.len() > 256 {
        return Err(wrong());
    }
    let number = |text: &str| {
        let plain = (1..=4).contains(&text.len()) && text.chars().all(|c| c.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| plain).ok_or_else(wrong)
    };
    let mut cpus = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(Error::new(Kind::Impossible, format!("{field}: {part} runs backwards"))
                .with_field(field, "runs backwards"));
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// How the memory is kept.
///
/// # Errors
/// 422 for pages that this host does not have, and for what contradicts itself.
pub(in crate::service::vm) fn memory(
    request: &MemoryRequest,
    (memory_mib, max_memory_mib): (u64, u64),
    needs_sharing: bool,
    capabilities: &Capabilities,
) -> Result<MemorySpec> {
    let fixed = request.ballooning == Some(false);
    if fixed && memory_mib != max_memory_mib {
        return Err(clash(
            "memory_options.ballooning",
            "without it the guest can have no less than max_memory",
        ));
    }
    if needs_sharing && request.shared == Some(false) {
        return Err(clash("memory_options.shared", "devices.filesystems need it"));
    }
    let hugepages = request.hugepages.unwrap_or(request.hugepage_size.is_some());
    if let Some(size) = request.hugepage_size {
        if !hugepages {
            return Err(clash("memory_options.hugepage_size", "contradicts hugepages"));
        }
        if !(64..=16_777_216).contains(&size) {
            return Err(Error::field(
                "memory_options.hugepage_size",
                "must be between 64 and 16777216 KiB",
            ));
        }
        let sizes = &capabilities.hardware.cpu.page_sizes_bytes;
        if !sizes.is_empty() && !sizes.contains(&(size * 1024)) {
            let known: Vec<String> =
                sizes.iter().skip(1).map(|size| (size / 1024).to_string()).collect();
            return Err(not_supported(
                "memory_options.hugepage_size",
                format!("this host has no pages of {size} KiB"),
            )
            .with_hint(format!("it has pages of {} KiB", known.join(", "))));
        }
        if !max_memory_mib.saturating_mul(1024).is_multiple_of(size) {
            return Err(clash(
                "memory_options.hugepage_size",
                "the memory is not a whole number of such pages",
            ));
        }
    }
    Ok(MemorySpec {
        hugepages,
        hugepage_kib: request.hugepage_size,
        shared: request.shared.unwrap_or(needs_sharing),
        fixed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::host::NumaCell;

    fn check(request: serde_json::Value, max_vcpus: u32, memory: u64) -> Result<CpuSpec> {
        let request: CpuRequest = serde_json::from_value(request).unwrap();
        let mut capabilities = Capabilities::default();
        capabilities.hardware.numa = vec![NumaCell { cpus: vec![0, 1], ..NumaCell::default() }];
        let preferred = DomainCapabilities {
            cpu_modes: ["maximum", "custom"].map(str::to_owned).to_vec(),
            cpu_models: vec![
                crate::model::host::CpuModel {
                    name: "qemu64".to_owned(),
                    usable: Some(true),
                    deprecated: false,
                },
                crate::model::host::CpuModel {
                    name: "EPYC".to_owned(),
                    usable: Some(false),
                    deprecated: false,
                },
            ],
            ..DomainCapabilities::default()
        };
        cpu(&request, None, (max_vcpus, memory), &capabilities, Some(&preferred))
    }

    #[test]
    fn what_adds_up_and_is_there_is_taken() {
        let made = check(
            serde_json::json!({"model": "qemu64",
                "topology": {"sockets": 2, "cores": 2},
                "pinning": [{"vcpu": 3, "cpus": "0-1"}],
                "numa": [{"cpus": "0,2", "memory": 100}, {"cpus": "1,3", "memory": 156}]}),
            4,
            256,
        )
        .unwrap();
        assert_eq!(made.mode.as_deref(), Some("custom"));
        assert_eq!(made.pins, [(3, "0-1".to_owned())]);
        assert_eq!(made.numa.len(), 2);
    }

    #[test]
    fn what_does_not_add_up_or_is_not_there_is_refused_with_its_field() {
        use Kind::{Impossible, InvalidRequest, NotSupported};
        for (request, kind, field) in [
            (r#"{"topology": {"sockets": 3, "cores": 1}}"#, Impossible, "cpu.topology"),
            (r#"{"topology": {"sockets": 0, "cores": 1}}"#, InvalidRequest, "cpu.topology.sockets"),
            (r#"{"mode": "custom"}"#, Impossible, "cpu.model"),
            (r#"{"mode": "maximum", "model": "qemu64"}"#, Impossible, "cpu.model"),
            (r#"{"mode": "host-model"}"#, NotSupported, "cpu.mode"),
            (r#"{"model": "EPYC"}"#, NotSupported, "cpu.model"),
            (r#"{"model": "486"}"#, NotSupported, "cpu.model"),
            (r#"{"pinning": [{"vcpu": 4, "cpus": "0"}]}"#, Impossible, "cpu.pinning[0].vcpu"),
            (r#"{"pinning": [{"vcpu": 0, "cpus": "7"}]}"#, Impossible, "cpu.pinning[0].cpus"),
            (r#"{"pinning": [{"vcpu": 0, "cpus": "a"}]}"#, InvalidRequest, "cpu.pinning[0].cpus"),
            (r#"{"pinning": [{"vcpu": 0, "cpus": "1-0"}]}"#, Impossible, "cpu.pinning[0].cpus"),
            (r#"{"numa": [{"cpus": "0-3", "memory": 1}]}"#, Impossible, "cpu.numa"),
            (r#"{"numa": [{"cpus": "0", "memory": 256}]}"#, Impossible, "cpu.numa"),
            (r#"{"numa": [{"cpus": "0-4", "memory": 256}]}"#, Impossible, "cpu.numa[0].cpus"),
        ] {
            let error = check(serde_json::from_str(request).unwrap(), 4, 256).unwrap_err();
            assert_eq!(error.kind(), kind, "{request}");
            assert_eq!(error.details()["fields"][0]["field"], field, "{request}");
        }
    }
}
