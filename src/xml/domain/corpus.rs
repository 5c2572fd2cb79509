//! Tests over `tests/corpus`: definitions as libvirt, other tools and people write them.

use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;

use super::edit::{self, DomainEdit};
use super::view;
use crate::error::Kind;
use crate::model::vm_request::BootDevice;
use crate::model::{GuestAgentState, Vm};
use crate::xml::diff;
use crate::xml::redact::redact;
use crate::xml::tree::{Document, Element};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus"))
}

/// Each definition with the name of its file, without its ending.
fn corpus() -> Vec<(String, String)> {
    let mut found: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "xml"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    assert!(found.len() >= 12, "the corpus is not where it should be");
    found
}

fn sample(name: &str) -> String {
    corpus().into_iter().find(|(found, _)| found == name).unwrap().1
}

fn vm(name: &str) -> Vm {
    view::parse(&sample(name)).unwrap()
}

#[test]
fn every_definition_is_written_back_byte_for_byte() {
    for (name, xml) in corpus() {
        assert_eq!(Document::parse(&xml).unwrap().to_xml().unwrap(), xml, "{name}");
        assert_eq!(edit::apply(&xml, &DomainEdit::default()).unwrap(), xml, "{name}");
    }
}

#[test]
fn every_definition_reads_as_it_did_before() {
    for (name, xml) in corpus() {
        let vm = view::parse(&xml).unwrap();
        insta::with_settings!({
            snapshot_path => folder().join("views"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_json_snapshot!(name, vm);
        });
    }
}

#[test]
fn libvirts_schema_accepts_the_corpus_before_and_after_an_edit() {
    if Command::new("virt-xml-validate").arg("--version").output().is_err() {
        println!("skipped: needs virt-xml-validate");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    for (name, xml) in corpus() {
        let vm = view::parse(&xml).unwrap();
        let edit = DomainEdit {
            description: Some("new & shiny".to_owned()),
            memory_mib: Some(vm.memory - 1),
            vcpus: Some(1),
            boot: (vm.os.r#type == "hvm").then(|| vec![BootDevice::Network, BootDevice::Hd]),
            labels: Some([("a".to_owned(), "1".to_owned())].into()),
            ..DomainEdit::default()
        };
        for xml in [xml.clone(), edit::apply(&xml, &edit).unwrap()] {
            let file = scratch.path().join(&name);
            std::fs::write(&file, &xml).unwrap();
            let validate = Command::new("virt-xml-validate").arg(file).arg("domain").output();
            let output = validate.unwrap();
            // Its unknown element is what that one is for.
            assert_eq!(output.status.success(), name != "comments", "{name}: {output:?}\n{xml}");
        }
    }
}

#[test]
fn the_state_of_the_guest_agents_channel_is_told() {
    let state = |name: &str| view::read(&sample(name)).unwrap().guest_agent;
    assert_eq!(state("prefixes"), GuestAgentState::Connected);
    assert_eq!(state("libvirt-live"), GuestAgentState::NotConnected);
    assert_eq!(state("hostdev"), GuestAgentState::NotConfigured);
}

#[test]
fn a_nic_in_a_network_is_one_while_it_runs_too() {
    let source = vm("prefixes").networks.remove(0).source;
    assert_eq!((source.r#type.as_str(), source.name.as_deref()), ("network", Some("provider")));
}

#[test]
fn elements_of_other_namespaces_are_not_taken_for_libvirts() {
    assert_eq!(vm("comments").disks.len(), 1);
    assert_eq!((vm("prefixes").memory, vm("prefixes").vcpus), (2048, 1));
    assert_eq!(vm("prefixes").labels.len(), 1);
}

#[test]
fn what_is_no_domain_is_refused() {
    for xml in ["<network/>", "<domain xmlns='urn:x'/>", "<x:domain xmlns:x='urn:x'/>"] {
        assert_eq!(view::parse(xml).unwrap_err().kind(), Kind::InvalidDefinition);
    }
    assert_eq!(view::parse("<domain/>").unwrap().name, "");
}

#[test]
fn passwords_do_not_survive_redaction() {
    for (name, xml) in corpus() {
        let redacted = redact(&xml).unwrap();
        assert!(!redacted.contains("hunter2"), "{name}");
        assert_eq!(view::parse(&redacted).unwrap(), view::parse(&xml).unwrap(), "{name}");
    }
}

#[test]
fn stating_what_already_is_touches_nothing() {
    for (name, xml) in corpus() {
        let vm = view::parse(&xml).unwrap();
        let same = DomainEdit {
            description: Some(vm.description),
            memory_mib: Some(vm.memory),
            max_memory_mib: Some(vm.max_memory),
            vcpus: Some(vm.vcpus),
            max_vcpus: Some(vm.max_vcpus),
            boot: Some(vm.os.boot.iter().map(|word| device(word)).collect()),
            labels: Some(vm.labels),
            ..DomainEdit::default()
        };
        assert_eq!(edit::apply(&xml, &same).unwrap(), xml, "{name}");
    }
}

#[test]
fn identity_is_read_and_set_in_its_place() {
    let xml = sample("comments");
    let (uuid, name) = edit::identity(&xml).unwrap();
    assert_eq!(name.as_deref(), Some("hand-made"));
    assert_eq!(uuid.unwrap().to_string(), "4dea22b3-1d52-d8f3-2516-782e98ab3fa0");
    assert_eq!(edit::set_identity(&xml, uuid.unwrap(), "hand-made").unwrap(), xml);
    let renamed = edit::set_identity(&xml, uuid.unwrap(), "a<b").unwrap();
    assert_eq!(renamed, xml.replace("hand&#45;made", "a&lt;b"));
    assert_eq!(edit::identity("<domain/>").unwrap(), (None, None));
    let bad = edit::identity("<domain><uuid>x</uuid></domain>").unwrap_err();
    assert_eq!(bad.kind(), Kind::InvalidDefinition);
}

fn device(word: &str) -> BootDevice {
    match word {
        "hd" => BootDevice::Hd,
        "cdrom" => BootDevice::Cdrom,
        "network" => BootDevice::Network,
        _ => BootDevice::Fd,
    }
}

/// The definition without what an edit may touch: what is left must be the same before and after.
fn rest(xml: &str) -> String {
    let mut document = Document::parse(xml).unwrap();
    let domain = document.root_mut();
    for name in ["description", "memory", "currentMemory", "vcpu", "vcpus"] {
        domain.remove_child(name);
    }
    for device in domain.child_mut("devices").unwrap().elements_mut() {
        device.remove_child("boot");
    }
    domain.child_mut("os").unwrap().retain_elements(|element| !element.is("boot"));
    if let Some(cpu) = domain.child_mut("cpu")
        && let Some(topology) = cpu.child_mut("topology")
    {
        topology.remove_attr("sockets");
    }
    if let Some(metadata) = domain.child_mut("metadata") {
        let own = |element: &Element<'_>| element.is_in(super::METADATA_URI, "vm");
        for vm in metadata.elements_mut().filter(|element| own(element)) {
            vm.retain_elements(|element| !element.is_in(super::METADATA_URI, "label"));
        }
        metadata.retain_elements(|e| !own(e) || e.elements().next().is_some());
        if metadata.elements().next().is_none() && !xml.contains("nothing of ours") {
            domain.remove_child("metadata");
        }
    }
    document.to_xml().unwrap()
}

/// A present value and the maximum above it, one of them, or neither.
fn pair(most: u64) -> impl Strategy<Value = (Option<u64>, Option<u64>)> {
    let both = (1..most).prop_flat_map(|max| (1..=max, Just(max)));
    (both, prop::sample::select(vec![(true, true), (true, true), (true, false), (false, true)]))
        .prop_map(|((present, max), (a, b))| (a.then_some(present), b.then_some(max)))
}

fn edits() -> impl Strategy<Value = DomainEdit> {
    let text = "[ -~ß\n\t]{0,30}";
    let boot = prop::sample::subsequence(
        vec![BootDevice::Network, BootDevice::Hd, BootDevice::Cdrom, BootDevice::Fd],
        1..=4,
    );
    let labels = prop::collection::btree_map("[a-d]{1,2}", text, 0..4);
    (
        prop::option::of(text.prop_map(String::from)),
        prop::option::of(pair(64 * 1024 * 1024)),
        prop::option::of(pair(64)),
        prop::option::of(boot.prop_shuffle()),
        prop::option::of(labels),
    )
        .prop_map(|(description, memory, vcpus, boot, labels)| {
            let (memory_mib, max_memory_mib) = memory.unwrap_or_default();
            let (vcpus, max_vcpus) = vcpus.unwrap_or_default();
            let small = |n: Option<u64>| n.and_then(|n| u32::try_from(n).ok());
            let (vcpus, max_vcpus) = (small(vcpus), small(max_vcpus));
            let edit =
                DomainEdit { description, memory_mib, max_memory_mib, ..DomainEdit::default() };
            DomainEdit { vcpus, max_vcpus, boot, labels, ..edit }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_edit_does_what_it_says_and_nothing_else(edit in edits()) {
        for (name, xml) in corpus() {
            let before = view::parse(&xml).unwrap();
            let edited = match edit::apply(&xml, &edit) {
                Ok(edited) => edited,
                Err(error) => {
                    prop_assert_eq!(error.kind(), Kind::Impossible, "{}: {:?}", name, error);
                    continue;
                }
            };
            let after = view::parse(&edited).unwrap();
            prop_assert_eq!(rest(&edited), rest(&xml), "{}\n{}", name, diff::unified(&xml, &edited));

            let mut expected = before.clone();
            expected.description = edit.description.clone().unwrap_or(before.description);
            expected.memory = edit.memory_mib.unwrap_or(before.memory);
            expected.max_memory = edit.max_memory_mib.unwrap_or(before.max_memory);
            expected.vcpus = edit.vcpus.unwrap_or(before.vcpus);
            expected.max_vcpus = edit.max_vcpus.unwrap_or(before.max_vcpus);
            if let Some(boot) = &edit.boot {
                expected.os.boot = boot.iter().map(|device| device.as_str().to_owned()).collect();
                if expected.os.boot != before.os.boot {
                    expected.disks.iter_mut().for_each(|disk| disk.boot_order = None);
                    expected.networks.iter_mut().for_each(|nic| nic.boot_order = None);
                }
            }
            // Sockets make up for another number of CPUs.
            let sockets = after.cpu.as_ref().and_then(|cpu| cpu.topology.map(|t| t.sockets));
            let topology = expected.cpu.as_mut().and_then(|cpu| cpu.topology.as_mut());
            if let (Some(topology), Some(sockets)) = (topology, sockets)
                && edit.max_vcpus.is_some()
            {
                topology.sockets = sockets;
            }
            expected.labels = edit.labels.clone().unwrap_or(before.labels);
            prop_assert_eq!(&after, &expected, "{}", name);

            // Once more changes nothing more.
            prop_assert_eq!(edit::apply(&edited, &edit).unwrap(), edited, "{}", name);
        }
    }
}
