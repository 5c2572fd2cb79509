use super::*;
use crate::error::Error;
use crate::xml::diff::unified;

macro_rules! corpus {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/", $name, ".xml"))
    };
}

/// The lines that an edit removes and adds, without their indentation.
fn changed(xml: &str, edit: DomainEdit) -> Vec<String> {
    let edited = apply(xml, &edit).unwrap();
    unified(xml, &edited)
        .lines()
        .filter(|line| !line.starts_with("---") && !line.starts_with("+++"))
        .filter(|line| line.starts_with(['-', '+']))
        .map(|line| format!("{}{}", &line[..1], line[1..].trim()))
        .collect()
}

fn refusal(xml: &str, edit: DomainEdit) -> Error {
    let error = apply(xml, &edit).unwrap_err();
    assert_eq!(error.kind(), Kind::Impossible);
    error
}

fn domain(inner: &str) -> String {
    format!("<domain>{inner}</domain>")
}

fn labels(pairs: &[(&str, &str)]) -> DomainEdit {
    let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    DomainEdit { labels: Some(labels.collect()), ..DomainEdit::default() }
}

#[test]
fn a_description_is_added_changed_and_removed() {
    let edit = |text: &str| DomainEdit { description: Some(text.into()), ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("virt-manager"), edit("a\nb")),
        ["+<description>a", "+b</description>"]
    );
    assert_eq!(
        changed(corpus!("comments"), edit("<x>")),
        [
            "-<description><![CDATA[<b>markup</b> & more]]> and &lt;text&gt; ]] &gt;</description>",
            "+<description>&lt;x&gt;</description>"
        ]
    );
    assert_eq!(
        changed(corpus!("windows-crlf"), edit("")),
        ["-<description>two", "-lines</description>"]
    );
}

#[test]
fn memory_keeps_its_comments_and_changes_its_unit() {
    let edit = |memory, max| DomainEdit {
        memory_mib: memory,
        max_memory_mib: max,
        ..DomainEdit::default()
    };
    let xml = corpus!("comments");
    let before = "<!-- 1 GiB --><memory unit='GiB'><!-- was 2 -->1</memory> <!-- enough -->";
    assert_eq!(
        changed(xml, edit(Some(512), None)),
        ["+<currentMemory unit='KiB'>524288</currentMemory>"]
    );
    assert_eq!(
        changed(xml, edit(None, Some(2048))),
        [
            format!("-{before}"),
            "+<!-- 1 GiB --><memory unit='KiB'><!-- was 2 -->2097152</memory> <!-- enough -->"
                .to_owned(),
            // What the guest has now does not grow with what it could have.
            "+<currentMemory unit='KiB'>1048576</currentMemory>".to_owned(),
        ]
    );
    // No unit is KiB already.
    assert_eq!(
        changed(corpus!("xen-pv"), edit(Some(64), None)),
        ["-<currentMemory>403900</currentMemory>", "+<currentMemory>65536</currentMemory>"]
    );
}

#[test]
fn memory_that_cannot_be_is_refused() {
    let edit = |memory, max| DomainEdit {
        memory_mib: memory,
        max_memory_mib: max,
        ..DomainEdit::default()
    };
    refusal(corpus!("virt-manager"), edit(Some(5000), None));
    refusal(corpus!("virt-manager"), edit(None, Some(1000)));
    refusal(corpus!("numa-big"), edit(None, Some(2_000_000)));
    let ceiling = domain("<maxMemory slots='1' unit='MiB'>100</maxMemory><memory>1024</memory>");
    assert!(refusal(&ceiling, edit(None, Some(101))).message().contains("maxMemory of 100 MiB"));
    assert!(apply(&ceiling, &edit(None, Some(100))).is_ok());
    // A NUMA guest's balloon can be set like any other's.
    assert!(apply(corpus!("numa-big"), &edit(Some(1000), None)).is_ok());
}

#[test]
fn virtual_cpus_move_within_their_maximum() {
    let edit = |vcpus, max| DomainEdit { vcpus, max_vcpus: max, ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("libvirt-live-inactive"), edit(Some(2), None)),
        [
            "-<vcpu placement='static' current='1'>2</vcpu>",
            "+<vcpu placement='static' current='2'>2</vcpu>"
        ]
    );
    assert_eq!(
        changed(corpus!("test-driver"), edit(None, Some(8))),
        ["-<vcpu placement='static'>2</vcpu>", "+<vcpu placement='static' current='2'>8</vcpu>"]
    );
    refusal(corpus!("test-driver"), edit(Some(3), None));
    refusal(corpus!("test-driver"), edit(Some(0), None));
    refusal(corpus!("test-driver"), edit(None, Some(1)));
    refusal(corpus!("numa-big"), edit(None, Some(256)));
    assert_eq!(
        apply(&domain("<os/>"), &edit(None, Some(2))).unwrap(),
        domain("<vcpu current='1'>2</vcpu><os/>")
    );
}

#[test]
fn sockets_make_up_for_more_virtual_cpus() {
    let edit = |max| DomainEdit { vcpus: Some(max), max_vcpus: Some(max), ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("virt-manager"), edit(8)),
        [
            "-<vcpu placement='static'>4</vcpu>",
            "+<vcpu placement='static'>8</vcpu>",
            "-<topology sockets='1' dies='1' cores='2' threads='2'/>",
            "+<topology sockets='2' dies='1' cores='2' threads='2'/>"
        ]
    );
    let error = refusal(corpus!("virt-manager"), edit(6));
    assert!(error.message().contains("whole sockets"));
    let zero = domain("<vcpu>1</vcpu><cpu><topology sockets='1' cores='0' threads='1'/></cpu>");
    refusal(&zero, edit(2));
}

#[test]
fn a_list_of_single_virtual_cpus_stays_true() {
    let edit = |vcpus, max| DomainEdit { vcpus, max_vcpus: max, ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("windows-crlf"), edit(Some(1), Some(3))),
        [
            "-<vcpu placement='static' current='2'>4</vcpu>",
            "+<vcpu placement='static' current='1'>3</vcpu>",
            "-<vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>",
            "-<vcpu id='1' enabled='yes' hotpluggable='yes' order='2'/>",
            "+<vcpu id='0' enabled='yes' hotpluggable='no'/>",
            "+<vcpu id='1' enabled='no' hotpluggable='yes'/>",
            "-<vcpu id='3' enabled='no' hotpluggable='yes'/>",
        ]
    );
    assert_eq!(
        changed(corpus!("windows-crlf"), edit(None, Some(5))),
        [
            "-<vcpu placement='static' current='2'>4</vcpu>",
            "+<vcpu placement='static' current='2'>5</vcpu>",
            "+<vcpu id='4' enabled='no' hotpluggable='yes'/>",
        ]
    );
    let more = apply(corpus!("windows-crlf"), &edit(Some(4), None)).unwrap();
    assert_eq!(more.matches("enabled='yes'").count(), 4);
}

#[test]
fn boot_devices_replace_the_list_or_the_numbers() {
    use BootDevice::{Cdrom, Fd, Hd, Network};
    let edit =
        |boot: &[BootDevice]| DomainEdit { boot: Some(boot.to_vec()), ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("comments"), edit(&[Hd, Network])),
        [
            "-<boot dev='network'/>   <!-- then that -->",
            "-<boot dev='hd'></boot>",
            "+<boot dev='hd'/>   <!-- then that -->",
            "+<boot dev='network'></boot>"
        ]
    );
    assert_eq!(changed(corpus!("windows-crlf"), edit(&[Cdrom])), ["-<boot dev='hd'/>"]);
    assert_eq!(
        changed(corpus!("test-driver"), edit(&[Hd, Cdrom, Fd])),
        ["+<boot dev='cdrom'/>", "+<boot dev='fd'/>"]
    );
    assert_eq!(
        changed(corpus!("virt-manager"), edit(&[Hd])),
        ["+<boot dev='hd'/>", "-<boot order='2'/>", "-<boot order='1'/>", "-<boot order='3'/>"]
    );
    // The numbers say this already.
    assert_eq!(changed(corpus!("virt-manager"), edit(&[Cdrom, Hd, Network])), Vec::<String>::new());
    refusal(&domain("<devices/>"), edit(&[Hd]));
}

#[test]
fn labels_change_beside_what_else_vapor_keeps() {
    assert_eq!(
        changed(corpus!("windows-crlf"), labels(&[("new", "'<1>'"), ("tier", "lab")])),
        [
            "-<vapor:label key=\"os\" value=\"windows\"/>",
            "-<vapor:label key=\"tier\" value=\"desk\"/>",
            "+<vapor:label key=\"tier\" value=\"lab\"/>",
            "+<vapor:label key='new' value='&apos;&lt;1&gt;&apos;'/>",
        ]
    );
    assert_eq!(
        changed(corpus!("virt-manager"), labels(&[("a", "1")])),
        [
            "+<vapor:vm xmlns:vapor='urn:vapor:vm:1'>",
            "+<vapor:label key='a' value='1'/>",
            "+</vapor:vm>"
        ]
    );
    assert_eq!(
        changed(corpus!("xen-pv"), labels(&[("a", "1")])),
        [
            "+<metadata>",
            "+<vapor:vm xmlns:vapor='urn:vapor:vm:1'>",
            "+<vapor:label key='a' value='1'/>",
            "+</vapor:vm>",
            "+</metadata>"
        ]
    );
    assert_eq!(changed(corpus!("xen-pv"), labels(&[])), Vec::<String>::new());
}

#[test]
fn labels_take_the_prefix_that_is_there() {
    assert_eq!(
        changed(corpus!("prefixes"), labels(&[("a", "1"), ("b", "2")])),
        [
            "-<vm xmlns=\"urn:vapor:vm:1\"><label key=\"a\" value=\"1\"/><owner>unix:carol</owner></vm>",
            "+<vm xmlns=\"urn:vapor:vm:1\"><label key=\"a\" value=\"1\"/><label key='b' value='2'/><owner>unix:carol</owner></vm>",
        ]
    );
}

#[test]
fn metadata_for_libvirt_has_no_namespace_and_loses_nothing() {
    let wanted = [("tier".to_owned(), "lab".to_owned())].into();
    assert_eq!(
        vapor_metadata(corpus!("windows-crlf"), &wanted).unwrap().replace("\r\n", "\n"),
        "<vm>
      <label key=\"tier\" value=\"lab\"/>
      <future attribute=\"kept\">and its text</future>
      <owner>unix:bob</owner>
      <created>2026-01-02T03:04:05Z</created>
      <os-type>windows</os-type>
    </vm>
"
    );
    assert_eq!(
        vapor_metadata(corpus!("prefixes"), &wanted).unwrap(),
        "<vm>\n  <label key='tier' value='lab'/>\n  <owner>unix:carol</owner>\n</vm>\n"
    );
    assert_eq!(vapor_metadata(corpus!("xen-pv"), &BTreeMap::new()).unwrap(), "<vm/>\n");
}

#[test]
fn a_character_that_xml_cannot_carry_is_the_requests_fault() {
    let edit = DomainEdit { description: Some("\u{1}".to_owned()), ..DomainEdit::default() };
    let error = apply(corpus!("xen-pv"), &edit).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidRequest);
    assert!(error.message().contains("<description>"));
}

#[test]
fn what_is_no_domain_is_not_edited() {
    for edit in [DomainEdit::default(), labels(&[("a", "1")])] {
        assert_eq!(apply("<pool/>", &edit).unwrap_err().kind(), Kind::InvalidDefinition);
    }
    assert!(set_identity("<pool/>", Uuid::nil(), "x").is_err());
    assert!(identity("<pool/>").is_err());
    assert!(vapor_metadata("<pool/>", &BTreeMap::new()).is_err());
}
