//! Templates: what VMs are made from, with or without disk images.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::vm_request::DiskBus;
use super::{CreateVm, ResourceName, VmName, VolumeRef};

/// What a template says of its VMs: the body of `POST V` without a name. Cloud-init belongs to each
/// VM and is said when it is made.
#[derive(Clone, Debug, Default)]
pub struct TemplateSettings(pub CreateVm);

/// Fields of `CreateVm` that no template has.
const OWN_FIELDS: &[&str] = &["name", "template", "linked", "cloud_init", "ignition"];

impl<'de> Deserialize<'de> for TemplateSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let value = Value::deserialize(deserializer)?;
        let own =
            OWN_FIELDS.iter().find(|field| value.get(**field).is_some_and(|it| !it.is_null()));
        if let Some(field) = own {
            return Err(D::Error::custom(format!("{field}: is no setting of a template")));
        }
        serde_json::from_value(value).map(TemplateSettings).map_err(D::Error::custom)
    }
}

impl Serialize for TemplateSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// The schema of `CreateVm`, changed.
fn like_create_vm(
    name: &str,
    description: &str,
    edit: impl FnOnce(&mut utoipa::openapi::Object),
) -> RefOr<Schema> {
    match CreateVm::schema() {
        RefOr::T(Schema::Object(mut object)) => {
            object.description = Some(description.to_owned());
            object.title = None;
            object.required.clear();
            edit(&mut object);
            RefOr::T(Schema::Object(object))
        }
        other => {
            debug_assert!(false, "{name} is made of an object");
            other
        }
    }
}

impl PartialSchema for TemplateSettings {
    fn schema() -> RefOr<Schema> {
        like_create_vm(
            "TemplateSettings",
            "What VMs made of the template have: the body of `POST V` without a name. Cloud-init \
             belongs to each VM and is said when it is made.",
            |object| {
                for field in OWN_FIELDS {
                    object.properties.shift_remove(*field);
                }
            },
        )
    }
}

impl ToSchema for TemplateSettings {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("TemplateSettings")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        CreateVm::schemas(schemas);
    }
}

/// The body of `POST V/from-template`: which template, the new VM's name, and whatever of `POST V` is
/// to be otherwise than the template says.
#[derive(Clone, Debug, Default)]
pub struct FromTemplate {
    /// The template's id or name.
    pub template: String,
    /// Whether the disks read from the template's what is not written to them.
    pub linked: bool,
    pub overrides: CreateVm,
}

impl<'de> Deserialize<'de> for FromTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut members = serde_json::Map::deserialize(deserializer)?;
        let template = match members.remove("template") {
            Some(Value::String(template)) if !template.is_empty() => template,
            _ => return Err(D::Error::custom("template: is required")),
        };
        let linked = match members.remove("linked") {
            None | Some(Value::Null) => true,
            Some(Value::Bool(linked)) => linked,
            Some(_) => return Err(D::Error::custom("linked: is not true or false")),
        };
        let overrides = serde_json::from_value(Value::Object(members)).map_err(D::Error::custom)?;
        Ok(FromTemplate { template, linked, overrides })
    }
}

impl PartialSchema for FromTemplate {
    fn schema() -> RefOr<Schema> {
        like_create_vm(
            "FromTemplate",
            "Which template, the new VM's name, and whatever of `POST V` is to be otherwise than the \
             template says. Objects such as `os` and `labels` are merged field by field, lists are \
             replaced. `disk_size` is the size of the template's first disk.",
            |object| {
                let text = ObjectBuilder::new()
                    .schema_type(SchemaType::Type(Type::String))
                    .description(Some("The template's id or name."))
                    .min_length(Some(1))
                    .max_length(Some(255))
                    .pattern(Some(r"^[^\x00-\x1F\x7F]+$"))
                    .build();
                let linked = ObjectBuilder::new()
                    .schema_type(SchemaType::Type(Type::Boolean))
                    .description(Some(
                        "Whether the disks read from the template's what is not written to them; \
                         whole copies if false.",
                    ))
                    .default(Some(Value::Bool(true)))
                    .build();
                object.properties.insert("template".to_owned(), RefOr::T(Schema::Object(text)));
                object.properties.insert("linked".to_owned(), RefOr::T(Schema::Object(linked)));
                object.required.extend(["template".to_owned(), "name".to_owned()]);
            },
        )
    }
}

impl ToSchema for FromTemplate {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("FromTemplate")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        CreateVm::schemas(schemas);
    }
}

/// One disk image of a template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TemplateDisk {
    pub pool: String,
    pub volume: String,
    /// What a guest sees.
    pub capacity_bytes: u64,
    pub bus: Option<DiskBus>,
    /// Its place in the boot order, if the VM had one.
    pub boot_order: Option<u32>,
}

impl TemplateDisk {
    /// The volume.
    pub fn reference(&self) -> VolumeRef {
        VolumeRef::new(self.pool.as_str(), self.volume.as_str())
    }
}

/// Something that a template needs and that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateProblem {
    /// What it is needed for, such as `disks[0]` or `settings.networks[1].source`.
    pub field: String,
    pub problem: String,
}

/// One template.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Template {
    pub id: Uuid,
    pub name: String,
    /// Free text; empty if there is none.
    pub description: String,
    /// What VMs made of it have, where nothing else is said.
    #[schema(value_type = TemplateSettings)]
    pub settings: Value,
    /// The images that the first disks of its VMs are made of; empty for settings alone.
    pub disks: Vec<TemplateDisk>,
    /// MiB that a VM made of it has at least.
    pub min_memory: Option<u64>,
    pub min_vcpus: Option<u32>,
    /// GiB that the first disk of a VM made of it has at least.
    pub min_disk: Option<u64>,
    /// The name of the VM of which it was made.
    pub source_vm: Option<String>,
    /// Who made it.
    pub owner: String,
    /// The names of the VMs whose disks read from its images.
    pub linked_clones: Vec<String>,
    /// What it needs and is gone; a VM can be made of it if there is nothing.
    pub problems: Vec<TemplateProblem>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Grows with every change of what is kept.
    pub generation: u64,
}

/// The body of `POST V/templates`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTemplate {
    pub name: VmName,
    #[serde(default)]
    #[schema(max_length = 8192, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub description: Option<String>,
    pub settings: TemplateSettings,
    /// MiB that a VM made of it has at least.
    #[serde(default)]
    #[schema(minimum = 16, maximum = 67108864)]
    pub min_memory: Option<u64>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1024)]
    pub min_vcpus: Option<u32>,
    /// GiB that the first disk of a VM made of it has at least.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65536)]
    pub min_disk: Option<u64>,
}

/// The body of `PUT V/templates/{id}`: what is absent stays as it is.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateTemplate {
    pub name: Option<VmName>,
    #[schema(max_length = 8192, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub description: Option<String>,
    /// Replaces all settings; the disk images stay.
    pub settings: Option<TemplateSettings>,
    /// MiB that a VM made of it has at least.
    #[schema(minimum = 16, maximum = 67108864)]
    pub min_memory: Option<u64>,
    #[schema(minimum = 1, maximum = 1024)]
    pub min_vcpus: Option<u32>,
    /// GiB that the first disk of a VM made of it has at least.
    #[schema(minimum = 1, maximum = 65536)]
    pub min_disk: Option<u64>,
}

/// The body of `POST V/{id}/template`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeTemplate {
    /// The template's name.
    pub name: VmName,
    /// The VM's if absent.
    #[serde(default)]
    #[schema(max_length = 8192, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub description: Option<String>,
    /// Make the VM's own disks the template's instead of copying them; the VM is removed.
    #[serde(default)]
    pub convert: bool,
    /// The pool of the copies; that of each disk if absent. Contradicts `convert`.
    #[serde(default)]
    pub pool: Option<ResourceName>,
    /// MiB that a VM made of it has at least.
    #[serde(default)]
    #[schema(minimum = 16, maximum = 67108864)]
    pub min_memory: Option<u64>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1024)]
    pub min_vcpus: Option<u32>,
    /// GiB that the first disk of a VM made of it has at least.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65536)]
    pub min_disk: Option<u64>,
}
