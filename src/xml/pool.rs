//! Storage pools.

use uuid::Uuid;

use super::tree::{Document, Element};
use super::units::size_of;
use crate::error::Result;
use crate::model::Pool;
use crate::model::pool::{
    AdapterType, AuthType, PoolAdapter, PoolAuth, PoolDevice, PoolFeatures, PoolHost,
    PoolPermissions, PoolSource, PoolTarget, PoolType, SecretRef,
};

/// The order of a pool's elements in libvirt's own output.
const POOL_ORDER: &[&str] =
    &["name", "uuid", "capacity", "allocation", "available", "features", "source", "target"];

/// The same for what stands in `<source>`.
const SOURCE_ORDER: &[&str] = &[
    "host",
    "device",
    "dir",
    "adapter",
    "name",
    "initiator",
    "format",
    "auth",
    "protocol",
    "vendor",
    "product",
];

/// The pool that an XML describes; state, autostart and the count of volumes keep their defaults.
pub fn parse_pool(xml: &str) -> Result<Pool> {
    let document = Document::parse(xml)?;
    let pool = document.expect("pool")?;
    let size = |name: &str| size_of(pool, name);
    let target = pool.child("target").map(target).unwrap_or_default();
    Ok(Pool {
        uuid: pool
            .find_text("uuid")
            .and_then(|text| Uuid::parse_str(&text).ok())
            .unwrap_or_default(),
        name: pool.child("name").map(|name| name.text().into_owned()).unwrap_or_default(),
        r#type: pool.attr("type").map(|r#type| r#type.into_owned()).unwrap_or_default(),
        capacity_bytes: size("capacity"),
        allocation_bytes: size("allocation"),
        available_bytes: size("available"),
        target_path: target.path.clone(),
        source: pool.child("source").map(source).unwrap_or_default(),
        target,
        features: PoolFeatures {
            cow: pool.find_attr("features/cow", "state").map(|state| state == "yes"),
        },
        ..Pool::default()
    })
}

/// The names in what `virConnectFindStoragePoolSources` tells: volume groups.
pub fn source_names(xml: &str) -> Result<Vec<String>> {
    let document = Document::parse(xml)?;
    let sources = document.expect("sources")?;
    Ok(sources.children("source").filter_map(|source| source.find_text("name")).collect())
}

fn source(element: &Element<'_>) -> PoolSource {
    let attr = |path: &str, name: &str| element.find_attr(path, name);
    PoolSource {
        hosts: element
            .children("host")
            .filter_map(|host| {
                let port = host.attr("port").and_then(|port| port.parse().ok());
                Some(PoolHost { name: host.attr("name")?.into_owned(), port })
            })
            .collect(),
        devices: element
            .children("device")
            .filter_map(|device| Some(PoolDevice { path: device.attr("path")?.into_owned() }))
            .collect(),
        dir: attr("dir", "path"),
        name: element.find_text("name"),
        format: attr("format", "type"),
        adapter: element.child("adapter").map(|adapter| PoolAdapter {
            r#type: match adapter.attr("type").as_deref() {
                Some("fc_host") => AdapterType::FcHost,
                _ => AdapterType::ScsiHost,
            },
            name: adapter.attr("name").map(|name| name.into_owned()),
            parent: adapter.attr("parent").map(|parent| parent.into_owned()),
            managed: adapter.attr("managed").map(|managed| managed == "yes"),
            wwnn: adapter.attr("wwnn").map(|wwnn| wwnn.into_owned()),
            wwpn: adapter.attr("wwpn").map(|wwpn| wwpn.into_owned()),
        }),
        initiator: attr("initiator/iqn", "name"),
        auth: element.child("auth").and_then(auth),
        protocol_version: attr("protocol", "ver"),
    }
}

fn auth(element: &Element<'_>) -> Option<PoolAuth> {
    let r#type = match element.attr("type").as_deref() {
        Some("chap") => AuthType::Chap,
        Some("ceph") => AuthType::Ceph,
        _ => return None,
    };
    let secret = |name: &str| element.find_attr("secret", name);
    Some(PoolAuth {
        r#type,
        username: element.attr("username").map(|name| name.into_owned()).unwrap_or_default(),
        secret: SecretRef {
            uuid: secret("uuid").and_then(|text| Uuid::parse_str(&text).ok()),
            usage: secret("usage"),
        },
    })
}

fn target(element: &Element<'_>) -> PoolTarget {
    // -1 stands for nobody's choice.
    let number = |path: &str| element.find_text(path).and_then(|text| text.parse().ok());
    PoolTarget {
        path: element.find_text("path"),
        permissions: element.child("permissions").map(|_| PoolPermissions {
            mode: element.find_text("permissions/mode"),
            owner: number("permissions/owner"),
            group: number("permissions/group"),
        }),
    }
}

/// A pool to be.
#[derive(Clone, Debug, Default)]
pub struct PoolSpec {
    pub uuid: Uuid,
    pub name: String,
    pub r#type: PoolType,
    pub source: PoolSource,
    pub target: PoolTarget,
    pub features: PoolFeatures,
}

/// The XML for `virStoragePoolDefineXML`. `InvalidRequest` if a value holds a character XML cannot
/// carry.
pub fn author_pool(spec: &PoolSpec) -> Result<String> {
    let mut pool = Element::new("pool")
        .with_attr("type", spec.r#type.as_str())
        .with_child(Element::new("name").with_text(&spec.name))
        .with_child(Element::new("uuid").with_text(spec.uuid.to_string()))
        .with_children(features_element(&spec.features));
    let source = source_elements(&spec.source);
    if !source.is_empty() {
        pool = pool.with_child(Element::new("source").with_children(source));
    }
    let target = target_elements(&spec.target);
    if !target.is_empty() {
        pool = pool.with_child(Element::new("target").with_children(target));
    }
    pool.into_xml()
}

/// The definition with what these name in the place of what it has; what they leave open stays,
/// as does everything that Vapor does not know.
pub fn edit_pool(
    xml: &str,
    source: Option<&PoolSource>,
    target: Option<&PoolTarget>,
    features: Option<&PoolFeatures>,
) -> Result<String> {
    let mut document = Document::parse(xml)?;
    document.expect("pool")?;
    let pool = document.root_mut();
    if let Some(element) = features.and_then(features_element) {
        pool.remove_child("features");
        pool.insert_child_in_order(element, POOL_ORDER);
    }
    if let Some(source) = source {
        put(pool, "source", source_elements(source), SOURCE_ORDER);
    }
    if let Some(target) = target {
        let mut target = target.clone();
        if let (Some(wanted), Some(known)) = (
            &mut target.permissions,
            pool.child("target").and_then(|element| self::target(element).permissions),
        ) {
            wanted.mode = wanted.mode.take().or(known.mode);
            wanted.owner = wanted.owner.or(known.owner);
            wanted.group = wanted.group.or(known.group);
        }
        put(pool, "target", target_elements(&target), &["path", "permissions"]);
    }
    document.to_xml()
}

/// Puts these in the place of all children of their names.
fn put<'a>(
    pool: &mut Element<'a>,
    place: &'static str,
    elements: Vec<Element<'a>>,
    order: &[&str],
) {
    if elements.is_empty() {
        return;
    }
    if pool.child(place).is_none() {
        pool.insert_child_in_order(Element::new(place), POOL_ORDER);
    }
    let Some(place) = pool.child_mut(place) else { return };
    let names: Vec<String> = elements.iter().map(|element| element.name().to_owned()).collect();
    place.retain_elements(|element| !names.iter().any(|name| element.is(name)));
    for element in elements {
        place.insert_child_in_order(element, order);
    }
}

fn features_element<'a>(features: &PoolFeatures) -> Option<Element<'a>> {
    let state = if features.cow? { "yes" } else { "no" };
    Some(Element::new("features").with_child(Element::new("cow").with_attr("state", state)))
}

fn source_elements<'a>(source: &PoolSource) -> Vec<Element<'a>> {
    let mut elements = Vec::new();
    elements.extend(source.hosts.iter().map(|host| {
        let port = host.port.map(|port| port.to_string());
        Element::new("host").with_attr("name", &host.name).with_attr_if("port", port)
    }));
    let devices = source.devices.iter();
    elements.extend(devices.map(|device| Element::new("device").with_attr("path", &device.path)));
    elements.extend(source.dir.iter().map(|dir| Element::new("dir").with_attr("path", dir)));
    elements.extend(source.adapter.iter().map(adapter_element));
    elements.extend(source.name.iter().map(|name| Element::new("name").with_text(name)));
    elements.extend(source.initiator.iter().map(|name| {
        Element::new("initiator").with_child(Element::new("iqn").with_attr("name", name))
    }));
    let format = source.format.iter();
    elements.extend(format.map(|format| Element::new("format").with_attr("type", format)));
    elements.extend(source.auth.iter().map(|auth| {
        let secret = Element::new("secret")
            .with_attr_if("uuid", auth.secret.uuid.map(|uuid| uuid.to_string()))
            .with_attr_if("usage", auth.secret.usage.as_deref());
        Element::new("auth")
            .with_attr("type", auth.r#type.as_str())
            .with_attr("username", &auth.username)
            .with_child(secret)
    }));
    let version = source.protocol_version.iter();
    elements.extend(version.map(|version| Element::new("protocol").with_attr("ver", version)));
    elements
}

fn adapter_element<'a>(adapter: &PoolAdapter) -> Element<'a> {
    let managed = adapter.managed.map(|managed| if managed { "yes" } else { "no" });
    let r#type = match adapter.r#type {
        AdapterType::ScsiHost => "scsi_host",
        AdapterType::FcHost => "fc_host",
    };
    Element::new("adapter")
        .with_attr("type", r#type)
        .with_attr_if("name", adapter.name.as_deref())
        .with_attr_if("parent", adapter.parent.as_deref())
        .with_attr_if("managed", managed)
        .with_attr_if("wwnn", adapter.wwnn.as_deref())
        .with_attr_if("wwpn", adapter.wwpn.as_deref())
}

fn target_elements<'a>(target: &PoolTarget) -> Vec<Element<'a>> {
    let mut elements = Vec::new();
    elements.extend(target.path.iter().map(|path| Element::new("path").with_text(path)));
    if let Some(permissions) = &target.permissions {
        let number = |name: &'static str, number: Option<u32>| {
            number.map(|number| Element::new(name).with_text(number.to_string()))
        };
        let mode = permissions.mode.as_ref().map(|mode| Element::new("mode").with_text(mode));
        elements.push(
            Element::new("permissions")
                .with_children(mode)
                .with_children(number("owner", permissions.owner))
                .with_children(number("group", permissions.group)),
        );
    }
    elements
}

#[cfg(test)]
mod tests;
