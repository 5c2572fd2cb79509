//! libvirt's scaled integers, after `virScaleInteger`.

use super::tree::Element;

/// The bytes that a number with this unit stands for; `default` is the factor without a unit.
pub(super) fn bytes(number: &str, unit: Option<&str>, default: u64) -> Option<u64> {
    let number: u64 = number.trim().parse().ok()?;
    let unit = unit.map(str::to_ascii_lowercase);
    let factor = match unit.as_deref() {
        None | Some("") => default,
        Some("b" | "byte" | "bytes") => 1,
        Some(unit) => {
            let (prefix, rest) = unit.split_at_checked(1)?;
            let base: u64 = match rest {
                "" | "ib" => 1024,
                "b" => 1000,
                _ => return None,
            };
            let power = ["k", "m", "g", "t", "p", "e"].iter().position(|p| *p == prefix)?;
            base.checked_pow(u32::try_from(power).ok()? + 1)?
        }
    };
    number.checked_mul(factor)
}

/// The bytes of an element such as `<memory unit='KiB'>4096</memory>`.
pub(super) fn bytes_of(element: &Element<'_>, default: u64) -> Option<u64> {
    bytes(&element.text(), element.attr("unit").as_deref(), default)
}

/// The bytes that a child such as `<capacity unit='bytes'>` tells; 0 without one.
pub(super) fn size_of(element: &Element<'_>, child: &str) -> u64 {
    element.child(child).and_then(|size| bytes_of(size, 1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_libvirt_reads_them() {
        for (number, unit, bytes_expected) in [
            ("1", None, Some(1024)),
            (" 7 ", Some("bytes"), Some(7)),
            ("2", Some("k"), Some(2048)),
            ("2", Some("KB"), Some(2000)),
            ("2", Some("MiB"), Some(2 << 20)),
            ("3", Some("G"), Some(3 << 30)),
            ("1", Some("EiB"), Some(1 << 60)),
            ("16", Some("EiB"), None),
            ("1", Some("KiBB"), None),
            ("1", Some("ß"), None),
            ("-1", None, None),
        ] {
            assert_eq!(bytes(number, unit, 1024), bytes_expected, "{number} {unit:?}");
        }
    }
}
