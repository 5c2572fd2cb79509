//! What a client accepts (RFC 9110, section 12.5.1), as far as this API offers a choice.

/// One entry of an `Accept` header.
struct Range<'a> {
    media: &'a str,
    quality: u16,
}

fn ranges(accept: &str) -> impl Iterator<Item = Range<'_>> {
    accept.split(',').filter_map(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let media = parts.next().filter(|media| media.contains('/'))?;
        let quality = parts
            .find_map(|parameter| {
                let (name, value) = parameter.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().ok())?
            })
            .unwrap_or(1.0);
        // thousandths; a nonsensical weight counts as the nearest sensible one
        Some(Range { media, quality: (quality.clamp(0.0, 1.0) * 1000.0) as u16 })
    })
}

/// How much the client wants `media`: 0 not at all, 1000 most; the most specific range decides.
pub fn quality(accept: Option<&str>, media: &str) -> u16 {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return 1000 };
    let family = media.split('/').next().unwrap_or_default();
    let specificity = |range: &Range<'_>| {
        if range.media.eq_ignore_ascii_case(media) {
            Some(2)
        } else if range
            .media
            .strip_suffix("/*")
            .is_some_and(|wanted| wanted.eq_ignore_ascii_case(family))
        {
            Some(1)
        } else if range.media == "*/*" {
            Some(0)
        } else {
            None
        }
    };
    ranges(accept)
        .filter_map(|range| Some((specificity(&range)?, range.quality)))
        .max_by_key(|(specificity, quality)| (*specificity, *quality))
        .map_or(0, |(_, quality)| quality)
}

/// The offer the client wants most; the first of equals; none if it wants none of them.
pub fn best<'a>(accept: Option<&str>, offers: &[&'a str]) -> Option<&'a str> {
    let mut best: Option<(&str, u16)> = None;
    for offer in offers {
        let quality = quality(accept, offer);
        if quality > best.map_or(0, |(_, quality)| quality) {
            best = Some((offer, quality));
        }
    }
    best.map(|(offer, _)| offer)
}

/// Whether failures are to be written after RFC 9457: the client names that type and does not want
/// the native one more.
pub fn prefers_problem(accept: Option<&str>) -> bool {
    const PROBLEM: &str = "application/problem+json";
    let Some(accept) = accept else { return false };
    let named = ranges(accept).any(|range| range.media.eq_ignore_ascii_case(PROBLEM));
    let wanted = quality(Some(accept), PROBLEM);
    named && wanted > 0 && wanted >= quality(Some(accept), "application/json")
}

/// What a path can answer with. Failures are JSON whatever the client accepts.
pub fn offers(path: &str) -> &'static [&'static str] {
    const JSON: &[&str] = &["application/json", "application/problem+json"];
    match path.rsplit('/').next() {
        Some("xml") => {
            &["application/xml", "text/xml", "application/json", "application/problem+json"]
        }
        Some("events") => &["application/json", "text/event-stream", "application/problem+json"],
        Some("metrics") => {
            &["text/plain", "application/openmetrics-text", "application/problem+json"]
        }
        Some("backup") => &[super::database::MEDIA_TYPE, "application/problem+json"],
        Some("download") => {
            &["application/octet-stream", "application/json", "application/problem+json"]
        }
        Some("docs") => &["text/html", "application/problem+json"],
        _ => JSON,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_says_nothing_accepts_everything() {
        assert_eq!(quality(None, "application/json"), 1000);
        assert_eq!(quality(Some(""), "application/json"), 1000);
    }

    #[test]
    fn the_most_specific_range_decides() {
        let accept = Some("text/*;q=0.3, */*;q=0.1, application/json;q=0");
        assert_eq!(quality(accept, "application/json"), 0);
        assert_eq!(quality(accept, "text/html"), 300);
        assert_eq!(quality(accept, "image/png"), 100);
    }

    #[test]
    fn nothing_acceptable_is_none() {
        assert_eq!(best(Some("image/png"), offers("/api/v1/tasks")), None);
        assert_eq!(best(Some("IMAGE/png, application/*"), offers("/x")), Some("application/json"));
    }

    #[test]
    fn events_are_a_stream_only_for_those_who_ask() {
        let offers = offers("/api/v1/events");
        assert_eq!(best(Some("*/*"), offers), Some("application/json"));
        assert_eq!(best(Some("text/event-stream"), offers), Some("text/event-stream"));
    }

    #[test]
    fn problems_are_written_for_those_who_name_them() {
        assert!(prefers_problem(Some("application/problem+json")));
        assert!(prefers_problem(Some("application/json, application/problem+json")));
        assert!(!prefers_problem(Some("application/json, application/problem+json;q=0.5")));
        assert!(!prefers_problem(Some("*/*")));
        assert!(!prefers_problem(None));
    }

    #[test]
    fn a_weight_that_makes_no_sense_breaks_nothing() {
        assert_eq!(quality(Some("application/json;q=NaN"), "application/json"), 0);
        assert_eq!(quality(Some("application/json;q=9"), "application/json"), 1000);
        assert_eq!(quality(Some(";;;,,/"), "application/json"), 0);
    }
}
