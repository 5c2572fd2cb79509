//! From the flat form to the full one, and the checks of single fields.

use std::collections::BTreeMap;

use super::check::{
    clash, contradicts, count, fail, is_line_char, is_word, is_xml_char, not_supported, range, text,
};
use crate::error::{Error, Result};
use crate::model::{CreateVm, DiskAction, DiskRequest, NicRequest};

/// Turns the flat form into the full one and checks ranges; all wrong fields are told at once.
pub(super) fn flatten(mut request: CreateVm) -> Result<(CreateVm, String)> {
    let mut wrong: Vec<(&str, String)> = Vec::new();
    let name = request.name.clone().map(String::from).unwrap_or_default();
    if name.is_empty() {
        wrong.push(("name", "is required".to_owned()));
    }
    range(&mut wrong, "memory", request.memory, true, 16, 67_108_864);
    range(&mut wrong, "max_memory", request.max_memory, false, 16, 67_108_864);
    range(&mut wrong, "vcpus", request.vcpus.map(u64::from), true, 1, 1024);
    range(&mut wrong, "max_vcpus", request.max_vcpus.map(u64::from), false, 1, 1024);
    range(&mut wrong, "disk_size", request.disk_size, false, 1, 65_536);
    text(&mut wrong, "title", request.title.as_deref(), 255, is_line_char);
    text(&mut wrong, "description", request.description.as_deref(), 8192, is_xml_char);
    text(&mut wrong, "os_type", request.os_type.as_deref(), 64, is_word);
    if let Some(os) = &request.os {
        text(&mut wrong, "os.type", os.r#type.as_deref(), 64, is_word);
        text(&mut wrong, "os.variant", os.variant.as_deref(), 255, |c| {
            is_word(c) || ":/".contains(c)
        });
        if os.boot.as_ref().is_some_and(|boot| boot.len() > 4) {
            wrong.push(("os.boot", "has more than 4 entries".to_owned()));
        }
        let cmdline = os.direct_boot.as_ref().and_then(|boot| boot.cmdline.as_deref());
        text(&mut wrong, "os.direct_boot.cmdline", cmdline, 2048, is_xml_char);
    }
    text(&mut wrong, "custom_xml", request.custom_xml.as_deref(), 262_144, |_| true);
    count(&mut wrong, "networks", request.networks.as_ref().map(Vec::len), 16);
    count(&mut wrong, "graphics", request.graphics.as_ref().map(Vec::len), 4);
    count(
        &mut wrong,
        "storage.disks",
        request.storage.as_ref().map(|storage| storage.disks.len()),
        32,
    );
    count(&mut wrong, "labels", request.labels.as_ref().map(BTreeMap::len), 64);
    fail(&wrong)?;
    let mut clashes: Option<Error> = None;
    let mut together = |one: (&'static str, bool), other: (&'static str, bool)| {
        if one.1 && other.1 {
            let problem = format!("contradicts {}: say one of them", other.0);
            clashes = Some(match clashes.take() {
                None => clash(one.0, problem),
                Some(error) => error.with_field(one.0, problem),
            });
        }
    };
    let storage = ("storage", request.storage.is_some());
    together(("disk_size", request.disk_size.is_some()), storage);
    together(("pool", request.pool.is_some()), storage);
    together(("network", request.network.is_some()), ("networks", request.networks.is_some()));
    let os_type = request.os.as_ref().is_some_and(|os| os.r#type.is_some());
    together(("os_type", request.os_type.is_some()), ("os.type", os_type));
    clashes.map_or(Ok(()), Err)?;
    if request.template.is_some() {
        return Err(not_supported("template", "is not supported yet"));
    }
    contradicts("max_memory", request.max_memory, "memory", request.memory)?;
    let (max_vcpus, vcpus) = (request.max_vcpus.map(u64::from), request.vcpus.map(u64::from));
    contradicts("max_vcpus", max_vcpus, "vcpus", vcpus)?;
    if let Some(size) = request.disk_size.take() {
        let storage = request.storage.get_or_insert_default();
        storage.default_pool = request.pool.take();
        storage.disks.push(DiskRequest {
            action: DiskAction::Create,
            size: Some(size),
            ..DiskRequest::default()
        });
    }
    if let Some(flat) = request.network.take() {
        request.networks = Some(vec![NicRequest {
            r#type: flat.r#type,
            source: flat.source,
            model: flat.model,
            ..NicRequest::default()
        }]);
    }
    if let Some(word) = request.os_type.take() {
        request.os.get_or_insert_default().r#type = Some(word);
    }
    Ok((request, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_is_told_at_once() {
        let request = CreateVm { memory: Some(1), ..CreateVm::default() };
        let error = flatten(request).unwrap_err();
        let fields: Vec<_> = error.details()["fields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["field"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(fields, ["name", "memory", "vcpus"]);
    }
}
