//! The clock of a new domain XML.

use super::{DomainSpec, is_windows, is_x86};
use crate::model::vm_request::ClockOffset;
use crate::xml::tree::Element;

/// What the guest's clock shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockSpec {
    /// Local time for Windows, else UTC, if absent.
    pub offset: Option<ClockOffset>,
    /// With the offset `timezone`.
    pub timezone: Option<String>,
}

pub(super) fn clock(spec: &DomainSpec) -> Element<'static> {
    let windows = is_windows(spec);
    let usual = if windows { ClockOffset::Localtime } else { ClockOffset::Utc };
    let clock = Element::new("clock")
        .with_attr("offset", spec.clock.offset.unwrap_or(usual).as_str())
        .with_attr_if("timezone", spec.clock.timezone.as_ref());
    if !is_x86(spec) || spec.domain_type != "kvm" {
        return clock;
    }
    let timer = |name: &str| Element::new("timer").with_attr("name", name);
    clock
        .with_child(timer("rtc").with_attr("tickpolicy", "catchup"))
        .with_child(timer("pit").with_attr("tickpolicy", "delay"))
        .with_child(timer("hpet").with_attr("present", "no"))
        // Windows reads this one a thousand times a second otherwise.
        .with_children(windows.then(|| timer("hypervclock").with_attr("present", "yes")))
}
