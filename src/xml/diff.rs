//! The difference between two definitions, for people.

use std::time::Duration;

use similar::TextDiff;

/// A unified diff with three lines of context; empty if the texts are the same. Passwords are the
/// caller's to remove first, with [`super::redact::redact`].
pub fn unified(before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    TextDiff::configure()
        // Two long texts with nothing in common are shown as replaced instead of compared for ever.
        .timeout(Duration::from_millis(500))
        .diff_lines(before, after)
        .unified_diff()
        .context_radius(3)
        .header("before", "after")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_has_no_diff() {
        assert_eq!(unified("<a/>\n", "<a/>\n"), "");
    }

    #[test]
    fn only_what_changed_is_shown_with_its_surroundings() {
        let before = "<a>\n  <b/>\n  <c>1</c>\n  <d/>\n  <e/>\n  <f/>\n  <g/>\n</a>\n";
        let diff = unified(before, &before.replace('1', "2"));
        assert_eq!(
            diff,
            "--- before\n+++ after\n@@ -1,6 +1,6 @@\n <a>\n   <b/>\n-  <c>1</c>\n+  <c>2</c>\n   \
             <d/>\n   <e/>\n   <f/>\n"
        );
    }

    #[test]
    fn long_texts_without_anything_in_common_end_in_time() {
        let text =
            |seed: u64| (0..40_000).map(|n| format!("{}\n", n * 2 + seed)).collect::<String>();
        let start = std::time::Instant::now();
        assert!(!unified(&text(0), &text(1)).is_empty());
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
