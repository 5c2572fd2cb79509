//! What the noun modules tell and do.

use uuid::Uuid;

use crate::error::Kind;
use crate::libvirt::testing::{DB1, PATIENCE, WEB1, WEB2, World};
use crate::libvirt::{
    DomainEvent, Lane, LibvirtEvent, ResourceEvent, domain, host, network, pool, volume,
};
use crate::model::{PoolState, VmState};

const NEW: &str = "<domain type='test'><name>new1</name><memory>65536</memory><vcpu>1</vcpu>\
                   <os><type>hvm</type></os></domain>";

#[tokio::test]
async fn the_brief_list_tells_state_memory_and_marks_of_every_domain() {
    let world = World::new().await;
    let mut all = world.run(domain::brief_all).await.expect("the list");
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<&str> = all.iter().map(|brief| brief.name.as_str()).collect();
    assert_eq!(names, ["db1", "web1", "web2"]);
    assert_eq!(all[0].state, VmState::Paused);
    let web1 = &all[1];
    assert_eq!((web1.uuid, web1.state), (WEB1, VmState::Running));
    assert_eq!((web1.memory_kib, web1.max_memory_kib), (262_144, 524_288));
    assert_eq!((web1.vcpus, web1.max_vcpus), (1, 2));
    assert!(web1.id.is_some() && web1.persistent && !web1.autostart);
    assert!(!web1.has_saved_state && !web1.has_snapshots);
    let web2 = &all[2];
    assert_eq!((web2.uuid, web2.state, web2.id), (WEB2, VmState::Shutoff, None));
    assert_eq!((web2.vcpus, web2.max_vcpus), (4, 4));
}

#[tokio::test]
async fn brief_and_bulk_agree_on_every_domain() {
    let world = World::new().await;
    world
        .run(|session| {
            domain::set_autostart(session, WEB2, true)?;
            domain::managed_save(session, DB1)?;
            for brief in domain::brief_all(session)? {
                assert_eq!(domain::brief(session, brief.uuid)?, brief);
            }
            let saved = domain::brief(session, DB1)?;
            assert!(saved.has_saved_state && saved.state == VmState::Shutoff);
            assert_eq!(saved.state_reason, "saved");
            assert!(domain::brief(session, WEB2)?.autostart);
            Ok(())
        })
        .await
        .expect("both answer");
}

#[tokio::test]
async fn facts_carry_the_stored_definition_beside_the_live_one_where_there_are_two() {
    let world = World::new().await;
    let all = world.run(domain::facts_all).await.expect("the list");
    assert_eq!(all.len(), 3);
    for facts in &all {
        assert!(facts.xml.contains(&format!("<name>{}</name>", facts.brief.name)));
        assert_eq!(facts.inactive_xml.is_some(), facts.brief.state.is_active());
        assert_eq!(facts.snapshot_count, 0);
    }
    let one = world.run(|session| domain::facts(session, WEB1)).await.expect("one");
    assert_eq!(all.iter().find(|facts| facts.brief.uuid == WEB1), Some(&one));
}

#[tokio::test]
async fn a_domain_is_found_by_name_and_by_uuid() {
    let world = World::new().await;
    world
        .run(|session| {
            assert_eq!(domain::lookup(session, "web1")?, WEB1);
            assert_eq!(domain::lookup(session, &WEB2.to_string())?, WEB2);
            Ok(())
        })
        .await
        .expect("both are found");
    let by_name = world.run(|session| domain::lookup(session, "nobody")).await;
    let error = by_name.expect_err("no such name");
    assert_eq!((error.kind(), error.message()), (Kind::VmNotFound, "no VM named \"nobody\""));
    let unknown = Uuid::from_u128(7);
    let error = world.run(move |session| domain::start(session, unknown)).await;
    let error = error.expect_err("no such UUID");
    assert_eq!(error.kind(), Kind::VmNotFound);
    assert!(error.message().contains(&unknown.to_string()));
    let code = error.details()["libvirt"]["code"].as_u64();
    assert_eq!(code, Some(u64::from(virt::sys::VIR_ERR_NO_DOMAIN)));
    let nul = world.run(|session| domain::lookup(session, "a\0b")).await;
    assert_eq!(nul.expect_err("C cannot carry it").kind(), Kind::InvalidRequest);
}

#[tokio::test]
async fn a_life_of_a_domain_is_announced_step_by_step() {
    let mut world = World::new().await;
    let uuid = world
        .run(|session| {
            let uuid = domain::define(session, "new1", NEW)?;
            domain::start(session, uuid)?;
            domain::suspend(session, uuid)?;
            domain::resume(session, uuid)?;
            domain::destroy(session, uuid, true)?;
            domain::undefine(session, uuid, domain::UndefineFlags::default())?;
            Ok(uuid)
        })
        .await
        .expect("every step is allowed");
    let mut seen = Vec::new();
    while seen.last() != Some(&DomainEvent::Undefined { renamed: false }) {
        let event = world.event(|event| matches!(event, LibvirtEvent::Domain { .. })).await;
        let LibvirtEvent::Domain { uuid: of, name, event } = event else { continue };
        assert_eq!((of, name.as_str()), (uuid, "new1"));
        seen.push(event);
    }
    assert_eq!(
        seen,
        [
            DomainEvent::Defined { added: true, renamed: false },
            DomainEvent::Started { detail: "booted" },
            DomainEvent::Suspended { detail: "paused" },
            DomainEvent::Resumed { detail: "unpaused" },
            DomainEvent::Stopped { detail: "destroyed" },
            DomainEvent::Undefined { renamed: false },
        ]
    );
}

#[tokio::test]
async fn what_the_state_forbids_is_refused_by_kind_and_name() {
    let world = World::new().await;
    let error = world.run(|session| domain::start(session, WEB1)).await.expect_err("it runs");
    assert_eq!(error.kind(), Kind::VmAlreadyRunning, "{error:?}");
    assert!(error.message().contains("\"web1\""), "{}", error.message());
    let text = error.details()["libvirt"]["text"].as_str().expect("libvirt's text");
    assert!(!error.message().contains(text));
    let error = world.run(|session| domain::suspend(session, WEB2)).await.expect_err("it is off");
    assert_eq!(error.kind(), Kind::VmNotRunning);
}

#[tokio::test]
async fn a_bad_or_taken_definition_is_told_apart() {
    let world = World::new().await;
    let error = world
        .run(|session| domain::define(session, "x", "<domain type='test'><name>x</na"))
        .await
        .expect_err("not well-formed");
    assert_eq!(error.kind(), Kind::InvalidDefinition);
    let taken = NEW.replace("new1", "web1");
    let error = world
        .run(move |session| domain::define(session, "web1", &taken))
        .await
        .expect_err("the name is taken");
    assert_eq!(error.kind(), Kind::VmAlreadyExists);
}

#[tokio::test]
async fn memory_vcpus_and_description_change_where_they_are_asked_to() {
    let world = World::new().await;
    world
        .run(|session| {
            domain::set_max_memory(session, WEB2, 2_097_152)?;
            domain::set_memory(session, WEB2, 786_432, false, true)?;
            domain::set_max_vcpus(session, WEB2, 8)?;
            domain::set_vcpus(session, WEB2, 3, false, true)?;
            let brief = domain::brief(session, WEB2)?;
            assert_eq!((brief.memory_kib, brief.max_memory_kib), (786_432, 2_097_152));
            assert_eq!((brief.vcpus, brief.max_vcpus), (3, 8));
            domain::set_description(session, WEB2, "<web> & co", false, true)?;
            let xml = domain::xml(session, WEB2, true, false)?;
            assert!(xml.contains("<description>&lt;web&gt; &amp; co</description>"), "{xml}");
            domain::set_description(session, WEB2, "", false, true)?;
            assert!(!domain::xml(session, WEB2, true, false)?.contains("<description>"));
            Ok(())
        })
        .await
        .expect("all are set");
    let absurd = world
        .run(|session| domain::set_memory(session, WEB2, 1 << 50, false, true))
        .await
        .expect_err("more than the maximum");
    assert_eq!(absurd.kind(), Kind::LibvirtRefused);
}

#[tokio::test]
async fn metadata_of_one_namespace_is_set_and_removed_without_complaint() {
    let world = World::new().await;
    world
        .run(|session| {
            let (uri, element) = ("urn:vapor:vm:1", "<vm><owner>root</owner></vm>");
            domain::set_metadata(session, WEB2, uri, "vapor", Some(element), false, true)?;
            let xml = domain::xml(session, WEB2, true, false)?;
            assert!(xml.contains("<vapor:vm xmlns:vapor=\"urn:vapor:vm:1\">"), "{xml}");
            for _ in 0..2 {
                domain::set_metadata(session, WEB2, uri, "vapor", None, false, true)?;
            }
            assert!(!domain::xml(session, WEB2, true, false)?.contains("urn:vapor"));
            Ok(())
        })
        .await
        .expect("both are done");
}

#[tokio::test]
async fn snapshots_are_counted_and_named_and_stand_in_the_way_of_undefining() {
    let world = World::new().await;
    world
        .run(|session| {
            let domain = session.connect().lookup_domain_by_uuid(WEB2).expect("it exists");
            let xml = "<domainsnapshot><name>before</name></domainsnapshot>";
            drop(domain.create_snapshot_xml(xml, 0).expect("a snapshot"));
            assert_eq!(domain::snapshot_names(session, WEB2)?, ["before"]);
            assert_eq!(domain::facts(session, WEB2)?.snapshot_count, 1);
            assert!(domain::brief_all(session)?.iter().any(|b| b.uuid == WEB2 && b.has_snapshots));
            let bare = domain::undefine(session, WEB2, domain::UndefineFlags::default());
            assert_eq!(bare.expect_err("it has a snapshot").kind(), Kind::VmWrongState);
            let flags = domain::UndefineFlags { snapshots_metadata: true, ..Default::default() };
            domain::undefine(session, WEB2, flags)
        })
        .await
        .expect("with the flag it goes");
}

#[tokio::test]
async fn what_the_test_driver_lacks_is_not_supported_rather_than_a_refusal() {
    let world = World::new().await;
    let job = world.run(|session| domain::job_info(session, WEB1)).await.expect_err("no jobs");
    assert_eq!(job.kind(), Kind::NotSupported);
    let leases = world.run(|session| network::leases(session, "default")).await;
    assert_eq!(leases.expect_err("no leases").kind(), Kind::NotSupported);
}

#[tokio::test]
async fn pools_and_volumes_are_read_made_found_by_path_and_deleted() {
    let mut world = World::new().await;
    world
        .run(|session| {
            let pools = pool::all(session)?;
            assert_eq!(pools.len(), 1);
            assert_eq!((pools[0].name.as_str(), pools[0].state), ("images", PoolState::Running));
            assert!(pools[0].capacity > 0);
            assert_eq!(pool::facts(session, "images")?, pools[0]);
            let mut names: Vec<String> =
                volume::all(session, "images")?.into_iter().map(|volume| volume.name).collect();
            names.sort();
            assert_eq!(names, ["a.qcow2", "b.raw"]);
            let xml = "<volume><name>c</name><capacity>4096</capacity></volume>";
            let made = volume::create(session, "images", "c", xml)?;
            assert_eq!(made, volume::facts(session, "images", "c")?);
            let again = volume::create(session, "images", "c", xml);
            assert_eq!(again.expect_err("it exists").kind(), Kind::VolumeAlreadyExists);
            let copy = xml.replace(">c<", ">d<");
            volume::create_from(session, "images", "d", &copy, "images", "c")?;
            assert_eq!(
                volume::by_path(session, &made.path)?,
                Some(("images".to_owned(), "c".to_owned()))
            );
            assert_eq!(volume::by_path(session, "/etc/passwd")?, None);
            volume::delete(session, "images", "c")?;
            let gone = volume::facts(session, "images", "c").expect_err("it is gone");
            assert_eq!(gone.message(), "no volume named \"c\" in pool \"images\"");
            assert_eq!(gone.kind(), Kind::VolumeNotFound);
            assert_eq!(
                volume::all(session, "nowhere").expect_err("no pool").kind(),
                Kind::PoolNotFound
            );
            let huge = "<volume><name>e</name><capacity unit='EiB'>4</capacity></volume>";
            let full = volume::create(session, "images", "e", huge);
            assert_eq!(full.expect_err("it is too large").kind(), Kind::InsufficientSpace);
            pool::refresh(session, "images")
        })
        .await
        .expect("all are done");
    let event = world.event(|event| matches!(event, LibvirtEvent::Pool { .. })).await;
    assert!(
        matches!(&event, LibvirtEvent::Pool { name, event: ResourceEvent::Refreshed, .. } if name == "images"),
        "{event:?}"
    );
}

#[tokio::test]
async fn networks_are_read_and_a_missing_one_has_its_own_kind() {
    let world = World::new().await;
    world
        .run(|session| {
            let mut all = network::all(session)?;
            all.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(all.len(), 2);
            assert!(all[0].active && all[0].persistent && !all[0].autostart);
            assert_eq!(network::facts(session, "default")?, all[0]);
            assert!(all[0].xml.contains("192.168.122.1"));
            let missing = network::facts(session, "nowhere").expect_err("no such network");
            assert_eq!(missing.kind(), Kind::NetworkNotFound);
            Ok(())
        })
        .await
        .expect("both are read");
}

#[tokio::test]
async fn the_host_tells_what_it_is() {
    let world = World::new().await;
    world
        .hypervisor
        .run(Lane::Slow, PATIENCE, |session| {
            assert!(host::capabilities_xml(session)?.contains("<capabilities>"));
            let node = host::node_info(session)?;
            assert_eq!((node.cpus, node.memory_kib), (4, 8_388_608));
            let versions = host::versions(session)?;
            assert_eq!(versions.libvirt.split('.').count(), 3);
            assert_eq!(versions.library, versions.libvirt);
            Ok(())
        })
        .await
        .expect("it answers");
}
