//! What a process needs from outside, asked for in one place.
//!
//! Checks decide when a process becomes ready, never that it stops being so: a database that goes away takes every replica
//! with it, and a balancer with no target left serves nobody. Afterwards they only speak in `/health` and the metrics.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{sync::watch, time::Instant};

type Question = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// One thing the process needs: a name, and a question with a deadline.
#[derive(Clone)]
pub struct Check {
    name: Arc<str>,
    deadline: Duration,
    ask: Arc<dyn Fn() -> Question + Send + Sync>,
}

/// What a check last said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name.
    pub name: Arc<str>,
    /// Nothing, or what is wrong in words an operator can act on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// All of them. Asked at most once per [`Checks::FRESH`], however many probes come.
#[derive(Clone, Default)]
pub struct Checks {
    checks: Arc<[Check]>,
    last: watch::Sender<Asked>,
}

/// When all were asked last, and what they said.
#[derive(Default)]
struct Asked {
    last: Option<(Instant, Arc<[Finding]>)>,
    is_asking: bool,
}

/// Ends an asking, however it ended.
struct Asking(watch::Sender<Asked>);

// === impl Check ===

impl Check {
    /// A check that is asked by `ask` and counts as failed after `deadline`.
    pub fn new<F, A, E>(name: &str, deadline: Duration, ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let ask = move || -> Question {
            let asking = ask();
            Box::pin(async move { asking.await.map_err(|error| error.to_string()) })
        };
        Self { name: name.into(), deadline, ask: Arc::new(ask) }
    }

    /// The name, as in the health body.
    pub fn name(&self) -> &str {
        &self.name
    }

    async fn ask(&self) -> Finding {
        let problem = match tokio::time::timeout(self.deadline, (self.ask)()).await {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(_) => Some(format!("no answer within {:?}", self.deadline)),
        };
        Finding { name: self.name.clone(), problem }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

// === impl Checks ===

impl Checks {
    /// How old a finding may be and still answer a probe. Probes come every few seconds from several places.
    pub const FRESH: Duration = Duration::from_secs(1);

    /// How long a probe waits for a fresh finding while there is an old one. A database that is busy answers late, and a probe
    /// that waits for it would take the busy for the dead.
    pub const PATIENCE: Duration = Duration::from_millis(50);

    /// These checks.
    pub fn new(checks: Vec<Check>) -> Self {
        Self { checks: checks.into(), last: watch::Sender::default() }
    }

    /// What they say, at most [`Self::FRESH`] old unless they take longer than [`Self::PATIENCE`]: then what they said before.
    /// Probes that come together share one asking.
    pub async fn findings(&self) -> Arc<[Finding]> {
        let mut heard = self.last.subscribe();
        let mut begins = false;
        self.last.send_if_modified(|asked| {
            let is_fresh = asked.last.as_ref().is_some_and(|(when, _)| when.elapsed() < Self::FRESH);
            begins = !is_fresh && !asked.is_asking;
            asked.is_asking |= begins;
            false
        });
        if begins {
            let (checks, asking) = (self.clone(), Asking(self.last.clone()));
            tokio::spawn(async move {
                let findings: Arc<[Finding]> = checks.ask().await.into();
                asking.0.send_if_modified(|asked| {
                    asked.last = Some((Instant::now(), findings));
                    false
                });
                drop(asking);
            });
        }
        let answered = tokio::time::timeout(Self::PATIENCE, heard.wait_for(|asked| !asked.is_asking)).await.is_ok();
        if !answered {
            // Nothing was ever said: the deadlines of the checks bound how long that takes.
            let _ = heard.wait_for(|asked| asked.last.is_some() || !asked.is_asking).await;
        }
        let last = self.last.borrow().last.as_ref().map(|(_, findings)| findings.clone());
        last.unwrap_or_default()
    }

    /// Asks until all are well. `between` is the pause after a round with a problem; each new problem is logged once.
    pub async fn all_well(&self, between: Duration) {
        let mut said: Vec<Finding> = Vec::new();
        loop {
            let problems: Vec<Finding> = self.ask().await.into_iter().filter(|finding| finding.problem.is_some()).collect();
            if problems.is_empty() {
                return;
            }
            if problems != said {
                for Finding { name, problem } in &problems {
                    tracing::warn!(check = %name, "not ready: {name}: {}", problem.as_deref().unwrap_or_default());
                }
                said = problems;
            }
            tokio::time::sleep(between).await;
        }
    }

    async fn ask(&self) -> Vec<Finding> {
        futures_util::future::join_all(self.checks.iter().map(Check::ask)).await
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.send_modify(|asked| asked.is_asking = false);
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.checks.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_is_a_problem_with_a_deadline() {
        let hangs = Check::new("calendar", Duration::from_secs(2), std::future::pending::<Result<(), String>>);
        let findings = Checks::new(vec![hangs]).findings().await;
        assert_eq!(findings[0].problem.as_deref(), Some("no answer within 2s"));
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_waits_for_all_and_probes_share_an_asking() {
        let asked = Arc::new(AtomicUsize::new(0));
        let third_time = Check::new("database", Duration::from_secs(1), {
            let asked = asked.clone();
            move || {
                let n = asked.fetch_add(1, Ordering::Relaxed);
                async move { if n < 2 { Err("refused") } else { Ok(()) } }
            }
        });
        let checks = Checks::new(vec![third_time]);
        checks.all_well(Duration::from_millis(100)).await;
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        for _ in 0..10 {
            checks.findings().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_does_not_wait_for_what_is_busy() {
        let (busy, asked) = (Arc::new(tokio::sync::Semaphore::new(1)), Arc::new(AtomicUsize::new(0)));
        let check = Check::new("database", Duration::from_secs(60), {
            let (busy, asked) = (busy.clone(), asked.clone());
            move || {
                let (busy, number) = (busy.clone(), asked.fetch_add(1, Ordering::Relaxed));
                async move {
                    busy.acquire().await.unwrap().forget();
                    Err::<(), _>(number)
                }
            }
        });
        let checks = Checks::new(vec![check]);
        let said = async |checks: &Checks| checks.findings().await[0].problem.clone();
        assert_eq!(said(&checks).await.as_deref(), Some("0"), "the first one waits: there is nothing to say instead");
        tokio::time::advance(Checks::FRESH).await;
        let begun = Instant::now();
        for _ in 0..3 {
            assert_eq!(said(&checks).await.as_deref(), Some("0"));
        }
        assert!(begun.elapsed() <= 3 * Checks::PATIENCE + Duration::from_millis(10), "{:?}", begun.elapsed());
        assert_eq!(asked.load(Ordering::Relaxed), 2, "they share one asking");
        busy.add_permits(1);
        assert_eq!(said(&checks).await.as_deref(), Some("1"));
    }
}
