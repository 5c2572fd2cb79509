//! Text for people: what the daemon sent made safe for a terminal, sizes and ages made short, and
//! the sizes that people type read back.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

/// What stands where there is nothing to show.
pub const NONE: &str = "-";

/// Whether a terminal might act on this character, or show the text around it in another order.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text on one line, with every character a terminal might act on written as an escape.
pub fn safe(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// [`safe`] for text of several lines: line ends and tabs stay.
pub fn safe_lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| is_unsafe(c) && !keep(c)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) && !keep(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// The text in quotation marks, safe for a terminal.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", safe(text))
}

/// JSON text with the characters that [`is_unsafe`] names written as `\uXXXX`: the same value, and
/// no terminal acts on it. Outside its strings JSON has only line ends, which stay.
pub fn safe_json(json: &str) -> Cow<'_, str> {
    let touched = |c: char| is_unsafe(c) && c != '\n';
    if !json.chars().any(touched) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if touched(c) {
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// A size in bytes with its largest fitting binary unit: `20 GiB`, `1.5 MiB`, `0 B`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).clamp(1, 6);
    let size = bytes as f64 / (1u64 << (10 * power)) as f64;
    let mut number = format!("{size:.1}");
    if number.ends_with(".0") {
        number.truncate(number.len() - 2);
    }
    format!("{number} {}", UNITS[power as usize - 1])
}

/// [`bytes`] of a size in MiB.
pub fn mib(mib: u64) -> String {
    bytes(mib.saturating_mul(1 << 20))
}

/// How long ago that was, in its one largest unit: `12s`, `5m`, `3h`, `9d`, `2y`.
pub fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    seconds_short(seconds.unsigned_abs())
}

/// A span in its one largest unit.
pub fn seconds_short(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400..31_536_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_536_000),
    }
}

/// A moment and how long ago it was.
pub fn moment(now: Timestamp, then: Timestamp) -> String {
    format!("{} ({} ago)", to_the_second(then), age(now, then))
}

/// A moment in RFC 3339, UTC, without its fraction.
pub fn to_the_second(then: Timestamp) -> String {
    Timestamp::from_second(then.as_second()).unwrap_or(then).to_string()
}

/// The text, or [`NONE`] for none or an empty one.
pub fn or_none(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or(NONE).to_owned()
}

/// `yes` or `no`.
pub const fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// A JSON value as a person would write it.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) if text.is_empty() => NONE.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            or_none(Some(&items.iter().map(plain).collect::<Vec<_>>().join(", ")))
        }
        other => other.to_string(),
    }
}

/// Reads an amount of memory: MiB, or with a unit (`512M`, `2G`, `2GiB`, `1T`). Returns MiB.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let (number, unit) = split_size(text)?;
    let factor = match unit.as_str() {
        "" | "m" | "mi" | "mib" => 1,
        "g" | "gi" | "gib" => 1 << 10,
        "t" | "ti" | "tib" => 1 << 20,
        _ => return Err(format!("unknown unit {unit:?}: use M, G or T (powers of 1024)")),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// Reads the size of a disk: GiB, or with a unit (`20G`, `20GiB`, `1T`). Returns GiB.
pub fn parse_gib(text: &str) -> Result<u64, String> {
    let (number, unit) = split_size(text)?;
    match unit.as_str() {
        "" | "g" | "gi" | "gib" => Ok(number),
        "t" | "ti" | "tib" => number.checked_mul(1 << 10).ok_or_else(|| "too large".to_owned()),
        "m" | "mi" | "mib" if number % 1024 == 0 => Ok(number / 1024),
        "m" | "mi" | "mib" => Err("disks are sized in whole GiB".to_owned()),
        _ => Err(format!("unknown unit {unit:?}: use G or T (powers of 1024)")),
    }
}

/// Reads the size of a volume: GiB, or with a unit (`512M`, `20G`, `1T`, `4096B`). Returns bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split_size(text)?;
    let power = match unit.as_str() {
        "b" => 0,
        "k" | "ki" | "kib" => 10,
        "m" | "mi" | "mib" => 20,
        "" | "g" | "gi" | "gib" => 30,
        "t" | "ti" | "tib" => 40,
        "p" | "pi" | "pib" => 50,
        _ => return Err(format!("unknown unit {unit:?}: use K, M, G, T (powers of 1024) or B")),
    };
    number.checked_mul(1 << power).ok_or_else(|| "too large".to_owned())
}

fn split_size(text: &str) -> Result<(u64, String), String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| {
        if number.is_empty() { "not a whole number" } else { "too large" }.to_owned()
    })?;
    Ok((number, unit.trim().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_shown_and_not_sent() {
        assert_eq!(safe("web1 ä 🦀"), "web1 ä 🦀");
        assert_eq!(safe("a\u{1b}[31mb\r\n\t\u{7f}"), r"a\u{1b}[31mb\r\n\t\u{7f}");
        assert_eq!(safe("x\u{9b}2J\u{202e}y"), r"x\u{9b}2J\u{202e}y");
        assert_eq!(safe_lines("a\n\tb\u{1b}"), "a\n\tb\\u{1b}");
        assert_eq!(quoted("a\u{7}"), r#""a\u{7}""#);
    }

    #[test]
    fn json_made_safe_is_the_same_value() {
        let value = serde_json::json!({"n\u{9b}": "\u{7f}\u{202e}\u{1b}\n", "ä": 1});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let safe = safe_json(&text);
        assert!(!safe.chars().any(|c| is_unsafe(c) && c != '\n'));
        assert_eq!(serde_json::from_str::<Value>(&safe).unwrap(), value);
    }

    #[test]
    fn sizes_take_the_unit_that_fits() {
        let shown = [0, 1023, 1024, 196_608, 1_572_864, 20 << 30, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "192 KiB", "1.5 MiB", "20 GiB", "16 EiB"]);
        assert_eq!(
            (mib(512), mib(1536), mib(2048)),
            ("512 MiB".into(), "1.5 GiB".into(), "2 GiB".into())
        );
    }

    #[test]
    fn ages_are_one_number_and_never_negative() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        let ago = |seconds: i64| age(now, Timestamp::from_second(1_000_000_000 - seconds).unwrap());
        let shown = [0, 59, 60, 7199, 86_400, 400 * 86_400, -50].map(ago);
        assert_eq!(shown, ["0s", "59s", "1m", "1h", "1d", "1y", "0s"]);
        assert_eq!(moment(now, now), "2001-09-09T01:46:40Z (0s ago)");
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(
            ["512", "512M", "2G", "2gib", "1 T"].map(parse_mib),
            [512, 512, 2048, 2048, 1 << 20].map(Ok)
        );
        assert_eq!(["20", "20G", "1T", "2048M"].map(parse_gib), [20, 20, 1024, 2].map(Ok));
        for bad in ["", "G", "-1", "1.5G", "2K", "99999999999999999999", "18446744073709551615T"] {
            assert!(parse_mib(bad).is_err(), "{bad}");
        }
        assert!(parse_gib("512M").is_err());
        assert_eq!(
            ["10", "10G", "512M", "1 KiB", "7b"].map(parse_bytes),
            [10 << 30, 10 << 30, 512 << 20, 1024, 7].map(Ok)
        );
        for bad in ["", "1.5G", "10X", "99999999999G", "-1"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_read_like_prose() {
        assert_eq!(plain(&serde_json::json!(["hd", "cdrom"])), "hd, cdrom");
        assert_eq!(plain(&serde_json::json!([])), "-");
        assert_eq!(plain(&serde_json::json!("")), "-");
        assert_eq!(plain(&serde_json::json!({"a": 1})), r#"{"a":1}"#);
    }
}
