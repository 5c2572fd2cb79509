//! Documents from fields. They are written as JSON, which is YAML too, and in which nothing that a
//! client sends can be taken for syntax.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::password;
use crate::error::{Error, Result};
use crate::model::{CloudInit, CloudInterface, CloudNetwork, CloudUser, WriteFile};

/// A document as text.
pub(super) fn document(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(Error::internal)?;
    // The one character that JSON has as it is and YAML has not.
    Ok(text.replace('\u{7f}', "\\u007f") + "\n")
}

/// The user-data that the fields amount to, if there are any for it.
pub(super) fn user_data(request: &CloudInit) -> Result<Option<String>> {
    let mut config = Map::new();
    if !request.users.is_empty() {
        // Naming users replaces the image's own, unless it is named, too.
        let mut users = vec![json!("default")];
        for user in &request.users {
            users.push(self::user(user)?);
        }
        config.insert("users".to_owned(), users.into());
    }
    if let Some(password) = &request.password {
        config.insert("password".to_owned(), password::hash(password)?.into());
        config.insert("chpasswd".to_owned(), json!({"expire": false}));
    }
    let mut add = |key: &str, value: Option<Value>| {
        config.extend(value.map(|value| (key.to_owned(), value)));
    };
    add("ssh_authorized_keys", some(&request.ssh_keys));
    add("package_update", request.package_update.map(Value::from));
    add("packages", some(&request.packages));
    let files: Vec<Value> = request.write_files.iter().map(file).collect();
    add("write_files", some(&files));
    add("runcmd", some(&request.runcmd));
    add("timezone", request.timezone.clone().map(Value::from));
    add("locale", request.locale.clone().map(Value::from));
    if config.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!("#cloud-config\n{}", document(&config)?)))
}

fn some<T: Serialize>(list: &[T]) -> Option<Value> {
    if list.is_empty() { None } else { serde_json::to_value(list).ok() }
}

fn user(user: &CloudUser) -> Result<Value> {
    let hash = match (&user.password, &user.password_hash) {
        (Some(password), _) => Some(password::hash(password)?),
        (None, hash) => hash.as_ref().map(|hash| hash.reveal().to_owned()),
    };
    let lock = user.lock.unwrap_or(hash.is_none());
    let mut entry = Map::new();
    entry.insert("name".to_owned(), user.name.as_str().into());
    let groups: Vec<&str> = user.groups.iter().map(|group| group.0.as_str()).collect();
    if !groups.is_empty() {
        entry.insert("groups".to_owned(), groups.into());
    }
    if let Some(rule) = &user.sudo {
        entry.insert("sudo".to_owned(), rule.as_str().into());
    }
    entry.insert("shell".to_owned(), user.shell.as_deref().unwrap_or("/bin/bash").into());
    if let Some(keys) = some(&user.ssh_keys) {
        entry.insert("ssh_authorized_keys".to_owned(), keys);
    }
    if let Some(hash) = hash {
        entry.insert("passwd".to_owned(), hash.into());
    }
    entry.insert("lock_passwd".to_owned(), lock.into());
    Ok(entry.into())
}

fn file(file: &WriteFile) -> Value {
    let mut entry = json!({"path": file.path, "content": file.content.reveal()});
    if let Some(permissions) = &file.permissions {
        entry["permissions"] = permissions.as_str().into();
    }
    if let Some(owner) = &file.owner {
        let owner = if owner.contains(':') { owner.clone() } else { format!("{owner}:{owner}") };
        entry["owner"] = owner.into();
    }
    if file.append {
        entry["append"] = true.into();
    }
    if file.defer {
        entry["defer"] = true.into();
    }
    entry
}

/// The network-config, version 2. An interface that is found by its MAC address is renamed, which is
/// what every version of cloud-init can do.
pub(super) fn network_config(network: &CloudNetwork) -> Result<String> {
    let mut ethernets = Map::new();
    for (place, interface) in network.interfaces.iter().enumerate() {
        let name = interface.name.clone().unwrap_or_else(|| format!("eth{place}"));
        ethernets.insert(name.clone(), self::interface(&name, interface));
    }
    document(&json!({"version": 2, "ethernets": ethernets}))
}

fn interface(name: &str, interface: &CloudInterface) -> Value {
    let mut entry = Map::new();
    let mut add = |key: &str, value: Value| entry.insert(key.to_owned(), value);
    if let Some(mac) = &interface.mac {
        add("match", json!({"macaddress": mac.to_ascii_lowercase()}));
        add("set-name", name.into());
    }
    // Nothing else being said, an interface takes what the network gives it.
    let quiet = interface.addresses.is_empty() && interface.dhcp6.is_none();
    add("dhcp4", interface.dhcp4.unwrap_or(quiet).into());
    if let Some(dhcp6) = interface.dhcp6 {
        add("dhcp6", dhcp6.into());
    }
    if !interface.addresses.is_empty() {
        add("addresses", json!(interface.addresses));
    }
    let routes: Vec<Value> = interface
        .gateway
        .iter()
        .map(|via| json!({"to": if via.contains(':') { "::/0" } else { "0.0.0.0/0" }, "via": via}))
        .collect();
    if !routes.is_empty() {
        add("routes", routes.into());
    }
    let mut servers = Map::new();
    for (key, list) in [("addresses", &interface.dns), ("search", &interface.search)] {
        if !list.is_empty() {
            servers.insert(key.to_owned(), json!(list));
        }
    }
    if !servers.is_empty() {
        add("nameservers", servers.into());
    }
    if let Some(mtu) = interface.mtu {
        add("mtu", mtu.into());
    }
    entry.into()
}
