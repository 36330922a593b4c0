//! Switches back and forth by the operator's own command, under load: what must be so of them on every platform, and how quick
//! they were.

use std::time::{Duration, Instant};

use bg_runtime::Color;

use crate::load::{Load, Outcome};

/// Switches that were made under a load, and what that met.
#[derive(Debug)]
pub struct Switches {
    begun: Instant,
    done: Vec<Switch>,
    outcome: Outcome,
}

/// One command: when it was given, when it had ended, and who was live then.
#[derive(Clone, Copy, Debug)]
struct Switch {
    given: Instant,
    done: Instant,
    to: Color,
}

/// What comes before the first, to compare with.
const BEFORE: Duration = Duration::from_secs(2);
/// So long after a command, calls count as made during the switch.
const DURING: Duration = Duration::from_millis(100);
/// Answered between two switches.
const BETWEEN: u64 = 20;

// === impl Switches ===

impl Switches {
    /// Gives so many commands by their names, from blue to green first. `give` comes back when one has ended well.
    pub async fn under(load: Load, count: usize, give: impl AsyncFn(&str)) -> Self {
        let begun = Instant::now();
        tokio::time::sleep(BEFORE).await;
        let mut done: Vec<Switch> = Vec::with_capacity(count);
        for turn in 0..count {
            let given = Instant::now();
            // Going back is the same move.
            let (verb, to) = if turn % 2 == 0 { ("switch", Color::Green) } else { ("rollback", Color::Blue) };
            give(verb).await;
            done.push(Switch { given, done: Instant::now(), to });
            load.more(BETWEEN).await;
        }
        Self { begun, done, outcome: load.stop().await }
    }

    /// What the clients met.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Nothing was lost, doubled, or answered by a color that was switched away from before the call was made, and every
    /// client is in the session that it began.
    ///
    /// # Panics
    /// When something was.
    #[track_caller]
    pub fn assert_unnoticed(&self, sessions: u64) {
        self.outcome.assert_whole();
        assert_eq!(self.outcome.sessions_begun, sessions, "a client had to begin anew");
        assert!(self.outcome.streams_opened > 2, "no stream came to the other color");
        let late = self.spans().flat_map(|(switch, until)| {
            self.outcome.calls.iter().filter(move |call| call.at > switch.done && call.at < until && call.color != switch.to)
        });
        assert_eq!(late.count(), 0, "calls that were made after a switch were answered by the color before it");
    }

    /// The figures, in words.
    pub fn figures(&self) -> String {
        let (mut first, mut whole) = (Vec::new(), Vec::new());
        for (switch, until) in self.spans() {
            let calls = self.outcome.calls.iter();
            let since: Vec<_> = calls.filter(|call| call.at + call.took > switch.given && call.at < until).collect();
            // As a client sees it: the end of the first call that the new color answered, and the beginning of the last that
            // the old one did.
            let new = since.iter().filter(|call| call.color == switch.to && call.at >= switch.given);
            first.extend(new.map(|call| call.at + call.took).min().map(|moment| moment - switch.given));
            let old = since.iter().filter(|call| call.color != switch.to);
            whole.push(old.map(|call| call.at.saturating_duration_since(switch.given)).max().unwrap_or_default());
        }
        let outcome = &self.outcome;
        let calls = outcome.calls.iter();
        let during =
            calls.filter(|call| self.done.iter().any(|switch| call.at >= switch.given && call.at < switch.given + DURING));
        let mut during: Vec<_> = during.map(|call| call.took).collect();
        during.sort_unstable();
        let p99 = ms(during.get((during.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default());
        let before = ms(outcome.p99(self.begun, self.begun + BEFORE).unwrap_or_default());
        let took = self.done.iter().map(|switch| switch.done - switch.given).collect();
        format!(
            "{} switches, {} calls, {} bookings, {} streams opened: nothing lost, doubled or misrouted\n\
             from the command to its end: {}\n\
             from the command to the first answer of the new color: {}\n\
             from the command to the last call that the old one took: {}\n\
             p99 of calls: {before:.1} ms before, {p99:.1} ms during ({:.2} times)",
            self.done.len(),
            outcome.calls.len(),
            outcome.booked.len(),
            outcome.streams_opened,
            spread(took),
            spread(first),
            spread(whole),
            p99 / before
        )
    }

    /// Each switch, and when the next was given.
    fn spans(&self) -> impl Iterator<Item = (Switch, Instant)> {
        let next = self.done.iter().skip(1).map(|switch| switch.given).chain([Instant::now()]);
        self.done.iter().copied().zip(next)
    }
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: usize| ms(times[(times.len() * share / 100).min(times.len() - 1)]);
    format!("p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms", at(50), at(99), ms(times[times.len() - 1]))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
