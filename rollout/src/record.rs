//! What both colors do while a rollout goes on: scraped from every replica twice a second, for the comparison and for the
//! report. It looks and never acts, and a replica that does not answer leaves a gap and nothing else.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use bg_runtime::Color;
use futures_util::future::join_all;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    driver::{Driver, Observation},
    http::Http,
    metrics::{Calls, Scrape},
    report::{Event, Figures, Sample},
};

/// Records. Dropping it ends that.
#[derive(Debug)]
pub struct Recorder {
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

/// What one color has done in a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Its calls.
    pub calls: Calls,
    /// Calls that panicked.
    pub panics: u64,
    /// Calls that a drain cut off.
    pub cut: u64,
    /// In how many of how many looks somebody waited for a database connection.
    pub waiting: (u64, u64),
}

#[derive(Debug, Default)]
struct Record {
    samples: Vec<Sample>,
    events: Vec<Event>,
    /// By the address of operations.
    last: HashMap<String, Scrape>,
    done: [Done; 2],
    /// Calls of each color's replicas since they began.
    lifetime: [Calls; 2],
    begun: Option<Instant>,
}

const EVERY: Duration = Duration::from_millis(500);
const WITHIN: Duration = Duration::from_secs(2);

// === impl Recorder ===

impl Recorder {
    /// Begins after a while, and after what an earlier life recorded.
    #[must_use]
    pub fn start(driver: Arc<dyn Driver>, http: Http, samples: Vec<Sample>, events: Vec<Event>, after: Duration) -> Self {
        let record = Arc::new(Mutex::new(Record { samples, events, ..Record::default() }));
        let task = tokio::spawn({
            let record = record.clone();
            async move {
                let mut ticks = tokio::time::interval_at(Instant::now() + after, EVERY);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut before = Instant::now();
                loop {
                    ticks.tick().await;
                    if let Ok(seen) = driver.observe().await {
                        let now = Instant::now();
                        look(&record, &http, &seen, now - before).await;
                        before = now;
                    }
                }
            }
        });
        Self { record, task }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("nobody panics while recording")
    }

    /// Marks a moment.
    pub fn event(&self, words: impl Into<String>, color: Option<Color>) {
        let event = Event { at_ms: now_ms(), words: words.into(), color };
        self.record().events.push(event);
    }

    /// What a color has done since this began.
    #[must_use]
    pub fn done(&self, color: Color) -> Done {
        self.record().done[index(color)].clone()
    }

    /// The calls of a color's replicas since they were started.
    #[must_use]
    pub fn lifetime(&self, color: Color) -> Calls {
        self.record().lifetime[index(color)].clone()
    }

    /// A color's calls per second since this began.
    #[must_use]
    pub fn rate(&self, color: Color) -> f64 {
        let record = self.record();
        let seconds = record.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        if seconds < 0.1 { 0.0 } else { record.done[index(color)].calls.total as f64 / seconds }
    }

    /// Everything so far.
    #[must_use]
    pub fn so_far(&self) -> (Vec<Sample>, Vec<Event>) {
        let record = self.record();
        (record.samples.clone(), record.events.clone())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Done ===

impl Done {
    /// What came after an earlier one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            calls: self.calls.since(&earlier.calls),
            panics: self.panics.saturating_sub(earlier.panics),
            cut: self.cut.saturating_sub(earlier.cut),
            waiting: (self.waiting.0.saturating_sub(earlier.waiting.0), self.waiting.1.saturating_sub(earlier.waiting.1)),
        }
    }
}

/// Unix milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn index(color: Color) -> usize {
    usize::from(color == Color::Green)
}

async fn look(record: &Mutex<Record>, http: &Http, seen: &Observation, took: Duration) {
    let mut sample = Sample { at_ms: now_ms(), blue: Figures::default(), green: Figures::default() };
    for color in [Color::Blue, Color::Green] {
        let scrapes = seen.slot(color).replicas.iter().map(async |replica| {
            let address = format!("http://{}/metrics", replica.operations);
            let answer = http.get(&address, WITHIN).await.ok()?;
            Some((replica.operations.clone(), Scrape::parse(&answer.text()).ok()?))
        });
        let scrapes: Vec<_> = join_all(scrapes).await.into_iter().flatten().collect();
        let mut record = record.lock().expect("nobody panics while recording");
        record.begun.get_or_insert_with(Instant::now);
        let (mut calls, mut waits) = (Calls::default(), false);
        let figures = if color == Color::Blue { &mut sample.blue } else { &mut sample.green };
        let mut lifetime = Calls::default();
        for (address, scrape) in &scrapes {
            if let Some(before) = record.last.get(address) {
                calls.add(&scrape.calls.since(&before.calls));
                let (panics, cut) = (scrape.panics.saturating_sub(before.panics), scrape.cut.saturating_sub(before.cut));
                record.done[index(color)].panics += panics;
                record.done[index(color)].cut += cut;
            }
            lifetime.add(&scrape.calls);
            waits = waits || scrape.pool_waiting > 0;
            figures.in_flight += scrape.in_flight;
            figures.streams += scrape.streams;
            figures.sessions += scrape.sessions;
        }
        let seconds = took.as_secs_f64().max(0.05);
        figures.calls_per_second = calls.total as f64 / seconds;
        figures.errors_per_second = calls.errors as f64 / seconds;
        figures.p50_ms = calls.quantile(0.5).map(|seconds| seconds * 1e3);
        figures.p99_ms = calls.quantile(0.99).map(|seconds| seconds * 1e3);
        record.last.extend(scrapes);
        record.lifetime[index(color)] = lifetime;
        let done = &mut record.done[index(color)];
        done.calls.add(&calls);
        done.waiting.1 += 1;
        done.waiting.0 += u64::from(waits);
    }
    record.lock().expect("nobody panics while recording").samples.push(sample);
}
