//! Text to tree. quick-xml finds the tokens and checks that tags match; the tags themselves are
//! taken apart here, because every blank and quote of them is kept.

use std::borrow::Cow;
use std::sync::Arc;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::{
    Attribute, Document, Element, MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, escape, shown,
    start_of_lead,
};
use crate::error::{Error, Kind, Result};

/// The most attributes of one element: each is compared with the others.
const MAX_ATTRIBUTES: usize = 256;
/// The most namespace declarations in force at one place: each name may be compared with each.
const MAX_SCOPES: usize = 256;
const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

pub(super) fn document(xml: &str) -> Result<Document<'_>> {
    if xml.len() > MAX_BYTES {
        let size = xml.len();
        return Err(refused(format!(
            "the XML is {size} bytes long, and at most {MAX_BYTES} are allowed"
        )));
    }
    if let Some((at, bad)) = xml.char_indices().find(|(_, c)| !escape::is_char(*c)) {
        return Err(malformed(xml, at, format!("holds {bad:?}, which XML cannot carry")));
    }
    let mut parser = Parser::new(xml);
    parser.run()?;
    let Some((root, range)) = parser.root else {
        return Err(malformed(xml, xml.len(), "has no element"));
    };
    Ok(Document { prolog: &xml[..range.start], root, epilog: &xml[range.end..] })
}

struct Parser<'a> {
    xml: &'a str,
    /// What is open: each element with the place where its start tag begins.
    open: Vec<(Element<'a>, usize)>,
    root: Option<(Element<'a>, std::ops::Range<usize>)>,
    /// Where the text under way begins; references are part of it.
    text: Option<usize>,
    scopes: Vec<Scope<'a>>,
    nodes: usize,
}

/// A namespace declaration in force, and how deep it was made.
struct Scope<'a> {
    depth: usize,
    prefix: &'a str,
    uri: Option<Arc<str>>,
}

impl<'a> Parser<'a> {
    fn new(xml: &'a str) -> Self {
        Parser {
            xml,
            open: Vec::with_capacity(16),
            root: None,
            text: None,
            scopes: Vec::new(),
            nodes: 0,
        }
    }

    fn run(&mut self) -> Result<()> {
        // The byte order mark is not the reader's business, so that positions stay true.
        let start = if self.xml.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 };
        let mut reader = Reader::from_str(&self.xml[start..]);
        reader.config_mut().check_comments = true;
        loop {
            let from = start + position(reader.buffer_position());
            let event = reader.read_event().map_err(|cause| {
                let at = start + position(reader.error_position());
                // The cause repeats names of any length, and goes to the log.
                let cause: String = cause.to_string().chars().take(200).collect();
                malformed(self.xml, at, "is not well-formed").with_source(cause)
            })?;
            let to = start + position(reader.buffer_position());
            if !matches!(event, Event::Text(_) | Event::GeneralRef(_)) {
                self.end_text(from)?;
            }
            let raw = &self.xml[from..to];
            match event {
                Event::Text(_) | Event::GeneralRef(_) => {
                    self.text.get_or_insert(from);
                }
                Event::Start(_) => self.start(raw, from)?,
                Event::Empty(_) => {
                    let element = self.tag(raw, from, "/>")?;
                    self.close(element, from, to)?;
                }
                Event::End(_) => self.end(raw, from, to)?,
                Event::CData(_) => {
                    let inner = within(raw, "<![CDATA[", "]]>");
                    let inner = inner.ok_or_else(|| self.malformed(from, "has a bad CDATA"))?;
                    if self.open.is_empty() {
                        return Err(self.malformed(from, "has text outside its element"));
                    }
                    self.push(Node::CData(inner), from)?;
                }
                Event::Comment(_) | Event::PI(_) => {
                    if !self.open.is_empty() {
                        self.push(Node::Verbatim(raw), from)?;
                    }
                }
                Event::Decl(decl) => {
                    if from != start {
                        return Err(self.malformed(from, "has an XML declaration inside"));
                    }
                    if let Some(encoding) = decl.encoding() {
                        let encoding = encoding.map_err(|cause| {
                            self.malformed(from, "has a bad XML declaration").with_source(cause)
                        })?;
                        check_encoding(encoding.as_ref())?;
                    }
                }
                Event::DocType(_) => {
                    return Err(refused("the XML has a document type, which is not allowed"));
                }
                Event::Eof => break,
            }
        }
        match self.open.last() {
            None => Ok(()),
            Some((element, from)) => Err(self
                .malformed(*from, format!("opens <{}> and never closes it", shown(&element.name)))),
        }
    }

    fn start(&mut self, raw: &'a str, from: usize) -> Result<()> {
        if self.open.len() >= MAX_DEPTH {
            return Err(refused(format!("the XML is nested more than {MAX_DEPTH} levels deep")));
        }
        let mut element = self.tag(raw, from, ">")?;
        element.self_closing = false;
        self.open.push((element, from));
        Ok(())
    }

    fn end(&mut self, raw: &'a str, from: usize, to: usize) -> Result<()> {
        let Some((mut element, begin)) = self.open.pop() else {
            return Err(self.malformed(from, "closes what was never opened"));
        };
        let inner = within(raw, "</", ">").unwrap_or_default();
        let Some(tail) = inner.strip_prefix(element.name.as_ref()).filter(|t| t.trim().is_empty())
        else {
            return Err(self.malformed(
                from,
                format!("closes <{}> with {:?}", shown(&element.name), shown(raw)),
            ));
        };
        element.end_tail = tail;
        self.close(element, begin, to)
    }

    fn close(&mut self, element: Element<'a>, from: usize, to: usize) -> Result<()> {
        while self.scopes.last().is_some_and(|scope| scope.depth > self.open.len()) {
            self.scopes.pop();
        }
        if !self.open.is_empty() {
            return self.push(Node::Element(element), from);
        }
        if self.root.is_some() {
            return Err(self.malformed(from, "has more than one root element"));
        }
        self.root = Some((element, from..to));
        Ok(())
    }

    fn push(&mut self, node: Node<'a>, at: usize) -> Result<()> {
        self.count(1)?;
        match self.open.last_mut() {
            Some((parent, _)) => {
                parent.children.push(node);
                Ok(())
            }
            None => Err(self.malformed(at, "has text outside its element")),
        }
    }

    fn count(&mut self, nodes: usize) -> Result<()> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(refused(format!("the XML has more than {MAX_NODES} nodes")));
        }
        Ok(())
    }

    fn end_text(&mut self, to: usize) -> Result<()> {
        let Some(from) = self.text.take() else { return Ok(()) };
        let raw = &self.xml[from..to];
        if self.open.is_empty() {
            return match raw.find(|c| !is_blank(c)) {
                None => Ok(()),
                Some(at) => Err(self.malformed(from + at, "has text outside its element")),
            };
        }
        if let Some(at) = raw.find("]]>") {
            return Err(self.malformed(from + at, "holds ]]> outside of CDATA"));
        }
        self.check_references(raw, from)?;
        self.push(Node::Text(Cow::Borrowed(raw)), from)
    }

    fn check_references(&self, raw: &str, from: usize) -> Result<()> {
        let mut at = 0;
        while let Some(next) = raw[at..].find('&') {
            at += next;
            let name = raw[at + 1..].split(';').next().unwrap_or_default();
            if name.len() + at + 1 == raw.len() || escape::reference(name).is_none() {
                let name = shown(name);
                return Err(self.malformed(
                    from + at,
                    format!("refers to {:?}, which is not defined", format!("&{name};")),
                ));
            }
            at += name.len() + 2;
        }
        Ok(())
    }

    /// Takes a start tag apart. `raw` is the whole tag, `close` what it ends with.
    fn tag(&mut self, raw: &'a str, from: usize, close: &str) -> Result<Element<'a>> {
        let inner = within(raw, "<", close).unwrap_or_default();
        let (name, mut rest) = inner.split_at(inner.find(is_blank).unwrap_or(inner.len()));
        if !is_qualified_name(name) {
            return Err(self.malformed(from, format!("has an element named {:?}", shown(name))));
        }
        let mut element = Element::new("");
        element.name = Cow::Borrowed(name);
        element.lead = self.lead(from);
        loop {
            let (before, after) = rest.split_at(rest.find(|c| !is_blank(c)).unwrap_or(rest.len()));
            if after.is_empty() {
                element.start_tail = before;
                break;
            }
            let (attribute, after) = self.attribute(before, after, from)?;
            if element.attributes.iter().any(|other| other.name == attribute.name) {
                let name = shown(attribute.name);
                return Err(self.malformed(from, format!("has the attribute {name} twice")));
            }
            self.count(1)?;
            element.attributes.push(attribute);
            if element.attributes.len() > MAX_ATTRIBUTES {
                let name = shown(name);
                return Err(refused(format!("<{name}> has more than {MAX_ATTRIBUTES} attributes")));
            }
            rest = after;
        }
        self.declare(&element.attributes);
        if self.scopes.len() > MAX_SCOPES {
            return Err(refused(format!("the XML has more than {MAX_SCOPES} namespaces at once")));
        }
        element.namespace = self.resolve(element.prefix().unwrap_or_default());
        Ok(element)
    }

    fn attribute(
        &self,
        before: &'a str,
        text: &'a str,
        from: usize,
    ) -> Result<(Attribute<'a>, &'a str)> {
        let (name, rest) =
            text.split_at(text.find(|c| c == '=' || is_blank(c)).unwrap_or(text.len()));
        if before.is_empty() || !is_qualified_name(name) {
            return Err(self.malformed(from, format!("has an attribute named {:?}", shown(name))));
        }
        let value_at = rest.find(|c| c != '=' && !is_blank(c)).unwrap_or(rest.len());
        let (equals, rest) = rest.split_at(value_at);
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let parts = quote.and_then(|quote| Some((quote, rest[1..].split_once(quote)?)));
        let Some((quote, (value, rest))) = parts.filter(|_| equals.matches('=').count() == 1)
        else {
            return Err(
                self.malformed(from, format!("gives the attribute {} no value", shown(name)))
            );
        };
        if value.contains('<') {
            return Err(self.malformed(from, format!("has '<' in the attribute {}", shown(name))));
        }
        self.check_references(value, from)?;
        Ok((Attribute { before, name, equals, quote, value: Cow::Borrowed(value) }, rest))
    }

    /// The line break and blanks before the tag that begins here.
    fn lead(&self, from: usize) -> Option<Cow<'a, str>> {
        let Some((parent, _)) = self.open.last() else { return Some(Cow::Borrowed("\n")) };
        let Some(Node::Text(Cow::Borrowed(text))) = parent.children.last() else { return None };
        debug_assert!(self.xml[..from].ends_with(text));
        Some(Cow::Borrowed(&text[start_of_lead(text)?..]))
    }

    fn declare(&mut self, attributes: &[Attribute<'a>]) {
        for attribute in attributes {
            let prefix = match attribute.name.strip_prefix("xmlns") {
                Some("") => "",
                Some(prefixed) if prefixed.starts_with(':') => &prefixed[1..],
                _ => continue,
            };
            let uri = escape::value_of_attribute(&attribute.value);
            let uri = (!uri.is_empty()).then(|| Arc::from(uri.as_ref()));
            self.scopes.push(Scope { depth: self.open.len() + 1, prefix, uri });
        }
    }

    /// A prefix that nobody declared has no namespace; libvirt will say what it thinks of it.
    fn resolve(&self, prefix: &str) -> Option<Arc<str>> {
        if prefix == "xml" {
            return Some(Arc::from(XML_NAMESPACE));
        }
        self.scopes.iter().rev().find(|scope| scope.prefix == prefix)?.uri.clone()
    }

    fn malformed(&self, at: usize, problem: impl std::fmt::Display) -> Error {
        malformed(self.xml, at, problem)
    }
}

fn position(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

fn malformed(xml: &str, at: usize, problem: impl std::fmt::Display) -> Error {
    let before = xml.get(..at).unwrap_or(xml);
    let line = before.matches('\n').count() + 1;
    Error::new(Kind::InvalidDefinition, format!("the XML {problem} (line {line})"))
        .with_detail("line", line)
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidDefinition, message)
}

/// libvirt's parser would follow the declaration and read something else than what was checked.
fn check_encoding(encoding: &str) -> Result<()> {
    if ["utf-8", "us-ascii", "ascii"].iter().any(|known| encoding.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(refused("the XML declares another encoding than UTF-8"))
}

fn within<'a>(raw: &'a str, open: &str, close: &str) -> Option<&'a str> {
    raw.strip_prefix(open)?.strip_suffix(close)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// A name with at most one prefix, after XML 1.0 and Namespaces in XML.
fn is_qualified_name(name: &str) -> bool {
    let mut parts = name.splitn(3, ':');
    let (first, second, third) = (parts.next(), parts.next(), parts.next());
    third.is_none() && first.is_some_and(is_plain_name) && second.is_none_or(is_plain_name)
}

fn is_plain_name(name: &str) -> bool {
    let starts = |c: char| {
        matches!(c, 'A'..='Z' | 'a'..='z' | '_'
            | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
            | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}'
            | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}'
            | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}' | '\u{10000}'..='\u{EFFFF}')
    };
    let continues = |c: char| {
        starts(c)
            || matches!(c, '-' | '.' | '0'..='9' | '\u{B7}'
                | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
    };
    name.starts_with(starts) && name.chars().all(continues)
}
