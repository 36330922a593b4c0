//! Whether the new color answers worse than the live one did before the switch: errors, latency, panics, and waiting for the
//! database. A finding needs significance and effect, both: among 100,000 calls every difference is significant, and among 50
//! every difference is large. That nothing was found never means that the new one is better.

use serde::Serialize;

use crate::metrics::Calls;

/// From where on a difference counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The candidate's error rate may exceed the baseline's by this much: a share of all calls, from 0 to 1. 0.005.
    pub error_margin: f64,
    /// More errors are significant below this p. 0.01.
    pub error_p: f64,
    /// Latencies and tails are significantly worse below this p. 0.001.
    pub latency_p: f64,
    /// Latencies are worse from this A on: 0.5 is alike, 1 is that every call takes longer. 0.71.
    pub latency_effect: f64,
    /// And when the median or the 99th percentile is at least this many times the baseline's. 1.5.
    pub slower_by: f64,
    /// And has grown by so many seconds, the 99th percentile by five times that: nobody waits for less. 0.01.
    pub slower_least: f64,
    /// So large a share of the calls may be slower than the baseline's 99th percentile, from 0 to 1. 0.05.
    pub tail_share: f64,
    /// Callers may wait for a database connection in so large a share of the samples, from 0 to 1. 0.5.
    pub waiting_share: f64,
    /// Fewer calls of the candidate are too few. 50.
    pub least_calls: u64,
}

/// What was seen of one color over some time. All counts are differences, of that time alone.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Its calls.
    pub calls: &'a Calls,
    /// Panics that were caught in calls.
    pub panics: u64,
    /// Calls that a drain deadline cut off. Those are among the errors already; here they are only shown.
    pub cut: u64,
    /// Samples in which somebody waited for a database connection, and all samples.
    pub waiting_samples: (u64, u64),
}

/// What to think of the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Nothing speaks against it.
    Alike,
    /// Something does, and the reasons say what.
    Worse,
    /// Nobody can tell yet. The reasons say how many calls there were, and what looks bad already.
    TooFew,
}

/// A verdict, and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// What to think of the candidate.
    pub verdict: Verdict,
    /// Why, in words with numbers. Empty only when alike.
    pub reasons: Vec<String>,
    /// Label and value of everything that was looked at, whatever the verdict.
    pub figures: Vec<(String, String)>,
}

/// How latencies compare by rank.
#[derive(Clone, Copy, Debug)]
struct Ranks {
    /// Pairs in which the candidate's call took longer, ties by half.
    u: f64,
    /// The same as a share of all pairs.
    a: f64,
    /// One-sided: of so large a `u` between equals.
    p: f64,
}

/// However little is known of the baseline, this share of failing calls is not how a live color is.
const THIN: f64 = 0.1;

/// Of fewer answered calls on a side, ranks are not judged. From eight on the normal approximation is close (Mann and Whitney).
const LEAST_RANKED: u64 = 8;

/// A pool that is waited for now and then is no reason; one sample says nothing.
const LEAST_SAMPLES: u64 = 3;

/// Terms that are smaller than this share of a sum do not change it.
const NEGLIGIBLE: f64 = 1e-17;

/// Compares the new color's calls with those of the live color before the switch.
///
/// - **Errors of ours**: Fisher's exact test, one-sided (R. A. Fisher, Statistical Methods for Research Workers, 5th ed.,
///   1934), and a rate that is more than a margin above the baseline's. The terms are summed at any size; nothing is
///   approximated. A baseline without calls counts as one that never fails: an exact binomial test says whether the candidate's
///   rate is more than the margin. Against a baseline with few calls and no error among them Fisher's test finds little. There
///   the candidate is worse as well when its rate is more than the 3 / n that n good calls leave possible, at most a tenth (the
///   rule of three: J. A. Hanley and A. Lippman-Hand, JAMA 249, 1983, 1743-1745).
/// - **Latency**: the U test of H. B. Mann and D. R. Whitney (Ann. Math. Stat. 18, 1947, 50-60), one-sided, over buckets. Calls
///   in one bucket are tied, the variance is corrected for ties (E. L. Lehmann, Nonparametrics, 1975, section 1.4), and the
///   normal approximation is corrected for continuity. Kayenta, Spinnaker's canary judge, uses the same test. The effect is A
///   of A. Vargha and H. D. Delaney (J. Educ. Behav. Stat. 25, 2000, 101-132): the chance that a call of the candidate takes
///   longer than one of the baseline, ties by half. 0.5 is alike; from 0.71 on they call it large. And the median or the 99th
///   percentile must have grown by a factor, and by a span that somebody would wait for.
/// - **The tail**, of which ranks see little: the candidate's calls beyond the upper bound of the bucket that the baseline's
///   99th percentile is in, and by that span beyond it. An exact binomial test says whether their share is more than the one that is tolerated. Fisher's
///   test says whether it is more than the baseline's own; without that a baseline of few calls would accuse everybody.
/// - **Panics**: more than the baseline had, in number and per call.
/// - **Waiting for the database**: in more than a share of at least three samples, and the baseline did not.
///
/// It cannot see a shift within one bucket. Calls that crowd at a bound look one bucket slower after a small shift. And calls
/// that their callers cancelled have no latency: they appear in the figures, among the callers' mistakes.
///
/// With fewer calls than [`Limits::least_calls`] the verdict is [`Verdict::TooFew`] whatever else was found. It is too when
/// nothing was found and fewer than half as many calls were answered.
pub fn compare(baseline: &Observed<'_>, candidate: &Observed<'_>, limits: &Limits) -> Comparison {
    let total = candidate.calls.total;
    let mut report = Comparison { verdict: Verdict::Alike, reasons: Vec::new(), figures: Vec::new() };
    report.figure("calls", format!("{total} against {}", baseline.calls.total));
    report.judge_errors(baseline.calls, candidate.calls, limits);
    report.judge_latency(baseline.calls, candidate.calls, limits);
    report.judge_saturation(baseline, candidate, limits);
    let answered = candidate.calls.answered();
    if total < limits.least_calls {
        report.verdict = Verdict::TooFew;
        report.reasons.insert(0, format!("too few calls to judge: {total}, and at least {} are needed", limits.least_calls));
    } else if !report.reasons.is_empty() {
        report.verdict = Verdict::Worse;
    } else if answered < limits.least_calls.div_ceil(2) {
        report.verdict = Verdict::TooFew;
        report.reasons.push(format!("too few answers to judge: {answered} of {total} calls were answered"));
    }
    report
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            error_margin: 0.005,
            error_p: 0.01,
            latency_p: 0.001,
            latency_effect: 0.71,
            slower_by: 1.5,
            slower_least: 0.01,
            tail_share: 0.05,
            waiting_share: 0.5,
            least_calls: 50,
        }
    }
}

// === impl Comparison ===

impl Comparison {
    fn figure(&mut self, label: &str, value: String) {
        self.figures.push((label.to_owned(), value));
    }

    fn judge_errors(&mut self, baseline: &Calls, candidate: &Calls, limits: &Limits) {
        let tolerated = match baseline.total {
            0 => Some(limits.error_margin),
            few if few < limits.least_calls && baseline.errors == 0 => {
                Some((3.0 / few as f64).min(THIN).max(limits.error_margin))
            }
            _ => None,
        };
        let of_both = fisher(candidate.errors, candidate.total, baseline.errors, baseline.total);
        let of_one = tolerated.map(|rate| (rate, binomial(candidate.errors, candidate.total, rate)));
        let (p, test) = match of_one {
            Some((_, p)) if p < of_both || baseline.total == 0 => (p, "binomial"),
            _ => (of_both, "Fisher"),
        };
        let mut words = format!(
            "{} of {} calls{} against {} of {}{}; {test} p {}",
            candidate.errors,
            candidate.total,
            share(candidate.errors, candidate.total),
            baseline.errors,
            baseline.total,
            share(baseline.errors, baseline.total),
            probability(p),
        );
        if let (Some((rate, _)), "binomial") = (of_one, test) {
            let calls = if baseline.total == 0 { "no calls" } else { "few calls" };
            words += &format!(" of more than {}, because the baseline has {calls}", percent(rate));
        }
        if p < limits.error_p && candidate.error_rate() - baseline.error_rate() > limits.error_margin {
            self.reasons.push(format!("errors: {words}"));
        }
        self.figure("errors", words);
        self.figure("callers' mistakes", format!("{} against {}", candidate.mistakes, baseline.mistakes));
    }

    fn judge_latency(&mut self, baseline: &Calls, candidate: &Calls, limits: &Limits) {
        let bounds = baseline.common_bounds(candidate);
        let answered = (candidate.answered(), baseline.answered());
        self.figure("answered", format!("{} against {}", answered.0, answered.1));
        for (label, q) in [("p50", 0.5), ("p99", 0.99)] {
            let [new, old] = [candidate, baseline].map(|calls| calls.quantile(q).map_or("none".to_owned(), duration));
            self.figure(label, format!("{new} against {old}"));
        }
        let unjudged = match answered {
            (_, 0) => Some("the baseline has no answered calls".to_owned()),
            (0, _) => Some("the candidate has no answered calls".to_owned()),
            _ if bounds.is_empty() => Some("the two have no bucket bound in common".to_owned()),
            _ if answered.0.min(answered.1) < LEAST_RANKED => {
                Some(format!("{} and {} answered calls are too few to rank", answered.0, answered.1))
            }
            _ => None,
        };
        if let Some(why) = unjudged {
            self.figure("latency", format!("not judged: {why}"));
            return;
        }
        let (baseline, candidate) = (baseline.rebucketed(&bounds), candidate.rebucketed(&bounds));
        let ranks = mann_whitney(&baseline.counts, &candidate.counts);
        let test = format!("Mann-Whitney p {}, A = {:.2}", probability(ranks.p), ranks.a);
        if ranks.p < limits.latency_p && ranks.a >= limits.latency_effect {
            let grown = [("p50", 0.5, 1.0), ("p99", 0.99, 5.0)].into_iter().filter_map(|(label, q, times)| {
                let (new, old) = (candidate.quantile(q)?, baseline.quantile(q)?);
                let is_slower = new > old && new >= limits.slower_by * old && new - old >= times * limits.slower_least;
                is_slower.then(|| format!("{label} {} against {}", duration(new), duration(old)))
            });
            let grown: Vec<_> = grown.collect();
            if !grown.is_empty() {
                self.reasons.push(format!(
                    "latency: {}, in {} answered calls against {}; {test}",
                    grown.join(", "),
                    answered.0,
                    answered.1
                ));
            }
        }
        self.figure("latency", format!("{test}, U = {:.1}", ranks.u));
        self.judge_tail(&baseline, &candidate, limits);
    }

    /// Both in the same buckets.
    fn judge_tail(&mut self, baseline: &Calls, candidate: &Calls, limits: &Limits) {
        let Some(bucket) = baseline.bucket_of(0.99) else { return };
        // A tail that nobody waits for is none.
        let patient = baseline.bounds.get(bucket).map_or(0.0, |bound| bound + limits.slower_least);
        let bucket = if limits.slower_least > 0.0 {
            bucket.max(baseline.bounds.partition_point(|bound| *bound < patient))
        } else {
            bucket
        };
        let Some(&bound) = baseline.bounds.get(bucket) else {
            self.figure("slow tail", "not judged: the baseline's p99 is beyond the highest bound".to_owned());
            return;
        };
        let [new, old] = [candidate, baseline].map(|calls| calls.counts[bucket + 1..].iter().sum::<u64>());
        let (of_new, of_old) = (candidate.answered(), baseline.answered());
        let (beyond, more) = (binomial(new, of_new, limits.tail_share), fisher(new, of_new, old, of_old));
        let words = format!(
            "{new} of {of_new} answered calls{} took longer than {}, against {old} of {of_old}{}; binomial p {} of more than {}, \
             Fisher p {}",
            share(new, of_new),
            duration(bound),
            share(old, of_old),
            probability(beyond),
            percent(limits.tail_share),
            probability(more),
        );
        if beyond < limits.latency_p && more < limits.latency_p && new as f64 > limits.tail_share * of_new as f64 {
            self.reasons.push(format!("slow tail: {words}"));
        }
        self.figure("slow tail", words);
    }

    fn judge_saturation(&mut self, baseline: &Observed<'_>, candidate: &Observed<'_>, limits: &Limits) {
        let panics = format!("{} against {}", candidate.panics, baseline.panics);
        // A baseline that panics now and then, over more calls, panics more often without being worse.
        let rate = |seen: &Observed<'_>| seen.panics as f64 / seen.calls.total.max(1) as f64;
        if candidate.panics > baseline.panics && rate(candidate) > rate(baseline) {
            let (new, old) = (candidate.calls.total, baseline.calls.total);
            self.reasons.push(format!("panics: {panics}, in {new} calls against {old}"));
        }
        self.figure("panics", panics);
        self.figure("calls cut off", format!("{} against {}", candidate.cut, baseline.cut));
        let [(new, of_new), (old, of_old)] = [candidate.waiting_samples, baseline.waiting_samples];
        let is_above = |waiting: u64, all: u64| waiting as f64 > limits.waiting_share * all as f64;
        let words = format!("{new} of {of_new} samples{} against {old} of {of_old}{}", share(new, of_new), share(old, of_old));
        if of_new >= LEAST_SAMPLES && is_above(new, of_new) && !is_above(old, of_old) {
            self.reasons.push(format!("database: callers waited for a connection in {words}"));
        }
        self.figure("waiting for a connection", words);
    }
}

/// Both in the same buckets, and neither empty.
fn mann_whitney(baseline: &[u64], candidate: &[u64]) -> Ranks {
    let (mut u, mut below, mut ties) = (0.0, 0.0, 0.0);
    for (old, new) in baseline.iter().zip(candidate).map(|(old, new)| (*old as f64, *new as f64)) {
        u += new * (below + old / 2.0);
        below += old;
        let tied = old + new;
        ties += tied * (tied * tied - 1.0);
    }
    let (old, new) = (below, candidate.iter().sum::<u64>() as f64);
    let all = old + new;
    let variance = old * new / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)));
    // When all are tied nothing is unlikely.
    let p = if variance > 0.0 { normal_tail((u - old * new / 2.0 - 0.5) / variance.sqrt()) } else { 1.0 };
    Ranks { u, a: u / (old * new), p }
}

/// The chance that a standard normal is above `z`.
fn normal_tail(z: f64) -> f64 {
    libm::erfc(z / std::f64::consts::SQRT_2) / 2.0
}

/// The chance that of all errors at least `new` fall on the `of_new` calls, if who is called does not matter.
fn fisher(new: u64, of_new: u64, old: u64, of_old: u64) -> f64 {
    let (errors, calls, all) = ((new + old) as f64, of_new as f64, (of_new + of_old) as f64);
    let logarithm = |k: f64| choices(errors, k) + choices(all - errors, calls - k) - choices(all, calls);
    let ratio = |k: f64| (errors - k) * (calls - k) / ((k + 1.0) * (all - errors - calls + k + 1.0));
    let least = (errors + calls - all).max(0.0);
    at_least(new as f64, (least, errors.min(calls)), errors * calls / all, logarithm, ratio)
}

/// The chance of at least `hits` among `all`, if each has the chance `p`, between 0 and 1.
fn binomial(hits: u64, all: u64, p: f64) -> f64 {
    let n = all as f64;
    let logarithm = |k: f64| choices(n, k) + k * p.ln() + (n - k) * (-p).ln_1p();
    let ratio = |k: f64| (n - k) / (k + 1.0) * p / (1.0 - p);
    at_least(hits as f64, (0.0, n), n * p, logarithm, ratio)
}

/// The chance of at least `k`, from the logarithm of the chance of exactly one number and the ratio of the next one's to it.
/// Sums away from the mean, where the terms become smaller, so that it ends soon and a small chance is not a difference of
/// large ones.
fn at_least(k: f64, (least, most): (f64, f64), mean: f64, logarithm: impl Fn(f64) -> f64, ratio: impl Fn(f64) -> f64) -> f64 {
    if k <= least {
        return 1.0;
    }
    let (mut term, mut sum) = (1.0, 1.0);
    if k > mean {
        let mut at = k;
        while at < most && term > sum * NEGLIGIBLE {
            term *= ratio(at);
            sum += term;
            at += 1.0;
        }
        (logarithm(k).exp() * sum).min(1.0)
    } else {
        let mut at = k - 1.0;
        while at > least && term > sum * NEGLIGIBLE {
            at -= 1.0;
            term /= ratio(at);
            sum += term;
        }
        (1.0 - logarithm(k - 1.0).exp() * sum).clamp(0.0, 1.0)
    }
}

/// The logarithm of in how many ways `k` of `n` can be chosen.
fn choices(n: f64, k: f64) -> f64 {
    libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0)
}

/// Nothing when there is nothing to say beyond "0 of 388".
fn share(part: u64, all: u64) -> String {
    if part == 0 || all == 0 { String::new() } else { format!(" ({})", percent(part as f64 / all as f64)) }
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 0.1 { format!("{percent:.2} %") } else { format!("{percent:.1} %") }
}

fn duration(seconds: f64) -> String {
    let (value, unit) = if seconds < 0.001 {
        (seconds * 1e6, "us")
    } else if seconds < 1.0 {
        (seconds * 1e3, "ms")
    } else {
        (seconds, "s")
    };
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// With its sign of comparison: a number below the smallest there is was not measured.
fn probability(p: f64) -> String {
    if p < 1e-300 {
        "< 1e-300".to_owned()
    } else if p < 0.001 {
        format!("= {p:.0e}")
    } else if p < 0.1 {
        format!("= {p:.3}")
    } else {
        format!("= {p:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [f64; 20] = [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0,
        300.0,
    ];

    /// A linear congruential generator (Knuth's MMIX), of which the upper bits are used.
    struct Dice(u64);

    impl Dice {
        /// From 0 to 1.
        fn roll(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }

        /// A latency around `median`, long-tailed: log-normal, the sum of twelve rolls as the normal.
        fn latency(&mut self, median: f64, spread: f64) -> f64 {
            let normal = (0..12).map(|_| self.roll()).sum::<f64>() - 6.0;
            median * (spread * normal).exp()
        }
    }

    /// Calls with these latencies, and errors on top.
    fn calls(latencies: impl IntoIterator<Item = f64>, errors: u64) -> Calls {
        let mut counts = vec![0; BOUNDS.len() + 1];
        for latency in latencies {
            counts[BOUNDS.partition_point(|bound| *bound < latency)] += 1;
        }
        let total = counts.iter().sum::<u64>() + errors;
        Calls { bounds: BOUNDS.to_vec(), counts, total, errors, mistakes: 0 }
    }

    fn around(median: f64, count: usize, seed: u64, errors: u64) -> Calls {
        let mut dice = Dice(seed);
        calls((0..count).map(|_| dice.latency(median, 0.7)).collect::<Vec<_>>(), errors)
    }

    fn seen(calls: &Calls) -> Observed<'_> {
        Observed { calls, panics: 0, cut: 0, waiting_samples: (0, 20) }
    }

    fn judge(baseline: &Calls, candidate: &Calls) -> Comparison {
        compare(&seen(baseline), &seen(candidate), &Limits::default())
    }

    fn figure<'a>(comparison: &'a Comparison, label: &str) -> &'a str {
        let found = comparison.figures.iter().find(|(known, _)| known == label);
        &found.unwrap_or_else(|| panic!("{label} in {comparison:?}")).1
    }

    /// Worse for one reason, which begins so.
    #[track_caller]
    fn assert_worse(comparison: &Comparison, reason: &str) {
        assert_eq!((comparison.verdict, comparison.reasons.len()), (Verdict::Worse, 1), "{comparison:?}");
        assert!(comparison.reasons[0].starts_with(reason), "{comparison:?}");
    }

    #[track_caller]
    fn assert_near(value: f64, known: f64) {
        assert!((value - known).abs() <= 1e-7 * known.abs(), "{value:e} is not {known:e}");
    }

    #[test]
    fn the_rank_test_agrees_with_scipy() {
        // scipy.stats.mannwhitneyu(candidate, baseline, alternative="greater", method="asymptotic"), each call as its bucket's
        // index.
        for (baseline, candidate, u, p) in [
            (&[3, 4, 2, 1, 0][..], &[1, 2, 4, 3, 2][..], 92.0, 0.016480415457301046),
            (&[10, 20, 30, 5, 0], &[0, 5, 30, 20, 15], 3675.0, 3.901529962222929e-11),
            (&[100, 900, 4000, 800, 200], &[90, 850, 4000, 850, 210], 18301000.0, 0.028794719714630188),
            // By hand: 2 and 3 against 1 and 2 win three pairs and tie one.
            (&[1, 1, 0], &[0, 1, 1], 3.5, 0.2071080891212626),
        ] {
            let ranks = mann_whitney(baseline, candidate);
            assert_eq!(ranks.u, u);
            assert_eq!(ranks.a, u / (baseline.iter().sum::<u64>() * candidate.iter().sum::<u64>()) as f64);
            assert_near(ranks.p, p);
        }
        let tied = mann_whitney(&[0, 7, 0], &[0, 9, 0]);
        assert_eq!((tied.a, tied.p), (0.5, 1.0));
    }

    #[test]
    fn the_exact_tests_agree_with_scipy() {
        // scipy.stats.fisher_exact(..., alternative="greater"); the second is Fisher's lady tasting tea, 17 of 70.
        for (new, of_new, old, of_old, p) in [
            (31, 412, 0, 388, 6.591768700616456e-10),
            (3, 4, 1, 4, 17.0 / 70.0),
            (1, 50, 0, 50, 0.5),
            (5, 100, 20, 100, 0.9997938078403894),
            (600, 100_000, 500, 100_000, 0.0013722460597528562),
            (50, 1000, 20, 3000, 2.2907117327927154e-16),
            (2, 50, 48, 50, 1.0),
            (0, 50, 0, 0, 1.0),
            (5, 50, 0, 0, 1.0),
            (0, 0, 3, 50, 1.0),
        ] {
            assert_near(fisher(new, of_new, old, of_old), p);
        }
        // scipy.stats.binomtest(..., alternative="greater").
        for (hits, all, share, p) in [
            (5, 100, 0.05, 0.5640186993142899),
            (40, 400, 0.05, 3.13028928279142e-05),
            (1, 50, 0.005, 0.22168744293135792),
            (10_050, 200_000, 0.05, 0.30537584743978674),
            (3, 3, 0.5, 0.125),
            (0, 0, 0.5, 1.0),
        ] {
            assert_near(binomial(hits, all, share), p);
        }
    }

    #[test]
    fn a_shift_that_only_statistics_can_see_is_alike() {
        let (baseline, candidate) = (around(0.004, 100_000, 1, 20), around(0.0042, 100_000, 2, 25));
        let comparison = judge(&baseline, &candidate);
        assert_eq!((comparison.verdict, &comparison.reasons[..]), (Verdict::Alike, &[][..]), "{comparison:?}");
        let ranks = mann_whitney(&baseline.counts, &candidate.counts);
        assert!(ranks.p < 1e-6, "it should be significant, or this shows nothing: {ranks:?}");
        assert!(comparison.figures.len() >= 10, "{comparison:?}");
    }

    #[test]
    fn a_color_that_is_ten_times_slower_is_called_worse_after_sixty_calls() {
        let comparison = judge(&around(0.004, 500, 1, 0), &around(0.04, 60, 2, 0));
        assert_eq!(comparison.verdict, Verdict::Worse);
        assert!(comparison.reasons[0].starts_with("latency: p50 "), "{comparison:?}");
        assert!(comparison.reasons[0].contains("Mann-Whitney p = "), "{comparison:?}");
        // And ten times faster is not.
        assert_eq!(judge(&around(0.04, 500, 1, 0), &around(0.004, 60, 2, 0)).verdict, Verdict::Alike);
        // Nor what is significantly slower, and not by much.
        let comparison = judge(&around(0.004, 5000, 1, 0), &around(0.0052, 5000, 2, 0));
        assert_eq!(comparison.verdict, Verdict::Alike, "{comparison:?}");
    }

    #[test]
    fn latency_is_worse_only_when_it_is_significant_and_a_percentile_grew_and_there_is_enough_to_rank() {
        let of = |groups: &[(f64, usize)]| calls(groups.iter().flat_map(|&(latency, count)| vec![latency; count]), 0);
        // A is 0.77 and certain; the median grew by 47 in a hundred, and the 99th percentile did not.
        let baseline = of(&[(0.004, 490), (0.3, 10)]);
        let comparison = judge(&baseline, &of(&[(0.004, 220), (0.006, 270), (0.3, 10)]));
        assert_eq!(comparison.verdict, Verdict::Alike, "{comparison:?}");
        assert_eq!(figure(&comparison, "p50"), "5.56 ms against 3.78 ms");
        let slower = of(&[(0.004, 150), (0.006, 340), (0.3, 10)]);
        // Three milliseconds more are nothing that anybody waits for, unless one says so.
        assert_eq!(judge(&baseline, &slower).verdict, Verdict::Alike);
        let strict = Limits { slower_least: 0.0, ..Limits::default() };
        let seen = |calls| Observed { calls, panics: 0, cut: 0, waiting_samples: (0, 20) };
        let comparison = compare(&seen(&baseline), &seen(&slower), &strict);
        assert_worse(&comparison, "latency: p50 6.47 ms against 3.78 ms, in 500 answered calls against 500; Mann-Whitney p = ");
        // A is 0.75 and the median grew; eight calls do not make it certain. Seven are not even ranked.
        let candidate = of(&[(0.004, 25), (0.04, 25)]);
        let comparison = judge(&of(&[(0.004, 8)]), &candidate);
        assert_eq!(comparison.verdict, Verdict::Alike, "{comparison:?}");
        assert!(figure(&comparison, "latency").starts_with("Mann-Whitney p = 0.00"), "{comparison:?}");
        let comparison = judge(&of(&[(0.004, 7)]), &of(&[(0.4, 60)]));
        assert_eq!(figure(&comparison, "latency"), "not judged: 60 and 7 answered calls are too few to rank");
        assert_eq!(comparison.verdict, Verdict::Alike, "{comparison:?}");
    }

    #[test]
    fn more_errors_are_worse_and_the_reason_has_the_numbers() {
        let comparison = judge(&around(0.004, 388, 1, 0), &around(0.004, 381, 2, 31));
        assert_worse(&comparison, "errors: 31 of 412 calls (7.5 %) against 0 of 388; Fisher p = 7e-10");
        let comparison = judge(&around(0.004, 990, 1, 10), &around(0.004, 940, 2, 60));
        assert_worse(&comparison, "errors: 60 of 1000 calls (6.0 %) against 10 of 1000 (1.0 %); Fisher p = ");
    }

    #[test]
    fn one_error_in_fifty_is_alike() {
        let comparison = judge(&around(0.004, 50, 1, 0), &around(0.004, 49, 2, 1));
        assert_eq!(comparison.verdict, Verdict::Alike, "{comparison:?}");
        assert_eq!(figure(&comparison, "errors"), "1 of 50 calls (2.0 %) against 0 of 50; Fisher p = 0.50");
    }

    #[test]
    fn many_more_errors_within_the_margin_are_alike() {
        // 0.2 % against 0.6 %: certain, and small.
        let comparison = judge(&around(0.004, 99_800, 1, 200), &around(0.004, 99_400, 2, 600));
        assert_eq!(comparison.verdict, Verdict::Alike, "{comparison:?}");
        assert!(figure(&comparison, "errors").contains("Fisher p = ") && figure(&comparison, "errors").contains("e-"));
    }

    #[test]
    fn a_slow_tail_of_a_tenth_is_worse_though_the_median_is_as_before() {
        let (baseline, mut candidate) = (around(0.004, 1000, 1, 0), around(0.004, 900, 2, 0));
        candidate.add(&around(2.0, 100, 3, 0));
        assert_worse(&judge(&baseline, &candidate), "slow tail: 100 of 1000 answered calls (10.0 %) took longer than 50 ms");
        // Of a twentieth it is what is tolerated.
        let mut candidate = around(0.004, 960, 2, 0);
        candidate.add(&around(2.0, 40, 3, 0));
        assert_eq!(judge(&baseline, &candidate).verdict, Verdict::Alike);
    }

    #[test]
    fn a_baseline_without_traffic_leaves_latency_unjudged_and_errors_judged_by_the_margin() {
        let baseline = Calls::default();
        let comparison = judge(&baseline, &around(2.0, 99, 1, 1));
        assert_eq!(comparison.verdict, Verdict::Alike, "{comparison:?}");
        assert_eq!(figure(&comparison, "latency"), "not judged: the baseline has no answered calls");
        assert!(figure(&comparison, "errors").ends_with(" of more than 0.5 %, because the baseline has no calls"));
        assert_worse(&judge(&baseline, &around(2.0, 95, 1, 5)), "errors: 5 of 100 calls (5.0 %) against 0 of 0; binomial p = ");
        // One call that went well does not excuse a color that answers nothing.
        let comparison = judge(&around(0.004, 1, 1, 0), &around(0.004, 0, 1, 50));
        assert_worse(&comparison, "errors: 50 of 50 calls (100.0 %) against 0 of 1; binomial p = 1e-50 of more than 10.0 %");
        // Fewer errors do not prove anything against so few calls.
        assert_eq!(judge(&around(0.004, 30, 1, 0), &around(0.004, 950, 1, 50)).verdict, Verdict::Alike);
    }

    #[test]
    fn too_few_calls_are_too_few_however_well_they_went() {
        let baseline = around(0.004, 1000, 1, 0);
        let comparison = judge(&baseline, &around(0.0004, 49, 2, 0));
        assert_eq!(comparison.verdict, Verdict::TooFew);
        assert_eq!(comparison.reasons, ["too few calls to judge: 49, and at least 50 are needed"]);
        assert_eq!(judge(&baseline, &around(0.004, 50, 2, 0)).verdict, Verdict::Alike);
        assert_eq!(judge(&Calls::default(), &Calls::default()).verdict, Verdict::TooFew);
        // What looks bad already is said.
        let comparison = judge(&baseline, &around(0.004, 0, 2, 20));
        assert_eq!((comparison.verdict, comparison.reasons.len()), (Verdict::TooFew, 2), "{comparison:?}");
        assert!(comparison.reasons[1].starts_with("errors: 20 of 20 calls (100.0 %)"), "{comparison:?}");
    }

    #[test]
    fn a_color_whose_callers_all_give_up_is_not_called_alike() {
        let cancelled = Calls { total: 200, mistakes: 200, ..around(0.004, 0, 1, 0) };
        let comparison = judge(&around(0.004, 1000, 1, 0), &cancelled);
        assert_eq!(comparison.verdict, Verdict::TooFew);
        assert_eq!(comparison.reasons, ["too few answers to judge: 0 of 200 calls were answered"]);
        assert_eq!(figure(&comparison, "latency"), "not judged: the candidate has no answered calls");
    }

    #[test]
    fn a_panic_that_the_baseline_did_not_have_is_a_reason() {
        let (old, new) = (around(0.004, 1000, 1, 0), around(0.004, 500, 2, 0));
        let panicked = |baseline, candidate| {
            let (baseline, candidate) =
                (Observed { panics: baseline, ..seen(&old) }, Observed { panics: candidate, ..seen(&new) });
            compare(&baseline, &candidate, &Limits::default())
        };
        assert_worse(&panicked(0, 1), "panics: 1 against 0, in 500 calls against 1000");
        assert_worse(&panicked(2, 3), "panics: 3 against 2");
        assert_eq!(panicked(1, 1).verdict, Verdict::Alike);
        // More panics among many more calls are fewer.
        let (baseline, candidate) = (Observed { panics: 1, ..seen(&new) }, Observed { panics: 2, ..seen(&old) });
        let few = around(0.004, 300, 3, 0);
        assert_eq!(compare(&baseline, &candidate, &Limits::default()).verdict, Verdict::Alike);
        assert_worse(
            &compare(&Observed { calls: &old, ..baseline }, &Observed { calls: &few, ..candidate }, &Limits::default()),
            "panics: 2 against 1",
        );
        assert_eq!(panicked(1, 0).verdict, Verdict::Alike);
    }

    #[test]
    fn a_pool_that_is_waited_for_most_of_the_time_is_a_reason() {
        let calls = around(0.004, 500, 1, 0);
        let waited = |baseline, candidate| {
            let [baseline, candidate] = [baseline, candidate].map(|waiting_samples| Observed { waiting_samples, ..seen(&calls) });
            compare(&baseline, &candidate, &Limits::default())
        };
        let reason = "database: callers waited for a connection in 11 of 20 samples (55.0 %) against 0 of 20";
        assert_worse(&waited((0, 20), (11, 20)), reason);
        assert_eq!(waited((0, 20), (10, 20)).verdict, Verdict::Alike);
        assert_eq!(waited((15, 20), (16, 20)).verdict, Verdict::Alike);
        assert_eq!(waited((0, 0), (0, 0)).verdict, Verdict::Alike);
        assert_eq!(waited((0, 20), (1, 1)).verdict, Verdict::Alike);
        assert_worse(&waited((0, 0), (3, 4)), "database: ");
    }

    #[test]
    fn buckets_that_differ_are_compared_by_the_bounds_they_share() {
        let old = around(0.004, 500, 1, 0);
        let other = |median, bounds: &[f64]| around(median, 500, 2, 0).rebucketed(bounds);
        let some = [0.001, 0.0025, 0.01, 0.05, 1.0];
        assert_eq!(judge(&old, &other(0.004, &some)).verdict, Verdict::Alike);
        assert_eq!(judge(&old, &other(0.04, &some)).verdict, Verdict::Worse);
        let comparison = judge(&old, &other(0.04, &[]));
        assert_eq!(figure(&comparison, "latency"), "not judged: the two have no bucket bound in common");
    }

    #[test]
    fn equals_are_called_worse_less_than_once_in_a_hundred() {
        let mut dice = Dice(20_260_101);
        let mut alarms = Vec::new();
        for _ in 0..500 {
            // Both from one distribution, in sizes of their own; the baseline may have few calls, and fails now and then.
            let (median, spread) = (0.0005 * (dice.roll() * 6.0).exp(), 0.2 + dice.roll());
            let failing = if dice.roll() < 0.5 { 0.0 } else { dice.roll() * 0.03 };
            let mut draw = |least: f64| {
                let size = (least * (dice.roll() * 4.0).exp()) as usize;
                let errors = (0..size).filter(|_| dice.roll() < failing).count();
                let answered: Vec<_> = (errors..size).map(|_| dice.latency(median, spread)).collect();
                calls(answered, errors as u64)
            };
            let (baseline, candidate) = (draw(20.0), draw(51.0));
            let comparison = judge(&baseline, &candidate);
            assert_ne!(comparison.verdict, Verdict::TooFew);
            alarms.extend(comparison.reasons);
        }
        assert!(alarms.len() < 5, "{alarms:#?}");
    }

    #[test]
    fn a_comparison_is_written_as_json_in_camel_case() {
        let comparison = judge(&Calls::default(), &around(0.004, 3, 1, 0));
        let json = serde_json::to_value(&comparison).unwrap();
        assert_eq!(json["verdict"], "tooFew");
        assert_eq!(json["figures"][0], serde_json::json!(["calls", "3 against 0"]));
        assert_eq!(serde_json::to_value([Verdict::Alike, Verdict::Worse]).unwrap(), serde_json::json!(["alike", "worse"]));
    }

    #[test]
    fn numbers_are_written_for_people() {
        let durations = [0.0, 0.000123, 0.0075, 0.0999, 0.25, 1.5, 300.0].map(duration);
        assert_eq!(durations, ["0 us", "123 us", "7.5 ms", "99.9 ms", "250 ms", "1.5 s", "300 s"]);
        assert_eq!([0.0, 3.2e-9, 0.0312, 0.5, 1.0].map(probability), ["< 1e-300", "= 3e-9", "= 0.031", "= 0.50", "= 1.00"]);
        assert_eq!([0.0004, 0.005, 0.075].map(percent), ["0.04 %", "0.5 %", "7.5 %"]);
    }
}
