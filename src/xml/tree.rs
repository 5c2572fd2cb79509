//! A lossless XML tree: what is parsed and not touched is written back byte for byte.
//!
//! Each node keeps the slice of the text it came from, with the white space and the quotes around
//! it; an edit replaces one slice and leaves its neighbours alone. The tree borrows from the text,
//! so that parsing allocates little more than the vectors of nodes. Values are unescaped when they
//! are read and escaped when they are set: there is no way to put markup in through a value, and
//! names of new elements and attributes can only be literals.
//!
//! Refused, because libvirt has no use for it and two parsers could understand it differently:
//! document types, entities other than the five predefined ones, another encoding than UTF-8,
//! more than [`MAX_BYTES`], [`MAX_DEPTH`] levels or [`MAX_NODES`] nodes.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};

mod escape;
mod parse;
mod write;

/// The longest text that is parsed: libvirt's RPC carries no longer string.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The deepest nesting that is parsed, the same as libxml2's.
pub const MAX_DEPTH: usize = 256;
/// The most nodes and attributes that one document may have.
pub const MAX_NODES: usize = 200_000;

/// A whole document; what stands around the root element is kept as it is.
#[derive(Clone, Debug)]
pub struct Document<'a> {
    root: Element<'a>,
    prolog: &'a str,
    epilog: &'a str,
}

/// One element with its attributes and children.
#[derive(Clone)]
pub struct Element<'a> {
    name: Cow<'a, str>,
    namespace: Option<Arc<str>>,
    attributes: Vec<Attribute<'a>>,
    children: Vec<Node<'a>>,
    /// The line break and the white space before the start tag, if it begins a line.
    lead: Option<Cow<'a, str>>,
    /// White space at the end of the start tag.
    start_tail: &'a str,
    /// White space at the end of the end tag.
    end_tail: &'a str,
    /// Written as `<name/>` as long as it has no children.
    self_closing: bool,
}

/// Values may be passwords, so that only the name is shown.
impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.name)
    }
}

/// One child of an element.
#[derive(Clone)]
enum Node<'a> {
    Element(Element<'a>),
    /// Escaped.
    Text(Cow<'a, str>),
    /// Without its delimiters.
    CData(&'a str),
    /// A comment or a processing instruction, whole.
    Verbatim(&'a str),
}

/// One attribute, with all that stands around its value.
#[derive(Clone)]
struct Attribute<'a> {
    /// White space before the name.
    before: &'a str,
    name: &'a str,
    /// The equals sign with the white space around it.
    equals: &'a str,
    quote: char,
    /// Escaped.
    value: Cow<'a, str>,
}

impl<'a> Document<'a> {
    /// Parses one document. `InvalidDefinition` says where it is not well-formed, or what of it is
    /// refused.
    pub fn parse(xml: &'a str) -> Result<Document<'a>> {
        parse::document(xml)
    }

    /// The root, if it has this name: what a parser of one noun begins with.
    ///
    /// # Errors
    /// [`Kind::InvalidDefinition`] with the name that it has.
    pub fn expect(&self, name: &str) -> Result<&Element<'a>> {
        let root = self.root();
        if root.is(name) {
            return Ok(root);
        }
        Err(Error::new(
            Kind::InvalidDefinition,
            format!("the XML describes a <{}>, not a <{name}>", shown(root.name())),
        ))
    }

    /// The document's element.
    pub fn root(&self) -> &Element<'a> {
        &self.root
    }

    /// The document's element, to be edited.
    pub fn root_mut(&mut self) -> &mut Element<'a> {
        &mut self.root
    }

    /// The text. `InvalidRequest` if a value that was set holds a character XML cannot carry.
    pub fn to_xml(&self) -> Result<String> {
        write::document(self)
    }
}

/// Building an element: names are literals, values are escaped.
impl<'a> Element<'a> {
    /// An element without attributes and children.
    pub fn new(name: &'static str) -> Element<'a> {
        Element {
            name: Cow::Borrowed(name),
            namespace: None,
            attributes: Vec::new(),
            children: Vec::new(),
            lead: None,
            start_tail: "",
            end_tail: "",
            self_closing: true,
        }
    }

    /// An element that declares its own namespace: `name` with the prefix, and the attribute that
    /// declares it, such as `xmlns:vapor`.
    pub fn new_in(uri: &str, name: &'static str, declaration: &'static str) -> Element<'a> {
        let mut element = Element::new(name).with_attr(declaration, uri);
        element.namespace = Some(Arc::from(uri));
        element
    }

    /// An element with this local name in the namespace, and with the prefix, of another one.
    pub fn new_beside(other: &Element<'a>, local: &'static str) -> Element<'a> {
        let mut element = Element::new(local);
        element.namespace = other.namespace.clone();
        if let Some(prefix) = other.prefix() {
            element.name = Cow::Owned(format!("{prefix}:{local}"));
        }
        element
    }

    /// The same element and its descendants without this namespace's prefix and declaration, as
    /// `virDomainSetMetadata` wants it.
    pub(super) fn without_namespace(mut self, uri: &str) -> Element<'a> {
        if self.namespace.as_deref() == Some(uri) {
            self.name = Cow::Owned(self.local_name().to_owned());
            self.namespace = None;
        }
        self.attributes.retain(|attribute| {
            !(attribute.name.starts_with("xmlns")
                && escape::value_of_attribute(&attribute.value) == uri)
        });
        for node in &mut self.children {
            if let Node::Element(child) = node {
                let taken = std::mem::replace(child, Element::new(""));
                *child = taken.without_namespace(uri);
            }
        }
        self
    }

    /// The same element with one attribute more.
    #[must_use]
    pub fn with_attr(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.set_attr(name, value);
        self
    }

    /// The same element with one attribute more, if there is a value for it.
    #[must_use]
    pub fn with_attr_if(self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with_attr(name, value),
            None => self,
        }
    }

    /// The same element with this text.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.set_text(text);
        self
    }

    /// The same element with one child more.
    #[must_use]
    pub fn with_child(mut self, child: Element<'a>) -> Self {
        self.children.push(Node::Element(child));
        self
    }

    /// The same element with these children more; takes an `Option` as well.
    #[must_use]
    pub fn with_children(mut self, children: impl IntoIterator<Item = Element<'a>>) -> Self {
        self.children.extend(children.into_iter().map(Node::Element));
        self
    }

    /// The text of a document made of this element, indented as libvirt does, with a line break at
    /// its end. `InvalidRequest` if a value holds a character XML cannot carry.
    pub fn into_xml(mut self) -> Result<String> {
        self.lay_out("\n");
        write::authored(&self)
    }
}

/// Reading.
impl<'a> Element<'a> {
    /// The name as written, with its prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name without its prefix.
    pub fn local_name(&self) -> &str {
        self.name.split_once(':').map_or(&self.name, |(_, local)| local)
    }

    fn prefix(&self) -> Option<&str> {
        self.name.split_once(':').map(|(prefix, _)| prefix)
    }

    /// The namespace's URI, if the element is in one.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Whether this is libvirt's own element of this name, one without namespace.
    pub fn is(&self, name: &str) -> bool {
        self.namespace.is_none() && self.name == name
    }

    /// The child elements, in order.
    pub fn elements(&self) -> impl Iterator<Item = &Element<'a>> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The child elements, in order, to be edited.
    pub fn elements_mut(&mut self) -> impl Iterator<Item = &mut Element<'a>> {
        self.children.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The children that are libvirt's own elements of this name.
    pub fn children<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Element<'a>> {
        self.elements().filter(move |element| element.is(name))
    }

    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Element<'a>> {
        self.elements().find(|element| element.is(name))
    }

    /// The first child of this name, to be edited.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Element<'a>> {
        self.elements_mut().find(|element| element.is(name))
    }

    /// The first child of this local name in a namespace.
    pub fn child_in(&self, namespace: &str, local: &str) -> Option<&Element<'a>> {
        self.elements().find(|element| element.is_in(namespace, local))
    }

    /// The first child of this local name in a namespace, to be edited.
    pub fn child_in_mut(&mut self, namespace: &str, local: &str) -> Option<&mut Element<'a>> {
        self.elements_mut().find(|element| element.is_in(namespace, local))
    }

    /// Whether this is the element of this local name in a namespace.
    pub fn is_in(&self, namespace: &str, local: &str) -> bool {
        self.namespace() == Some(namespace) && self.local_name() == local
    }

    /// The first descendant along a path of names, such as `os/type`.
    pub fn find(&self, path: &str) -> Option<&Element<'a>> {
        path.split('/').try_fold(self, |element, name| element.child(name))
    }

    /// The value of the attribute written with this name, prefix included.
    pub fn attr(&self, name: &str) -> Option<Cow<'_, str>> {
        let attribute = self.attributes.iter().find(|attribute| attribute.name == name)?;
        Some(escape::value_of_attribute(&attribute.value))
    }

    /// The names of the attributes, as written.
    pub fn attr_names(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(|attribute| attribute.name)
    }

    /// The element's own text, CDATA included and that of its children left out.
    pub fn text(&self) -> Cow<'_, str> {
        let mut parts = self.children.iter().filter_map(|node| match node {
            Node::Text(raw) => Some(escape::value_of_text(raw)),
            Node::CData(raw) => Some(escape::lines(raw)),
            Node::Element(_) | Node::Verbatim(_) => None,
        });
        let Some(mut text) = parts.next() else { return Cow::Borrowed("") };
        for part in parts {
            text.to_mut().push_str(&part);
        }
        text
    }

    /// The text along a path, white space around it removed; none if the path leads nowhere or the
    /// text is empty.
    pub fn find_text(&self, path: &str) -> Option<String> {
        let text = self.find(path)?.text();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The attribute of the element along a path.
    pub fn find_attr(&self, path: &str, name: &str) -> Option<String> {
        self.find(path)?.attr(name).map(Cow::into_owned)
    }
}

/// Editing. Each function leaves alone what already is as it shall be.
impl<'a> Element<'a> {
    /// Sets an attribute: in its place if it exists, else at the end.
    pub fn set_attr(&mut self, name: &'static str, value: impl Into<String>) {
        let value = value.into();
        match self.attributes.iter_mut().find(|attribute| attribute.name == name) {
            Some(attribute) if escape::value_of_attribute(&attribute.value) == value => {}
            Some(attribute) => {
                attribute.value = Cow::Owned(escape::attribute(&value, attribute.quote));
            }
            None => self.attributes.push(Attribute {
                before: " ",
                name,
                equals: "=",
                quote: '\'',
                value: Cow::Owned(escape::attribute(&value, '\'')),
            }),
        }
    }

    /// Sets every attribute of another element: in its place if it exists, else at the end.
    pub fn take_attributes(&mut self, other: &Element<'a>) {
        for attribute in &other.attributes {
            match self.attributes.iter_mut().find(|present| present.name == attribute.name) {
                Some(present) => {
                    present.quote = attribute.quote;
                    present.value = attribute.value.clone();
                }
                None => self.attributes.push(Attribute { before: " ", ..attribute.clone() }),
            }
        }
    }

    /// Removes an attribute.
    pub fn remove_attr(&mut self, name: &str) {
        self.attributes.retain(|attribute| attribute.name != name);
    }

    /// Sets the element's own text; comments and child elements in it stay.
    pub fn set_text(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.text() == text {
            return;
        }
        let escaped = Node::Text(Cow::Owned(escape::text(&text)));
        let is_text = |node: &Node<'_>| matches!(node, Node::Text(_) | Node::CData(_));
        let place = self.children.iter().position(is_text).unwrap_or(self.children.len());
        self.children.retain(|node| !is_text(node));
        if !text.is_empty() {
            // Nothing that was removed stood before the first text.
            self.children.insert(place, escaped);
        }
    }

    /// Adds a child after its siblings that come before it in `order`, with their indentation.
    /// A name that `order` does not have comes last.
    pub fn insert_child_in_order(&mut self, child: Element<'a>, order: &[&str]) {
        let rank = |name: &str| order.iter().position(|o| *o == name).unwrap_or(usize::MAX);
        let own = rank(&child.name);
        let before = self.children.iter().rposition(|node| match node {
            Node::Element(sibling) => rank(&sibling.name) <= own,
            _ => false,
        });
        let place = match before {
            Some(index) => self.end_of_line(index) + 1,
            None => 0,
        };
        self.insert(place, child);
    }

    /// Adds a child after all others, with their indentation.
    pub fn push_child(&mut self, child: Element<'a>) {
        self.insert_child_in_order(child, &[]);
    }

    /// Removes the child elements for which `keep` says no, each with the line it stands on.
    pub fn retain_elements(&mut self, mut keep: impl FnMut(&Element<'a>) -> bool) {
        let before = self.children.len();
        let mut kept: Vec<Node<'a>> = Vec::with_capacity(before);
        for node in std::mem::take(&mut self.children) {
            match &node {
                Node::Element(element) if !keep(element) => trim_lead(&mut kept),
                _ => kept.push(node),
            }
        }
        self.children = kept;
        let is_blank = |node: &Node<'_>| matches!(node, Node::Text(text) if text.trim().is_empty());
        if self.children.len() < before && self.children.iter().all(is_blank) {
            self.children.clear();
            self.self_closing = true;
        }
    }

    /// Removes the first child of this name; whether there was one.
    pub fn remove_child(&mut self, name: &str) -> bool {
        let mut found = false;
        self.retain_elements(|element| {
            let remove = !found && element.is(name);
            found |= remove;
            !remove
        });
        found
    }

    /// The last node of the line that begins with the node `index`: a comment behind an element
    /// belongs to it.
    fn end_of_line(&self, index: usize) -> usize {
        match (self.children.get(index + 1), self.children.get(index + 2)) {
            (Some(Node::Verbatim(_)), _) => index + 1,
            (Some(Node::Text(blank)), Some(Node::Verbatim(_)))
                if !blank.is_empty() && blank.chars().all(|c| matches!(c, ' ' | '\t')) =>
            {
                index + 2
            }
            _ => index,
        }
    }

    fn insert(&mut self, place: usize, mut child: Element<'a>) {
        let sibling = self.elements().find_map(|element| element.lead.clone());
        let lead = match (sibling, &self.lead) {
            (Some(lead), _) => Some(lead),
            (None, Some(own)) if self.elements().next().is_none() => {
                Some(Cow::Owned(format!("{own}  ")))
            }
            _ => None,
        };
        let Some(lead) = lead else {
            self.children.insert(place, Node::Element(child));
            return;
        };
        child.lay_out(&lead);
        if self.elements().next().is_none() {
            // The first child: what was between the tags, if anything, was white space or comments.
            let close = self.lead.clone().unwrap_or_default();
            match self.children.last() {
                Some(Node::Text(text)) if text.trim().is_empty() && text.contains('\n') => {}
                _ => self.children.push(Node::Text(close)),
            }
        }
        self.children.insert(place, Node::Element(child));
        self.children.insert(place, Node::Text(lead));
    }

    /// Gives the element and its descendants lines of their own; `lead` is the line break and the
    /// indentation before the element itself.
    fn lay_out(&mut self, lead: &str) {
        self.lead = Some(Cow::Owned(lead.to_owned()));
        if self.children.is_empty() || !self.children.iter().all(|n| matches!(n, Node::Element(_)))
        {
            return;
        }
        let inner = format!("{lead}  ");
        let children = std::mem::take(&mut self.children);
        for mut child in children {
            if let Node::Element(element) = &mut child {
                element.lay_out(&inner);
            }
            self.children.push(Node::Text(Cow::Owned(inner.clone())));
            self.children.push(child);
        }
        self.children.push(Node::Text(Cow::Owned(lead.to_owned())));
    }
}

/// Removes the line break and the indentation that the nodes end with.
fn trim_lead(nodes: &mut Vec<Node<'_>>) {
    let Some(Node::Text(text)) = nodes.last_mut() else { return };
    let Some(at) = start_of_lead(text) else { return };
    match text {
        Cow::Borrowed(text) => *text = &text[..at],
        Cow::Owned(text) => text.truncate(at),
    }
    if text.is_empty() {
        nodes.pop();
    }
}

/// As much of a name as belongs into a message.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(40).collect()
}

/// Where the line break that begins the last line of a text stands, if only white space follows it.
fn start_of_lead(text: &str) -> Option<usize> {
    let at = text.rfind('\n')?;
    if !text[at..].trim().is_empty() {
        return None;
    }
    Some(if text[..at].ends_with('\r') { at - 1 } else { at })
}

#[cfg(test)]
mod tests;
