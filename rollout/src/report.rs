//! What a rollout did, and the page that shows it: one HTML file that needs nothing else, neither a network nor a script.
//!
//! Every word in a report comes from outside. It reaches the page through `Text` only, which leaves no markup in it.

use std::fmt::{self, Write as _};

use bg_runtime::Color;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a rollout did, as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Names the rollout, such as `20261126T023000Z-deploy-green`.
    pub id: String,
    /// What was asked for: `deploy`, `switch`, `rollback` or `retire`.
    pub goal: String,
    /// Where: `local`, `kubernetes` or `ecs`.
    pub platform: String,
    /// Who asked, such as `ada@host`.
    pub by: String,
    /// What was live before.
    pub from: Side,
    /// What was meant to be live after.
    pub to: Side,
    /// How it ended, if it did.
    pub outcome: Outcome,
    /// Why it was not done.
    pub reason: Option<String>,
    /// When it began: Unix milliseconds.
    pub began_ms: u64,
    /// When it ended: Unix milliseconds. `None` while it runs.
    pub ended_ms: Option<u64>,
    /// What was done, in order.
    pub steps: Vec<StepLine>,
    /// What happened meanwhile. They are marked on every chart.
    pub events: Vec<Event>,
    /// What both colors did meanwhile, about twice a second.
    pub samples: Vec<Sample>,
    /// How fast the traffic moved, each time it did.
    pub switches: Vec<SwitchProof>,
}

/// A build in its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// The slot.
    pub color: Color,
    /// Version and commit, if known.
    pub build: Option<String>,
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It has not.
    Running,
    /// As it was meant to.
    Done,
    /// What was live before is live again.
    RolledBack,
    /// Nothing was begun.
    Refused,
    /// It could neither go on nor back.
    Failed,
    /// Somebody stopped it.
    Aborted,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepLine {
    /// What it is called.
    pub name: String,
    /// When it began: Unix milliseconds.
    pub began_ms: u64,
    /// How long it took: milliseconds.
    pub took_ms: u64,
    /// How it ended.
    pub outcome: StepOutcome,
    /// What it found, in a sentence.
    pub words: String,
    /// What else it found: label and value.
    pub details: Vec<(String, String)>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepOutcome {
    /// Well.
    Passed,
    /// Badly.
    Failed,
    /// It was not tried.
    Skipped,
}

/// Something that happened at one moment, such as `switched to green`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When: Unix milliseconds.
    pub at_ms: u64,
    /// What, in a few words.
    pub words: String,
    /// The color it is about, if it is about one.
    pub color: Option<Color>,
}

/// Both colors at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// When: Unix milliseconds.
    pub at_ms: u64,
    /// What blue did.
    pub blue: Figures,
    /// What green did.
    pub green: Figures,
}

/// One color at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Calls answered in a second.
    pub calls_per_second: f64,
    /// Errors among the answers of a second.
    pub errors_per_second: f64,
    /// Half of the calls were answered within this many milliseconds. `None` when there were none.
    pub p50_ms: Option<f64>,
    /// 99 of 100 calls were answered within this many milliseconds. `None` when there were none.
    pub p99_ms: Option<f64>,
    /// Calls that were not answered yet.
    pub in_flight: u64,
    /// Streams that were open.
    pub streams: u64,
    /// Sessions that were pinned to it.
    pub sessions: u64,
}

/// How fast the traffic moved from one color to the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwitchProof {
    /// The color it moved to.
    pub to: Color,
    /// When that was commanded: Unix milliseconds.
    pub at_ms: u64,
    /// From the command to the first answer of that color: milliseconds.
    pub first_answer_ms: f64,
    /// From the command to all traffic there: milliseconds.
    pub whole_ms: f64,
    /// How many answers in a row proved it.
    pub answers: u32,
}

/// Words from outside, as text of the page. Nothing in them is markup, and nothing turns the direction of the line.
struct Text<'a>(&'a str);

/// The time that the page shows: Unix milliseconds.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u64,
    to: u64,
}

/// A figure at a moment, or that there was none.
type Point = (u64, Option<f64>);

/// One line of a chart.
struct Series {
    color: Color,
    /// Which of a color's lines it is, such as `p99`, where there are several.
    of: Option<&'static str>,
    /// Drawn behind, and thinner.
    faint: bool,
    points: Vec<Point>,
}

/// One chart of the timeline.
struct Chart {
    title: &'static str,
    note: &'static str,
    /// Pixels.
    height: f64,
    unit: Unit,
    series: Vec<Series>,
}

/// What the figures of a chart are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// So many a second.
    Rate,
    /// So many, none of them half.
    Things,
    /// Milliseconds.
    Time,
}

/// What a chart's height means.
#[derive(Debug)]
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

/// Where an event's words stand, above the charts.
#[derive(Debug, PartialEq)]
struct Flag {
    lane: usize,
    /// Where the event is, and from where to where its words reach: pixels of a plot that is [`WIDE`].
    x: f64,
    left: f64,
    right: f64,
    /// Whether the words stand before the line and not after it.
    before: bool,
    words: String,
}

/// Looks for places for the words of all events.
struct Placing<'a> {
    words: &'a [String],
    xs: &'a [f64],
    lanes: usize,
    /// Whether lines may not go behind words.
    clear: bool,
}

/// A line has this many points at most: more than that nobody sees.
const POINTS: usize = 600;
/// The table has this many rows at most.
const ROWS: usize = 60;
/// Silence that is longer than this many milliseconds is not drawn over.
const SILENCE_MS: u64 = 5000;

/// The width that words above the charts are laid out for, and that of a phone: pixels. A plot may be wider than that.
const WIDE: f64 = 720.0;
const NARROW: f64 = 290.0;
/// Words above the charts have this many lanes at most, are cut to one of these lengths, and so many places are tried.
const LANES: usize = 4;
const FLAG_CHARACTERS: [usize; 2] = [40, 24];
const TRIES: u32 = 20_000;
/// How high a lane is: pixels.
const LANE: usize = 26;

/// A build has this many characters at most in a sentence; beside its color it is whole.
const BUILD_CHARACTERS: usize = 48;

const CSS: &str = include_str!("../assets/report.css");

const SHAPES: &str = r##"<svg width="0" height="0" class="shapes" aria-hidden="true"><defs>
<symbol id="blue" viewBox="0 0 10 10"><circle cx="5" cy="5" r="4.5"/></symbol>
<symbol id="green" viewBox="0 0 10 10"><rect x=".8" y=".8" width="8.4" height="8.4" rx="1.4"/></symbol>
<symbol id="good" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6.75"/><path d="M5 8.2l2.1 2.1L11 6"/></symbol>
<symbol id="bad" viewBox="0 0 16 16"><path d="M5.1 1.5h5.8l3.6 3.6v5.8l-3.6 3.6H5.1l-3.6-3.6V5.1z"/>
<path d="M5.7 5.7l4.6 4.6m0-4.6l-4.6 4.6"/></symbol>
<symbol id="none" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6.75" stroke-dasharray="2.6 1.7"/><path d="M5.2 8h5.6"/></symbol>
<symbol id="back" viewBox="0 0 16 16"><path d="M5.6 2.6L2.3 5.9l3.3 3.3"/><path d="M2.6 5.9h6.6a4.1 4.1 0 010 8.2H6"/></symbol>
<symbol id="going" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6.75"/><path d="M8 4.4V8l2.4 1.6"/></symbol>
<symbol id="arrow" viewBox="0 0 16 16"><path d="M2 8h11.4M9 3.6L13.4 8 9 12.4"/></symbol>
</defs></svg>
"##;

/// Shows the figures under the pointer in place of the peaks. The page is whole without it.
const SCRIPT: &str = r#"(() => {
  const timeline = document.querySelector('.timeline'), data = document.getElementById('figures');
  if (!timeline || !data) return;
  const rows = JSON.parse(data.textContent), plots = [...timeline.querySelectorAll('.plot')];
  const keys = [...timeline.querySelectorAll('[data-k]')], heads = [...timeline.querySelectorAll('.when')];
  if (!rows.length || !plots.length) return;
  keys.forEach(key => key.dataset.peak = key.textContent);
  const add = (place, tag, name) => place.appendChild(Object.assign(document.createElement(tag), {className: name}));
  const lines = plots.map(plot => add(plot, 'i', 'cross')), clock = add(timeline.querySelector('.axis .ticks'), 'b', 'now');
  let at = -1;
  const show = i => {
    at = i;
    const row = rows[i];
    timeline.classList.toggle('reading', !!row);
    heads.forEach(head => head.textContent = row ? row[1] : 'peak');
    keys.forEach(key => key.textContent = row ? row[3 + +key.dataset.k] : key.dataset.peak);
    if (!row) return;
    lines.forEach(line => line.style.left = row[0] * 100 + '%');
    clock.style.left = Math.min(96, Math.max(4, row[0] * 100)) + '%';
    clock.textContent = row[1];
    clock.title = row[2];
  };
  const near = event => {
    const box = plots[0].getBoundingClientRect(), x = (event.clientX - box.left) / box.width;
    if (x < -0.02 || x > 1.02) return show(-1);
    let best = 0;
    rows.forEach((row, i) => { if (Math.abs(row[0] - x) < Math.abs(rows[best][0] - x)) best = i; });
    show(best);
  };
  timeline.addEventListener('pointermove', near);
  timeline.addEventListener('pointerdown', near);
  timeline.addEventListener('pointerleave', () => show(-1));
  timeline.tabIndex = 0;
  timeline.ariaLabel = 'Charts. Arrow keys read them.';
  timeline.addEventListener('blur', () => show(-1));
  timeline.addEventListener('keydown', event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (event.key === 'Escape') show(-1);
    if (!step || event.target !== timeline) return;
    event.preventDefault();
    show(at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step)));
  });
})();"#;

/// The page.
pub fn html(report: &Report) -> String {
    let mut report = report.clone();
    report.samples.sort_by_key(|sample| sample.at_ms);
    report.events.sort_by_key(|event| event.at_ms);
    report.switches.sort_by_key(|switch| switch.at_ms);
    let report = &report;
    let span = Span::of(report);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n{SHAPES}<main>\n{header}{proofs}{timeline}{steps}\
         <footer><p>All times are UTC.</p><p class=\"id\">{id}</p></footer>\n</main>\n\
         <script type=\"application/json\" id=\"figures\">{figures}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        title = sentence(report, plain_side),
        header = header(report, span),
        proofs = proofs(report),
        timeline = timeline(report, span),
        steps = steps(report, span),
        id = Text(&report.id),
        figures = figures(report, span),
    )
}

// === impl Text ===

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(character)?,
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char(char::REPLACEMENT_CHARACTER)?,
                control if control.is_control() => f.write_char(char::REPLACEMENT_CHARACTER)?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

// === impl Span ===

impl Span {
    /// From the first thing that is known to the last.
    fn of(report: &Report) -> Self {
        let moments = || {
            let steps = report.steps.iter().flat_map(|step| [step.began_ms, step.began_ms.saturating_add(step.took_ms)]);
            let events = report.events.iter().map(|event| event.at_ms);
            steps.chain(events).chain(report.samples.iter().map(|sample| sample.at_ms)).chain(report.ended_ms)
        };
        let from = moments().fold(report.began_ms, u64::min);
        let to = moments().fold(report.began_ms, u64::max);
        Self { from, to: to.max(from.saturating_add(1000)) }
    }

    fn millis(self) -> u64 {
        self.to.saturating_sub(self.from).max(1)
    }

    /// Where a moment is: from 0 at the left to 1 at the right.
    fn x(self, at_ms: u64) -> f64 {
        (at_ms.saturating_sub(self.from) as f64 / self.millis() as f64).clamp(0.0, 1.0)
    }

    /// Round moments, `at_most` or fewer.
    fn ticks(self, at_most: u64) -> Vec<u64> {
        const STEPS: [u64; 17] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 86_400];
        let seconds = self.millis() / 1000;
        let step = STEPS.into_iter().find(|step| seconds / step <= at_most).unwrap_or(seconds / at_most) * 1000;
        let first = self.from.div_ceil(step);
        (first..=self.to / step).map(|tick| tick * step).collect()
    }
}

// === impl Figures ===

impl Figures {
    /// The highest of each; of calls per second the mean, as a color that answers less is the worse one.
    fn folded<'a>(figures: impl Iterator<Item = &'a Self>) -> Self {
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

impl Sample {
    fn of(&self, color: Color) -> &Figures {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }
}

// === impl Series ===

impl Series {
    fn of(samples: &[Sample], color: Color, figure: impl Fn(&Figures) -> Option<f64>) -> Self {
        let sane = |sample: &Sample| figure(sample.of(color)).filter(|value| value.is_finite()).map(|value| value.max(0.0));
        Self { color, of: None, faint: false, points: samples.iter().map(|sample| (sample.at_ms, sane(sample))).collect() }
    }

    fn called(self, of: &'static str, faint: bool) -> Self {
        Self { of: Some(of), faint, ..self }
    }

    fn name(&self) -> String {
        self.of.map_or_else(|| self.color.to_string(), |of| format!("{} {of}", self.color))
    }

    fn peak(&self) -> Option<(u64, f64)> {
        let values = self.points.iter().filter_map(|&(at, value)| Some((at, value?)));
        values.reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.points.iter().filter_map(|point| point.1)
    }
}

// === impl Chart ===

impl Chart {
    /// All charts. Their lines are in the order of [`cells`].
    fn all(samples: &[Sample]) -> Vec<Self> {
        let both = |figure: fn(&Figures) -> Option<f64>| [Color::Blue, Color::Green].map(|c| Series::of(samples, c, figure));
        let latency = [
            both(|f| f.p99_ms).map(|series| series.called("p99", false)),
            both(|f| f.p50_ms).map(|series| series.called("p50", true)),
        ];
        let chart = |title, note, height, unit, series: Vec<Series>| Self { title, note, height, unit, series };
        let lines = |figure| both(figure).into();
        vec![
            chart("Calls", "per second", 116.0, Unit::Rate, lines(|f| Some(f.calls_per_second))),
            chart("Errors", "per second", 84.0, Unit::Rate, lines(|f| Some(f.errors_per_second))),
            chart("Latency", "", 132.0, Unit::Time, latency.into_iter().flatten().collect()),
            chart("In flight", "calls", 68.0, Unit::Things, lines(|f| Some(f.in_flight as f64))),
            chart("Streams", "open", 68.0, Unit::Things, lines(|f| Some(f.streams as f64))),
            chart("Sessions", "open", 68.0, Unit::Things, lines(|f| Some(f.sessions as f64))),
        ]
    }

    /// Writes a figure of this chart.
    fn words(&self, figure: f64) -> String {
        match self.unit {
            Unit::Rate | Unit::Things => count(figure),
            Unit::Time => duration(figure),
        }
    }

    fn scale(&self) -> Scale {
        let values = || self.series.iter().flat_map(Series::values);
        let high = values().fold(0.0, f64::max);
        let low = values().filter(|value| *value > 0.0).fold(high, f64::min).max(0.001);
        if self.unit == Unit::Time && high > 20.0 * low {
            return Scale::log(low, high);
        }
        Scale::even(high, (self.height / 29.0) as u32, self.unit == Unit::Things)
    }

    /// What the chart shows, for whoever does not see it.
    fn told(&self) -> String {
        let mut told = format!("{}.", [self.title, self.note].join(" ").trim_end());
        for series in &self.series {
            let name = series.name();
            let _ = match (series.peak(), series.values().last()) {
                (Some((_, 0.0)), _) => write!(told, " {name}: always 0."),
                (Some((at, peak)), Some(last)) => {
                    write!(told, " {name}: at most {} at {}, {} at last.", self.words(peak), clock(at), self.words(last))
                }
                _ => write!(told, " {name}: none."),
            };
        }
        told
    }

    /// The lines, as shapes in a box 1000 wide and as high as the chart. The box is stretched to its place.
    fn drawn(&self, span: Span, scale: &Scale) -> String {
        let place = |&(at, value): &(u64, f64)| (span.x(at) * 1000.0, scale.y(value, self.height));
        let cut = |series: &Series| segments(&thinned(&series.points, POINTS));
        let (mut grid, mut areas, mut lines) = (String::new(), String::new(), String::new());
        for tick in &scale.ticks {
            let _ = write!(grid, "<path class=\"grid\" d=\"M0 {:.1}H1000\"/>", scale.y(*tick, self.height));
        }
        // Green last: where both are alike, its dashes leave blue to be seen.
        for series in &self.series {
            let segments = cut(series);
            let (mut path, mut dots, mut area) = (String::new(), String::new(), String::new());
            for segment in &segments {
                trace(if segment.len() > 1 { &mut path } else { &mut dots }, segment.iter().map(place));
            }
            let (color, faint) = (series.color, if series.faint { " faint" } else { "" });
            for (class, path) in [("line", path), ("dot", dots)].into_iter().filter(|(_, path)| !path.is_empty()) {
                let _ = write!(lines, "<path class=\"{class} {color}{faint}\" d=\"{path}\"/>");
            }
            if series.faint {
                continue;
            }
            // Latency is an area between p50 and p99, everything else one that stands on the bottom.
            let floor = self.series.iter().find(|other| other.faint && other.color == series.color).map(cut);
            for (index, segment) in segments.iter().enumerate() {
                let back: Vec<_> = match &floor {
                    Some(floor) if floor.len() == segments.len() => floor[index].iter().rev().map(place).collect(),
                    Some(_) => continue,
                    None => segment.last().into_iter().chain(segment.first()).map(|at| (place(at).0, self.height)).collect(),
                };
                trace(&mut area, segment.iter().map(place).chain(back));
                area.push('Z');
            }
            let _ = write!(areas, "<path class=\"area {}\" d=\"{area}\"/>", series.color);
        }
        format!("{grid}{areas}{lines}")
    }

    /// One row of the timeline. `first` is the number of its first line in [`cells`].
    fn row(&self, span: Span, marks: &str, first: usize) -> String {
        let scale = self.scale();
        let (mut keys, mut ticks) = (String::new(), String::new());
        for (index, series) in self.series.iter().enumerate() {
            let peak = series.peak().map_or_else(|| "–".to_owned(), |(_, peak)| self.words(peak));
            let (color, faint) = (series.color, if series.faint { " faint" } else { "" });
            let _ = write!(
                keys,
                "<li><svg class=\"swatch\" viewBox=\"0 0 20 8\" aria-hidden=\"true\"><path class=\"line {color}{faint}\" \
                 d=\"M1 4H19\"/></svg><span>{}</span><b data-k=\"{}\">{peak}</b></li>",
                series.name(),
                first + index
            );
        }
        for tick in &scale.ticks {
            let y = scale.y(*tick, self.height);
            let words = if *tick == 0.0 { "0".to_owned() } else { self.words(*tick) };
            let _ = write!(ticks, "<span style=\"top:{y:.1}px\">{words}</span>");
        }
        let note = if scale.log { "log scale" } else { self.note };
        format!(
            "<div class=\"row\"><div class=\"legend\"><h3>{} <small>{note}</small></h3><span class=\"when\">peak</span>\
             <ul>{keys}</ul></div>\n<div class=\"frame\" style=\"height:{}px\">\
             <div class=\"scale\" aria-hidden=\"true\">{ticks}</div>\
             <div class=\"plot\"><svg viewBox=\"0 0 1000 {}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"{}\">{}</svg>{marks}</div></div></div>\n",
            self.title,
            self.height,
            self.height,
            Text(&self.told()),
            self.drawn(span, &scale),
        )
    }
}

// === impl Scale ===

impl Scale {
    /// From 0 to the lowest round figure that is not below `high`, in so many round steps, or half as many at least.
    fn even(high: f64, at_most: u32, whole: bool) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        let magnitude = 10_f64.powf(high.log10().floor());
        let steps = [0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * magnitude);
        let fitting = steps.into_iter().filter(|step| !whole || step.fract() == 0.0).filter_map(|step| {
            let count = (high / step - 1e-9).ceil().max(1.0);
            (count <= f64::from(at_most) && count >= f64::from(at_most / 2)).then_some((count * step, count, step))
        });
        // Of two that are as high, the one with more lines, which comes first.
        let (high, count, step) = fitting.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((high, 1.0, high));
        let ticks = (0..=count as u32).map(|index| f64::from(index) * step).collect();
        Self { low: 0.0, high, log: false, ticks }
    }

    /// From a round figure to a round figure around `low` and `high`, both above 0.
    fn log(low: f64, high: f64) -> Self {
        let round = |value: f64, up: bool| {
            let magnitude = 10_f64.powf(value.log10().floor());
            let mut steps = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter();
            let step = if up { steps.find(|step| *step >= value) } else { steps.rfind(|step| *step <= value) };
            step.unwrap_or(value)
        };
        let (low, high) = (round(low, false), round(high, true));
        let decades = (low.log10().ceil() as i32)..=(high.log10() + 1e-9).floor() as i32;
        let mut ticks: Vec<f64> = decades.map(|power| 10_f64.powi(power)).collect();
        if ticks.len() < 3 {
            ticks.extend([low, high]);
            ticks.sort_by(f64::total_cmp);
            ticks.dedup_by(|a, b| *a / *b < 1.9);
        }
        Self { low, high, log: true, ticks }
    }

    /// How far below the top a figure stands in a chart of this height.
    fn y(&self, value: f64, height: f64) -> f64 {
        let share = match self.log {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        (1.0 - share.clamp(0.0, 1.0)) * height
    }
}

// === impl Flag ===

impl Flag {
    /// Whether they are over one another.
    fn overlaps(&self, other: &Self) -> bool {
        self.lane == other.lane && self.left < other.right + 8.0 && other.left < self.right + 8.0
    }

    /// Whether the line of one, which goes down from its words, goes through the other's words.
    fn crosses(&self, other: &Self) -> bool {
        let (upper, lower) = if self.lane < other.lane { (self, other) } else { (other, self) };
        upper.lane != lower.lane && upper.x > lower.left - 4.0 && upper.x < lower.right + 4.0
    }
}

// === impl Placing ===

impl Placing<'_> {
    fn placed(&self) -> Option<Vec<Flag>> {
        let mut flags = Vec::new();
        self.place(&mut flags, &mut { TRIES }).then_some(flags)
    }

    /// Places the rest, going back on what was placed where that leaves no room. False when it cannot be done.
    fn place(&self, flags: &mut Vec<Flag>, tries: &mut u32) -> bool {
        let Some((words, &x)) = self.words.get(flags.len()).zip(self.xs.get(flags.len())) else {
            return true;
        };
        // Seven pixels are enough for a character of the widest font that there is by default.
        let width = 38.0 + words.chars().count() as f64 * 7.0;
        for lane in 0..self.lanes {
            for (before, left) in [(false, x - 10.0), (true, x + 10.0 - width)] {
                if *tries == 0 {
                    return false;
                }
                *tries -= 1;
                let flag = Flag { lane, x, left, right: left + width, before, words: words.clone() };
                let taken = |other: &Flag| other.overlaps(&flag) || (self.clear && other.crosses(&flag));
                if left < -40.0 || flag.right > WIDE + 12.0 || flags.iter().any(taken) {
                    continue;
                }
                flags.push(flag);
                if self.place(flags, tries) {
                    return true;
                }
                flags.pop();
            }
        }
        false
    }
}

// === The parts of the page ===

fn header(report: &Report, span: Span) -> String {
    let reason = report.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    let short = |reason: &&str| reason.chars().count() <= 84 && !reason.contains('\n');
    let tail = reason.filter(short).map_or_else(String::new, |reason| format!("<span class=\"why\">: {}</span>", Text(reason)));
    let long = match reason.filter(|reason| !short(reason)) {
        None => String::new(),
        Some(reason) if reason.chars().count() <= 600 => format!("<p class=\"reason\">{}</p>\n", Text(reason)),
        Some(reason) => format!(
            "<details class=\"reason\"><summary>{}</summary><p>{}</p></details>\n",
            Text(&shortened(reason, 240)),
            Text(reason)
        ),
    };
    let (shape, words, tone) = match report.outcome {
        Outcome::Running => ("going", "Running", "going"),
        Outcome::Done => ("good", "Done", "good"),
        Outcome::RolledBack => ("back", "Rolled back", "warn"),
        Outcome::Refused => ("bad", "Refused", "warn"),
        Outcome::Failed => ("bad", "Failed", "bad"),
        Outcome::Aborted => ("none", "Aborted", "warn"),
    };
    let ended = match report.ended_ms {
        Some(ended) => fact("Ended", &time(ended, date(report.began_ms) != date(ended))),
        None => fact("Last seen", &time(span.to, date(report.began_ms) != date(span.to))),
    };
    let took = report.ended_ms.unwrap_or(span.to).saturating_sub(report.began_ms);
    let mut facts = [
        fact("By", &Text(&report.by).to_string()),
        fact("Began", &time(report.began_ms, true)),
        ended,
        fact(if report.ended_ms.is_some() { "Took" } else { "Running for" }, &duration(took as f64)),
    ]
    .concat();
    if let Some((calls, errors)) = totals(&report.samples) {
        facts += &fact("Calls", &format!("about {}", count(calls)));
        let share = if calls > 0.0 && errors > 0.0 { format!(" ({})", percent(errors / calls)) } else { String::new() };
        facts += &fact("Errors", &if errors > 0.0 { format!("about {}{share}", count(errors)) } else { "none".to_owned() });
    }
    let side = |label: &str, side: &Side| {
        format!(
            "<div class=\"side\"><span class=\"label\">{label}</span><span class=\"slot {color}\">{mark}{color}</span>\
             <span class=\"build\">{}</span></div>",
            side.build.as_deref().map_or_else(|| "build unknown".to_owned(), |build| Text(build).to_string()),
            color = side.color,
            mark = mark(side.color),
        )
    };
    format!(
        "<header>\n<p class=\"kicker\"><span class=\"badge {tone}\">{}{words}</span><span>{}</span><span>{}</span></p>\n\
         <h1>{}{tail}</h1>\n{long}<div class=\"sides\">{}<svg class=\"arrow\" role=\"img\" aria-label=\"to\">\
         <use href=\"#arrow\"/></svg>{}</div>\n<dl class=\"facts\">{facts}</dl>\n</header>\n",
        icon(shape),
        Text(&report.goal),
        Text(&report.platform),
        sentence(report, marked_side),
        side("Live before", &report.from),
        side(if report.outcome == Outcome::Done { "Live after" } else { "Meant to be live after" }, &report.to),
    )
}

/// What came of it, in a sentence without the reason.
fn sentence(report: &Report, name: fn(&Side) -> String) -> String {
    let (from, to) = (name(&report.from), name(&report.to));
    let idle = name(&Side { color: report.to.color.other(), build: None });
    let goal = report.goal.as_str();
    let asked = match goal {
        "deploy" => format!("deploy of {to}"),
        "switch" => format!("switch to {to}"),
        "rollback" => format!("rollback to {to}"),
        "retire" => format!("retirement of {idle}"),
        other => format!("{} of {to}", Text(&shortened(other, BUILD_CHARACTERS))),
    };
    match (report.outcome, goal) {
        (Outcome::Running, "deploy") => format!("Deploying {to}"),
        (Outcome::Running, "switch") => format!("Switching to {to}"),
        (Outcome::Running, "rollback") => format!("Rolling back to {to}"),
        (Outcome::Running, "retire") => format!("Retiring {idle}"),
        (Outcome::Running, _) => format!("The {asked} is running"),
        (Outcome::Done, "retire") => format!("{idle} is retired, {to} is live"),
        (Outcome::Done, "rollback") => format!("Rolled back, {to} is live"),
        (Outcome::Done, _) => format!("{to} is live"),
        (Outcome::RolledBack, _) => format!("Rolled back to {from}"),
        (Outcome::Refused, _) => format!("The {asked} was refused"),
        (Outcome::Failed, _) => format!("The {asked} failed"),
        (Outcome::Aborted, _) => format!("The {asked} was stopped"),
    }
}

fn proofs(report: &Report) -> String {
    if report.switches.is_empty() {
        return String::new();
    }
    let mut cards = String::new();
    for switch in &report.switches {
        let figure = |label: &str, value: &str| {
            let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
            format!("<div><dt>{label}</dt><dd>{number} <small>{unit}</small></dd></div>")
        };
        let _ = writeln!(
            cards,
            "<article class=\"proof {color}\"><h3>{mark}Traffic to {color}<span class=\"at\">{}</span></h3><dl>{}{}{}</dl>\
             </article>",
            time(switch.at_ms, false),
            figure("First answer", &duration(switch.first_answer_ms)),
            figure("All traffic", &duration(switch.whole_ms)),
            figure("Proved by", &format!("{} answers", count(f64::from(switch.answers)))),
            color = switch.to,
            mark = mark(switch.to),
        );
    }
    format!(
        "<section aria-labelledby=\"switches\">\n<div class=\"head\"><h2 id=\"switches\">Switches</h2>\
         <p>From the command to the first answer of the new color, and to all traffic there.</p></div>\n\
         <div class=\"proofs\">\n{cards}</div>\n</section>\n"
    )
}

fn timeline(report: &Report, span: Span) -> String {
    if report.samples.is_empty() && report.events.is_empty() {
        return "<section aria-labelledby=\"timeline\">\n<div class=\"head\"><h2 id=\"timeline\">Timeline</h2>\
                <p>Nothing was recorded.</p></div>\n</section>\n"
            .to_owned();
    }
    let mut marks = String::new();
    for event in &report.events {
        let color = event.color.map_or("plain", Color::as_str);
        let _ = write!(marks, "<i class=\"mark {color}\" style=\"left:{:.2}%\"></i>", span.x(event.at_ms) * 100.0);
    }
    let mut rows = String::new();
    if report.samples.is_empty() {
        rows += "<p class=\"empty\">No figures were recorded.</p>\n";
    } else {
        let mut first = 0;
        for chart in Chart::all(&report.samples) {
            rows += &chart.row(span, &marks, first);
            first += chart.series.len();
        }
    }
    let (every, few) = (span.ticks(8), span.ticks(4));
    let mut ticks = String::new();
    for tick in every.iter().filter(|tick| (0.02..0.98).contains(&span.x(**tick))) {
        let class = if few.contains(tick) { "" } else { " class=\"more\"" };
        let _ = write!(ticks, "<span{class} style=\"left:{:.2}%\">{}</span>", span.x(*tick) * 100.0, clock(*tick));
    }
    format!(
        "<section aria-labelledby=\"timeline\">\n<div class=\"head\"><h2 id=\"timeline\">Timeline</h2><p>{}</p></div>\n\
         <div class=\"card\"><div class=\"timeline{}\" role=\"group\" aria-label=\"Charts\">\n{}{}{rows}\
         <div class=\"row axis\" aria-hidden=\"true\"><div class=\"legend\"><small>UTC</small></div><div class=\"frame\">\
         <div class=\"ticks\">{ticks}</div></div></div>\n</div>\n{}{}</div>\n</section>\n",
        if report.samples.is_empty() { "" } else { "Both colors on one clock. Blue is a solid line, green a dashed one." },
        if report.events.len() > 12 { " crowded" } else { "" },
        flags(&report.events, span),
        live(report, span),
        events(&report.events, span),
        table(&report.samples),
    )
}

/// The row above the charts that names the events: in words where there is room for all of them, otherwise by number.
fn flags(events: &[Event], span: Span) -> String {
    if events.is_empty() {
        return String::new();
    }
    let place = |width: f64| events.iter().map(|event| span.x(event.at_ms) * width).collect::<Vec<_>>();
    let class = |event: &Event| event.color.map_or("plain", Color::as_str);
    let by_number = |width: f64| {
        let mut numbers = String::new();
        for (first, last) in grouped(&place(width)) {
            let x = (span.x(events[first].at_ms) + span.x(events[last].at_ms)) * 50.0;
            let (class, words) = match last - first {
                0 => (class(&events[first]), format!("{}", first + 1)),
                _ => ("plain", format!("{}–{}", first + 1, last + 1)),
            };
            let _ = write!(numbers, "<b class=\"number {class}\" style=\"left:{x:.2}%\">{words}</b>");
        }
        format!("<div class=\"flags\" style=\"height:{LANE}px\">{numbers}</div>")
    };
    let wide = match in_words(events, &place(WIDE)) {
        None => by_number(WIDE),
        Some(flags) => {
            let lanes = flags.iter().map(|flag| flag.lane + 1).max().unwrap_or(1);
            let mut words = String::new();
            for (index, (flag, event)) in flags.iter().zip(events).enumerate() {
                let (x, top, color) = (span.x(event.at_ms) * 100.0, flag.lane * LANE, class(event));
                let side = match flag.before {
                    true => format!("right:calc({:.2}% - 10px)", 100.0 - x),
                    false => format!("left:calc({x:.2}% - 10px)"),
                };
                let _ = write!(
                    words,
                    "<i class=\"mark {color}\" style=\"left:{x:.2}%;top:{}px\"></i><span class=\"flag {color}{}\" \
                     style=\"{side};top:{top}px;max-width:{:.0}px\"><b class=\"number {color}\">{}</b><span>{}</span></span>",
                    top + 10,
                    if flag.before { " before" } else { "" },
                    flag.right - flag.left,
                    index + 1,
                    Text(&flag.words),
                );
            }
            format!("<div class=\"flags\" style=\"height:{}px\">{words}</div>", lanes * LANE)
        }
    };
    format!(
        "<div class=\"row head-row\" aria-hidden=\"true\"><div class=\"legend\"><h3>Events</h3></div><div class=\"frame wide\">\
         {wide}</div><div class=\"frame narrow\">{}</div></div>\n",
        by_number(NARROW)
    )
}

/// The row that says which color was live when. Left out where the switches do not tell.
fn live(report: &Report, span: Span) -> String {
    let mut live = report.from.color;
    let mut began = span.from;
    let mut parts = Vec::new();
    for switch in &report.switches {
        parts.push((live, began, switch.at_ms));
        (live, began) = (switch.to, switch.at_ms);
    }
    parts.push((live, began, span.to));
    let known = match report.outcome {
        Outcome::Done => live == report.to.color,
        Outcome::RolledBack | Outcome::Refused => live == report.from.color,
        Outcome::Running | Outcome::Failed | Outcome::Aborted => true,
    };
    if !known {
        return String::new();
    }
    let (mut bars, mut told) = (String::new(), "Live:".to_owned());
    for (color, from, to) in parts.into_iter().filter(|(_, from, to)| from < to) {
        let (left, right) = (span.x(from) * 100.0, span.x(to) * 100.0);
        let name = if right - left < 12.0 { "" } else { color.as_str() };
        let _ = write!(
            bars,
            "<span class=\"{color}\" style=\"left:{left:.2}%;width:calc({:.2}% - 2px)\">{}{name}</span>",
            right - left,
            mark(color)
        );
        let _ = write!(told, " {color} from {} to {},", clock(from), clock(to));
    }
    format!(
        "<div class=\"row live-row\"><div class=\"legend\"><h3>Live</h3></div><div class=\"frame\">\
         <div class=\"live\" role=\"img\" aria-label=\"{}.\">{bars}</div></div></div>\n",
        told.trim_end_matches(',')
    )
}

fn events(events: &[Event], span: Span) -> String {
    if events.is_empty() {
        return String::new();
    }
    let mut lines = String::new();
    for (index, event) in events.iter().enumerate() {
        let _ = writeln!(
            lines,
            "<li><b class=\"number {}\">{}</b><span class=\"after\">{}</span>{}<span class=\"words\">{}</span></li>",
            event.color.map_or("plain", Color::as_str),
            index + 1,
            offset(event.at_ms.saturating_sub(span.from)),
            time(event.at_ms, false),
            Text(&event.words),
        );
    }
    format!("<ol class=\"events{}\" aria-label=\"Events\">\n{lines}</ol>\n", if events.len() > 5 { " many" } else { "" })
}

/// The figures of the charts once more.
fn table(samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    const HEADS: [&str; 7] = ["Calls/s", "Errors/s", "p99", "p50", "In flight", "Streams", "Sessions"];
    let heads = HEADS.map(|head| format!("<th colspan=\"2\" scope=\"colgroup\">{head}</th>")).concat();
    let colors = "<th scope=\"col\" class=\"blue\">blue</th><th scope=\"col\" class=\"green\">green</th>".repeat(HEADS.len());
    let mut rows = String::new();
    let folded = folded(samples, ROWS);
    for sample in &folded {
        let cells: String = cells(sample).iter().map(|cell| format!("<td>{cell}</td>")).collect();
        let _ = writeln!(rows, "<tr><th scope=\"row\">{}</th>{cells}</tr>", clock(sample.at_ms));
    }
    let note = match folded.len() == samples.len() {
        true => "Every sample.".to_owned(),
        false => format!("{} samples in {} rows: the highest of each, of calls the mean.", samples.len(), folded.len()),
    };
    format!(
        "<details class=\"figures\"><summary>The figures as a table</summary>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Figures\"><table>\
         <caption>{note} Times are UTC.</caption><thead><tr><th rowspan=\"2\" scope=\"col\">Time</th>\
         {heads}</tr><tr>{colors}</tr></thead><tbody>\n{rows}</tbody></table></div></details>\n"
    )
}

/// What the pointer reads: where, when, how long after the beginning, then [`cells`].
fn figures(report: &Report, span: Span) -> String {
    let row = |sample: &Sample| {
        let mut row = vec![
            serde_json::json!((span.x(sample.at_ms) * 1e4).round() / 1e4),
            clock(sample.at_ms).into(),
            offset(sample.at_ms.saturating_sub(span.from)).into(),
        ];
        row.extend(cells(sample).map(Into::into));
        serde_json::Value::Array(row)
    };
    let rows: Vec<_> = folded(&report.samples, POINTS).iter().map(row).collect();
    serde_json::Value::Array(rows).to_string().replace('<', "\\u003c")
}

fn steps(report: &Report, span: Span) -> String {
    if report.steps.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for step in &report.steps {
        let (shape, words) = match step.outcome {
            StepOutcome::Passed => ("good", "Passed"),
            StepOutcome::Failed => ("bad", "Failed"),
            StepOutcome::Skipped => ("none", "Skipped"),
        };
        let (left, end) = (span.x(step.began_ms), span.x(step.began_ms.saturating_add(step.took_ms)));
        let details: String = step
            .details
            .iter()
            .map(|(label, value)| format!("<div><dt>{}</dt><dd>{}</dd></div>", Text(label), Text(value)))
            .collect();
        let details = match step.details.len() {
            0 => String::new(),
            1 => format!("<details><summary>1 detail</summary><dl>{details}</dl></details>"),
            many => format!("<details><summary>{many} details</summary><dl>{details}</dl></details>"),
        };
        let found = if step.words.is_empty() { String::new() } else { format!("<p>{}</p>", Text(&step.words)) };
        let (began, took, bar) = match step.outcome {
            StepOutcome::Skipped => ("–".to_owned(), "–".to_owned(), String::new()),
            _ => (
                offset(step.began_ms.saturating_sub(span.from)),
                duration(step.took_ms as f64),
                format!(
                    "<i class=\"{shape}\" style=\"left:min({:.2}%, 100% - 3px);width:max({:.2}%, 3px)\"></i>",
                    left * 100.0,
                    (end - left) * 100.0
                ),
            ),
        };
        let _ = writeln!(
            rows,
            "<tr role=\"row\" class=\"{shape}\"><td role=\"cell\" class=\"outcome\"><span>{}{words}</span></td>\
             <th role=\"rowheader\" scope=\"row\"><b>{}</b>{found}{details}</th>\
             <td role=\"cell\" class=\"began\"><span class=\"label\">Began </span>{began}</td>\
             <td role=\"cell\" class=\"gantt\"><div aria-hidden=\"true\">{bar}</div></td>\
             <td role=\"cell\" class=\"took\"><span class=\"label\">Took </span>{took}</td></tr>",
            icon(shape),
            Text(&step.name),
        );
    }
    let heads = [("outcome", "Outcome"), ("", "Step"), ("began", "Began"), ("gantt", "When"), ("took", "Took")];
    let heads =
        heads.map(|(class, head)| format!("<th role=\"columnheader\" scope=\"col\" class=\"{class}\">{head}</th>")).concat();
    let total = report.steps.len();
    let count = |outcome: StepOutcome| report.steps.iter().filter(|step| step.outcome == outcome).count();
    let mut told = format!("{} of {total} passed", count(StepOutcome::Passed));
    for (outcome, words) in [(StepOutcome::Failed, "failed"), (StepOutcome::Skipped, "skipped")] {
        let many = count(outcome);
        let _ = if many > 0 { write!(told, ", {many} {words}") } else { Ok(()) };
    }
    format!(
        "<section aria-labelledby=\"steps\">\n<div class=\"head\"><h2 id=\"steps\">Steps</h2><p>{told}.</p></div>\n\
         <div class=\"card flush\"><table class=\"steps\" role=\"table\" aria-labelledby=\"steps\">\
         <thead role=\"rowgroup\"><tr role=\"row\">{heads}</tr></thead>\
         <tbody role=\"rowgroup\">\n{rows}</tbody></table></div>\n</section>\n"
    )
}

fn fact(label: &str, value: &str) -> String {
    format!("<div><dt>{label}</dt><dd>{value}</dd></div>")
}

fn icon(shape: &str) -> String {
    format!("<svg class=\"icon\" aria-hidden=\"true\"><use href=\"#{shape}\"/></svg>")
}

fn mark(color: Color) -> String {
    format!("<svg class=\"shape {color}\" aria-hidden=\"true\"><use href=\"#{color}\"/></svg>")
}

fn plain_side(side: &Side) -> String {
    match &side.build {
        Some(build) => format!("{} {}", side.color, Text(&shortened(build, BUILD_CHARACTERS))),
        None => side.color.to_string(),
    }
}

fn marked_side(side: &Side) -> String {
    let plain = plain_side(side);
    let build = plain.strip_prefix(side.color.as_str()).unwrap_or_default();
    format!("<span class=\"named {color}\">{color}</span>{build}", color = side.color)
}

// === Figures and where they stand ===

/// What both colors did, in the order of the lines of [`Chart::all`].
fn cells(sample: &Sample) -> [String; 14] {
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
fn folded(samples: &[Sample], at_most: usize) -> Vec<Sample> {
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

/// At most so many points: of several in a row the highest and the lowest.
fn thinned(points: &[Point], at_most: usize) -> Vec<Point> {
    if points.len() <= at_most {
        return points.to_vec();
    }
    let mut thinned = Vec::with_capacity(at_most);
    for part in parts(points, at_most / 2) {
        let values = || part.iter().filter_map(|&(at, value)| Some((at, value?)));
        let by_value = |a: &(u64, f64), b: &(u64, f64)| a.1.total_cmp(&b.1);
        match (values().min_by(by_value), values().max_by(by_value)) {
            (Some(low), Some(high)) => {
                let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
                thinned.push((first.0, Some(first.1)));
                if first.0 != second.0 {
                    thinned.push((second.0, Some(second.1)));
                }
            }
            _ => thinned.extend(part.first().copied()),
        }
    }
    thinned
}

/// So many parts of a slice that is longer than that, none of them empty.
fn parts<T>(all: &[T], count: usize) -> impl Iterator<Item = &[T]> {
    (0..count).map(move |index| &all[index * all.len() / count..(index + 1) * all.len() / count])
}

/// The stretches of a line between which there was nothing to draw.
fn segments(points: &[Point]) -> Vec<Vec<(u64, f64)>> {
    let mut gaps: Vec<_> = points.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0)).collect();
    gaps.sort_unstable();
    let silence = gaps.get(gaps.len() / 2).map_or(SILENCE_MS, |usual| SILENCE_MS.max(usual.saturating_mul(6)));
    let mut segments: Vec<Vec<(u64, f64)>> = Vec::new();
    let mut last = None;
    for &(at, value) in points {
        let Some(value) = value else {
            last = None;
            continue;
        };
        match segments.last_mut() {
            Some(segment) if last.is_some_and(|last| at.saturating_sub(last) <= silence) => segment.push((at, value)),
            _ => segments.push(vec![(at, value)]),
        }
        last = Some(at);
    }
    segments
}

/// Adds a line to a path. A single point is a dot.
fn trace(path: &mut String, places: impl Iterator<Item = (f64, f64)>) {
    let mut count = 0;
    for (x, y) in places {
        let _ = write!(path, "{}{x:.1} {y:.1}", if count == 0 { 'M' } else { 'L' });
        count += 1;
    }
    if count == 1 {
        path.push_str("h.01");
    }
}

/// How many calls and errors there were in all, as far as the samples tell.
fn totals(samples: &[Sample]) -> Option<(f64, f64)> {
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

/// Numbered events side by side, those that are too close to each other as one: the first and last of each.
fn grouped(xs: &[f64]) -> Vec<(usize, usize)> {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    let reach = |&(first, last): &(usize, usize)| {
        let (center, half) = ((xs[first] + xs[last]) / 2.0, if first == last { 12.0 } else { 25.0 });
        (center - half, center + half)
    };
    for index in 0..xs.len() {
        groups.push((index, index));
        while let [.., before, after] = groups.as_slice()
            && reach(before).1 > reach(after).0
        {
            let both = (before.0, after.1);
            groups.truncate(groups.len() - 2);
            groups.push(both);
        }
    }
    groups
}

/// Events in words, none over another's words: uncut if that can be, none over another's line if that can be, and in as few
/// lanes as will do. `None` when there is no room for all.
fn in_words(events: &[Event], xs: &[f64]) -> Option<Vec<Flag>> {
    FLAG_CHARACTERS.into_iter().find_map(|characters| {
        let words: Vec<_> = events.iter().map(|event| shortened(&event.words, characters)).collect();
        let mut ways = [true, false].into_iter().flat_map(|clear| (1..=LANES).map(move |lanes| (clear, lanes)));
        ways.find_map(|(clear, lanes)| Placing { words: &words, xs, lanes, clear }.placed())
    })
}

// === Words ===

fn shortened(words: &str, at_most: usize) -> String {
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= at_most {
        return words;
    }
    let start: String = words.chars().take(at_most - 1).collect();
    format!("{}…", start.trim_end())
}

/// Milliseconds as one reads them: `1.2 ms`, `48 ms`, `1.3 s`, `12 min`.
fn duration(ms: f64) -> String {
    if !ms.is_finite() {
        return "–".to_owned();
    }
    let ms = ms.max(0.0);
    let seconds = (ms / 1000.0).round() as u64;
    let two = |large: u64, unit: &str, small: u64, of: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {of}"),
    };
    match ms {
        0.0 => "0 ms".to_owned(),
        _ if ms < 0.05 => "under 0.1 ms".to_owned(),
        _ if ms < 9.95 => tenths(ms) + " ms",
        _ if ms < 999.5 => format!("{ms:.0} ms"),
        _ if ms < 9950.0 => tenths(ms / 1000.0) + " s",
        _ if seconds < 60 => format!("{seconds} s"),
        _ if seconds < 600 => two(seconds / 60, "min", seconds % 60, "s"),
        _ if seconds < 3570 => format!("{:.0} min", ms / 60_000.0),
        _ if seconds < 172_800 => {
            let minutes = (seconds + 30) / 60;
            two(minutes / 60, "h", minutes % 60, "min")
        }
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// How long after the beginning, in columns: `+0:09.4` is minutes and seconds, `+1:02:03` hours too.
fn offset(ms: u64) -> String {
    let tenths = ms / 100;
    match tenths / 36_000 {
        0 => format!("+{}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10),
        hours => format!("+{hours}:{:02}:{:02}", tenths / 600 % 60, tenths / 10 % 60),
    }
}

/// A number as one reads it: `0.4`, `120`, `10 800`.
fn count(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value < 9.95 {
        return if value > 0.0 && value < 0.05 { "under 0.1".to_owned() } else { tenths(value.max(0.0)) };
    }
    let digits = format!("{value:.0}");
    let mut spaced = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            spaced.push('\u{202f}');
        }
        spaced.push(digit);
    }
    spaced
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        tiny if tiny < 0.05 => "under 0.1 %".to_owned(),
        small if small < 9.95 => format!("{small:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// With one decimal, unless that is 0.
fn tenths(value: f64) -> String {
    let words = format!("{value:.1}");
    words.strip_suffix(".0").map_or(words.clone(), str::to_owned)
}

fn timestamp(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

/// The time of day in UTC.
fn clock(ms: u64) -> String {
    timestamp(ms).map_or_else(|| "–".to_owned(), |at| at.strftime("%H:%M:%S").to_string())
}

fn date(ms: u64) -> String {
    timestamp(ms).map_or_else(|| "–".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

/// A moment for people and machines.
fn time(ms: u64, dated: bool) -> String {
    let Some(at) = timestamp(ms) else {
        return format!("{ms} ms");
    };
    let date = if dated { date(ms) + " " } else { String::new() };
    format!("<time datetime=\"{at}\">{date}{} <abbr>UTC</abbr></time>", clock(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: u64 = 1_795_660_200_000;
    const HOSTILE: &str = "</title></script></style><script>alert(1)</script><img src=x onerror=\"alert(2)\">'&\u{202e}\0";

    fn report() -> Report {
        let side = |color, build: &str| Side { color, build: Some(build.to_owned()) };
        let (blue, green) = (side(Color::Blue, "1.9.4+41d07be"), side(Color::Green, "2.0.0+8f3a1c"));
        let step = StepLine {
            name: "Place green".to_owned(),
            began_ms: BEGAN + 200,
            took_ms: 9400,
            outcome: StepOutcome::Passed,
            words: "3 replicas are up.".to_owned(),
            details: vec![("Replicas".to_owned(), "3 of 3".to_owned())],
        };
        Report {
            id: "20261126T023000Z-deploy-green".to_owned(),
            goal: "deploy".to_owned(),
            platform: "local".to_owned(),
            by: "ada@host".to_owned(),
            from: blue,
            to: green,
            outcome: Outcome::Done,
            reason: None,
            began_ms: BEGAN,
            ended_ms: Some(BEGAN + 90_000),
            steps: vec![step],
            events: vec![event(40_000, "switched to green")],
            samples: (0..180).map(|index| sample(index * 500, 120.0)).collect(),
            switches: vec![SwitchProof {
                to: Color::Green,
                at_ms: BEGAN + 40_000,
                first_answer_ms: 1.23,
                whole_ms: 48.4,
                answers: 50,
            }],
        }
    }

    fn event(at: u64, words: &str) -> Event {
        Event { at_ms: BEGAN + at, words: words.to_owned(), color: Some(Color::Green) }
    }

    fn sample(at: u64, calls_per_second: f64) -> Sample {
        let blue = Figures { calls_per_second, p50_ms: Some(3.0), p99_ms: Some(18.0), streams: 4, ..Figures::default() };
        Sample { at_ms: BEGAN + at, blue, green: Figures::default() }
    }

    fn bare() -> Report {
        Report { steps: vec![], events: vec![], samples: vec![], switches: vec![], ..report() }
    }

    /// The tags that are open in turn; fails where one is closed that is not the last opened.
    fn check_tags(page: &str) {
        let mut open = Vec::new();
        let mut rest = page;
        while let Some((_, after)) = rest.split_once('<') {
            let (tag, after) = after.split_once('>').expect("a tag ends");
            rest = after;
            let name = tag.split([' ', '\n', '/']).find(|name| !name.is_empty()).expect("a tag has a name");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "before {:.80}", rest);
            } else if !tag.ends_with('/') && !matches!(name, "!doctype" | "meta") {
                open.push(name);
            }
            if name == "script" && !tag.starts_with('/') {
                rest = &rest[rest.find("</script>").expect("a script ends")..];
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn hostile_words_are_never_markup() {
        let words = || HOSTILE.to_owned();
        let mut report = report();
        (report.id, report.goal, report.platform, report.by) = (words(), words(), words(), words());
        (report.from.build, report.to.build, report.reason) = (Some(words()), Some(words()), Some(words().repeat(9)));
        report.steps[0].name = words();
        report.steps[0].words = words();
        report.steps[0].details = vec![(words(), words())];
        for outcome in [Outcome::Done, Outcome::RolledBack, Outcome::Failed, Outcome::Refused, Outcome::Running] {
            report.outcome = outcome;
            report.events = vec![event(40_000, HOSTILE)];
            let page = html(&report);
            check_tags(&page);
            assert_eq!(page.matches("<script").count(), 2, "the page's own, and no other");
            assert!(!page.contains("<img") && !page.contains("onerror=\""));
            assert!(!page.contains('\u{202e}') && !page.contains('\0'));
            assert!(page.contains("&lt;img src=x onerror=&quot;alert(2)&quot;&gt;&#39;&amp;"), "it is shown");
        }
    }

    #[test]
    fn a_page_asks_for_nothing_from_elsewhere() {
        let page = html(&report());
        check_tags(&page);
        for forbidden in ["http://", "https://", "url(", "src=", "@import", "<link", "fetch("] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn a_report_without_anything_in_it_is_a_page() {
        let bare = bare();
        let page = html(&bare);
        check_tags(&page);
        assert!(page.contains("Nothing was recorded."));
        assert!(!page.contains("NaN") && !page.contains("inf"));
        let beyond = Report { began_ms: u64::MAX, ended_ms: Some(0), ..bare };
        check_tags(&html(&beyond));
    }

    #[test]
    fn one_sample_is_a_dot() {
        let mut report = bare();
        report.samples = vec![sample(0, 120.0)];
        let page = html(&report);
        check_tags(&page);
        assert!(page.contains("class=\"dot blue\" d=\"M0.0 23.2h.01\""), "120 of 150 on 116 pixels");
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn figures_that_are_no_numbers_are_left_out() {
        let mut report = report();
        report.samples[7].blue.calls_per_second = f64::NAN;
        report.samples[8].blue.p99_ms = Some(f64::INFINITY);
        let page = html(&report);
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn the_sentence_says_what_came_of_it() {
        let says = |outcome, goal: &str| {
            let report = Report { outcome, goal: goal.to_owned(), ..report() };
            sentence(&report, plain_side)
        };
        assert_eq!(says(Outcome::Done, "deploy"), "green 2.0.0+8f3a1c is live");
        assert_eq!(says(Outcome::RolledBack, "deploy"), "Rolled back to blue 1.9.4+41d07be");
        assert_eq!(says(Outcome::Running, "switch"), "Switching to green 2.0.0+8f3a1c");
        assert_eq!(says(Outcome::Done, "retire"), "blue is retired, green 2.0.0+8f3a1c is live");
        assert_eq!(says(Outcome::Failed, "rollback"), "The rollback to green 2.0.0+8f3a1c failed");
        assert_eq!(says(Outcome::Refused, "deploy"), "The deploy of green 2.0.0+8f3a1c was refused");
    }

    #[test]
    fn a_reason_follows_the_sentence_or_stands_below_it() {
        let with = |reason: &str| html(&Report { outcome: Outcome::RolledBack, reason: Some(reason.to_owned()), ..report() });
        assert!(with("too slow").contains("<span class=\"why\">: too slow</span></h1>"));
        let long = "slow ".repeat(40);
        assert!(with(&long).contains(&format!("<p class=\"reason\">{}</p>", long.trim())));
        let longer = "slow ".repeat(400);
        assert!(with(&longer).contains("<details class=\"reason\">") && with(&longer).contains(longer.trim()));
    }

    #[test]
    fn thinning_keeps_the_peak_and_the_dip() {
        let mut points: Vec<Point> = (0..9000).map(|index| (index * 500, Some(100.0 + (index % 7) as f64))).collect();
        points[4321].1 = Some(900.0);
        points[6543].1 = Some(0.5);
        points[3000..3400].iter_mut().for_each(|point| point.1 = None);
        let thinned = thinned(&points, POINTS);
        assert!(thinned.len() <= POINTS && thinned.len() > POINTS / 2, "{}", thinned.len());
        assert!(thinned.contains(&(4321 * 500, Some(900.0))) && thinned.contains(&(6543 * 500, Some(0.5))));
        assert!(thinned.is_sorted_by_key(|point| point.0));
        assert_eq!(segments(&thinned).len(), 2, "what was not measured is not drawn");
    }

    #[test]
    fn folding_keeps_the_peak_of_errors_and_the_mean_of_calls() {
        let mut samples: Vec<_> = (0..6000).map(|index| sample(index * 500, [90.0, 110.0][index as usize % 2])).collect();
        samples[1234].green.errors_per_second = 77.0;
        let folded = folded(&samples, ROWS);
        assert_eq!(folded.len(), ROWS);
        assert!(folded.iter().any(|sample| sample.green.errors_per_second == 77.0));
        assert!(folded.iter().all(|sample| (sample.blue.calls_per_second - 100.0).abs() < 1e-9));
        assert_eq!(folded[0].green.p99_ms, None);
    }

    #[test]
    fn silence_is_not_drawn_over() {
        let points: Vec<Point> = [0, 500, 1000, 9000, 9500].map(|at| (at, Some(1.0))).into();
        assert_eq!(segments(&points).iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
        let points: Vec<Point> = [0, 500, 1000, 1500].map(|at| (at, (at != 500).then_some(1.0))).into();
        assert_eq!(segments(&points).iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn words_above_the_charts_never_cover_words() {
        const LONG: &str = "errors of green are over the limit";
        let cases = [
            (3.0, LONG, false, false),
            (30.0, LONG, false, false),
            (90.0, LONG, true, false),
            (100.0, "switched to green", true, true),
        ];
        for (apart, words, room, clear) in cases {
            let xs: Vec<_> = (0..4).chain((apart < 40.0).then_some(4)).map(|index| f64::from(index) * apart).collect();
            let events: Vec<_> = xs.iter().map(|_| event(0, words)).collect();
            let flags = in_words(&events, &xs);
            assert_eq!(flags.is_some(), room, "{apart} pixels apart");
            let flags = flags.unwrap_or_default();
            for (index, one) in flags.iter().enumerate() {
                assert!(flags[..index].iter().all(|other| !one.overlaps(other)), "{flags:?}");
                assert!(!clear || flags[..index].iter().all(|other| !one.crosses(other)), "{flags:?}");
                assert!(one.left >= -40.0 && one.right <= WIDE + 12.0);
            }
        }
    }

    #[test]
    fn thirty_events_are_numbered_without_one_over_another() {
        let xs: Vec<_> = (0..30).map(|index| f64::from(index * index) * 0.3).collect();
        let groups = grouped(&xs);
        assert_eq!((groups[0].0, groups[groups.len() - 1].1), (0, 29));
        for pair in groups.windows(2) {
            assert_eq!(pair[0].1 + 1, pair[1].0, "every event is in one");
            let centers = [pair[0], pair[1]].map(|(first, last)| (xs[first] + xs[last]) / 2.0);
            assert!(centers[1] - centers[0] >= 24.0, "{groups:?}");
        }
        let mut report = report();
        report.events = (0..30).map(|index| event(index * index * 100, &format!("event {index}"))).collect();
        let page = html(&report);
        check_tags(&page);
        assert_eq!(page.matches("<span class=\"words\">event ").count(), 30, "all are told below");
    }

    #[test]
    fn what_was_live_is_told_only_where_the_switches_agree_with_the_outcome() {
        let report = report();
        let told = live(&report, Span::of(&report));
        assert!(told.contains("Live: blue from 02:30:00 to 02:30:40, green from 02:30:40 to 02:31:30."), "{told}");
        let contradicted = Report { outcome: Outcome::RolledBack, ..report };
        assert_eq!(live(&contradicted, Span::of(&contradicted)), "");
    }

    #[test]
    fn a_running_report_ends_where_it_was_last_seen() {
        let mut report = report();
        (report.outcome, report.ended_ms) = (Outcome::Running, None);
        report.samples.truncate(100);
        assert_eq!(Span::of(&report).to, BEGAN + 49_500);
        assert!(html(&report).contains("<dt>Running for</dt><dd>50 s</dd>"));
    }

    #[test]
    fn times_are_utc_and_say_so() {
        let page = html(&report());
        assert!(page.contains("<time datetime=\"2026-11-26T02:30:00Z\">2026-11-26 02:30:00 <abbr>UTC</abbr></time>"));
        assert!(page.contains("<time datetime=\"2026-11-26T02:30:40Z\">02:30:40 <abbr>UTC</abbr></time>"));
    }

    #[test]
    fn durations_are_rounded_to_what_matters() {
        let cases = [
            (0.0, "0 ms"),
            (0.01, "under 0.1 ms"),
            (1.23, "1.2 ms"),
            (9.96, "10 ms"),
            (48.2, "48 ms"),
            (999.6, "1 s"),
            (1300.0, "1.3 s"),
            (59_600.0, "1 min"),
            (90_000.0, "1 min 30 s"),
            (720_000.0, "12 min"),
            (3_590_000.0, "1 h"),
            (7_500_000.0, "2 h 5 min"),
            (200_000_000.0, "2 d 7 h"),
            (f64::NAN, "–"),
        ];
        for (ms, words) in cases {
            assert_eq!(duration(ms), words, "{ms}");
        }
        assert_eq!([0.0, 0.01, 0.42, 9.0, 120.4, 10_800.0].map(count), ["0", "under 0.1", "0.4", "9", "120", "10\u{202f}800"]);
        assert_eq!([0, 9_470, 70_000, 3_723_000].map(offset), ["+0:00.0", "+0:09.4", "+1:10.0", "+1:02:03"]);
    }

    #[test]
    fn scales_end_at_round_figures() {
        let scale = Scale::even(132.0, 4, false);
        assert_eq!((scale.high, scale.ticks), (150.0, vec![0.0, 50.0, 100.0, 150.0]));
        assert_eq!(Scale::even(0.0, 2, true).ticks, [0.0, 1.0]);
        assert_eq!(Scale::even(3.0, 2, true).ticks, [0.0, 2.0, 4.0]);
        let scale = Scale::log(2.9, 930.0);
        assert_eq!((scale.low, scale.high, scale.ticks), (2.0, 1000.0, vec![10.0, 100.0, 1000.0]));
        assert_eq!((Scale::log(2.9, 930.0).y(1000.0, 100.0), Scale::log(2.9, 930.0).y(0.0, 100.0)), (0.0, 100.0));
    }

    #[test]
    fn a_report_is_read_as_it_is_written() {
        let report = Report { outcome: Outcome::RolledBack, reason: Some("too slow".to_owned()), ..report() };
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains("\"outcome\":\"rolledBack\"") && text.contains("\"firstAnswerMs\":1.23"));
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
