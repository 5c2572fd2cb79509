//! What the API counts of itself, without a lock: shown by `/metrics`.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::{Method, StatusCode};

/// Upper bounds of the latency histogram, seconds.
const BOUNDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];
const STATUSES: usize = 500;

/// The counters of one daemon.
pub struct Meters {
    requests: Box<[[AtomicU64; STATUSES]; METHODS.len()]>,
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
    in_flight: AtomicU64,
    connections: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    panics: AtomicU64,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            requests: Box::new([const { [const { AtomicU64::new(0) }; STATUSES] }; METHODS.len()]),
            buckets: Default::default(),
            nanoseconds: AtomicU64::default(),
            in_flight: AtomicU64::default(),
            connections: AtomicU64::default(),
            accepted: AtomicU64::default(),
            refused: AtomicU64::default(),
            panics: AtomicU64::default(),
        }
    }
}

/// Counts one thing as present for as long as it lives.
pub struct Present<'a>(&'a AtomicU64);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Meters {
    /// A request is being worked on until the guard is dropped.
    pub fn request(&self) -> Present<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        Present(&self.in_flight)
    }

    /// A connection is open until the guard is dropped.
    pub fn connection(&self) -> Present<'_> {
        self.accepted.fetch_add(1, Relaxed);
        self.connections.fetch_add(1, Relaxed);
        Present(&self.connections)
    }

    /// A connection was turned away, because there are too many.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// A handler panicked.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// A request was answered.
    pub fn answered(&self, method: &Method, status: StatusCode, took: Duration) {
        let method = METHODS.iter().position(|name| *name == method.as_str());
        let row = &self.requests[method.unwrap_or(METHODS.len() - 1)];
        if let Some(counter) = row.get(usize::from(status.as_u16()).saturating_sub(100)) {
            counter.fetch_add(1, Relaxed);
        }
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Writes all counters in the Prometheus text format.
    pub fn write(&self, out: &mut String) {
        family(out, "vapor_http_requests_total", "counter", "Requests answered.");
        for (name, row) in METHODS.iter().zip(self.requests.iter()) {
            for (index, counter) in row.iter().enumerate() {
                let count = counter.load(Relaxed);
                if count > 0 {
                    let status = index + 100;
                    let _ = writeln!(
                        out,
                        "vapor_http_requests_total{{method=\"{name}\",status=\"{status}\"}} {count}"
                    );
                }
            }
        }
        family(
            out,
            "vapor_http_request_duration_seconds",
            "histogram",
            "Time from a request's head to its reply's head.",
        );
        let mut total = 0;
        for (index, counter) in self.buckets.iter().enumerate() {
            total += counter.load(Relaxed);
            let bound = BOUNDS.get(index).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = writeln!(
                out,
                "vapor_http_request_duration_seconds_bucket{{le=\"{bound}\"}} {total}"
            );
        }
        let seconds = self.nanoseconds.load(Relaxed) as f64 / 1e9;
        let _ = writeln!(out, "vapor_http_request_duration_seconds_sum {seconds}");
        let _ = writeln!(out, "vapor_http_request_duration_seconds_count {total}");
        for (name, kind, help, counter) in [
            (
                "vapor_http_requests_in_flight",
                "gauge",
                "Requests being worked on.",
                &self.in_flight,
            ),
            ("vapor_http_connections", "gauge", "Open connections.", &self.connections),
            ("vapor_http_connections_total", "counter", "Connections accepted.", &self.accepted),
            (
                "vapor_http_connections_refused_total",
                "counter",
                "Connections turned away because there were too many.",
                &self.refused,
            ),
            ("vapor_http_panics_total", "counter", "Handlers that panicked.", &self.panics),
        ] {
            family(out, name, kind, help);
            let _ = writeln!(out, "{name} {}", counter.load(Relaxed));
        }
    }
}

/// Writes the two lines that open a family.
pub fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value, escaped as the text format wants it.
pub fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_method_and_status() {
        let meters = Meters::default();
        meters.answered(&Method::GET, StatusCode::OK, Duration::from_micros(300));
        meters.answered(&Method::GET, StatusCode::OK, Duration::from_secs(99));
        meters.answered(&Method::TRACE, StatusCode::METHOD_NOT_ALLOWED, Duration::from_millis(3));
        let mut text = String::new();
        meters.write(&mut text);
        for line in [
            "vapor_http_requests_total{method=\"GET\",status=\"200\"} 2",
            "vapor_http_requests_total{method=\"other\",status=\"405\"} 1",
            "vapor_http_request_duration_seconds_bucket{le=\"0.0005\"} 1",
            "vapor_http_request_duration_seconds_bucket{le=\"0.005\"} 2",
            "vapor_http_request_duration_seconds_bucket{le=\"+Inf\"} 3",
            "vapor_http_request_duration_seconds_count 3",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
    }

    #[test]
    fn what_is_present_is_counted_until_it_goes() {
        let meters = Meters::default();
        let guard = meters.connection();
        assert_eq!(meters.connections.load(Relaxed), 1);
        drop(guard);
        assert_eq!(meters.connections.load(Relaxed), 0);
    }

    #[test]
    fn labels_cannot_break_out_of_their_quotes() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
