//! Leaving without losing a call. The order of the steps is the whole point; [`Lifecycle::depart`] is that order.
//!
//! Each step has a clock of its own, and their sum is what a platform must grant before it kills.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use serde::Serialize;

use super::{Lifecycle, Stage, Status};

/// The clocks of a departure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timing {
    /// How long everything is still accepted after `/ready` turned 503, so that balancers learn of it first.
    pub leave_delay: Duration,
    /// How long calls in flight may take after that.
    pub drain_deadline: Duration,
    /// How long cut calls have to tell their clients so.
    pub close: Duration,
}

impl Timing {
    /// What a platform must grant between the first signal and the kill, hooks not counted.
    pub fn total(&self) -> Duration {
        self.leave_delay + self.drain_deadline + self.close
    }
}

/// Something to do once no call is left, such as flushing an outbox.
pub struct Hook {
    name: String,
    deadline: Duration,
    run: Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>,
}

/// How a departure went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drained {
    /// Calls that were cut off: they got an error or a broken stream instead of their answer.
    pub cut: usize,
    /// Hooks that did not finish in time, by name.
    pub unfinished: Vec<String>,
}

// === impl Hook ===

impl Hook {
    /// A hook that is given up after `deadline`.
    pub fn new<F, R>(name: &str, deadline: Duration, run: F) -> Self
    where
        F: FnOnce() -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self { name: name.to_owned(), deadline, run: Box::new(move || Box::pin(run())) }
    }

    /// The name, as in the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long it may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("name", &self.name).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

// === impl Lifecycle ===

impl Lifecycle {
    /// Goes through the whole departure of a process that is [`Stage::Leaving`] (or makes it so), and says how it went.
    ///
    /// `closed` resolves when the last connection is closed: an answer counts as given when its bytes have left, and what sat
    /// in the listener's backlog is not counted before it has been read.
    /// `now` ends the waiting early: a second signal. What is in flight is cut then, as at the deadline.
    pub async fn depart(
        &self,
        why: &str,
        timing: &Timing,
        hooks: Vec<Hook>,
        closed: impl Future<Output = ()>,
        now: impl Future<Output = &'static str>,
    ) -> Drained {
        // A departure asked for twice is one departure.
        let _ = self.advance(Stage::Leaving, why);
        let emptied = async {
            closed.await;
            self.wait_for(Status::is_idle).await;
        };
        tokio::pin!(now, emptied);
        let hurried = tokio::select! {
            () = tokio::time::sleep(timing.leave_delay) => None,
            word = &mut now => Some(word),
        };
        // Draining tells the listener to take what sits in its backlog and close: never before the delay is over, or a
        // balancer that still sends here meets a closed port.
        let _ = self.advance(Stage::Draining, hurried.unwrap_or("the leave delay is over"));
        let cut = match hurried {
            Some(word) => self.cut_off(word),
            None => tokio::select! {
                () = &mut emptied => return self.finish(0, hooks).await,
                () = tokio::time::sleep(timing.drain_deadline) => self.cut_off("the drain deadline is over"),
                word = &mut now => self.cut_off(word),
            },
        };
        self.cut().cancel();
        let _ = tokio::time::timeout(timing.close, emptied).await;
        self.finish(cut, hooks).await
    }

    async fn finish(&self, cut: usize, hooks: Vec<Hook>) -> Drained {
        // Cancelled also after a clean drain: whatever still listens to it has nothing left to wait for.
        self.cut().cancel();
        let unfinished = run(hooks).await;
        let _ = self.advance(Stage::Stopped, if cut == 0 { "everything was answered" } else { "calls were cut off" });
        Drained { cut, unfinished }
    }

    fn cut_off(&self, why: &str) -> usize {
        let status = self.status();
        if status.calls > 0 {
            tracing::error!(calls = status.calls, "cutting off {} calls: {why}", status.calls);
        }
        status.calls
    }
}

/// Last registered first: what was built on something else goes before it.
async fn run(hooks: Vec<Hook>) -> Vec<String> {
    let mut unfinished = Vec::new();
    for Hook { name, deadline, run } in hooks.into_iter().rev() {
        // On a task of its own, so that a hook that panics takes nothing with it.
        match tokio::time::timeout(deadline, tokio::spawn(run())).await {
            Ok(Ok(())) => tracing::debug!(hook = name, "drain hook done"),
            Ok(Err(_)) => {
                tracing::error!(hook = name, "drain hook {name} panicked");
                unfinished.push(name);
            }
            Err(_) => {
                tracing::error!(hook = name, "drain hook {name} was given up after {deadline:?}");
                unfinished.push(name);
            }
        }
    }
    unfinished
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::lifecycle::Work;

    const TIMING: Timing =
        Timing { leave_delay: Duration::from_secs(10), drain_deadline: Duration::from_secs(30), close: Duration::from_secs(2) };

    fn serving() -> Lifecycle {
        let lifecycle = Lifecycle::new();
        lifecycle.advance(Stage::Serving, "test").unwrap();
        lifecycle
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_still_accepted_for_the_leave_delay() {
        let lifecycle = serving();
        let started = tokio::time::Instant::now();
        let departing = tokio::spawn({
            let lifecycle = lifecycle.clone();
            async move { lifecycle.depart("SIGTERM", &TIMING, Vec::new(), ready(()), pending()).await }
        });
        lifecycle.wait_for(|status| status.stage >= Stage::Draining).await;
        assert_eq!(started.elapsed(), TIMING.leave_delay);
        assert_eq!(departing.await.unwrap(), Drained { cut: 0, unfinished: vec![] });
        assert_eq!(started.elapsed(), TIMING.leave_delay, "an empty house does not wait for the deadline");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_is_cut_at_the_deadline_and_counted() {
        let lifecycle = serving();
        let call = lifecycle.admit(Work::Call).unwrap();
        let started = tokio::time::Instant::now();
        tokio::spawn({
            let cut = lifecycle.cut().clone();
            async move {
                cut.cancelled().await;
                drop(call);
            }
        });
        let drained = lifecycle.depart("SIGTERM", &TIMING, Vec::new(), ready(()), pending()).await;
        assert_eq!(drained.cut, 1);
        assert_eq!(started.elapsed(), TIMING.leave_delay + TIMING.drain_deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_the_waiting() {
        for (after, expected) in [(1, 1), (15, 15)] {
            let lifecycle = serving();
            let _call = lifecycle.admit(Work::Call).unwrap();
            let started = tokio::time::Instant::now();
            let second = async move {
                tokio::time::sleep(Duration::from_secs(after)).await;
                "a second SIGTERM"
            };
            let drained = lifecycle.depart("SIGTERM", &TIMING, Vec::new(), ready(()), second).await;
            assert_eq!(drained.cut, 1);
            assert_eq!(started.elapsed(), Duration::from_secs(expected) + TIMING.close);
            assert_eq!(lifecycle.status().stage, Stage::Stopped);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_run_last_registered_first_and_each_is_bounded() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |name: &'static str| {
            let order = order.clone();
            Hook::new(name, Duration::from_secs(1), move || async move { order.lock().unwrap().push(name) })
        };
        let hooks = vec![
            note("first"),
            Hook::new("hangs", Duration::from_secs(3), pending),
            Hook::new("panics", Duration::from_secs(3), || async { panic!("a hook of the test") }),
            note("last"),
        ];
        let drained = serving().depart("SIGTERM", &TIMING, hooks, ready(()), pending()).await;
        assert_eq!(*order.lock().unwrap(), ["last", "first"]);
        assert_eq!(drained.unfinished, ["panics", "hangs"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_never_got_ready_can_leave() {
        let lifecycle = Lifecycle::new();
        let drained = lifecycle.depart("SIGTERM", &TIMING, Vec::new(), ready(()), pending()).await;
        assert_eq!(drained.cut, 0);
        assert_eq!(lifecycle.status().stage, Stage::Stopped);
    }
}
