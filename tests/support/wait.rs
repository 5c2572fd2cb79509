//! Waiting for what must come about, with a deadline instead of a guess.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How often a condition is looked at.
const BEAT: Duration = Duration::from_millis(25);

/// Asks until there is an answer.
///
/// # Panics
/// If there is none within the time.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(BEAT).await;
    }
}

/// The value below which this share (0 to 1) of the samples lies; sorts them.
pub fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    assert!(!samples.is_empty(), "nothing was measured");
    samples.sort_unstable();
    let last = samples.len() - 1;
    samples[((last as f64) * share).ceil() as usize]
}

/// Runs work on a thread of its own, where it may also wait for programs such as virsh without
/// keeping the runtime from anything else.
pub fn work<F: Future<Output = ()>>(make: impl FnOnce() -> F + Send + 'static) -> JoinHandle<()> {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(make()))
}
