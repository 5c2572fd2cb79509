//! The tree back to text.

use std::borrow::Cow;

use super::{Document, Element, Node, escape};
use crate::error::{Error, Kind, Result};

pub(super) fn document(document: &Document<'_>) -> Result<String> {
    let mut out = String::with_capacity(8 * 1024);
    out.push_str(document.prolog);
    element(&document.root, &mut out)?;
    out.push_str(document.epilog);
    Ok(out)
}

pub(super) fn authored(root: &Element<'_>) -> Result<String> {
    let mut out = String::with_capacity(4 * 1024);
    element(root, &mut out)?;
    out.push('\n');
    Ok(out)
}

fn element(element: &Element<'_>, out: &mut String) -> Result<()> {
    out.push('<');
    out.push_str(&element.name);
    for attribute in &element.attributes {
        check(&attribute.value, || format!("attribute {} of <{}>", attribute.name, element.name))?;
        out.push_str(attribute.before);
        out.push_str(attribute.name);
        out.push_str(attribute.equals);
        out.push(attribute.quote);
        out.push_str(&attribute.value);
        out.push(attribute.quote);
    }
    out.push_str(element.start_tail);
    if element.children.is_empty() && element.self_closing {
        out.push_str("/>");
        return Ok(());
    }
    out.push('>');
    for node in &element.children {
        match node {
            Node::Element(child) => self::element(child, out)?,
            Node::Text(text) => {
                check(text, || format!("text of <{}>", element.name))?;
                out.push_str(text);
            }
            Node::CData(text) => {
                out.push_str("<![CDATA[");
                out.push_str(text);
                out.push_str("]]>");
            }
            Node::Verbatim(text) => out.push_str(text),
        }
    }
    out.push_str("</");
    out.push_str(&element.name);
    out.push_str(element.end_tail);
    out.push('>');
    Ok(())
}

/// What was borrowed came through the parser; only what was set has to be looked at.
#[expect(clippy::ptr_arg, reason = "whether it is borrowed is what matters")]
fn check(value: &Cow<'_, str>, what: impl Fn() -> String) -> Result<()> {
    let Cow::Owned(value) = value else { return Ok(()) };
    match value.chars().find(|c| !escape::is_char(*c)) {
        None => Ok(()),
        Some(bad) => Err(Error::new(
            Kind::InvalidRequest,
            format!("the {} holds {bad:?}, which XML cannot carry", what()),
        )),
    }
}
