//! The processors and the memory of a VM that is to be made.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::ResourceName;

words! {
    /// Where the guest's CPU model comes from.
    CpuMode { HostPassthrough = "host-passthrough", HostModel = "host-model", Maximum = "maximum",
        Custom = "custom" }
    /// What is asked of one CPU feature.
    FeaturePolicy { Require = "require", Disable = "disable", Optional = "optional",
        Force = "force", Forbid = "forbid" }
}

/// The virtual CPUs of a VM to be, beyond their number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CpuRequest {
    /// What this host does best if absent; `custom` if a `model` is named.
    pub mode: Option<CpuMode>,
    /// For `custom`: a model that this host can run.
    pub model: Option<ResourceName>,
    #[schema(max_items = 128)]
    pub features: Option<Vec<CpuFeature>>,
    /// Must come to `max_vcpus`.
    pub topology: Option<CpuTopology>,
    /// Which CPUs of the host each virtual CPU may run on.
    #[schema(max_items = 1024)]
    pub pinning: Option<Vec<CpuPin>>,
    /// NUMA cells of the guest; their CPUs and memory must come to `max_vcpus` and `max_memory`.
    #[schema(max_items = 64)]
    pub numa: Option<Vec<NumaRequest>>,
}

/// One CPU feature to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuFeature {
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub name: String,
    pub policy: FeaturePolicy,
}

/// How virtual CPUs are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuTopology {
    #[schema(minimum = 1, maximum = 1024)]
    pub sockets: u32,
    /// Per socket; 1 if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1024)]
    pub dies: Option<u32>,
    /// Per die.
    #[schema(minimum = 1, maximum = 1024)]
    pub cores: u32,
    /// Per core; 1 if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1024)]
    pub threads: Option<u32>,
}

/// Where one virtual CPU runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuPin {
    #[schema(maximum = 1023)]
    pub vcpu: u32,
    /// CPUs of the host, such as `0-3,8`.
    #[schema(max_length = 256, pattern = "^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*$")]
    pub cpus: String,
}

/// One NUMA cell of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NumaRequest {
    /// Virtual CPUs, such as `0-3`.
    #[schema(max_length = 256, pattern = "^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*$")]
    pub cpus: String,
    /// MiB.
    #[schema(minimum = 1, maximum = 67108864)]
    pub memory: u64,
}

/// How the guest's memory is kept on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryRequest {
    /// In huge pages that the host has set aside.
    pub hugepages: Option<bool>,
    /// KiB of such a page; the host's default if absent.
    #[schema(minimum = 64, maximum = 16777216)]
    pub hugepage_size: Option<u64>,
    /// In memory that other processes may map, as virtiofs needs it.
    pub shared: Option<bool>,
    /// Whether the guest's memory can shrink and grow while it runs; it can if absent.
    pub ballooning: Option<bool>,
}
