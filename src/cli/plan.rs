//! The plan of a dry run, for people: what changes and when, the definition's difference, what
//! else happens, and what stands in the way.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::context::{Context, Style};
use super::failure::{Exit, Failure, Result};
use super::output::{Format, read, table};
use super::text::{plain, quoted, safe};
use crate::model::{Effect, Plan};

/// Shows a plan.
///
/// # Errors
/// Those of writing; a plan that would be refused ends with the exit code of its first blocker.
pub fn show(cx: &mut Context, data: &Value) -> Result<()> {
    let plan: Plan = read(data.clone())?;
    match cx.format {
        Format::Json | Format::Yaml => cx.print_value(data)?,
        Format::Name => cx.print(&format!("{}\n", safe(&plan.subject.name)))?,
        Format::Table | Format::Wide => {
            let text = render(cx, &plan);
            cx.print(&text)?;
        }
    }
    match plan.blockers.first() {
        Some(first) => Err(Failure::silent(Exit::of(&first.code, None))),
        None => Ok(()),
    }
}

/// The whole plan as text.
pub fn render(cx: &Context, plan: &Plan) -> String {
    let what = format!("{} of {}", safe(&plan.operation), quoted(&plan.subject.name));
    let mut text = cx.paint(Style::Bold, &format!("plan: {what} (dry run, nothing is changed)"));
    text.push('\n');
    if !plan.changes.is_empty() {
        let rows = plan.changes.iter().map(|change| {
            let effect = match change.effect {
                Effect::Live => "live",
                Effect::NextBoot => "next boot",
                Effect::NextStart => "next start",
                Effect::Impossible => "impossible",
            };
            let reason = change.reason.as_deref().unwrap_or_default();
            vec![
                change.field.clone(),
                plain(&change.from),
                plain(&change.to),
                effect.to_owned(),
                reason.to_owned(),
            ]
        });
        let titles = ["FIELD", "FROM", "TO", "EFFECT", ""].map(|title| (title, false));
        let _ = write!(text, "\n{}", table(&titles, rows));
    }
    // that a deletion takes every line away needs no showing, unless it is asked for
    let whole = plan.operation.ends_with(".delete") && cx.format != Format::Wide;
    if !plan.xml_diff.is_empty() && !whole {
        let _ = writeln!(text, "\ndefinition:");
        for line in plan.xml_diff.lines() {
            let _ = writeln!(text, "{}", diff_line(cx, line));
        }
    }
    if !plan.side_effects.is_empty() {
        let _ = writeln!(text, "\nalso:");
        for effect in &plan.side_effects {
            let _ = writeln!(text, "  - {}", safe(effect));
        }
    }
    if plan.changes.is_empty() && plan.xml_diff.is_empty() && plan.side_effects.is_empty() {
        let _ = writeln!(text, "\nnothing would change");
    }
    if !plan.warnings.is_empty() {
        let _ = writeln!(text, "\n{}", cx.paint(Style::Yellow, "warnings:"));
        for warning in &plan.warnings {
            let _ = writeln!(text, "  - {}", safe(warning));
        }
    }
    text + &render_blockers(cx, plan)
}

/// What stands in the way of what is about to be done, as the daemon would report it.
///
/// # Errors
/// The first blocker, if there is one.
pub fn refuse_blocked(plan: &Plan) -> Result<()> {
    let Some(blocker) = plan.blockers.first() else { return Ok(()) };
    let error = json!({"code": blocker.code, "message": blocker.message, "hint": blocker.hint});
    Err(Failure::reported(&error, None))
}

/// What stands in the way; empty if nothing does.
pub fn render_blockers(cx: &Context, plan: &Plan) -> String {
    let mut text = String::new();
    if !plan.blockers.is_empty() {
        let _ = writeln!(text, "\n{}", cx.paint(Style::Red, "it would be refused:"));
    }
    for blocker in &plan.blockers {
        let _ = writeln!(text, "  - {} ({})", safe(&blocker.message), safe(&blocker.code));
        if !blocker.hint.is_empty() {
            let _ = writeln!(text, "    hint: {}", safe(&blocker.hint));
        }
    }
    text
}

/// A line of a unified diff, safe and coloured.
pub fn diff_line(cx: &Context, line: &str) -> String {
    let safe = super::text::safe_lines(line);
    match line.as_bytes().first() {
        Some(b'+') => cx.paint(Style::Green, &safe),
        Some(b'-') => cx.paint(Style::Red, &safe),
        Some(b'@') => cx.paint(Style::Cyan, &safe),
        _ => safe.into_owned(),
    }
}
