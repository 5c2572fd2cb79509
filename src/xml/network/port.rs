//! What is plugged into a network, as libvirt's network driver knows it.

use uuid::Uuid;

use crate::error::Result;
use crate::xml::tree::Document;

/// Whose port it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    pub owner: String,
    pub owner_uuid: Option<Uuid>,
    pub mac: Option<String>,
}

/// Reads one `<networkport>`. `InvalidDefinition` if it is none.
pub fn parse_port(xml: &str) -> Result<Port> {
    let document = Document::parse(xml)?;
    let port = document.expect("networkport")?;
    Ok(Port {
        owner: port.find_text("owner/name").unwrap_or_default(),
        owner_uuid: port.find_text("owner/uuid").and_then(|text| Uuid::try_parse(&text).ok()),
        mac: port.find_attr("mac", "address"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_names_its_owner() {
        let port = parse_port(
            "<networkport><uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid>
  <owner><name>a &amp; b</name><uuid>06578fc1-c686-46fa-bc2c-83893b466a6c</uuid></owner>
  <mac address='52:54:00:7b:35:93'/>
  <plug type='network' bridge='virbr0'/>
</networkport>",
        )
        .unwrap();
        assert_eq!(port.owner, "a & b");
        assert_eq!(port.mac.as_deref(), Some("52:54:00:7b:35:93"));
        assert!(port.owner_uuid.is_some());
        assert!(parse_port("<network/>").is_err());
    }
}
