//! Consoles and video of a draft.

use super::check::not_supported;
use crate::error::{Error, Kind, Result};
use crate::model::host::DomainCapabilities;
use crate::model::{GraphicsRequest, GraphicsType, ResourceName};

/// The model that was asked for, or the best that this host has.
pub(in crate::service::vm) fn video_model(
    asked: Option<&ResourceName>,
    preferred: Option<&DomainCapabilities>,
) -> Result<Option<String>> {
    let models = preferred.map(|preferred| preferred.video_models.as_slice()).unwrap_or_default();
    let has = |model: &str| models.iter().any(|known| known == model);
    match asked {
        Some(model) if models.is_empty() || has(model.as_str()) => Ok(Some(model.to_string())),
        Some(model) => {
            Err(not_supported("devices.video", format!("this host has no video model {model}"))
                .with_hint(format!("this host has {}", models.join(", "))))
        }
        None => Ok(["virtio", "vga"].into_iter().find(|model| has(model)).map(str::to_owned)),
    }
}

pub(in crate::service::vm) fn graphics(
    request: Option<&[GraphicsRequest]>,
    preferred: Option<&DomainCapabilities>,
) -> Result<Vec<GraphicsType>> {
    let offered = preferred.map(|preferred| preferred.graphics.as_slice()).unwrap_or_default();
    let has = |graphics: GraphicsType| offered.iter().any(|known| known == graphics.as_str());
    let Some(request) = request else {
        return Ok(if has(GraphicsType::Vnc) { vec![GraphicsType::Vnc] } else { Vec::new() });
    };
    let mut chosen = Vec::new();
    for wanted in request.iter().map(|graphics| graphics.r#type) {
        if wanted == GraphicsType::None {
            if request.len() > 1 {
                return Err(Error::new(Kind::Impossible, "graphics: none contradicts the others")
                    .with_field("graphics", "none contradicts the others"));
            }
        } else if !offered.is_empty() && !has(wanted) {
            return Err(not_supported(
                "graphics",
                format!("this host has no {} graphics", wanted.as_str()),
            ));
        } else if chosen.contains(&wanted) {
            return Err(Error::new(Kind::Impossible, "graphics: the same type twice")
                .with_field("graphics", "the same type twice"));
        } else {
            chosen.push(wanted);
        }
    }
    Ok(chosen)
}
