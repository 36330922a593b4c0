//! What a rollout does next, from what is seen and what is written down. Pure: it asks nobody and changes nothing, so that it
//! can be printed before it is done, and made anew after every step.
//!
//! What must stay true: the same observation and the same journal give the same plan, whoever died in between. A step that
//! the platform contradicts was not done, whatever the journal says; a share of the traffic is believed only when it is seen.

use std::{collections::BTreeSet, fmt};

use bg_runtime::Color;
use serde::Serialize;

use crate::{
    driver::{Image, Observation},
    gate::Gate,
};

/// What is to come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A new build is live, proved and watched.
    Deploy {
        /// What.
        image: Image,
        /// Of as many replicas.
        replicas: u32,
        /// Where the traffic is now.
        from: Color,
    },
    /// The traffic goes to a color that is already there.
    Switch {
        /// Which.
        to: Color,
        /// Whether that is going back: then nothing but its being there is asked.
        back: bool,
        /// Whether the other color is stopped then: what a deploy started that was not finished.
        stop: bool,
    },
    /// A color that gets no traffic is gone.
    Retire {
        /// Which.
        color: Color,
    },
}

/// How a deploy is done.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// Shares of the traffic on the way to all of it, in percent.
    pub shares: Vec<u8>,
    /// Gates that are not passed but left out, loudly.
    pub skip: Vec<Gate>,
    /// Whether a person must let it pass.
    pub approval: bool,
    /// Whether the old color is stopped in the end.
    pub retire: bool,
    /// Whether a build that still holds on to clients may be replaced.
    pub replace: bool,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A gate before the switch.
    Gate(Gate),
    /// The new build is started as the idle color, at the live one's size.
    Start,
    /// This many of a hundred requests go to the new color.
    Shift(u8),
    /// The entrance answers as the new build, so many times in a row.
    Prove,
    /// Old connections are given up.
    Shed,
    /// Both colors are compared while traffic goes to the new one; with how many of a hundred requests.
    Bake(u8),
    /// The old color holds on to nothing.
    Drained,
    /// A color is stopped.
    Stop,
}

/// A step and whether it is done.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// Its name.
    pub step: Step,
    /// Whether nothing is left to do of it.
    pub done: bool,
    /// What it will do.
    pub words: String,
}

/// What will be done, and what stands in the way.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// In order.
    pub steps: Vec<Planned>,
    /// Reasons against it, each with what to do about it. With one of them nothing is begun.
    pub obstacles: Vec<String>,
}

// === impl Goal ===

impl Goal {
    /// The color that is to be live, or gone.
    #[must_use]
    pub fn color(&self) -> Color {
        match self {
            Self::Deploy { from, .. } => from.other(),
            Self::Switch { to, .. } => *to,
            Self::Retire { color } => *color,
        }
    }

    /// One word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deploy { .. } => "deploy",
            Self::Switch { back: true, .. } => "rollback",
            Self::Switch { .. } => "switch",
            Self::Retire { .. } => "retire",
        }
    }
}

// === impl Step ===

impl Step {
    /// Its name, in the journal and wherever it is shown.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Gate(gate) => gate.name().to_owned(),
            Self::Start => "start".to_owned(),
            Self::Shift(100) => "switch".to_owned(),
            Self::Shift(share) => format!("shift-{share}"),
            Self::Prove => "prove".to_owned(),
            Self::Shed => "shed".to_owned(),
            Self::Bake(100) => "bake".to_owned(),
            Self::Bake(share) => format!("bake-{share}"),
            Self::Drained => "drained".to_owned(),
            Self::Stop => "stop".to_owned(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Serialize for Step {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

// === impl Plan ===

impl Plan {
    /// The first step that is not done.
    #[must_use]
    pub fn next(&self) -> Option<Step> {
        self.steps.iter().find(|planned| !planned.done).map(|planned| planned.step)
    }
}

/// Plans. `passed` names the steps that the journal says are passed.
#[must_use]
pub fn plan(goal: &Goal, manner: &Manner, seen: &Observation, passed: &[String]) -> Plan {
    let is_passed = |step: Step| passed.contains(&step.name());
    let to = goal.color();
    let mut steps: Vec<Planned> = Vec::new();
    let mut obstacles = Vec::new();
    let mut add = |step: Step, done: bool, words: String| {
        // What comes after a step that is still to be done is to be done, too.
        let done = done && steps.iter().all(|planned| planned.done);
        steps.push(Planned { step, done, words });
    };
    match goal {
        Goal::Deploy { image, replicas, from } => {
            let slot = seen.slot(to);
            let runs = slot.image.as_ref() == Some(&image.hidden()) && slot.wanted == *replicas;
            let moved = seen.share(to) > 0;
            for step in gates_before_start(manner) {
                add(step, is_passed(step), words(step, goal));
            }
            add(Step::Start, runs && is_passed(Step::Start), words(Step::Start, goal));
            for step in gates_after_start(manner) {
                let done = is_passed(step) && (step != Step::Gate(Gate::Ready) || slot.ready() >= *replicas as usize);
                // With traffic on it, a replica that is just being replaced is the bake's to judge.
                add(step, done || moved && is_passed(step), words(step, goal));
            }
            let shares: BTreeSet<u8> = manner.shares.iter().copied().filter(|share| (1..100).contains(share)).collect();
            for share in shares {
                add(Step::Shift(share), seen.share(to) >= share, words(Step::Shift(share), goal));
                let done = is_passed(Step::Bake(share)) || seen.share(to) > share;
                add(Step::Bake(share), done, words(Step::Bake(share), goal));
            }
            add(Step::Shift(100), seen.share(to) == 100, words(Step::Shift(100), goal));
            for step in [Step::Prove, Step::Shed, Step::Bake(100)] {
                if step != Step::Bake(100) || !manner.skip.contains(&Gate::Bake) {
                    add(step, is_passed(step), words(step, goal));
                }
            }
            if manner.retire {
                add(Step::Drained, is_passed(Step::Drained) || seen.slot(*from).is_empty(), words(Step::Drained, goal));
                add(Step::Stop, seen.slot(*from).is_empty(), words(Step::Stop, goal));
            }
            if passed.is_empty() {
                obstacles_of_deploy(image, *replicas, *from, manner, seen, &mut obstacles);
            }
        }
        Goal::Switch { back, stop, .. } => {
            add(Step::Shift(100), seen.share(to) == 100, words(Step::Shift(100), goal));
            for step in [Step::Prove, Step::Shed] {
                add(step, is_passed(step), words(step, goal));
            }
            if *stop {
                add(Step::Stop, seen.slot(to.other()).is_empty(), words(Step::Stop, goal));
            }
            let slot = seen.slot(to);
            if slot.ready() == 0 {
                let advice = if slot.is_empty() {
                    "deploy a build there first (`rollout history` names those before)"
                } else {
                    "see its log, and `rollout status`"
                };
                obstacles.push(format!("no replica of {to} is ready, so nobody would answer: {advice}"));
            } else if !back && slot.ready() < seen.slot(to.other()).ready() {
                let (has, needs) = (slot.ready(), seen.slot(to.other()).ready());
                obstacles.push(format!(
                    "{to} has {} ready and {} has {needs}: a smaller color would be pushed over; deploy with \
                     --replicas {needs}, or add --force",
                    crate::count(has, "replica"),
                    to.other()
                ));
            }
        }
        Goal::Retire { color } => {
            add(Step::Drained, is_passed(Step::Drained) || seen.slot(*color).is_empty(), words(Step::Drained, goal));
            add(Step::Stop, seen.slot(*color).is_empty(), words(Step::Stop, goal));
            if seen.slot(*color).is_empty() {
                obstacles.push(format!("nothing runs as {color}: there is nothing to retire"));
            }
            if seen.share(*color) > 0 {
                let share = seen.share(*color);
                obstacles.push(format!("{share} of a hundred requests go to {color}: switch to {} first", color.other()));
            }
        }
    }
    Plan { steps, obstacles }
}

fn gates_before_start(manner: &Manner) -> Vec<Step> {
    // The new build's shape comes first: it is made so that the live build does not notice.
    let gates = [Gate::Migrate];
    gates.into_iter().filter(|gate| !manner.skip.contains(gate)).map(Step::Gate).collect()
}

fn gates_after_start(manner: &Manner) -> Vec<Step> {
    let gates = [Gate::Ready, Gate::Smoke, Gate::Contract, Gate::Validate, Gate::Load, Gate::Approve];
    let wanted = |gate: &Gate| !manner.skip.contains(gate) && (*gate != Gate::Approve || manner.approval);
    gates.into_iter().filter(wanted).map(Step::Gate).collect()
}

fn obstacles_of_deploy(
    image: &Image,
    replicas: u32,
    from: Color,
    manner: &Manner,
    seen: &Observation,
    obstacles: &mut Vec<String>,
) {
    if seen.live().is_none() {
        let percent = seen.green_percent;
        obstacles.push(format!(
            "{percent} of a hundred requests go to green and the others to blue: nobody is idle. `rollout switch` or \
             `rollout rollback` first"
        ));
    }
    if replicas == 0 {
        obstacles.push("a color of no replicas answers nobody: say --replicas 1 or more".to_owned());
    }
    if seen.slot(from).ready() == 0 && !seen.slot(from).is_empty() {
        let trouble = seen.slot(from).trouble.clone().unwrap_or_else(|| "see `rollout status`".to_owned());
        obstacles.push(format!(
            "no replica of {from} is ready, which is live ({trouble}): there would be nothing to go back to. Add --force to \
             deploy all the same"
        ));
    }
    if seen.slot(from).image.as_ref() == Some(&image.hidden()) && !manner.replace {
        let name = &image.name;
        obstacles.push(format!("{name} is already live as {from}, with the same environment: add --force to deploy it again"));
    }
}

fn words(step: Step, goal: &Goal) -> String {
    let (to, from) = (goal.color(), goal.color().other());
    match step {
        Step::Gate(gate) => gate.words(to),
        Step::Start => match goal {
            Goal::Deploy { image, replicas, .. } => format!("run {replicas} of {} as {to}", image.name),
            _ => format!("run {to}"),
        },
        Step::Shift(100) => format!("let all traffic go to {to}, at once"),
        Step::Shift(share) => format!("let {share} of a hundred requests go to {to}"),
        Step::Prove => format!("ask the entrance until {to} has answered 20 times in a row"),
        Step::Shed => format!("tell {from} that it is retiring, so that old connections come to {to}"),
        Step::Bake(_) => format!("compare {to} with what {from} was like, and go back when it is worse"),
        Step::Drained => match goal {
            Goal::Retire { color } => format!("wait until nothing holds on to {color}"),
            _ => format!("wait until nothing holds on to {from}"),
        },
        Step::Stop => match goal {
            Goal::Retire { color } => format!("stop {color}"),
            _ => format!("stop {from}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Replica, Slot};

    fn image(name: &str) -> Image {
        Image::new(name.to_owned(), [].into())
    }

    fn slot(name: &str, ready: u32) -> Slot {
        let replica = |number: u32| Replica {
            name: number.to_string(),
            address: String::new(),
            operations: String::new(),
            ready: true,
            build: Some(name.to_owned()),
            leaving: false,
        };
        Slot { image: Some(image(name)), wanted: ready, replicas: (0..ready).map(replica).collect(), trouble: None }
    }

    fn blue_is_live() -> Observation {
        Observation { green_percent: 0, epoch: 0, before: None, blue: slot("one", 2), green: Slot::default() }
    }

    fn deploy() -> Goal {
        Goal::Deploy { image: image("two"), replicas: 2, from: Color::Blue }
    }

    fn names(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(|planned| planned.step.name()).collect()
    }

    #[test]
    fn a_deploy_proves_before_it_switches_and_watches_after() {
        let manner = Manner { shares: vec![10], retire: true, ..Manner::default() };
        let plan = plan(&deploy(), &manner, &blue_is_live(), &[]);
        let expected = "migrate start ready smoke contract validate load shift-10 bake-10 switch prove shed bake drained stop";
        assert_eq!(names(&plan).join(" "), expected);
        assert!(plan.obstacles.is_empty(), "{:?}", plan.obstacles);
        assert_eq!(plan.next(), Some(Step::Gate(Gate::Migrate)));
        let manner = Manner { skip: vec![Gate::Migrate, Gate::Load, Gate::Bake], approval: true, ..Manner::default() };
        let plan = super::plan(&deploy(), &manner, &blue_is_live(), &[]);
        assert_eq!(names(&plan).join(" "), "start ready smoke contract validate approve switch prove shed");
    }

    #[test]
    fn a_step_that_the_platform_contradicts_is_done_again_and_what_follows_it() {
        let passed: Vec<_> = ["migrate", "start", "ready", "smoke"].map(str::to_owned).into();
        let mut seen = blue_is_live();
        let next = |seen: &Observation| plan(&deploy(), &Manner::default(), seen, &passed).next();
        assert_eq!(next(&seen), Some(Step::Start));
        seen.green = slot("two", 2);
        assert_eq!(next(&seen), Some(Step::Gate(Gate::Contract)));
        seen.green.replicas.pop();
        assert_eq!(next(&seen), Some(Step::Gate(Gate::Ready)));
        seen.green = slot("other", 2);
        assert_eq!(next(&seen), Some(Step::Start));
    }

    #[test]
    fn a_switch_is_believed_when_it_is_seen() {
        let passed: Vec<_> = "migrate start ready smoke contract validate load switch".split(' ').map(str::to_owned).collect();
        let mut seen = blue_is_live();
        seen.green = slot("two", 2);
        assert_eq!(plan(&deploy(), &Manner::default(), &seen, &passed).next(), Some(Step::Shift(100)));
        seen.green_percent = 100;
        assert_eq!(plan(&deploy(), &Manner::default(), &seen, &passed).next(), Some(Step::Prove));
    }

    #[test]
    fn what_stands_in_the_way_is_said_with_what_to_do() {
        let obstacles = |goal: &Goal, seen: &Observation| plan(goal, &Manner::default(), seen, &[]).obstacles.join("\n");
        let mut seen = blue_is_live();
        let back = Goal::Switch { to: Color::Green, back: true, stop: false };
        assert!(obstacles(&back, &seen).contains("no replica of green is ready"));
        seen.green = slot("two", 1);
        assert_eq!(obstacles(&back, &seen), "");
        let switch = Goal::Switch { to: Color::Green, back: false, stop: false };
        assert!(obstacles(&switch, &seen).contains("green has 1 replica ready and blue has 2"));
        assert!(obstacles(&Goal::Retire { color: Color::Blue }, &seen).contains("switch to green first"));
        seen.green_percent = 10;
        assert!(obstacles(&deploy(), &seen).contains("nobody is idle"));
        let same = Goal::Deploy { image: image("one"), replicas: 2, from: Color::Blue };
        assert!(obstacles(&same, &blue_is_live()).contains("already live"));
    }
}
