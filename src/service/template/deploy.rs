//! A VM from a template: its settings with the request's over them, on the ordinary way of creation.

use serde_json::{Map, Value, json};

use super::TemplateService;
use crate::error::{Error, Kind, Result};
use crate::model::{CreateVm, FromTemplate, ResourceName};
use crate::service::vm::check_shape;
use crate::service::{Context, Outcome};
use crate::store::TemplateRow;

const GIB: u64 = 1 << 30;

/// Objects of a request that are merged field by field.
const MERGED: &[&str] = &["os", "labels"];

/// Two ways to say the same: where the request says one, the template's other is left out.
const SAME: &[(&str, &str)] = &[("network", "networks"), ("networks", "network")];

impl TemplateService {
    /// Makes a VM of a template.
    ///
    /// # Errors
    /// 404 for the template and what it needs; 422 below its minimum requirements, which names the
    /// field; else as a creation.
    pub async fn deploy(&self, ctx: Context, request: FromTemplate) -> Result<Outcome> {
        let library = self.library.clone();
        self.vms.create_from(ctx, move || body(&*library.get(&request.template)?, request)).await
    }
}

/// The body of the creation that the request amounts to.
fn body(row: &TemplateRow, request: FromTemplate) -> Result<CreateVm> {
    let linked = request.linked;
    let overrides = strip(serde_json::to_value(&request.overrides).map_err(Error::internal)?);
    let mut merged = merge(row.settings.clone(), overrides);
    if !row.disks.is_empty() {
        images(row, linked, &mut merged)?;
    }
    let body: CreateVm = serde_json::from_value(Value::Object(merged)).map_err(|error| {
        Error::new(
            Kind::Impossible,
            format!("the settings of the template {:?} cannot be used: {error}", row.name),
        )
        .with_hint("replace its settings")
    })?;
    minimum("memory", body.memory, row.min_memory, "MiB")?;
    minimum("vcpus", body.vcpus.map(u64::from), row.min_vcpus.map(u64::from), "vCPUs")?;
    let disk = first_size(row, &body);
    minimum("disk_size", disk, row.min_disk, "GiB")?;
    check_shape(&body)?;
    Ok(body)
}

/// A body without what is null.
pub(super) fn strip(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, strip(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(strip).collect()),
        other => other,
    }
}

/// The settings with what the request says over them.
fn merge(settings: Value, overrides: Value) -> Map<String, Value> {
    let object = |value| match value {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let (mut merged, overrides) = (object(settings), object(overrides));
    for (one, other) in SAME {
        if overrides.contains_key(*one) {
            merged.remove(*other);
        }
    }
    if overrides.contains_key("storage") {
        merged.remove("disk_size");
        merged.remove("pool");
    }
    if overrides.contains_key("os_type")
        && let Some(Value::Object(os)) = merged.get_mut("os")
    {
        os.remove("type");
    }
    if overrides.get("os").is_some_and(|os| os.get("type").is_some()) {
        merged.remove("os_type");
    }
    // A VM that is asked for with more than its template can have gets as much.
    for (amount, most) in [("memory", "max_memory"), ("vcpus", "max_vcpus")] {
        let wanted = overrides.get(amount).and_then(Value::as_u64);
        if merged.get(most).and_then(Value::as_u64) < wanted {
            merged.remove(most);
        }
    }
    for (key, value) in overrides {
        match (merged.get_mut(&key), value) {
            (Some(Value::Object(known)), Value::Object(more)) if MERGED.contains(&key.as_str()) => {
                known.extend(more);
            }
            (_, value) => {
                merged.insert(key, value);
            }
        }
    }
    merged
}

/// Puts the template's images before all other disks.
fn images(row: &TemplateRow, linked: bool, merged: &mut Map<String, Value>) -> Result<()> {
    let size = merged.remove("disk_size");
    let pool = merged.remove("pool");
    let mut disks = Vec::new();
    for (index, image) in row.disks.iter().enumerate() {
        let mut disk = json!({
            "action": "clone",
            "source": image.reference(),
            "linked": linked,
        });
        if let Some(bus) = image.bus {
            disk["bus"] = json!(bus);
        }
        if let Some(order) = image.boot_order {
            disk["boot_order"] = json!(order);
        }
        // One whose name a request cannot say is where the other new disks are.
        let home = ResourceName::try_from(image.pool.clone()).ok().map(|name| json!(name));
        if let Some(pool) = pool.clone().or(home) {
            disk["pool"] = pool;
        }
        if index == 0
            && let Some(size) = size.as_ref().and_then(Value::as_u64)
        {
            if size.saturating_mul(GIB) < image.capacity_bytes {
                return Err(Error::new(
                    Kind::Impossible,
                    format!(
                        "{size} GiB is less than the {} bytes of the template's image",
                        image.capacity_bytes
                    ),
                )
                .with_field("disk_size", "must be at least the image's size"));
            }
            disk["size"] = json!(size);
        }
        disks.push(disk);
    }
    let storage = merged.entry("storage").or_insert_with(|| json!({}));
    if let Some(Value::Array(more)) = storage.get_mut("disks").map(Value::take) {
        disks.extend(more);
    }
    storage["disks"] = Value::Array(disks);
    Ok(())
}

/// The size of the first disk in GiB, where it is known.
fn first_size(row: &TemplateRow, body: &CreateVm) -> Option<u64> {
    let first = body.storage.as_ref().and_then(|storage| storage.disks.first());
    let said = body.disk_size.or_else(|| first.and_then(|disk| disk.size));
    said.or_else(|| row.disks.first().map(|image| image.capacity_bytes / GIB))
}

fn minimum(field: &str, value: Option<u64>, least: Option<u64>, unit: &str) -> Result<()> {
    match (value, least) {
        (Some(value), Some(least)) if value < least => {
            let has = if value == 0 { "less than 1".to_owned() } else { value.to_string() };
            Err(Error::new(
                Kind::Impossible,
                format!("the template asks for {least} {unit} or more, and {field} is {has}"),
            )
            .with_field(field, format!("must be at least {least}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{TemplateDisk, VmName};

    fn row(settings: Value) -> TemplateRow {
        TemplateRow { name: "t".to_owned(), settings, ..TemplateRow::default() }
    }

    fn request(overrides: Value) -> FromTemplate {
        let mut overrides: CreateVm = serde_json::from_value(overrides).unwrap();
        overrides.name = Some(VmName::try_from("vm".to_owned()).unwrap());
        FromTemplate { template: "t".to_owned(), linked: true, overrides }
    }

    #[test]
    fn objects_are_merged_and_lists_replaced() {
        let settings = json!({"memory": 512, "vcpus": 1, "labels": {"a": "1", "b": "2"},
            "os": {"type": "linux", "variant": "x"}, "networks": [{"source": "one"}, {}]});
        let body = body(
            &row(settings),
            request(json!({"memory": 1024, "labels": {"b": "3"}, "os": {"variant": "y"},
                "networks": [{"source": "two"}]})),
        )
        .unwrap();
        assert_eq!((body.memory, body.vcpus), (Some(1024), Some(1)));
        let labels = serde_json::to_value(&body.labels).unwrap();
        assert_eq!(labels, json!({"a": "1", "b": "3"}));
        let os = body.os.unwrap();
        assert_eq!((os.r#type.as_deref(), os.variant.as_deref()), (Some("linux"), Some("y")));
        assert_eq!(body.networks.unwrap().len(), 1);
    }

    #[test]
    fn the_flat_word_replaces_the_list_and_back() {
        let settings = json!({"memory": 64, "vcpus": 1, "networks": [{}, {}], "disk_size": 3});
        let over = json!({"network": {"source": "x"}, "storage": {"disks": []}});
        let made = body(&row(settings), request(over)).unwrap();
        assert!(made.networks.is_none() && made.network.is_some() && made.disk_size.is_none());
    }

    #[test]
    fn images_come_first_and_the_first_one_takes_the_size() {
        let image = TemplateDisk {
            pool: "p".to_owned(),
            volume: "base.qcow2".to_owned(),
            capacity_bytes: 2 * GIB,
            bus: None,
            boot_order: None,
        };
        let settings = json!({"memory": 64, "vcpus": 1,
            "storage": {"disks": [{"action": "create", "device": "cdrom"}]}});
        let row = TemplateRow { disks: vec![image], min_disk: Some(3), ..row(settings) };
        let made = body(&row, request(json!({"disk_size": 5}))).unwrap();
        let disks = made.storage.unwrap().disks;
        assert_eq!((disks.len(), disks[0].size, disks[0].linked), (2, Some(5), true));
        for (size, problem) in [(Some(1), "image"), (None, "asks for")] {
            let error = body(&row, request(json!({"disk_size": size}))).unwrap_err();
            assert_eq!(error.kind(), Kind::Impossible);
            assert!(error.message().contains(problem), "{error}");
            assert_eq!(error.details()["fields"][0]["field"], "disk_size");
        }
    }

    #[test]
    fn less_than_the_minimum_names_the_field() {
        let settings = json!({"memory": 64, "vcpus": 1});
        let row = TemplateRow { min_memory: Some(128), min_vcpus: Some(2), ..row(settings) };
        for (over, field) in [(json!({}), "memory"), (json!({"memory": 256}), "vcpus")] {
            let error = body(&row, request(over)).unwrap_err();
            assert_eq!(error.details()["fields"][0]["field"], field);
        }
        assert!(body(&row, request(json!({"memory": 128, "vcpus": 2}))).is_ok());
    }
}
