//! Checks of single fields. Each adds to a list, so that a client hears of everything at once.

use crate::error::{Error, Kind, Result};
use crate::model::name::is_xml_text;

/// The fields found wrong so far, each with what is wrong.
pub(in crate::service::vm) type Wrong = Vec<(&'static str, String)>;

/// 422 if the maximum is below the present value.
pub(in crate::service::vm) fn contradicts(
    greater: &str,
    maximum: Option<u64>,
    lesser: &str,
    value: Option<u64>,
) -> Result<()> {
    match (maximum, value) {
        (Some(maximum), Some(value)) if maximum < value => Err(Error::new(
            Kind::Impossible,
            format!("{greater} ({maximum}) is less than {lesser} ({value})"),
        )
        .with_field(greater, format!("must be at least {value}"))),
        _ => Ok(()),
    }
}

pub(in crate::service::vm) fn range(
    wrong: &mut Wrong,
    field: &'static str,
    value: Option<u64>,
    required: bool,
    least: u64,
    most: u64,
) {
    match value {
        None if required => wrong.push((field, "is required".to_owned())),
        Some(value) if !(least..=most).contains(&value) => {
            wrong.push((field, format!("must be between {least} and {most}")));
        }
        _ => {}
    }
}

pub(in crate::service::vm) fn text(
    wrong: &mut Wrong,
    field: &'static str,
    value: Option<&str>,
    most: usize,
    allowed: impl Fn(char) -> bool,
) {
    let Some(value) = value else { return };
    if value.chars().count() > most {
        wrong.push((field, format!("has more than {most} characters")));
    } else if let Some(bad) = value.chars().find(|c| !allowed(*c)) {
        wrong.push((field, format!("holds {bad:?}")));
    }
}

pub(in crate::service::vm) fn is_xml_char(c: char) -> bool {
    is_xml_text(c.encode_utf8(&mut [0; 4]))
}

/// Of a text of one line.
pub(in crate::service::vm) fn is_line_char(c: char) -> bool {
    c >= ' ' && c != '\x7F' && is_xml_char(c)
}

pub(in crate::service::vm) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

pub(in crate::service::vm) fn count(
    wrong: &mut Wrong,
    field: &'static str,
    count: Option<usize>,
    most: usize,
) {
    if count.is_some_and(|count| count > most) {
        wrong.push((field, format!("has more than {most} entries")));
    }
}

/// 400 with every wrong field, if there are any.
pub(in crate::service::vm) fn fail(wrong: &[(&'static str, String)]) -> Result<()> {
    let Some(((field, problem), others)) = wrong.split_first() else { return Ok(()) };
    Err(others.iter().fold(Error::field(*field, problem), |error, (field, problem)| {
        error.with_field(*field, problem)
    }))
}

/// 422: each field is as it should be, and together they make no sense.
pub(in crate::service::vm) fn clash(field: impl Into<String>, problem: impl Into<String>) -> Error {
    let (field, problem) = (field.into(), problem.into());
    Error::new(Kind::Impossible, format!("{field}: {problem}")).with_field(field, problem)
}

pub(in crate::service::vm) fn not_supported(field: &str, problem: impl Into<String>) -> Error {
    let problem = problem.into();
    Error::new(Kind::NotSupported, format!("{field}: {problem}")).with_field(field, problem)
}
