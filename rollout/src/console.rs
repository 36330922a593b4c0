//! What a person sees while a rollout goes on, or a machine reads: one line for each step, and how it goes in between.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::plan::Step;

/// Where it is said.
#[derive(Debug)]
pub struct Console {
    /// One JSON document per line, on standard output.
    json: bool,
    is_terminal: bool,
    colors: bool,
    bar: ProgressBar,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it should.
    Passed,
    /// Otherwise.
    Failed,
}

// === impl Console ===

impl Console {
    /// For people, or for machines. `no_color` is what NO_COLOR says (<https://no-color.org>).
    #[must_use]
    pub fn new(json: bool, no_color: bool) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        // Shown while a step goes on, and only then.
        let bar = ProgressBar::hidden();
        bar.set_style(ProgressStyle::with_template("{spinner} {prefix:10} {wide_msg}").expect("the template is valid"));
        Self { json, is_terminal, colors: is_terminal && !no_color, bar }
    }

    /// A step begins.
    pub fn begins(&self, step: Step, words: &str) {
        if self.json {
            return self.line(&json!({ "event": "step", "step": step, "state": "begun" }).to_string());
        }
        if !self.is_terminal {
            // Whoever reads a pipe wants to know what it is that takes so long.
            return self.line(&format!("...  {:10} {words}", step.name()));
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        self.bar.set_prefix(step.name());
        self.bar.set_message(words.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    /// How it goes.
    pub fn goes(&self, words: &str) {
        self.bar.set_message(words.to_owned());
    }

    /// A step has ended.
    pub fn ended(&self, step: Step, mark: Mark, words: &str, details: &[(String, String)], took: Duration) {
        if self.json {
            let state = if mark == Mark::Passed { "passed" } else { "failed" };
            let details: Vec<_> = details.iter().map(|(label, value)| json!([label, value])).collect();
            return self.line(
                &json!({ "event": "step", "step": step, "state": state, "words": words, "details": details,
                    "tookMs": took.as_millis() })
                .to_string(),
            );
        }
        self.bar.disable_steady_tick();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
        let (sign, color) = if mark == Mark::Passed { ("ok", "32") } else { ("FAIL", "31") };
        let sign = self.painted(&format!("{sign:4}"), color);
        self.line(&format!("{sign} {:10} {words} ({})", step.name(), span(took)));
        if mark == Mark::Failed {
            for (label, value) in details.iter().take(20) {
                self.line(&format!("                {label}: {value}"));
            }
        }
    }

    /// Says something to people only.
    pub fn say(&self, words: &str) {
        if !self.json {
            self.line(words);
        }
    }

    /// Says something loudly: it is on standard error for machines, too.
    pub fn warn(&self, words: &str) {
        self.bar.suspend(|| {
            let mut err = std::io::stderr().lock();
            let _ = writeln!(err, "warning: {words}");
        });
    }

    /// The end: a document for machines, a sentence for people.
    pub fn ends(&self, value: &Value, words: &str, good: bool) {
        self.bar.finish_and_clear();
        if self.json {
            return self.line(&value.to_string());
        }
        if good {
            return self.line(&self.painted(words, "1;32"));
        }
        let mut err = std::io::stderr().lock();
        let _ = writeln!(err, "{}", self.painted(words, "1;31"));
    }

    /// A rollout that was begun before goes on.
    pub fn resumes(&self, id: &str) {
        if self.json {
            return self.line(&json!({ "event": "resumed", "rollout": id }).to_string());
        }
        self.line(&format!("goes on with {id}"));
    }

    fn painted(&self, words: &str, color: &str) -> String {
        if self.colors { format!("\x1b[{color}m{words}\x1b[0m") } else { words.to_owned() }
    }

    fn line(&self, line: &str) {
        self.bar.suspend(|| {
            let mut out = std::io::stdout().lock();
            // Whoever does not listen any more does not stop a rollout.
            let _ = writeln!(out, "{line}");
            let _ = out.flush();
        });
    }
}

/// A span of time as people read it.
#[must_use]
pub fn span(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        seconds if seconds < 3600.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}
