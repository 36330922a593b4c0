//! What one replica says of itself in Prometheus' text exposition, as far as a rollout needs it: its calls, by latency and by
//! whose fault they were, and what it holds on to.
//!
//! Latency counts what was answered, mistakes of callers included. Failures of ours and calls that their callers cancelled are
//! counted, but not timed: how long they took says when somebody gave up, not when an answer came.

use std::{collections::BTreeMap, error, fmt};

use serde::{Deserialize, Serialize};

/// One replica at one moment, or several replicas of one color added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// Calls since the process began.
    pub calls: Calls,
    /// Requests that are admitted and not yet answered.
    pub in_flight: u64,
    /// Streams that are open.
    pub streams: u64,
    /// Sessions that the process holds.
    pub sessions: u64,
    /// Callers that wait for a database connection, in all pools.
    pub pool_waiting: u64,
    /// Calls that a drain deadline cut off, since the process began.
    pub cut: u64,
    /// Panics that were caught in calls, since the process began.
    pub panics: u64,
}

/// Calls of tools, reads of resources and lists of tools. The default is no calls and no buckets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calls {
    /// Upper bounds of the buckets, which include them: seconds, ascending, without +Inf.
    pub bounds: Vec<f64>,
    /// Answered calls in each bucket, not cumulative; the last bucket, beyond all bounds, has none. Fewer than `total` by our
    /// errors and by what was cancelled.
    pub counts: Vec<u64>,
    /// All calls, however they ended.
    pub total: u64,
    /// Calls that failed by our fault.
    pub errors: u64,
    /// Calls that failed by their callers' fault, or were cancelled by them.
    pub mistakes: u64,
}

/// Why a text is no scrape of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsError {
    /// It has nothing that our server exports.
    Missing {
        /// How many lines were looked at.
        lines: usize,
    },
    /// A line of ours cannot be read.
    Line {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        what: &'static str,
        /// The line, or its beginning.
        line: String,
    },
}

/// How the calls of one series ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Answered,
    /// Answered: that it was asked wrongly.
    Mistaken,
    Cancelled,
    Failed,
}

/// One histogram: a method, perhaps a tool, and how its calls ended.
#[derive(Debug)]
struct Series {
    ending: Ending,
    /// Upper bound and cumulative count.
    buckets: Vec<(f64, u64)>,
    total: u64,
}

/// Labels in the order of the line, and the value.
type Sample<'a> = (Vec<(&'a str, String)>, f64);

const BUCKET: &str = "mcp_server_operation_duration_seconds_bucket";
const COUNT: &str = "mcp_server_operation_duration_seconds_count";
const IN_FLIGHT: &str = "mcp_server_calls_in_flight";
const STREAMS: &str = "mcp_server_streams_open";
const SESSIONS: &str = "mcp_server_sessions_open";
const CUT: &str = "mcp_server_calls_cut_total";
const PANICS: &str = "mcp_server_panics_total";
/// Any program with a database pool may export this one, so it alone does not tell that the text is ours.
const POOL_WAITING: &str = "db_client_connection_pending_requests";

/// Families that only our server exports.
const OURS: [&str; 6] = ["mcp_server_operation_duration_seconds", IN_FLIGHT, STREAMS, SESSIONS, CUT, PANICS];

const METHODS: [&str; 3] = ["tools/call", "resources/read", "tools/list"];

/// Values of `error_type` that blame the caller, besides `cancelled`.
const MISTAKES: [&str; 7] = ["tool_error", "-32602", "-32601", "-32600", "-32700", "-32021", "-32042"];

// === impl Scrape ===

impl Scrape {
    /// Reads an exposition. Families and methods that are not ours are passed over, whatever is in them. A family that is
    /// absent counts as zero: a process that was not called yet has no histogram. A gauge below zero, which an up-down counter
    /// can be for a moment, is zero.
    ///
    /// # Errors
    /// When there is none of our families, or when a line of ours cannot be read.
    pub fn parse(text: &str) -> Result<Self, MetricsError> {
        let mut scrape = Self::default();
        let mut histograms: BTreeMap<Vec<(&str, String)>, Series> = BTreeMap::new();
        let mut is_ours = false;
        let mut lines = 0;
        for line in text.lines() {
            lines += 1;
            let line = line.trim();
            let declared = line.strip_prefix("# TYPE ");
            let whole = declared.unwrap_or(line);
            let (name, rest) = whole.split_at(whole.find(|c: char| c == '{' || c.is_whitespace()).unwrap_or(whole.len()));
            is_ours |= OURS.contains(&name) || [BUCKET, COUNT].contains(&name);
            if declared.is_some() || ![BUCKET, COUNT, IN_FLIGHT, STREAMS, SESSIONS, CUT, PANICS, POOL_WAITING].contains(&name) {
                continue;
            }
            let wrong = |what| MetricsError::Line { number: lines, what, line: line.chars().take(200).collect() };
            let (labels, value) = sample(rest).map_err(wrong)?;
            let gauge = || whole_number(value.max(0.0)).ok_or("the value is no number of things").map_err(wrong);
            let counter = || whole_number(value).ok_or("the value is no count").map_err(wrong);
            match name {
                IN_FLIGHT => add(&mut scrape.in_flight, gauge()?),
                STREAMS => add(&mut scrape.streams, gauge()?),
                SESSIONS => add(&mut scrape.sessions, gauge()?),
                POOL_WAITING => add(&mut scrape.pool_waiting, gauge()?),
                CUT => add(&mut scrape.cut, counter()?),
                PANICS => add(&mut scrape.panics, counter()?),
                _ if !labels.iter().any(|(key, method)| *key == "mcp_method_name" && METHODS.contains(&method.as_str())) => {}
                _ => {
                    let count = counter()?;
                    let (bound, mut key): (Vec<_>, Vec<_>) = labels.into_iter().partition(|(key, _)| *key == "le");
                    key.sort_unstable();
                    let ending = Ending::of(key.iter().find(|(key, _)| *key == "error_type").map(|(_, kind)| kind.as_str()));
                    let series = histograms.entry(key).or_insert(Series { ending, buckets: Vec::new(), total: 0 });
                    if name == COUNT {
                        series.total = count;
                        continue;
                    }
                    let bound = bound.first().and_then(|(_, le)| le.parse::<f64>().ok()).filter(|bound| !bound.is_nan());
                    series.buckets.push((bound.ok_or("a bucket without a bound").map_err(wrong)?, count));
                }
            }
        }
        if !is_ours {
            return Err(MetricsError::Missing { lines });
        }
        for series in histograms.into_values() {
            scrape.calls.add(&series.into_calls());
        }
        Ok(scrape)
    }

    /// Adds another replica of the same color.
    pub fn add(&mut self, other: &Self) {
        self.calls.add(&other.calls);
        add(&mut self.in_flight, other.in_flight);
        add(&mut self.streams, other.streams);
        add(&mut self.sessions, other.sessions);
        add(&mut self.pool_waiting, other.pool_waiting);
        add(&mut self.cut, other.cut);
        add(&mut self.panics, other.panics);
    }
}

// === impl Calls ===

impl Calls {
    /// What was added since `earlier`, a scrape of the same replica. A counter that went down, or other bounds, mean a process
    /// that began anew: then all it has counted is new, and the later value itself is returned. Subtract replica by replica and
    /// add up afterwards, because in a sum a restart can hide.
    pub fn since(&self, earlier: &Self) -> Self {
        let scalars = [(self.total, earlier.total), (self.errors, earlier.errors), (self.mistakes, earlier.mistakes)];
        let buckets = self.counts.iter().copied().zip(earlier.counts.iter().copied());
        if self.bounds != earlier.bounds
            || self.counts.len() != earlier.counts.len()
            || scalars.into_iter().chain(buckets.clone()).any(|(now, before)| now < before)
        {
            return self.clone();
        }
        Self {
            bounds: self.bounds.clone(),
            counts: buckets.map(|(now, before)| now - before).collect(),
            total: self.total - earlier.total,
            errors: self.errors - earlier.errors,
            mistakes: self.mistakes - earlier.mistakes,
        }
    }

    /// Adds other calls. Where the bounds differ, only those remain that both have: buckets become wider, and no call is put
    /// where it may not have been. With no bound in common all latencies are unknown, and [`quantile`](Self::quantile) is
    /// `None`.
    pub fn add(&mut self, other: &Self) {
        let is_vacant = |calls: &Self| calls.answered() == 0;
        // Who answered nothing has no say in the bounds, unless nobody has.
        let bounds = if is_vacant(other) && (!self.bounds.is_empty() || !is_vacant(self)) {
            self.bounds.clone()
        } else if is_vacant(self) {
            other.bounds.clone()
        } else {
            self.common_bounds(other)
        };
        let (mut sum, more) = (self.rebucketed(&bounds), other.rebucketed(&bounds));
        for (count, more) in sum.counts.iter_mut().zip(more.counts) {
            add(count, more);
        }
        add(&mut sum.total, more.total);
        add(&mut sum.errors, more.errors);
        add(&mut sum.mistakes, more.mistakes);
        *self = sum;
    }

    /// The latency, in seconds, within which the share `q` of the answered calls ended; `q` from 0 to 1, as Prometheus'
    /// `histogram_quantile` has it: interpolated linearly within the bucket, the first of which begins at zero, and the highest
    /// bound for what is beyond it. `None` when nothing was answered or no bound is known.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let bucket = self.bucket_of(q)?;
        let Some(&end) = self.bounds.get(bucket) else { return self.bounds.last().copied() };
        if bucket == 0 && end <= 0.0 {
            return Some(end);
        }
        let start = if bucket == 0 { 0.0 } else { self.bounds[bucket - 1] };
        let before: u64 = self.counts[..bucket].iter().sum();
        let rank = q.clamp(0.0, 1.0) * self.answered() as f64 - before as f64;
        Some(start + (end - start) * (rank / self.counts[bucket] as f64).clamp(0.0, 1.0))
    }

    /// The share of all calls that failed by our fault, from 0 to 1; 0 when there were none.
    pub fn error_rate(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.errors as f64 / self.total as f64 }
    }

    /// How many calls were answered, and so are in the buckets.
    pub fn answered(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bucket that the quantile `q` is in.
    pub(crate) fn bucket_of(&self, q: f64) -> Option<usize> {
        let rank = q.clamp(0.0, 1.0) * self.answered() as f64;
        let mut seen = 0;
        self.counts.iter().position(|&count| {
            seen += count;
            count > 0 && seen as f64 >= rank
        })
    }

    /// The bounds that both have.
    pub(crate) fn common_bounds(&self, other: &Self) -> Vec<f64> {
        self.bounds.iter().copied().filter(|bound| other.bounds.contains(bound)).collect()
    }

    /// The same calls in the buckets of `bounds`, which are some of its own unless nothing was answered.
    pub(crate) fn rebucketed(&self, bounds: &[f64]) -> Self {
        let mut counts = vec![0; bounds.len() + 1];
        for (index, count) in self.counts.iter().enumerate() {
            let end = self.bounds.get(index).copied().unwrap_or(f64::INFINITY);
            counts[bounds.partition_point(|bound| *bound < end)] += count;
        }
        Self { bounds: bounds.to_vec(), counts, ..*self }
    }
}

// === impl MetricsError ===

impl fmt::Display for MetricsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { lines } => {
                write!(f, "none of {} is in these {lines} lines; is this the operations listener?", OURS.join(", "))
            }
            Self::Line { number, what, line } => write!(f, "line {number} cannot be read, {what}: {line}"),
        }
    }
}

impl error::Error for MetricsError {}

// === impl Ending ===

impl Ending {
    /// By the label `error_type`. An empty label is an absent one.
    fn of(kind: Option<&str>) -> Self {
        match kind {
            None | Some("") => Self::Answered,
            Some("cancelled") => Self::Cancelled,
            Some(kind) if MISTAKES.contains(&kind) => Self::Mistaken,
            Some(_) => Self::Failed,
        }
    }
}

// === impl Series ===

impl Series {
    fn into_calls(mut self) -> Calls {
        self.buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        self.buckets.dedup_by(|one, other| one.0 == other.0);
        let (mut calls, mut seen) = (Calls::default(), 0);
        for (bound, cumulative) in self.buckets.into_iter().filter(|(bound, _)| bound.is_finite() || *bound > 0.0) {
            // Counts that were read while others were written can be a little out of order; what is cumulative does not go
            // down.
            let count = cumulative.saturating_sub(seen);
            seen += count;
            if bound.is_finite() {
                calls.bounds.push(bound);
                calls.counts.push(count);
            } else {
                self.total = self.total.max(seen);
            }
        }
        calls.total = self.total.max(seen);
        calls.counts.push(calls.total - calls.counts.iter().sum::<u64>());
        match self.ending {
            Ending::Answered => return calls,
            Ending::Mistaken => calls.mistakes = calls.total,
            Ending::Cancelled => calls.mistakes = calls.total,
            Ending::Failed => calls.errors = calls.total,
        }
        if self.ending != Ending::Mistaken {
            calls.counts.fill(0);
        }
        calls
    }
}

fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

fn whole_number(value: f64) -> Option<u64> {
    (value.is_finite() && value >= 0.0).then(|| value.round() as u64)
}

/// What follows a name: labels in braces, if any, a value, and perhaps a timestamp, which nobody needs.
fn sample(rest: &str) -> Result<Sample<'_>, &'static str> {
    let (mut labels, mut rest) = (Vec::new(), rest.trim_start());
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner.trim_start();
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once('=').ok_or("its labels do not end")?;
            let quoted = after.trim_start().strip_prefix('"').ok_or("a label is not quoted")?;
            let (value, after) = unquoted(quoted).ok_or("a label does not end")?;
            labels.push((key.trim(), value));
            let after = after.trim_start();
            rest = after.strip_prefix(',').unwrap_or(after).trim_start();
        }
    }
    let value = rest.split_whitespace().next().ok_or("it has no value")?;
    Ok((labels, value.parse().map_err(|_| "the value is no number")?))
}

/// A label's value up to its closing quote, and what follows that.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (end, '"') => return Some((value, &text[end + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP mcp_server_operation_duration_seconds How long MCP requests and notifications take.
# TYPE mcp_server_operation_duration_seconds histogram
mcp_server_operation_duration_seconds_bucket{gen_ai_tool_name="book",mcp_method_name="tools/call",otel_scope_name="mcp-server",le="0.005"} 6
mcp_server_operation_duration_seconds_bucket{gen_ai_tool_name="book",mcp_method_name="tools/call",otel_scope_name="mcp-server",le="0.05"} 9
mcp_server_operation_duration_seconds_bucket{gen_ai_tool_name="book",mcp_method_name="tools/call",otel_scope_name="mcp-server",le="+Inf"} 10
mcp_server_operation_duration_seconds_sum{gen_ai_tool_name="book",mcp_method_name="tools/call",otel_scope_name="mcp-server"} 0.25
mcp_server_operation_duration_seconds_count{gen_ai_tool_name="book",mcp_method_name="tools/call",otel_scope_name="mcp-server"} 10
mcp_server_operation_duration_seconds_bucket{error_type="tool_error",mcp_method_name="tools/call",le="0.005"} 2 1700000000000
mcp_server_operation_duration_seconds_bucket{error_type="tool_error",mcp_method_name="tools/call",le="0.05"} 2 1700000000000
mcp_server_operation_duration_seconds_bucket{error_type="tool_error",mcp_method_name="tools/call",le="+Inf"} 2 1700000000000
mcp_server_operation_duration_seconds_count{error_type="tool_error",mcp_method_name="tools/call"} 2 1700000000000
mcp_server_operation_duration_seconds_bucket{error_type="timeout",mcp_method_name="resources/read",le="0.005"} 0
mcp_server_operation_duration_seconds_bucket{error_type="timeout",mcp_method_name="resources/read",le="0.05"} 0
mcp_server_operation_duration_seconds_bucket{error_type="timeout",mcp_method_name="resources/read",le="+Inf"} 3.0
mcp_server_operation_duration_seconds_count{error_type="timeout",mcp_method_name="resources/read"} 3.0
mcp_server_operation_duration_seconds_bucket{error_type="cancelled",mcp_method_name="tools/list",le="0.005"} 4
mcp_server_operation_duration_seconds_bucket{error_type="cancelled",mcp_method_name="tools/list",le="0.05"} 4
mcp_server_operation_duration_seconds_bucket{error_type="cancelled",mcp_method_name="tools/list",le="+Inf"} 4
mcp_server_operation_duration_seconds_count{error_type="cancelled",mcp_method_name="tools/list"} 4
mcp_server_operation_duration_seconds_count{mcp_method_name="ping"} 1000
mcp_server_operation_duration_seconds_bucket{mcp_method_name="ping",le="+Inf"} 1000
# TYPE mcp_server_calls_in_flight gauge
mcp_server_calls_in_flight{otel_scope_name="mcp-server"} 3
mcp_server_streams_open 2 1700000000000
mcp_server_sessions_open{} -1
mcp_server_calls_cut_total{note="a \"}\" and a \\"} 4
mcp_server_panics_total 1e0
mcp_server_session_duration_seconds_count 7 and rubbish
db_client_connection_pending_requests{db_client_connection_pool_name="main"} 5
db_client_connection_pending_requests{db_client_connection_pool_name="listen"} 2
somebody_elses{ nonsense
"#;

    fn calls(bounds: &[f64], counts: &[u64]) -> Calls {
        let total = counts.iter().sum();
        Calls { bounds: bounds.to_vec(), counts: counts.to_vec(), total, errors: 0, mistakes: 0 }
    }

    #[test]
    fn a_scrape_counts_calls_by_whose_fault_they_were() {
        let scrape = Scrape::parse(TEXT).unwrap();
        let calls = Calls { bounds: vec![0.005, 0.05], counts: vec![8, 3, 1], total: 19, errors: 3, mistakes: 6 };
        let expected = Scrape { calls, in_flight: 3, streams: 2, sessions: 0, pool_waiting: 7, cut: 4, panics: 1 };
        assert_eq!(scrape, expected);
        assert_eq!(scrape.calls.error_rate(), 3.0 / 19.0);
        assert_eq!(Calls::default().error_rate(), 0.0);
    }

    #[test]
    fn every_kind_of_error_has_its_culprit() {
        let callers = ["tool_error", "cancelled", "-32602", "-32601", "-32600", "-32700", "-32021", "-32042"];
        for (kinds, is_ours) in [(&callers[..], false), (&["timeout", "-32603", "panic", "cut", "_OTHER"][..], true)] {
            for kind in kinds {
                let line = format!("{COUNT}{{mcp_method_name=\"tools/call\",error_type=\"{kind}\"}} 2\n");
                let calls = Scrape::parse(&line).unwrap().calls;
                assert_eq!((calls.errors, calls.mistakes), if is_ours { (2, 0) } else { (0, 2) }, "{kind}");
                assert_eq!(calls.total, 2, "{kind}");
            }
        }
    }

    #[test]
    fn a_text_that_is_not_ours_says_what_is_missing() {
        let other = "# TYPE process_open_fds gauge\nprocess_open_fds 12\ndb_client_connection_pending_requests 0\n";
        let failure = Scrape::parse(other).unwrap_err();
        assert_eq!(failure, MetricsError::Missing { lines: 3 });
        let words = failure.to_string();
        assert!(words.starts_with("none of mcp_server_operation_duration_seconds, mcp_server_calls_in_flight,"), "{words}");
        assert!(words.ends_with("is this the operations listener?"), "{words}");
        // A process that nobody called yet declares its families and counts nothing.
        assert_eq!(Scrape::parse("# TYPE mcp_server_panics_total counter\n"), Ok(Scrape::default()));
    }

    #[test]
    fn a_line_of_ours_that_is_broken_is_named() {
        for (line, what) in [
            ("mcp_server_panics_total NaN", "the value is no count"),
            ("mcp_server_panics_total -1", "the value is no count"),
            ("mcp_server_panics_total", "it has no value"),
            ("mcp_server_streams_open +Inf", "the value is no number of things"),
            ("mcp_server_streams_open{a=\"b} 1", "a label does not end"),
            ("mcp_server_operation_duration_seconds_bucket{mcp_method_name=\"tools/call\"} 1", "a bucket without a bound"),
        ] {
            let failure = Scrape::parse(&format!("\n{line}\n")).unwrap_err();
            assert_eq!(failure, MetricsError::Line { number: 2, what, line: line.to_owned() });
        }
    }

    #[test]
    fn replicas_with_other_buckets_keep_the_bounds_they_share() {
        let mut sum = calls(&[0.1, 0.2, 0.5, 1.0], &[1, 2, 3, 4, 5]);
        sum.add(&calls(&[0.2, 0.3, 1.0, 9.0], &[10, 20, 30, 40, 50]));
        assert_eq!(sum, calls(&[0.2, 1.0], &[13, 57, 95]));
        sum.add(&calls(&[7.0], &[1, 1]));
        assert_eq!(sum, calls(&[], &[167]));
        assert_eq!(sum.quantile(0.5), None);
    }

    #[test]
    fn who_answered_nothing_takes_no_bounds_away() {
        let some = calls(&[0.1, 0.2], &[1, 2, 3]);
        let failed = Calls { bounds: vec![7.0], counts: vec![0, 0], total: 5, errors: 5, mistakes: 0 };
        for other in [Calls::default(), failed] {
            let (mut one, mut two) = (some.clone(), other.clone());
            one.add(&other);
            two.add(&some);
            assert_eq!(one, two);
            assert_eq!((&one.bounds, &one.counts), (&some.bounds, &some.counts));
            assert_eq!((one.total, one.errors), (some.total + other.total, other.errors));
        }
    }

    #[test]
    fn scrapes_of_two_replicas_add_up() {
        let one = Scrape::parse(TEXT).unwrap();
        let mut both = one.clone();
        both.add(&one);
        let expected =
            Scrape { in_flight: 6, streams: 4, sessions: 0, pool_waiting: 14, cut: 8, panics: 2, calls: both.calls.clone() };
        assert_eq!(both, expected);
        assert_eq!((both.calls.total, both.calls.counts.clone()), (38, vec![16, 6, 2]));
    }

    #[test]
    fn what_came_since_is_the_difference_unless_the_process_began_anew() {
        let earlier = Calls { total: 8, errors: 1, mistakes: 1, ..calls(&[0.1, 0.2], &[1, 2, 3]) };
        let later = Calls { total: 20, errors: 3, mistakes: 1, ..calls(&[0.1, 0.2], &[5, 2, 9]) };
        let between = Calls { total: 12, errors: 2, mistakes: 0, ..calls(&[0.1, 0.2], &[4, 0, 6]) };
        assert_eq!(later.since(&earlier), between);
        assert_eq!(later.since(&Calls::default()), later);
        assert_eq!(earlier.since(&later), earlier);
        let rebuilt = Calls { bounds: vec![0.1, 0.3], ..later.clone() };
        assert_eq!(rebuilt.since(&earlier), rebuilt);
        // More calls than before, and yet fewer in one bucket: it was started again and was busy.
        let anew = Calls { total: 30, errors: 3, mistakes: 1, ..calls(&[0.1, 0.2], &[0, 20, 9]) };
        assert_eq!(anew.since(&earlier), anew);
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        // Prometheus' rule by hand: rank 0.5 * 14 = 7 is the first of five in (0.5, 1], so 0.5 + 0.5 * 1 / 5.
        let some = calls(&[0.5, 1.0, 2.0], &[6, 5, 3, 0]);
        let near = |q: f64, seconds: f64| assert!((some.quantile(q).unwrap() - seconds).abs() < 1e-12, "{q}");
        near(0.5, 0.6);
        near(0.0, 0.0);
        near(3.0 / 14.0, 0.25);
        near(6.0 / 14.0, 0.5);
        near(1.0, 2.0);
        // Beyond the highest bound it is the highest bound.
        assert_eq!(calls(&[0.5, 1.0], &[1, 0, 9]).quantile(0.9), Some(1.0));
        assert_eq!(calls(&[0.5, 1.0], &[0, 4, 0]).quantile(0.25), Some(0.625));
        assert_eq!(calls(&[0.5, 1.0], &[0, 0, 0]).quantile(0.5), None);
        assert_eq!(Calls::default().quantile(0.5), None);
    }
}
