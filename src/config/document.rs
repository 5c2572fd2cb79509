//! docs/configuration.md and vapor.conf(5), made of `vapor.conf.example`. Tests hold the example to the
//! types of the configuration, key by key and with the defaults, so these texts cannot stray.

use std::fmt::Write;

/// The example, which is also the file that packages install.
pub const EXAMPLE: &str = include_str!("../../vapor.conf.example");

/// What a running daemon takes over on SIGHUP: whole sections, or keys of one.
const RELOADED: [(&str, Option<&str>); 2] = [("limits", None), ("log", Some("level"))];

/// One `[section]` of the example.
struct Section<'e> {
    name: &'e str,
    entries: Vec<Entry<'e>>,
}

/// Keys that are explained together.
#[derive(Default)]
struct Entry<'e> {
    text: Vec<&'e str>,
    /// Each key with the value that the example shows.
    keys: Vec<(&'e str, &'e str)>,
}

impl Entry<'_> {
    /// The explanation in one line.
    fn words(&self) -> String {
        self.text.join(" ")
    }
}

fn sections() -> Vec<Section<'static>> {
    let mut sections: Vec<Section<'static>> = Vec::new();
    let mut entry = Entry::default();
    for line in EXAMPLE.lines().chain([""]) {
        if let Some(name) = line.strip_prefix('[') {
            sections.push(Section { name: name.trim_end_matches(']'), entries: Vec::new() });
        } else if let Some(text) = line.strip_prefix("# ") {
            entry.text.push(text);
        } else if let Some((key, value)) = line.strip_prefix('#').and_then(|l| l.split_once(" = "))
        {
            entry.keys.push((key, value));
        } else if line.is_empty() {
            let whole = std::mem::take(&mut entry);
            // The words at the head of the file belong to no section.
            if let (Some(section), false) = (sections.last_mut(), whole.keys.is_empty()) {
                section.entries.push(whole);
            }
        }
    }
    sections
}

fn reloaded(section: &str, key: &str) -> bool {
    // Transfers under way keep to what they were begun with, and the service to what it was.
    let kept = section == "limits" && key.starts_with("upload_");
    !kept
        && RELOADED
            .iter()
            .any(|(name, only)| *name == section && only.is_none_or(|only| only == key))
}

const WHEN: &str = "Read anew by \"systemctl reload vapord\" (SIGHUP): ";
const RESTART: &str = "everything else by the next start.";

fn when() -> String {
    let parts = RELOADED.map(|(section, key)| match key {
        Some(key) => format!("{key} in [{section}]"),
        None => format!("[{section}] but for uploads"),
    });
    format!("{WHEN}{}; {RESTART}", parts.join(" and "))
}

/// The text of docs/configuration.md.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration of vapord\n\n\
         Made of `vapor.conf.example` by `vapord --print-configuration`; do not edit.\n\n\
         One TOML file, `/etc/vapor/vapor.conf`; for other users than root, and without `--system`,\n\
         `$XDG_CONFIG_HOME/vapor/vapor.conf`; `vapord --config FILE` names another one. Every key has a\n\
         default; an unknown key is refused. `vapord --check-config` says what is wrong, with lines.\n\n",
    );
    let _ = writeln!(page, "{}", when());
    for section in sections() {
        let _ =
            write!(page, "\n## [{}]\n\n| key | default | |\n| --- | --- | --- |\n", section.name);
        for entry in &section.entries {
            let keys: Vec<_> = entry.keys.iter().map(|(key, _)| format!("`{key}`")).collect();
            let values: Vec<_> = entry.keys.iter().map(|(_, value)| shown(entry, value)).collect();
            let words = entry.words().replace('|', "\\|");
            let live = entry.keys.iter().any(|(key, _)| reloaded(section.name, key));
            let live = if live { " *(reload)*" } else { "" };
            let _ =
                writeln!(page, "| {} | {} | {words}{live} |", keys.join(", "), values.join(", "));
        }
    }
    page
}

/// A key without a default is shown with a value that one might write.
fn shown(entry: &Entry<'_>, value: &str) -> String {
    if entry.text.iter().any(|line| line.contains("Absent: ")) {
        return format!("none; for example `{value}`");
    }
    format!("`{value}`")
}

/// vapor.conf(5), for man.
pub fn man() -> String {
    let mut page = format!(
        ".TH vapor.conf 5 \"\" \"vapor {}\" \"Vapor\"\n\
         .SH NAME\nvapor.conf \\- configuration of vapord\n\
         .SH SYNOPSIS\n.I /etc/vapor/vapor.conf\n\
         .SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    );
    page.push_str(
        "A TOML file. Every key has a default, which is shown here; an unknown key is refused.\n\
         .B vapord \\-\\-check\\-config\nsays what is wrong with it, with line numbers.\n.PP\n",
    );
    let _ = writeln!(page, "{}", roff(&when()));
    for section in sections() {
        let _ = writeln!(page, ".SH \"[{}]\"", section.name.to_uppercase());
        for entry in &section.entries {
            for (number, (key, value)) in entry.keys.iter().enumerate() {
                let tag = if number == 0 { ".TP" } else { ".TQ" };
                let _ = writeln!(page, "{tag}\n\\fB{}\\fR = {}", roff(key), roff(value));
            }
            let _ = writeln!(page, "{}", roff(&entry.words()));
        }
    }
    page.push_str(".SH \"SEE ALSO\"\n.BR vapord (8),\n.BR vapor (1)\n");
    page
}

/// Text as roff takes it literally.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_example_is_in_both_texts() {
        let (markdown, man) = (markdown(), man());
        let keys = sections().into_iter().flat_map(|section| section.entries);
        let mut count = 0;
        for (key, value) in keys.flat_map(|entry| entry.keys) {
            count += 1;
            assert!(markdown.contains(&format!("`{key}`")), "{key}");
            assert!(markdown.contains(&format!("`{value}`")), "{key} = {value}");
            assert!(man.contains(&format!("\\fB{}\\fR = ", roff(key))), "{key}");
        }
        let lines = EXAMPLE.lines().filter(|line| line.starts_with('#') && line.contains(" = "));
        assert_eq!(count, lines.filter(|line| !line.starts_with("# ")).count());
    }

    #[test]
    fn what_is_read_anew_is_said() {
        assert!(reloaded("limits", "body_bytes") && reloaded("log", "level"));
        assert!(!reloaded("log", "format") && !reloaded("server", "port"));
        assert!(
            markdown().contains("[limits] but for uploads and level in [log]; everything else")
        );
    }

    #[test]
    fn the_committed_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == markdown(),
            "docs/configuration.md is out of date: vapord --print-configuration"
        );
    }
}
