//! Errors in the journal: what a client would have read, so that a replay reads the same.

use serde_json::{Value, json};

use crate::error::{Error, Kind};

/// `code`, `message`, `details` and `hint`.
pub fn error_to_json(error: &Error) -> Value {
    json!({
        "code": error.kind().code(),
        "message": error.message(),
        "details": error.details(),
        "hint": error.hint(),
    })
}

/// The error that [`error_to_json`] wrote.
pub fn error_from_json(value: Option<&Value>) -> Error {
    let text = |key: &str| value.and_then(|value| value.get(key)).and_then(Value::as_str);
    let kind = text("code").and_then(Kind::from_code).unwrap_or(Kind::Internal);
    let mut error = Error::new(kind, text("message").unwrap_or("the operation failed"));
    if let Some(hint) = text("hint") {
        error = error.with_hint(hint);
    }
    let details = value.and_then(|value| value.get("details")).and_then(Value::as_object);
    for (key, value) in details.into_iter().flatten() {
        error = error.with_detail(key, value.clone());
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replayed_failure_reads_like_the_first_one() {
        let error = Error::new(Kind::VmBusy, "held")
            .with_hint("wait")
            .with_detail("task", "7")
            .with_field("name", "is empty");
        let again = error_from_json(Some(&error_to_json(&error)));
        assert_eq!(error_to_json(&again), error_to_json(&error));
    }
}
