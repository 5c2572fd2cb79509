//! The forms of output: tables, sheets of one object, JSON, YAML and bare names.

use std::fmt::Write as _;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::Request;
use super::context::Context;
use super::failure::{Failure, Result};
use super::text::safe;

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people
    #[default]
    Table,
    /// The table with more columns
    Wide,
    /// The API's `data`, as it is
    Json,
    /// The same as YAML
    Yaml,
    /// Names (ids of tasks) alone, one per line
    Name,
}

impl Format {
    /// Whether the API's own data is wanted instead of text for people.
    pub const fn is_data(self) -> bool {
        matches!(self, Format::Json | Format::Yaml)
    }
}

/// One column of a list of `T`.
pub struct Column<T> {
    pub title: &'static str,
    /// Only in the wide table.
    pub wide: bool,
    /// Numbers stand at the right.
    pub right: bool,
    pub cell: fn(&T, Timestamp) -> String,
}

impl<T> Column<T> {
    /// A column of text.
    pub const fn text(title: &'static str, cell: fn(&T, Timestamp) -> String) -> Self {
        Column { title, wide: false, right: false, cell }
    }

    /// A column of numbers or sizes.
    pub const fn number(title: &'static str, cell: fn(&T, Timestamp) -> String) -> Self {
        Column { title, wide: false, right: true, cell }
    }

    /// A column of text in the wide table.
    pub const fn wide(title: &'static str, cell: fn(&T, Timestamp) -> String) -> Self {
        Column { title, wide: true, right: false, cell }
    }

    /// A column of numbers in the wide table.
    pub const fn wide_number(title: &'static str, cell: fn(&T, Timestamp) -> String) -> Self {
        Column { title, wide: true, right: true, cell }
    }
}

/// How the list of one noun is shown.
pub struct Listing<'a, T> {
    /// The member of `data` that holds the list.
    pub noun: &'static str,
    pub columns: &'a [Column<T>],
    /// What `-o name` prints of each.
    pub name: fn(&T) -> String,
}

impl<T: DeserializeOwned> Listing<'_, T> {
    /// Shows the `data` of a list reply.
    ///
    /// # Errors
    /// Those of writing, and data that does not fit `T`.
    pub fn show(&self, cx: &mut Context, data: &Value) -> Result<()> {
        if cx.format.is_data() {
            return cx.print_value(data);
        }
        let items: Vec<T> = read(data.get(self.noun).cloned().unwrap_or_else(|| json!([])))?;
        if cx.format == Format::Name {
            let names = items.iter().fold(String::new(), |mut text, item| {
                let _ = writeln!(text, "{}", safe(&(self.name)(item)));
                text
            });
            return cx.print(&names);
        }
        let wide = cx.format == Format::Wide;
        let columns: Vec<_> = self.columns.iter().filter(|column| wide || !column.wide).collect();
        let titles: Vec<_> = columns.iter().map(|column| (column.title, column.right)).collect();
        let now = cx.now;
        let rows = items
            .iter()
            .map(|item| columns.iter().map(|column| (column.cell)(item, now)).collect());
        let text = table(&titles, rows);
        cx.print(&text)?;
        if items.is_empty() {
            cx.note(&format!("no {}", self.noun));
        }
        Ok(())
    }
}

/// Aligned columns, two spaces apart, without borders. Every cell is made safe here.
pub fn table(titles: &[(&str, bool)], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(titles.iter().map(|(title, _)| title.to_owned()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.iter().map(|cell| safe(cell).into_owned()).collect::<Vec<_>>());
    }
    for (column, (_, right)) in table.column_iter_mut().zip(titles) {
        column.set_padding((0, 2));
        if *right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// One object as lines of `label: value`, the values aligned.
#[derive(Default)]
pub struct Sheet {
    rows: Vec<(String, String)>,
}

impl Sheet {
    /// Adds a line; the value is made safe.
    pub fn row(&mut self, label: &str, value: impl AsRef<str>) -> &mut Self {
        self.rows.push((label.to_owned(), safe(value.as_ref()).into_owned()));
        self
    }

    /// Adds a line whose value was made safe, and perhaps coloured, already.
    pub fn painted(&mut self, label: &str, value: String) -> &mut Self {
        self.rows.push((label.to_owned(), value));
        self
    }

    /// Adds a line per value, the label at the first alone; none for no values.
    pub fn rows(&mut self, label: &str, values: impl IntoIterator<Item = String>) -> &mut Self {
        let mut label = Some(label);
        for value in values {
            self.row(label.take().unwrap_or_default(), value);
        }
        self
    }

    /// The text.
    pub fn render(&self) -> String {
        let width = self.rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        self.rows.iter().fold(String::new(), |mut text, (label, value)| {
            let label = if label.is_empty() { String::new() } else { format!("{label}:") };
            let _ = writeln!(text, "{label:<0$}  {value}", width + 1);
            text
        })
    }
}

/// Reads one of the model's types out of the daemon's data.
///
/// # Errors
/// Data that does not fit: another version of the daemon.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(Failure::unintelligible)
}

/// Reads all pages of a list, or the first `limit` entries, as one `data`.
///
/// # Errors
/// Those of the requests.
pub async fn fetch_list(
    cx: &Context,
    request: Request,
    noun: &str,
    limit: Option<usize>,
) -> Result<Value> {
    const PAGE: usize = 1000;
    let mut items: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let wanted = limit.map_or(PAGE, |limit| limit.saturating_sub(items.len()).clamp(1, PAGE));
        let page =
            request.clone().query("limit", &wanted.to_string()).maybe("cursor", cursor.as_deref());
        let mut data = cx.client.send(&page).await?.checked()?.data()?;
        match data.get_mut(noun).map(Value::take) {
            Some(Value::Array(page)) => items.extend(page),
            _ => return Err(Failure::unintelligible(format!("its data holds no list {noun}"))),
        }
        let next = data.get("next").and_then(Value::as_str).map(str::to_owned);
        let full = limit.is_some_and(|limit| items.len() >= limit);
        if full || next.is_none() || next == cursor {
            data[noun] = Value::Array(std::mem::take(&mut items));
            data["count"] = json!(data[noun].as_array().map_or(0, Vec::len));
            return Ok(data);
        }
        cursor = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [["web1", "2 GiB", "x"], ["a-longer-name", "512 MiB", "-"]];
        let text = table(
            &[("NAME", false), ("MEMORY", true), ("OS", false)],
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()),
        );
        assert_eq!(
            text,
            "NAME            MEMORY  OS\nweb1             2 GiB  x\na-longer-name  512 MiB  -\n"
        );
    }

    #[test]
    fn cells_cannot_break_out_of_their_line() {
        let text = table(&[("NAME", false)], [vec!["a\nb\u{1b}[2J".to_owned()]].into_iter());
        assert_eq!(text, "NAME\na\\nb\\u{1b}[2J\n");
    }

    #[test]
    fn a_sheet_aligns_its_values_and_continues_lists() {
        let mut sheet = Sheet::default();
        sheet.row("name", "web1").rows("address", ["a".into(), "b".into()]).rows("disk", []);
        assert_eq!(sheet.render(), "name:     web1\naddress:  a\n          b\n");
    }
}
