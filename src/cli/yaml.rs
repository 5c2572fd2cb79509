//! JSON values as YAML: block style, two spaces, and a text in quotation marks wherever a YAML
//! reader of any version might take it for something else.
//!
//! Only writing is needed, and only of values that JSON has; that is less than any crate brings.

use std::fmt::Write as _;

use serde_json::Value;

use super::text::is_unsafe;

/// One YAML document, with a line end at its end.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => block(&mut out, value, 0),
        Value::Array(items) if !items.is_empty() => block(&mut out, value, 0),
        scalar => {
            write_scalar(&mut out, scalar);
            out.push('\n');
        }
    }
    out
}

/// A non-empty object or array, its first line at the present position.
fn block(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) => {
            for (index, (key, value)) in members.iter().enumerate() {
                indent(out, if index == 0 { 0 } else { depth });
                write_text(out, key);
                out.push(':');
                if is_block(value) {
                    // a list under a key stands at the key's own depth plus one, like an object
                    out.push('\n');
                    indent(out, depth + 1);
                    block(out, value, depth + 1);
                } else {
                    out.push(' ');
                    write_scalar(out, value);
                    out.push('\n');
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                indent(out, if index == 0 { 0 } else { depth });
                out.push_str("- ");
                if is_block(item) {
                    block(out, item, depth + 1);
                } else {
                    write_scalar(out, item);
                    out.push('\n');
                }
            }
        }
        scalar => write_scalar(out, scalar),
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn write_scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => write_text(out, text),
        // null, true, false, numbers, {} and [] are the same in both languages
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

fn write_text(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whether every YAML reader takes the bare text for itself: it begins like a word, holds no
/// character with a meaning, and is none of the words that stand for something else.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./+ ".contains(c))
        && !text.ends_with(' ')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_and_lists_nest_in_block_style() {
        let value = json!({
            "name": "web1", "vcpus": 2, "disks": [{"target": "vda", "tags": ["a", "b"]}, {}],
            "os": {"boot": [], "machine": "pc-q35-10.0"}, "pending": null, "matrix": [[1, 2], [3]],
        });
        let wanted = "\
name: web1
vcpus: 2
disks:
  - target: vda
    tags:
      - a
      - b
  - {}
os:
  boot: []
  machine: pc-q35-10.0
pending: null
matrix:
  - - 1
    - 2
  - - 3
";
        assert_eq!(to_yaml(&value), wanted);
        assert_eq!(to_yaml(&json!([])), "[]\n");
    }

    #[test]
    fn a_text_that_could_be_taken_for_something_else_is_quoted() {
        for text in [
            "",
            "yes",
            "No",
            "null",
            "~",
            "1",
            "1.5",
            "0x1f",
            "1e3",
            "-",
            "- a",
            "a: b",
            "a #b",
            " a",
            "a ",
            "*x",
            "&x",
            "!x",
            "%x",
            "@x",
            "`x",
            "'x",
            "\"x",
            "[x",
            "{x",
            "|",
            ">",
            "?",
            ":",
            "2026-11-21",
            "12:30:45",
            "52:54:00:00:00:01",
            "ä",
            "a\nb",
            ".inf",
            "=",
            "<<",
        ] {
            let yaml = to_yaml(&json!(text));
            assert!(yaml.starts_with('"') && yaml.ends_with("\"\n"), "{text:?} became {yaml}");
            // what is quoted is JSON's own notation, so that a JSON reader reads it back
            assert_eq!(serde_json::from_str::<String>(&yaml).unwrap(), text);
        }
        for text in ["web1", "pc-q35-10.0", "/var/lib/x.qcow2", "Debian GNU/Linux 12", "_x"] {
            assert_eq!(to_yaml(&json!(text)), format!("{text}\n"));
        }
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_gets_out() {
        let yaml = to_yaml(&json!({"a\u{1b}": "b\u{9b}\u{202e}\u{7f}\r"}));
        assert_eq!(yaml, "\"a\\u001b\": \"b\\u009b\\u202e\\u007f\\u000d\"\n");
    }
}
