use proptest::prelude::*;

use super::*;
use crate::error::Kind;

fn rewritten(xml: &str) -> String {
    Document::parse(xml).unwrap().to_xml().unwrap()
}

fn refusal(xml: &str) -> String {
    let start: String = xml.chars().take(80).collect();
    let Err(error) = Document::parse(xml) else { panic!("{start:?} was not refused") };
    assert_eq!(error.kind(), Kind::InvalidDefinition, "{start:?}");
    error.message().to_owned()
}

#[test]
fn what_is_not_touched_is_written_back_byte_for_byte() {
    for xml in [
        "<a/>",
        "<a />",
        "<a></a>",
        "<a\n\tb = 'x'\r\n c=\"it's\" ></a >",
        "\u{FEFF}<?xml version=\"1.0\" encoding='utf-8'?>\n<!-- p --><?x y?>\n<a/>\n<!-- e -->\n",
        "<a>&lt;&#10;&#x41;&amp;<![CDATA[<&]] >]]>&gt; ü 🦀<!-- - --><?pi a=\"b\"?>\r\n</a>",
        "<q:a xmlns:q='u:q' q:b='1'><c xmlns='u:c'><q:d/></c></q:a>",
        "<a b='/'/>",
        "<a b='>'>]]</a>",
        "<ä ö='1'/>",
        "<a>  \n\n  <b/><c/>text<d/>\n</a>",
    ] {
        assert_eq!(rewritten(xml), xml);
    }
}

#[test]
fn values_are_read_as_a_parser_reads_them() {
    let document = Document::parse(
        "<a x='1\n2&#10;3&amp;lt;&quot;' y=\"&apos;&gt;\">a&lt;\r\nb<![CDATA[&lt;]]><!--c--> d</a>",
    )
    .unwrap();
    let root = document.root();
    assert_eq!(root.attr("x").unwrap(), "1 2\n3&lt;\"");
    assert_eq!(root.attr("y").unwrap(), "'>");
    assert_eq!(root.attr("z"), None);
    assert_eq!(root.text(), "a<\nb&lt; d");
}

#[test]
fn what_is_not_well_formed_is_refused_with_its_line() {
    for xml in [
        "",
        " ",
        "text",
        "<a>",
        "</a>",
        "<a></b>",
        "<a></a></a>",
        "<a/><b/>",
        "<a/>x",
        "<a/>&lt;",
        "<![CDATA[x]]><a/>",
        "<a b/>",
        "<a b=1/>",
        "<a b='1'c='2'/>",
        "<a b='1' b='2'/>",
        "<a b='<'/>",
        "<a b=='1'/>",
        "<a b='1/>",
        "<a b='&'/>",
        "<a b='&x;'/>",
        "<a>&</a>",
        "<a>&x;</a>",
        "<a>&amp</a>",
        "<a>&#0;</a>",
        "<a>&#x1F;</a>",
        "<a>&#+65;</a>",
        "<a>&#xD800;</a>",
        "<a>\u{1}</a>",
        "<a>]]></a>",
        "<a><!-- -- --></a>",
        "<a><b></a></b>",
        "<1/>",
        "<a:b:c/>",
        "<:a/>",
        "< a/>",
        "<a><?xml version='1.0'?></a>",
        "<a",
        "<a><!--",
        "<a><![CDATA[",
    ] {
        refusal(xml);
    }
    assert!(refusal("<a>\n<b>\n</a>").ends_with("(line 3)"), "{}", refusal("<a>\n<b>\n</a>"));
}

#[test]
fn what_another_parser_might_understand_differently_is_refused() {
    let bomb = "<!DOCTYPE a [<!ENTITY x 'xx'>]><a>&x;</a>";
    assert!(refusal(bomb).contains("document type"));
    assert!(refusal("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>").contains("document type"));
    assert!(refusal("<?xml version='1.0' encoding='UTF-16'?><a/>").contains("encoding"));
}

#[test]
fn size_depth_and_number_of_nodes_are_bounded() {
    let nested = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
    assert_eq!(rewritten(&nested(MAX_DEPTH)).len(), nested(MAX_DEPTH).len());
    assert!(refusal(&nested(MAX_DEPTH + 1)).contains("levels"));
    assert!(refusal(&nested(200_000)).contains("levels"));
    assert!(refusal(&format!("<a>{}</a>", "<b/>".repeat(MAX_NODES + 1))).contains("nodes"));
    assert!(refusal(&format!("<a>{}</a>", " ".repeat(MAX_BYTES))).contains("bytes"));
    let attributes: String = (0..300).map(|n| format!(" a{n}='1'")).collect();
    assert!(refusal(&format!("<a{attributes}/>")).contains("attributes"));
}

#[test]
fn namespaces_in_force_are_bounded() {
    let declared: String = (0..100).map(|n| format!(" xmlns:a{n}='u'")).collect();
    assert!(
        refusal(&format!("<a{declared}><a{declared}><a{declared}/></a></a>"))
            .contains("namespaces")
    );
    let beside = format!("<a>{}</a>", format!("<a{declared}/>").repeat(10));
    assert_eq!(rewritten(&beside), beside);
}

#[test]
fn a_long_name_is_not_repeated_whole() {
    let long = "x".repeat(100_000);
    for xml in [
        format!("<{long}>"),
        format!("<{long}!/>"),
        format!("<a {long}/>"),
        format!("<a></{long}>"),
        format!("<a>&{long};</a>"),
        format!("<a {long}='1' {long}='2'/>"),
    ] {
        assert!(refusal(&xml).len() < 200);
    }
}

#[test]
fn many_children_are_removed_in_one_go() {
    let xml = format!("<r>{}\n</r>", "\n  <a/>\n  <b/>".repeat(40_000));
    let start = std::time::Instant::now();
    let left = edited(&xml, |r| r.retain_elements(|e| !e.is("a")));
    assert_eq!(left, format!("<r>{}\n</r>", "\n  <b/>".repeat(40_000)));
    assert!(start.elapsed().as_secs() < 10);
}

#[test]
fn names_are_told_apart_by_namespace() {
    let document = Document::parse(
        "<a xmlns:q='u:q'><q:b/><b/><c xmlns='u:c'><b/></c><q:c xmlns:q='u:r'/><z:b/></a>",
    )
    .unwrap();
    let root = document.root();
    assert_eq!(root.children("b").count(), 1);
    assert!(root.child_in("u:q", "b").is_some());
    assert!(root.child_in("u:q", "c").is_none());
    assert!(root.child_in("u:r", "c").is_some());
    assert!(root.child("c").is_none());
    assert!(root.child_in("u:c", "c").unwrap().child("b").is_none());
    assert_eq!(root.elements().last().unwrap().namespace(), None);
}

#[test]
fn a_declaration_ends_with_its_element() {
    let document = Document::parse("<a><b xmlns='u'><c/></b><d/><e xmlns='u'/><f/></a>").unwrap();
    let namespaces: Vec<_> = document.root().elements().map(Element::namespace).collect();
    assert_eq!(namespaces, [Some("u"), None, Some("u"), None]);
}

fn edited(xml: &str, edit: impl FnOnce(&mut Element<'_>)) -> String {
    let mut document = Document::parse(xml).unwrap();
    edit(document.root_mut());
    document.to_xml().unwrap()
}

#[test]
fn an_edit_keeps_quotes_order_and_comments() {
    let xml = "<a  x = \"1\"\n y='2' ><!-- c -->old</a>";
    assert_eq!(
        edited(xml, |a| {
            a.set_attr("x", "\"&'");
            a.set_attr("z", "'");
            a.set_text("<new>");
        }),
        "<a  x = \"&quot;&amp;'\"\n y='2' z='&apos;' ><!-- c -->&lt;new&gt;</a>"
    );
    assert_eq!(edited(xml, |a| a.remove_attr("x")), "<a\n y='2' ><!-- c -->old</a>");
}

#[test]
fn setting_what_already_is_changes_nothing() {
    let xml = "<a x='&#65;'><![CDATA[b]]>&#99;</a>";
    assert_eq!(
        edited(xml, |a| {
            a.set_attr("x", "A");
            a.set_text("bc");
        }),
        xml
    );
}

#[test]
fn a_new_child_takes_its_place_and_its_siblings_indentation() {
    let order = ["a", "b", "c", "d"];
    let new = || Element::new("c").with_child(Element::new("x").with_text("1"));
    assert_eq!(
        edited("<r>\n    <a/> <!-- of a -->\n    <!-- of d -->\n    <d/>\n</r>", |r| {
            r.insert_child_in_order(new(), &order);
        }),
        "<r>\n    <a/> <!-- of a -->\n    <c>\n      <x>1</x>\n    </c>\n    <!-- of d -->\n    <d/>\n</r>"
    );
    assert_eq!(
        edited("<r>\r\n  <d/>\r\n</r>", |r| r.insert_child_in_order(Element::new("c"), &order)),
        "<r>\r\n  <c/>\r\n  <d/>\r\n</r>"
    );
    assert_eq!(
        edited("<r><d/></r>", |r| r.insert_child_in_order(new(), &order)),
        "<r><c><x>1</x></c><d/></r>"
    );
    assert_eq!(edited("<r/>", |r| r.push_child(Element::new("c"))), "<r>\n  <c/>\n</r>");
    assert_eq!(
        edited("<r>\n  <m/>\n</r>", |r| r.child_mut("m").unwrap().push_child(new())),
        "<r>\n  <m>\n    <c>\n      <x>1</x>\n    </c>\n  </m>\n</r>"
    );
}

#[test]
fn a_removed_child_takes_its_line_along() {
    let xml = "<r>\n  <a/>\n  <b/>\n  <!-- c -->\n  <b/></r>";
    assert_eq!(edited(xml, |r| r.retain_elements(|e| !e.is("b"))), "<r>\n  <a/>\n  <!-- c --></r>");
    assert_eq!(edited("<r>\n  <a/>\n</r>", |r| assert!(r.remove_child("a"))), "<r/>");
    assert_eq!(edited("<r>x <a/> y</r>", |r| assert!(r.remove_child("a"))), "<r>x  y</r>");
    assert_eq!(edited("<r/>", |r| assert!(!r.remove_child("a"))), "<r/>");
}

#[test]
fn what_is_authored_looks_like_libvirts() {
    let xml = Element::new("a")
        .with_attr("b", "it's")
        .with_child(Element::new("c").with_text("1 < 2"))
        .with_child(Element::new("d").with_child(Element::new("e")))
        .into_xml()
        .unwrap();
    assert_eq!(xml, "<a b='it&apos;s'>\n  <c>1 &lt; 2</c>\n  <d>\n    <e/>\n  </d>\n</a>\n");
}

#[test]
fn characters_that_xml_cannot_carry_are_the_requests_fault() {
    for element in [Element::new("a").with_text("\0"), Element::new("a").with_attr("b", "\u{FFFF}")]
    {
        assert_eq!(element.into_xml().unwrap_err().kind(), Kind::InvalidRequest);
    }
    let mut document = Document::parse("<a/>").unwrap();
    document.root_mut().set_text("\u{8}");
    assert!(document.to_xml().unwrap_err().message().contains("text of <a>"));
}

proptest! {
    #[test]
    fn any_value_survives_writing_and_reading(value in any::<String>()) {
        let text = Element::new("a").with_attr("b", &value).with_text(&value).into_xml();
        if value.chars().all(escape::is_char) {
            let xml = text.unwrap();
            let document = Document::parse(&xml).unwrap();
            prop_assert_eq!(document.root().attr("b").unwrap(), value.as_str());
            prop_assert_eq!(document.root().text(), value.as_str());
            prop_assert_eq!(document.root().elements().count(), 0);
        } else {
            prop_assert_eq!(text.unwrap_err().kind(), Kind::InvalidRequest);
        }
    }

    #[test]
    fn any_text_is_refused_or_written_back(
        xml in "(<a>|<b x='[&;\"<a]{0,3}' ?/>|</a>|<!--[- a]{0,3}-->|[&;#a<> \\n]{0,4}|&amp;|<!\\[CDATA\\[|]]>){0,12}"
    ) {
        for xml in [format!("<a>{xml}</a>"), xml] {
            if let Ok(document) = Document::parse(&xml) {
                prop_assert_eq!(document.to_xml().unwrap(), xml);
            }
        }
    }
}
