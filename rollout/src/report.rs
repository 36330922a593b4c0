//! What a rollout did, and the page that shows it: one HTML file that needs nothing else, neither a network nor a script.
//!
//! Every word in a report comes from outside. It reaches the page through `Text` only, which leaves no markup in it.

mod chart;
mod figures;
mod flags;
mod policy;
mod words;

use std::fmt::Write as _;

use bg_runtime::Color;
use serde::{Deserialize, Serialize};

use self::{
    chart::{Chart, POINTS},
    figures::{cells, folded, totals},
    flags::flags,
    words::{Text, clock, count, date, duration, offset, percent, shortened, time},
};

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

/// The time that the page shows: Unix milliseconds.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u64,
    to: u64,
}

/// The table has this many rows at most.
const ROWS: usize = 60;

/// A build has this many characters at most in a sentence; beside its color it is whole.
const BUILD_CHARACTERS: usize = 48;

const CSS: &str = include_str!("../assets/report.css");
/// The symbols that the page refers to.
const SHAPES: &str = include_str!("../assets/report.svg");
/// Shows the figures under the pointer in place of the peaks. The page is whole without it.
const SCRIPT: &str = include_str!("../assets/report.js");

/// The page.
pub fn html(report: &Report) -> String {
    let mut report = report.clone();
    report.samples.sort_by_key(|sample| sample.at_ms);
    report.events.sort_by_key(|event| event.at_ms);
    report.switches.sort_by_key(|switch| switch.at_ms);
    let report = &report;
    let span = Span::of(report);
    let markup = format!(
        "{SHAPES}<main>\n{header}{proofs}{timeline}{steps}\
         <footer><p>All times are UTC.</p><p class=\"id\">{id}</p></footer>\n</main>\n",
        header = header(report, span),
        proofs = proofs(report),
        timeline = timeline(report, span),
        steps = steps(report, span),
        id = Text(&report.id),
    );
    let (markup, rules) = policy::sheet(&markup);
    let sheet = format!("\n{CSS}{rules}");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"{policy}\">\n\
         <title>{title}</title>\n<style>{sheet}</style>\n</head>\n<body>\n{markup}\
         <script type=\"application/json\" id=\"figures\">{figures}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        policy = policy::policy(&sheet, SCRIPT),
        title = sentence(report, plain_side),
        figures = figures(report, span),
    )
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

#[cfg(test)]
mod tests;
