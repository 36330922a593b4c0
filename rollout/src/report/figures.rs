//! What both colors did, folded to what a page can show.

use bg_runtime::Color;

use super::{
    Figures, Sample,
    words::{count, duration},
};

/// Silence that is longer than this many milliseconds is not drawn over.
pub(super) const SILENCE_MS: u64 = 5000;

// === impl Figures ===

impl Figures {
    /// The highest of each; of calls per second the mean, as a color that answers less is the worse one.
    pub(super) fn folded<'a>(figures: impl Iterator<Item = &'a Self>) -> Self {
        let mut folded = Self::default();
        let (mut calls, mut count) = (0.0, 0.0);
        let higher = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        for one in figures {
            calls += one.calls_per_second;
            count += 1.0;
            folded.errors_per_second = folded.errors_per_second.max(one.errors_per_second);
            folded.p50_ms = higher(folded.p50_ms, one.p50_ms);
            folded.p99_ms = higher(folded.p99_ms, one.p99_ms);
            folded.in_flight = folded.in_flight.max(one.in_flight);
            folded.streams = folded.streams.max(one.streams);
            folded.sessions = folded.sessions.max(one.sessions);
        }
        folded.calls_per_second = calls / f64::max(count, 1.0);
        folded
    }
}

// === impl Sample ===

impl Sample {
    pub(super) fn of(&self, color: Color) -> &Figures {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }
}

/// What both colors did, in the order of the lines of [`Chart::all`].
pub(super) fn cells(sample: &Sample) -> [String; 14] {
    let (blue, green) = (&sample.blue, &sample.green);
    let time = |ms: Option<f64>| ms.filter(|ms| ms.is_finite()).map_or_else(|| "–".to_owned(), duration);
    [
        count(blue.calls_per_second),
        count(green.calls_per_second),
        count(blue.errors_per_second),
        count(green.errors_per_second),
        time(blue.p99_ms),
        time(green.p99_ms),
        time(blue.p50_ms),
        time(green.p50_ms),
        count(blue.in_flight as f64),
        count(green.in_flight as f64),
        count(blue.streams as f64),
        count(green.streams as f64),
        count(blue.sessions as f64),
        count(green.sessions as f64),
    ]
}

/// At most so many samples: several in a row are one, see [`Figures::folded`].
pub(super) fn folded(samples: &[Sample], at_most: usize) -> Vec<Sample> {
    if samples.len() <= at_most {
        return samples.to_vec();
    }
    let fold = |samples: &[Sample]| Sample {
        at_ms: samples[samples.len() / 2].at_ms,
        blue: Figures::folded(samples.iter().map(|sample| &sample.blue)),
        green: Figures::folded(samples.iter().map(|sample| &sample.green)),
    };
    parts(samples, at_most).map(fold).collect()
}

/// So many parts of a slice that is longer than that, none of them empty.
pub(super) fn parts<T>(all: &[T], count: usize) -> impl Iterator<Item = &[T]> {
    (0..count).map(move |index| &all[index * all.len() / count..(index + 1) * all.len() / count])
}

/// How many calls and errors there were in all, as far as the samples tell.
pub(super) fn totals(samples: &[Sample]) -> Option<(f64, f64)> {
    let (mut calls, mut errors) = (0.0, 0.0);
    for pair in samples.windows(2) {
        let seconds = pair[1].at_ms.saturating_sub(pair[0].at_ms).min(SILENCE_MS) as f64 / 1000.0;
        for color in [Color::Blue, Color::Green] {
            calls += pair[1].of(color).calls_per_second.max(0.0) * seconds;
            errors += pair[1].of(color).errors_per_second.max(0.0) * seconds;
        }
    }
    (samples.len() > 1 && calls.is_finite() && errors.is_finite()).then_some((calls, errors))
}
