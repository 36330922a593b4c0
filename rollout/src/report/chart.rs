//! The charts of the timeline: their lines, their scales and how they are drawn.

use std::fmt::Write as _;

use bg_runtime::Color;

use super::{
    Figures, Sample, Span,
    figures::{SILENCE_MS, parts},
    words::{Text, clock, count, duration},
};

/// A figure at a moment, or that there was none.
pub(super) type Point = (u64, Option<f64>);

/// One line of a chart.
pub(super) struct Series {
    pub(super) color: Color,
    /// Which of a color's lines it is, such as `p99`, where there are several.
    pub(super) of: Option<&'static str>,
    /// Drawn behind, and thinner.
    pub(super) faint: bool,
    pub(super) points: Vec<Point>,
}

/// One chart of the timeline.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) note: &'static str,
    /// Pixels.
    pub(super) height: f64,
    pub(super) unit: Unit,
    pub(super) series: Vec<Series>,
}

/// What the figures of a chart are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// So many a second.
    Rate,
    /// So many, none of them half.
    Things,
    /// Milliseconds.
    Time,
}

/// What a chart's height means.
#[derive(Debug)]
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) log: bool,
    pub(super) ticks: Vec<f64>,
}

/// A line has this many points at most: more than that nobody sees.
pub(super) const POINTS: usize = 600;

// === impl Series ===

impl Series {
    pub(super) fn of(samples: &[Sample], color: Color, figure: impl Fn(&Figures) -> Option<f64>) -> Self {
        let sane = |sample: &Sample| figure(sample.of(color)).filter(|value| value.is_finite()).map(|value| value.max(0.0));
        Self { color, of: None, faint: false, points: samples.iter().map(|sample| (sample.at_ms, sane(sample))).collect() }
    }

    pub(super) fn called(self, of: &'static str, faint: bool) -> Self {
        Self { of: Some(of), faint, ..self }
    }

    pub(super) fn name(&self) -> String {
        self.of.map_or_else(|| self.color.to_string(), |of| format!("{} {of}", self.color))
    }

    pub(super) fn peak(&self) -> Option<(u64, f64)> {
        let values = self.points.iter().filter_map(|&(at, value)| Some((at, value?)));
        values.reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.points.iter().filter_map(|point| point.1)
    }
}

// === impl Chart ===

impl Chart {
    /// All charts. Their lines are in the order of [`cells`].
    pub(super) fn all(samples: &[Sample]) -> Vec<Self> {
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
    pub(super) fn words(&self, figure: f64) -> String {
        match self.unit {
            Unit::Rate | Unit::Things => count(figure),
            Unit::Time => duration(figure),
        }
    }

    pub(super) fn scale(&self) -> Scale {
        let values = || self.series.iter().flat_map(Series::values);
        let high = values().fold(0.0, f64::max);
        let low = values().filter(|value| *value > 0.0).fold(high, f64::min).max(0.001);
        if self.unit == Unit::Time && high > 20.0 * low {
            return Scale::log(low, high);
        }
        Scale::even(high, (self.height / 29.0) as u32, self.unit == Unit::Things)
    }

    /// What the chart shows, for whoever does not see it.
    pub(super) fn told(&self) -> String {
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
    pub(super) fn drawn(&self, span: Span, scale: &Scale) -> String {
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
    pub(super) fn row(&self, span: Span, marks: &str, first: usize) -> String {
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
    pub(super) fn even(high: f64, at_most: u32, whole: bool) -> Self {
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
    pub(super) fn log(low: f64, high: f64) -> Self {
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
    pub(super) fn y(&self, value: f64, height: f64) -> f64 {
        let share = match self.log {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        (1.0 - share.clamp(0.0, 1.0)) * height
    }
}

/// At most so many points: of several in a row the highest and the lowest.
pub(super) fn thinned(points: &[Point], at_most: usize) -> Vec<Point> {
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

/// The stretches of a line between which there was nothing to draw.
pub(super) fn segments(points: &[Point]) -> Vec<Vec<(u64, f64)>> {
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
pub(super) fn trace(path: &mut String, places: impl Iterator<Item = (f64, f64)>) {
    let mut count = 0;
    for (x, y) in places {
        let _ = write!(path, "{}{x:.1} {y:.1}", if count == 0 { 'M' } else { 'L' });
        count += 1;
    }
    if count == 1 {
        path.push_str("h.01");
    }
}
