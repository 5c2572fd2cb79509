//! Numbered events: committed to the store, then broadcast; replayed from the store.
//!
//! The service room publishes here, the API reads pages, polls and streams from here. The store
//! calls back after each COMMIT, so what a subscriber hears is on the disk, and a number is heard
//! once, in order:
//!
//! ```text
//! publish → store (number, COMMIT) → broadcast ┬→ subscription: next number? deliver
//!                                              └→ number missing, or lagged: refill from the store
//! ```
//!
//! A subscriber that is slow or comes back later is refilled from the store; what has been pruned
//! meanwhile is announced as a gap, never left out in silence.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::model::{Event, SubjectType};
use crate::store::Store;
pub use crate::store::{EventQuery, NewEvent};

/// Events that the broadcast keeps for its slowest subscriber; the store has the older ones.
const LIVE_EVENTS: usize = 1024;
/// Events read from the store at once while refilling.
const REFILL: u32 = 256;
/// How long a subscription waits before it reads the store again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Which events a subscriber wants; an empty filter wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Kinds; `vm.*` stands for every kind that begins with `vm.`. None given: all.
    pub kinds: Vec<String>,
    pub subject_type: Option<SubjectType>,
    pub subject_id: Option<String>,
    /// Labels that the VM had when it happened, each of them.
    pub labels: Vec<(String, String)>,
}

impl EventFilter {
    /// Whether the subscriber wants this event: the same answer as the store's query gives.
    pub fn matches(&self, event: &Event) -> bool {
        let kind = self.kinds.is_empty()
            || self.kinds.iter().any(|wanted| match wanted.strip_suffix('*') {
                Some(prefix) => event.kind.starts_with(prefix),
                None => event.kind == *wanted,
            });
        kind && self.subject_type.is_none_or(|wanted| event.subject.r#type == wanted)
            && self.subject_id.as_ref().is_none_or(|wanted| event.subject.id == *wanted)
            && self.labels.iter().all(|(key, value)| {
                event.data.get("labels").and_then(|labels| labels.get(key)?.as_str())
                    == Some(value.as_str())
            })
    }

    fn query(&self, since: u64, until: u64, limit: u32) -> EventQuery {
        EventQuery {
            since,
            until: Some(until),
            limit,
            kinds: self.kinds.clone(),
            subject_type: self.subject_type,
            subject_id: self.subject_id.clone(),
            labels: self.labels.clone(),
        }
    }
}

impl From<&EventQuery> for EventFilter {
    fn from(query: &EventQuery) -> Self {
        EventFilter {
            kinds: query.kinds.clone(),
            subject_type: query.subject_type,
            subject_id: query.subject_id.clone(),
            labels: query.labels.clone(),
        }
    }
}

/// Numbers, both ends included, whose events cannot be had: pruned, or of a database that was
/// replaced. The client has to read the objects anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from: u64,
    pub to: u64,
}

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    Event(Arc<Event>),
    Gap(Gap),
}

/// A page of events, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPage {
    pub events: Vec<Arc<Event>>,
    /// What is missing before the first of them.
    pub gap: Option<Gap>,
    /// The `since` with which the next page begins.
    pub next: u64,
    /// The number of the newest event there is.
    pub last_seq: u64,
}

/// A cheap handle; clones share it.
#[derive(Clone, Debug)]
pub struct Bus {
    store: Store,
    live: broadcast::Sender<Arc<Event>>,
    closing: CancellationToken,
}

impl Bus {
    /// Takes the store's event sink; a store has one bus.
    pub fn new(store: Store) -> Bus {
        Bus::with_capacity(store, LIVE_EVENTS)
    }

    fn with_capacity(store: Store, capacity: usize) -> Bus {
        let (live, _) = broadcast::channel(capacity);
        let sink = live.clone();
        store.set_event_sink(Arc::new(move |events| {
            for event in events {
                // Nobody listening is no failure.
                let _ = sink.send(event.clone());
            }
        }));
        Bus { store, live, closing: CancellationToken::new() }
    }

    /// Commits the events in one transaction; subscribers have been sent them when this returns.
    pub async fn publish(&self, events: Vec<NewEvent>) -> Result<()> {
        self.store.append_events(events).await
    }

    /// The number of the newest event; 0 if there was never one.
    pub fn last_seq(&self) -> u64 {
        self.store.last_seq()
    }

    /// How many subscriptions there are, for `/metrics`.
    pub fn subscribers(&self) -> usize {
        self.live.receiver_count()
    }

    /// Ends every subscription and every wait, so that the daemon can stop.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// The events after `query.since`, at most `query.limit`.
    pub async fn page(&self, query: &EventQuery) -> Result<EventPage> {
        let last_seq = self.store.last_seq();
        let until = query.until.unwrap_or(u64::MAX).min(last_seq);
        if query.since > last_seq {
            // A number that was never given: the database was replaced by another one.
            let gap = Some(Gap { from: last_seq + 1, to: query.since });
            return Ok(EventPage { events: Vec::new(), gap, next: last_seq, last_seq });
        }
        let bounded = EventQuery { until: Some(until), ..query.clone() };
        let (first, events) = self.store.event_page(&bounded).await?;
        let full = events.len() as u64 >= u64::from(query.limit);
        let next = match events.last() {
            Some(last) if full => last.seq,
            None if full => query.since,
            _ => until.max(query.since),
        };
        let missing = query.since + 1 < first && query.since < until;
        let gap = missing.then(|| Gap { from: query.since + 1, to: until.min(first - 1) });
        let events = events.into_iter().map(Arc::new).collect();
        Ok(EventPage { events, gap, next, last_seq })
    }

    /// The same; while there is nothing, waits for it, `timeout` at most. An empty page then moves
    /// `next` on past what did not match.
    pub async fn wait(&self, query: &EventQuery, timeout: Duration) -> Result<EventPage> {
        let deadline = Instant::now() + timeout;
        let filter = EventFilter::from(query);
        let mut query = query.clone();
        // Before the first look at the store: what is committed after it is heard here.
        let mut live = self.live.subscribe();
        loop {
            let mut page = self.page(&query).await?;
            if !page.events.is_empty() || page.gap.is_some() {
                return Ok(page);
            }
            loop {
                let heard = tokio::select! {
                    () = self.closing.cancelled() => return Ok(page),
                    () = tokio::time::sleep_until(deadline) => return Ok(page),
                    heard = live.recv() => heard,
                };
                match heard {
                    Ok(event) if event.seq <= page.next => {}
                    Ok(event) if event.seq == page.next + 1 && !filter.matches(&event) => {
                        page.next = event.seq;
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Ok(page),
                }
            }
            query.since = page.next;
        }
    }

    /// Every event after `since` that `filter` wants, first from the store, then as they come,
    /// without duplicate and without a hole that is not told of. Without `since`: from now on. It
    /// ends when the bus is closed.
    pub fn subscribe(
        &self,
        since: Option<u64>,
        filter: EventFilter,
    ) -> impl Stream<Item = Delivery> + Send + use<> {
        let live = self.live.subscribe();
        let subscription = Subscription {
            store: self.store.clone(),
            closing: self.closing.clone(),
            live,
            filter,
            position: since.unwrap_or_else(|| self.store.last_seq()),
            behind: true,
            ready: VecDeque::new(),
        };
        futures_util::stream::unfold(subscription, |mut subscription| async move {
            let delivery = subscription.next().await?;
            Some((delivery, subscription))
        })
    }
}

/// One subscriber's place in the sequence.
struct Subscription {
    store: Store,
    closing: CancellationToken,
    live: broadcast::Receiver<Arc<Event>>,
    filter: EventFilter,
    /// The last number that was delivered, filtered out, or told of as missing.
    position: u64,
    /// Whether the store has to be read before the broadcast can be followed.
    behind: bool,
    ready: VecDeque<Delivery>,
}

impl Subscription {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            if self.closing.is_cancelled() {
                return None;
            }
            if let Some(delivery) = self.ready.pop_front() {
                return Some(delivery);
            }
            if self.behind {
                if let Err(error) = self.refill().await {
                    tracing::warn!(?error, "reading events for a subscriber failed");
                    let closing = self.closing.clone();
                    let _ = tokio::time::timeout(RETRY, closing.cancelled()).await;
                }
                continue;
            }
            let heard = tokio::select! {
                () = self.closing.cancelled() => return None,
                heard = self.live.recv() => heard,
            };
            match heard {
                Ok(event) if event.seq <= self.position => {}
                Ok(event) if event.seq == self.position + 1 => {
                    self.position = event.seq;
                    if self.filter.matches(&event) {
                        return Some(Delivery::Event(event));
                    }
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Reads the next events from the store, up to the newest that was committed when it began.
    async fn refill(&mut self) -> Result<()> {
        let head = self.store.last_seq();
        if self.position >= head {
            if self.position > head {
                let gap = Gap { from: head + 1, to: self.position };
                self.ready.push_back(Delivery::Gap(gap));
                self.position = head;
            }
            self.behind = false;
            return Ok(());
        }
        let query = self.filter.query(self.position, head, REFILL);
        let (first, events) = self.store.event_page(&query).await?;
        if self.position + 1 < first {
            let gap = Gap { from: self.position + 1, to: head.min(first - 1) };
            self.ready.push_back(Delivery::Gap(gap));
        }
        match events.last() {
            Some(last) if events.len() as u64 >= u64::from(REFILL) => self.position = last.seq,
            _ => {
                self.position = head;
                self.behind = false;
            }
        }
        self.ready.extend(events.into_iter().map(|event| Delivery::Event(Arc::new(event))));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::model::Subject;
    use crate::store::StoreOptions;

    fn bus(capacity: usize) -> (tempfile::TempDir, Bus) {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::default();
        let store = Store::open(&folder.path().join("vapor.db"), options).unwrap();
        (folder, Bus::with_capacity(store, capacity))
    }

    fn event(kind: &str) -> NewEvent {
        NewEvent {
            kind: kind.to_owned(),
            subject: Subject {
                r#type: SubjectType::Vm,
                id: "1".to_owned(),
                name: "web1".to_owned(),
            },
            principal: None,
            task: None,
            data: json!({}),
        }
    }

    async fn publish(bus: &Bus, kind: &str, count: usize) {
        bus.publish(vec![event(kind); count]).await.unwrap();
    }

    /// The next delivery; a subscriber that hears nothing must fail the test, not stop it.
    async fn hear(stream: &mut (impl Stream<Item = Delivery> + Unpin)) -> Option<Delivery> {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next());
        next.await.expect("nothing is heard")
    }

    fn seq(delivery: Option<Delivery>) -> u64 {
        match delivery {
            Some(Delivery::Event(event)) => event.seq,
            other => panic!("expected an event, got {other:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn subscribers_hear_every_number_once_however_they_come() {
        const PUBLISHERS: u64 = 8;
        const EACH: u64 = 60;
        // Eight events fit the broadcast: every subscriber that dawdles must be refilled.
        let (_folder, bus) = bus(8);
        publish(&bus, "vm.before", 5).await;
        let mut subscribers = tokio::task::JoinSet::new();
        for number in 0..6_u64 {
            let bus = bus.clone();
            subscribers.spawn(async move {
                tokio::time::sleep(Duration::from_millis(number * 5)).await;
                let mut stream = pin!(bus.subscribe(Some(number), EventFilter::default()));
                for expected in number + 1..=5 + PUBLISHERS * EACH {
                    assert_eq!(seq(hear(&mut stream).await), expected, "subscriber {number}");
                    if number % 2 == 0 && expected % 50 == 0 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            });
        }
        let mut publishers = tokio::task::JoinSet::new();
        for _ in 0..PUBLISHERS {
            let bus = bus.clone();
            publishers.spawn(async move {
                for number in 0..EACH / 3 {
                    publish(&bus, "vm.now", 2).await;
                    publish(&bus, "vm.now", 1).await;
                    if number % 7 == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            });
        }
        publishers.join_all().await;
        let ends = tokio::time::timeout(Duration::from_secs(30), subscribers.join_all()).await;
        assert!(ends.is_ok(), "a subscriber still waits for an event that was published");
        assert_eq!(bus.last_seq(), 5 + PUBLISHERS * EACH);
    }

    #[tokio::test]
    async fn a_filter_leaves_out_the_others_in_replay_and_live() {
        let (_folder, bus) = bus(64);
        publish(&bus, "vm.started", 1).await;
        publish(&bus, "pool.started", 300).await;
        publish(&bus, "vm.stopped", 1).await;
        let filter = EventFilter { kinds: vec!["vm.*".to_owned()], ..EventFilter::default() };
        let mut stream = pin!(bus.subscribe(Some(0), filter));
        assert_eq!(seq(hear(&mut stream).await), 1);
        assert_eq!(seq(hear(&mut stream).await), 302);
        publish(&bus, "pool.started", 1).await;
        publish(&bus, "vm.started", 1).await;
        assert_eq!(seq(hear(&mut stream).await), 304);
    }

    #[tokio::test]
    async fn a_label_is_asked_for_alike_in_replay_and_live() {
        let (_folder, bus) = bus(64);
        let labelled = |tier: &str| NewEvent {
            data: serde_json::json!({"labels": {"tier": tier, "a.b": "x"}}),
            ..event("vm.started")
        };
        bus.publish(vec![labelled("web"), labelled("db"), event("vm.started")]).await.unwrap();
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let labels = vec![label("tier", "web"), label("a.b", "x")];
        let filter = EventFilter { labels, ..EventFilter::default() };
        let mut stream = pin!(bus.subscribe(Some(0), filter));
        assert_eq!(seq(hear(&mut stream).await), 1);
        bus.publish(vec![labelled("db"), event("vm.started"), labelled("web")]).await.unwrap();
        assert_eq!(seq(hear(&mut stream).await), 6);
    }

    #[tokio::test]
    async fn without_since_only_what_comes_is_heard() {
        let (_folder, bus) = bus(64);
        publish(&bus, "vm.started", 3).await;
        let mut stream = pin!(bus.subscribe(None, EventFilter::default()));
        publish(&bus, "vm.stopped", 1).await;
        assert_eq!(seq(hear(&mut stream).await), 4);
    }

    #[tokio::test]
    async fn what_was_pruned_is_told_as_a_gap() {
        let (_folder, bus) = bus(4);
        let mut slow = pin!(bus.subscribe(Some(0), EventFilter::default()));
        publish(&bus, "vm.started", 2).await;
        assert_eq!(seq(hear(&mut slow).await), 1);
        assert_eq!(seq(hear(&mut slow).await), 2);
        publish(&bus, "vm.started", 18).await;
        bus.store.prune(Timestamp::now(), 10).await.unwrap();
        assert_eq!(hear(&mut slow).await, Some(Delivery::Gap(Gap { from: 3, to: 10 })));
        assert_eq!(seq(hear(&mut slow).await), 11);
        let page = bus.page(&EventQuery { since: 5, ..EventQuery::default() }).await.unwrap();
        assert_eq!(page.gap, Some(Gap { from: 6, to: 10 }));
        assert_eq!(page.events[0].seq, 11);
        assert_eq!(page.next, 20);
        let page = bus.page(&EventQuery { since: 10, ..EventQuery::default() }).await.unwrap();
        assert_eq!(page.gap, None);
        bus.store.prune(Timestamp::now(), 0).await.unwrap();
        let mut late = pin!(bus.subscribe(Some(18), EventFilter::default()));
        assert_eq!(hear(&mut late).await, Some(Delivery::Gap(Gap { from: 19, to: 20 })));
        publish(&bus, "vm.started", 1).await;
        assert_eq!(seq(hear(&mut late).await), 21);
    }

    #[tokio::test]
    async fn a_number_from_another_database_is_told_as_a_gap() {
        let (_folder, bus) = bus(4);
        publish(&bus, "vm.started", 2).await;
        let gap = Gap { from: 3, to: 500 };
        let mut stream = pin!(bus.subscribe(Some(500), EventFilter::default()));
        assert_eq!(hear(&mut stream).await, Some(Delivery::Gap(gap)));
        publish(&bus, "vm.started", 1).await;
        assert_eq!(seq(hear(&mut stream).await), 3);
        let page = bus.page(&EventQuery { since: 501, ..EventQuery::default() }).await.unwrap();
        assert_eq!((page.gap, page.next), (Some(Gap { from: 4, to: 501 }), 3));
    }

    #[tokio::test]
    async fn pages_follow_each_other_without_overlap() {
        let (_folder, bus) = bus(4);
        publish(&bus, "vm.started", 5).await;
        publish(&bus, "pool.started", 5).await;
        let kinds = vec!["vm.*".to_owned()];
        let mut query = EventQuery { limit: 2, kinds, ..EventQuery::default() };
        let mut seen = Vec::new();
        for expected in [2, 4, 10] {
            let page = bus.page(&query).await.unwrap();
            seen.extend(page.events.iter().map(|event| event.seq));
            assert_eq!(page.next, expected);
            query.since = page.next;
        }
        assert_eq!(seen, [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_first_match_or_in_time() {
        let (_folder, bus) = bus(64);
        let kinds = vec!["vm.stopped".to_owned()];
        let query = EventQuery { kinds, ..EventQuery::default() };
        let waiting = {
            let (bus, query) = (bus.clone(), query.clone());
            tokio::spawn(async move { bus.wait(&query, Duration::from_secs(30)).await.unwrap() })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        publish(&bus, "vm.started", 3).await;
        publish(&bus, "vm.stopped", 1).await;
        let page = waiting.await.unwrap();
        assert_eq!(page.events.len(), 1);
        assert_eq!(page.next, 4);
        let query = EventQuery { since: 4, ..query };
        let page = bus.wait(&query, Duration::from_millis(20)).await.unwrap();
        assert_eq!((page.events.len(), page.next), (0, 4));
    }

    #[tokio::test]
    async fn closing_the_bus_ends_streams_and_waits() {
        let (_folder, bus) = bus(64);
        let mut stream = pin!(bus.subscribe(Some(0), EventFilter::default()));
        let waiting = {
            let bus = bus.clone();
            tokio::spawn(async move {
                bus.wait(&EventQuery::default(), Duration::from_secs(3600)).await.unwrap()
            })
        };
        assert!(futures_util::poll!(stream.next()).is_pending());
        bus.close();
        assert_eq!(hear(&mut stream).await, None);
        assert!(waiting.await.unwrap().events.is_empty());
    }

    #[tokio::test]
    async fn the_filter_and_the_store_agree() {
        let (_folder, bus) = bus(64);
        let kinds = ["vm.started", "vm", "vm.", "vmx.started", "VM.started", "vm.stärted", "*"];
        let events: Vec<_> = kinds.iter().map(|kind| event(kind)).collect();
        bus.publish(events).await.unwrap();
        let all = bus.page(&EventQuery::default()).await.unwrap().events;
        for wanted in ["vm.*", "vm", "*", "vm.st*", "vm.stä*", "VM.*", "nothing", "vm.started"] {
            let filter = EventFilter { kinds: vec![wanted.to_owned()], ..EventFilter::default() };
            let query = filter.query(0, u64::MAX, 100);
            let found = bus.page(&query).await.unwrap().events;
            let expected: Vec<_> =
                all.iter().filter(|event| filter.matches(event)).cloned().collect();
            assert_eq!(found, expected, "{wanted}");
        }
    }
}
