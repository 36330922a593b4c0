//! Who is in the house. An [`Admission`] is one request being answered or one stream being open; dropping it is leaving.
//!
//! Nothing is refused for leaving before the process has stopped: a request that arrives while it drains was already on its
//! way, and turning it away would be a lost call. How much is too much is counted elsewhere.

use super::{Lifecycle, Refused, Stage, Status};

/// What is admitted. The two are counted apart, because a drain waits for calls and ends streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A request with an answer of its own.
    Call,
    /// A stream without an end of its own, which its client opens again elsewhere.
    Stream,
}

/// One piece of work in flight. Hold it until the last byte of the answer has left.
#[derive(Debug)]
pub struct Admission {
    lifecycle: Lifecycle,
    work: Work,
}

impl Lifecycle {
    /// Lets one piece of work in.
    ///
    /// # Errors
    /// Only when the process has stopped.
    pub fn admit(&self, work: Work) -> Result<Admission, Refused> {
        let mut is_admitted = false;
        self.count(|status| {
            if status.stage < Stage::Stopped {
                *of(status, work) += 1;
                is_admitted = true;
            }
        });
        if is_admitted {
            Ok(Admission { lifecycle: self.clone(), work })
        } else {
            Err(Refused { from: Stage::Stopped, to: Stage::Serving })
        }
    }

    /// Changes what is in flight. Watchers are woken only once somebody may be waiting for the house to be empty: while
    /// serving, a call costs one lock and no wake-up.
    fn count(&self, change: impl FnOnce(&mut Status)) {
        self.inner.status.send_if_modified(|status| {
            change(status);
            status.stage >= Stage::Leaving
        });
    }
}

impl Admission {
    /// What was admitted.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Turns a call into a stream, when its answer shows that it has no end of its own.
    pub fn become_stream(&mut self) {
        if self.work == Work::Call {
            self.lifecycle.count(|status| {
                status.calls -= 1;
                status.streams += 1;
            });
            self.work = Work::Stream;
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.lifecycle.count(|status| *of(status, self.work) -= 1);
    }
}

fn of(status: &mut Status, work: Work) -> &mut usize {
    match work {
        Work::Call => &mut status.calls,
        Work::Stream => &mut status.streams,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_an_admission_is_leaving() {
        let lifecycle = Lifecycle::new();
        let call = lifecycle.admit(Work::Call).unwrap();
        let mut other = lifecycle.admit(Work::Call).unwrap();
        assert_eq!((lifecycle.status().calls, lifecycle.status().streams), (2, 0));
        other.become_stream();
        other.become_stream();
        assert_eq!((lifecycle.status().calls, lifecycle.status().streams), (1, 1));
        drop(call);
        drop(other);
        assert!(lifecycle.status().is_idle());
    }

    #[test]
    fn only_a_stopped_process_refuses() {
        let lifecycle = Lifecycle::new();
        for stage in [Stage::Serving, Stage::Leaving, Stage::Draining] {
            lifecycle.advance(stage, "test").unwrap();
            assert!(lifecycle.admit(Work::Call).is_ok(), "{stage}");
        }
        lifecycle.advance(Stage::Stopped, "test").unwrap();
        assert!(lifecycle.admit(Work::Call).is_err());
        assert!(lifecycle.status().is_idle());
    }

    #[tokio::test]
    async fn the_last_one_out_wakes_the_drain() {
        let lifecycle = Lifecycle::new();
        lifecycle.advance(Stage::Serving, "test").unwrap();
        let call = lifecycle.admit(Work::Call).unwrap();
        lifecycle.advance(Stage::Leaving, "test").unwrap();
        let waiting = tokio::spawn({
            let lifecycle = lifecycle.clone();
            async move { lifecycle.wait_for(Status::is_idle).await }
        });
        tokio::task::yield_now().await;
        drop(call);
        assert!(waiting.await.unwrap().is_idle());
    }
}
