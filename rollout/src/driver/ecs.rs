//! The driver of ECS: two services with a target group each, and one rule of a balancer whose weights lead the traffic.
//!
//! What it relies on is what `terraform/` has: services `APP-blue` and `APP-green`, a container `APP` with the port of
//! operators, and a rule that forwards to both target groups. What must stay true: the weights of the rule are the truth about
//! traffic, and how many tasks a service wants says nothing about it; what a rollout must remember is in tags on the rule and
//! in labels of the task definitions. Weights that somebody else set in between are not moved on from.

mod balancer;
mod definition;
#[cfg(test)]
pub(crate) mod double;
mod refusal;
mod scaling;
mod tasks;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_codepipeline::types::{FailureDetails, FailureType};
use aws_sdk_ecs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bg_runtime::Color;
use futures_util::future::join_all;
use tokio::sync::Mutex;

pub(crate) use self::{balancer::Notes, tasks::InProgress};
use self::{
    balancer::{ANSWERED, Balancer, Groups, Rule, Target, Turn},
    scaling::Scaling,
    tasks::{Services, Tasks},
};
use super::{Driver, DriverError, Ended, Image, Observation, Replica, Said, Slot};
use crate::{http::Http, share};

/// Which application of which cluster.
#[derive(Clone, Debug)]
pub struct EcsSettings {
    /// The cluster's name or ARN.
    pub cluster: String,
    /// The name of the container, and of the services before `-blue` and `-green`.
    pub app: String,
    /// The ARN of the rule that forwards to both target groups.
    pub rule: String,
    /// Where clients come in, as `https://mcp.example.com`.
    pub entrance: String,
}

/// An application in a cluster.
#[derive(Debug)]
pub struct EcsDriver {
    balancer: Balancer,
    tasks: Tasks,
    scaling: Scaling,
    pipelines: aws_sdk_codepipeline::Client,
    entrance: String,
    /// The port of operators, of every task.
    operations: u16,
    http: Http,
    /// What was seen last: several look at once, and AWS counts how often it is asked.
    glance: Mutex<Option<(Instant, Arc<Glance>)>>,
}

/// What AWS says at one moment.
#[derive(Debug)]
struct Glance {
    rule: Rule,
    groups: Groups,
    blue: Side,
    green: Side,
}

/// What AWS says of a color.
#[derive(Debug)]
struct Side {
    image: Option<Image>,
    wanted: u32,
    targets: Vec<Target>,
    /// Addresses of what is being replaced.
    old: HashSet<String>,
    trouble: Option<String>,
}

const OPERATIONS: u16 = 9464;
/// For so long a glance does for all who look.
const FRESH: Duration = Duration::from_secs(1);
/// For so long a color that lost its traffic is kept, in minutes, unless that is said again.
const KEPT_FOR: i32 = 60;
/// A balancer takes leave of a target for up to 300 s as it is made, and ECS lets a task take up to 120 s to end.
const STOPPED_WITHIN: Duration = Duration::from_secs(600);
/// Attempts at one call, with growing pauses: an account that asks too often is slowed down and not refused.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest that a pipeline is told of a failure.
const MOST_WORDS: usize = 1000;
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

// === impl EcsDriver ===

impl EcsDriver {
    /// With the credentials and the region that are found, as every tool of AWS finds them.
    ///
    /// # Errors
    /// When there are none.
    pub async fn new(settings: EcsSettings, http: Http) -> Result<Self, DriverError> {
        let config = configured(aws_config::defaults(BehaviorVersion::latest())).await;
        if config.region().is_none() {
            return Err(DriverError::Refused("no region is known: say AWS_REGION, or name it in a profile".to_owned()));
        }
        if let Some(credentials) = config.credentials_provider() {
            use aws_sdk_ecs::config::ProvideCredentials;
            let found = credentials.provide_credentials().await;
            found.map_err(|source| DriverError::Away(": no credentials are usable", Box::new(source)))?;
        }
        Ok(Self::with(&config, settings, http))
    }

    fn with(config: &SdkConfig, settings: EcsSettings, http: Http) -> Self {
        let EcsSettings { cluster, app, rule, entrance } = settings;
        Self {
            balancer: Balancer::new(config, &rule),
            tasks: Tasks::new(config, &cluster, &app),
            scaling: Scaling::new(config, &cluster, &app),
            pipelines: aws_sdk_codepipeline::Client::new(config),
            entrance: entrance.trim_end_matches('/').to_owned(),
            operations: OPERATIONS,
            http,
            glance: Mutex::default(),
        }
    }

    /// What AWS says, a moment old at most.
    async fn glance(&self) -> Result<Arc<Glance>, DriverError> {
        let mut glance = self.glance.lock().await;
        if let Some((at, seen)) = &*glance
            && at.elapsed() < FRESH
        {
            return Ok(seen.clone());
        }
        let (rule, services) = tokio::join!(self.balancer.look(), self.tasks.services());
        let (rule, services) = (rule?, services?);
        let groups = services.groups()?;
        rule.weights(&groups)?;
        let (blue, green) = (self.side(&services, &groups, Color::Blue), self.side(&services, &groups, Color::Green));
        let (blue, green) = tokio::join!(blue, green);
        let seen = Arc::new(Glance { rule, groups, blue: blue?, green: green? });
        *glance = Some((Instant::now(), seen.clone()));
        Ok(seen)
    }

    /// What was seen is no longer so.
    async fn changed(&self) {
        *self.glance.lock().await = None;
    }

    async fn side(&self, services: &Services, groups: &Groups, color: Color) -> Result<Side, DriverError> {
        let service = services.of(color);
        let wanted = u32::try_from(service.desired_count()).unwrap_or_default();
        let (targets, old) = tokio::join!(self.balancer.targets(groups.of(color)), self.tasks.old(services, color));
        let (targets, old) = (targets?, old?);
        let image = match service.task_definition() {
            Some(definition) if wanted > 0 => self.tasks.definition(definition).await?.image(),
            _ => None,
        };
        let serving = targets.iter().filter(|target| target.is_healthy() && !old.contains(&target.ip)).count();
        let trouble = if serving < wanted as usize { self.tasks.trouble(services, color).await } else { None };
        Ok(Side { image, wanted, targets, old, trouble })
    }

    async fn slot(&self, side: &Side) -> Slot {
        let mut replicas: Vec<_> = side.targets.iter().map(|target| side.replica(target, self.operations)).collect();
        join_all(replicas.iter_mut().map(|replica| super::ask(&self.http, replica))).await;
        let mut trouble = side.trouble.clone();
        for (replica, target) in replicas.iter_mut().zip(&side.targets) {
            if target.is_healthy() && !replica.leaving && !replica.ready && replica.build.is_none() && trouble.is_none() {
                trouble = Some(format!(
                    "the balancer finds {} healthy, and nobody answers from here at {}: this has to run inside the network of \
                     the tasks, and their security group has to let it in",
                    replica.name, replica.operations
                ));
            }
            // One that the balancer does not send to is no use, whatever it says itself.
            replica.ready = replica.ready && target.is_healthy();
        }
        Slot { image: side.image.clone(), wanted: side.wanted, replicas, trouble }
    }

    /// Lets a color be changed: no traffic goes there, and going back does not lead to what is replaced.
    async fn claim(&self, color: Color, epoch: i64) -> Result<(), DriverError> {
        let groups = self.tasks.services().await?.groups()?;
        let rule = self.balancer.claim(epoch, |rule| rule.gives(&groups, color)).await?;
        self.balancer.name_both(&rule, &groups).await?;
        // Nobody needs what ran there any more, and what nobody needs grows by itself no more.
        self.tasks.protect(color, None).await?;
        self.scaling.suspend(color, true).await
    }

    async fn go(&self, green_percent: u8, turn: Turn<'_>) -> Result<(), DriverError> {
        let groups = self.tasks.services().await?.groups()?;
        let shifted = self.balancer.shift(&groups, green_percent, turn).await;
        self.changed().await;
        shifted?;
        let follow = |color: Color| self.follow(color, share::of(color, green_percent));
        tokio::join!(follow(Color::Blue), follow(Color::Green));
        Ok(())
    }

    /// What follows from where the traffic goes. It is there already, so that nothing of this holds anybody up.
    async fn follow(&self, color: Color, share: u8) {
        let (has_traffic, kept_for) = (share > 0, (share == 0).then_some(KEPT_FOR));
        let (protected, scaled) = tokio::join!(self.tasks.protect(color, kept_for), self.scaling.suspend(color, !has_traffic));
        if let Err(failure) = protected {
            tracing::warn!("the tasks of {color} are protected as before: {}", crate::chain(&failure));
        }
        if let Err(failure) = scaled {
            tracing::warn!("the scaling of {color} is as before: {}", crate::chain(&failure));
        }
    }
}

/// What is asked by who has neither a lease nor a journal: see [`crate::shifter`].
impl EcsDriver {
    /// Where the traffic goes, and what is remembered.
    pub(crate) async fn traffic(&self) -> Result<(u8, Notes), DriverError> {
        let (rule, services) = tokio::join!(self.balancer.look(), self.tasks.services());
        let rule = rule?;
        Ok((rule.weights(&services?.groups()?)?.green_percent(), rule.notes))
    }

    /// How many targets a color has that get requests, and how many that are not on their way out.
    pub(crate) async fn health(&self, color: Color) -> Result<(usize, usize), DriverError> {
        let groups = self.tasks.services().await?.groups()?;
        Ok(counted(&self.balancer.targets(groups.of(color)).await?))
    }

    /// The same of the target group of one revision of a service, and who they are.
    pub(crate) async fn revision(&self, revision: &str) -> Result<((usize, usize), Vec<Replica>), DriverError> {
        let targets = self.balancer.targets(&self.tasks.group_of(revision).await?).await?;
        let side = Side { image: None, wanted: 0, targets, old: HashSet::new(), trouble: None };
        Ok((counted(&side.targets), self.slot(&side).await.replicas))
    }

    /// What ECS does by itself, of a service or of one deployment, by its ARN.
    pub(crate) async fn in_progress(&self, arn: &str) -> Result<Vec<InProgress>, DriverError> {
        self.tasks.in_progress(arn).await
    }

    /// Lets a deployment that waits at a hook go on, or back.
    pub(crate) async fn answer_hook(&self, deployment: &str, hook: &str, goes_on: bool) -> Result<(), DriverError> {
        self.tasks.answer_hook(deployment, hook, goes_on).await
    }

    /// Lets a deployment go back that waits for nobody.
    pub(crate) async fn undo(&self, deployment: &str) -> Result<(), DriverError> {
        self.tasks.undo(deployment).await
    }

    /// Moves the traffic, when nobody has acted since `after`, and remembers the answer with it.
    pub(crate) async fn answer_and_move(&self, green_percent: u8, after: i64, answer: &str) -> Result<(), DriverError> {
        let more = [(ANSWERED, answer.to_owned())];
        self.go(green_percent, Turn { epoch: after + 1, after: Some(after), more: &more }).await
    }

    /// Moves more of it, as part of the move of that epoch.
    pub(crate) async fn answer_and_move_on(&self, green_percent: u8, epoch: i64, answer: &str) -> Result<(), DriverError> {
        let more = [(ANSWERED, answer.to_owned())];
        self.go(green_percent, Turn { epoch, after: Some(epoch), more: &more }).await
    }

    /// Remembers an answer.
    pub(crate) async fn answer(&self, answer: &str) -> Result<(), DriverError> {
        self.balancer.remember(&[(ANSWERED, answer.to_owned())]).await
    }

    /// Tells a pipeline how its job ended, unless it knows already.
    pub(crate) async fn end_job(&self, id: &str, ended: Result<(), &str>) -> Result<(), DriverError> {
        match ended {
            Ok(()) => told(self.pipelines.put_job_success_result().job_id(id).send().await),
            Err(words) => {
                let words: String = words.chars().take(MOST_WORDS).collect();
                let failed = FailureDetails::builder().r#type(FailureType::JobFailed).message(words).build();
                let failed = failed.map_err(|source| DriverError::Away(": a failure is not one", Box::new(source)))?;
                told(self.pipelines.put_job_failure_result().job_id(id).failure_details(failed).send().await)
            }
        }
    }
}

#[async_trait::async_trait]
impl Driver for EcsDriver {
    fn platform(&self) -> &'static str {
        "ecs"
    }

    fn entrance(&self) -> String {
        self.entrance.clone()
    }

    fn missing(&self, _image: &Image) -> Option<String> {
        // Only ECS can tell, when it pulls it.
        None
    }

    fn stopped_within(&self) -> Duration {
        STOPPED_WITHIN
    }

    async fn observe(&self) -> Result<Observation, DriverError> {
        let seen = self.glance().await?;
        let (blue, green) = tokio::join!(self.slot(&seen.blue), self.slot(&seen.green));
        Ok(Observation {
            green_percent: seen.green_percent()?,
            epoch: seen.rule.notes.epoch,
            before: seen.rule.notes.before,
            blue,
            green,
        })
    }

    async fn fence(&self, epoch: i64) -> Result<(), DriverError> {
        let groups = self.tasks.services().await?.groups()?;
        let claimed = self.balancer.claim(epoch, |rule| rule.found(&groups, epoch)).await;
        self.changed().await;
        claimed.map(drop)
    }

    async fn run(&self, color: Color, image: &Image, replicas: u32, epoch: i64) -> Result<(), DriverError> {
        self.claim(color, epoch).await?;
        let run = self.tasks.run(color, image, replicas, epoch).await;
        self.changed().await;
        run
    }

    async fn stop(&self, color: Color, epoch: i64) -> Result<(), DriverError> {
        self.claim(color, epoch).await?;
        let stopped = self.tasks.stop(color).await;
        self.changed().await;
        stopped
    }

    async fn shift(&self, green_percent: u8, epoch: i64) -> Result<(), DriverError> {
        self.go(green_percent, Turn { epoch, after: None, more: &[] }).await
    }

    async fn hold(&self, color: Color, epoch: i64) -> Result<(), DriverError> {
        self.balancer.look().await?.current(epoch)?;
        self.tasks.protect(color, Some(KEPT_FOR)).await
    }

    async fn task(&self, image: &Image, arguments: &[&str], within: Duration, said: Said<'_>) -> Result<Ended, DriverError> {
        let percent = self.glance().await?.green_percent()?;
        self.tasks.once(share::most(percent).other(), image, arguments, within, said).await
    }
}

// === impl Glance ===

impl Glance {
    fn green_percent(&self) -> Result<u8, DriverError> {
        Ok(self.rule.weights(&self.groups)?.green_percent())
    }
}

// === impl Side ===

impl Side {
    /// What is known of a target before it is asked.
    fn replica(&self, target: &Target, operations: u16) -> Replica {
        let address = target.address(target.port);
        Replica {
            name: address.clone(),
            address,
            operations: target.address(operations),
            ready: false,
            build: None,
            leaving: target.is_leaving() || self.old.contains(&target.ip),
        }
    }
}

/// How many get requests, of those that are not on their way out.
fn counted(targets: &[Target]) -> (usize, usize) {
    let staying = targets.iter().filter(|target| !target.is_leaving());
    (targets.iter().filter(|target| target.is_healthy()).count(), staying.count())
}

/// What came of telling a pipeline how its job ended. That it has ended is known there already.
fn told<T, E: ProvideErrorMetadata>(told: Result<T, SdkError<E, HttpResponse>>) -> Result<(), DriverError>
where
    DriverError: From<SdkError<E, HttpResponse>>,
{
    match told {
        Err(failure) if failure.as_service_error().and_then(|refused| refused.code()) == Some("InvalidJobStateException") => {
            Ok(())
        }
        told => Ok(told.map(drop)?),
    }
}

/// The way to AWS: over the TLS that everything here speaks, and patient with an account that asks too often.
async fn configured(loader: ConfigLoader) -> SdkConfig {
    let tls = Provider::Rustls(CryptoMode::Ring);
    let client = aws_smithy_http_client::Builder::new().tls_provider(tls).build_https();
    // Not `adaptive`: it makes all calls of this process wait for the one that came too often, a rollback's, too.
    let patient = RetryConfig::standard().with_max_attempts(ATTEMPTS);
    let patient = patient.with_initial_backoff(FIRST_PAUSE).with_max_backoff(LONGEST_PAUSE);
    let deadlines = TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).operation_attempt_timeout(ANSWER_WITHIN).build();
    loader.http_client(client).retry_config(patient).timeout_config(deadlines).load().await
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::DigestKey,
        double::{Double, RULE, group},
        *,
    };

    fn image(name: &str, variables: &[(&str, &str)]) -> Image {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Image::new(name.to_owned(), environment).keyed(&DigestKey::new("a key".into()))
    }

    fn said(result: Result<impl std::fmt::Debug, DriverError>) -> String {
        let Err(DriverError::Refused(words)) = result else { panic!("it is not refused: {result:?}") };
        words
    }

    fn weights(double: &Double) -> Vec<i32> {
        double.state().weights()
    }

    fn tag(double: &Double, name: &str) -> Option<String> {
        double.state().tags.get(&format!("rollout.mcp/{name}")).cloned()
    }

    #[tokio::test]
    async fn what_is_live_is_read_from_the_weights_and_not_from_how_much_is_wanted() {
        let double = Double::start().await;
        double.state().services.get_mut("app-blue").unwrap()["desiredCount"] = json!(9);
        double.state().weigh(0, 7);
        double.state().tags.insert("rollout.mcp/epoch".to_owned(), "12".to_owned());
        double.state().tags.insert("rollout.mcp/before".to_owned(), "blue".to_owned());
        let seen = double.driver().observe().await.unwrap();
        assert_eq!((seen.green_percent, seen.live(), seen.epoch, seen.before), (100, Some(Color::Green), 12, Some(Color::Blue)));
        assert_eq!((seen.blue.wanted, seen.green.ready(), seen.green.build()), (9, 2, Some("1+abc")));
        assert_eq!(seen.green.image, Some(image("app:1", &[])));
    }

    #[tokio::test]
    async fn a_rule_with_somebody_else_in_it_is_refused() {
        let double = Double::start().await;
        double.state().forwards.push(("arn:aws:elasticloadbalancing:eu:1:targetgroup/other/1".to_owned(), 0));
        let words = said(double.driver().observe().await);
        assert!(words.contains("also forwards to targetgroup/other/1"), "{words}");
        let words = said(double.driver().shift(100, 1).await);
        assert!(words.contains("also forwards to targetgroup/other/1"), "{words}");
        assert_eq!(double.state().called("ModifyRule"), Vec::<Value>::new());
    }

    #[tokio::test]
    async fn a_call_that_came_too_often_is_made_again() {
        let double = Double::start().await;
        double.state().throttles = 3;
        let seen = double.driver().observe().await.unwrap();
        assert_eq!(seen.live(), Some(Color::Blue));
        assert_eq!(double.state().throttles, 0);
    }

    #[tokio::test]
    async fn a_rule_that_is_not_there_is_refused_with_what_to_look_at() {
        let double = Double::start().await;
        let settings =
            EcsSettings { cluster: "mcp".to_owned(), app: "app".to_owned(), rule: format!("{RULE}x"), entrance: String::new() };
        let driver = EcsDriver::with(&double.config(), settings, Http::new());
        let words = said(driver.observe().await);
        assert!(words.ends_with("see --rule, and the region"), "{words}");
    }

    #[tokio::test]
    async fn a_target_that_the_balancer_takes_leave_of_is_leaving_and_one_that_is_not_healthy_is_not_ready() {
        let double = Double::start().await;
        let targets = vec![(3001, "draining"), (3002, "unhealthy"), (3003, "healthy"), (3004, "initial")];
        double.state().targets.insert(group(Color::Green), targets);
        let seen = double.driver().observe().await.unwrap();
        let states: Vec<_> = seen.green.replicas.iter().map(|replica| (replica.leaving, replica.ready)).collect();
        assert_eq!(states, [(true, false), (false, false), (false, true), (false, false)]);
        assert_eq!(seen.green.replicas[0].address, "127.0.0.1:3001");
    }

    #[tokio::test]
    async fn a_healthy_target_that_nobody_reaches_from_here_says_so() {
        let double = Double::start().await;
        let driver = EcsDriver { operations: 1, ..double.driver() };
        let seen = driver.observe().await.unwrap();
        assert_eq!(seen.green.ready(), 0);
        let trouble = seen.green.trouble.unwrap();
        assert!(trouble.contains("nobody answers from here at 127.0.0.1:1"), "{trouble}");
    }

    #[tokio::test]
    async fn a_shift_moves_both_weights_at_once_and_remembers_where_going_back_leads() {
        let double = Double::start().await;
        let driver = double.driver();
        double.state().sticky = true;
        driver.fence(3).await.unwrap();
        driver.shift(100, 3).await.unwrap();
        assert_eq!(weights(&double), [0, 100]);
        assert!(!double.state().sticky, "a client would stay where it was");
        assert_eq!(double.state().called("ModifyRule").len(), 1);
        assert_eq!([tag(&double, "epoch"), tag(&double, "before")], [Some("3".to_owned()), Some("blue".to_owned())]);
        assert!(tag(&double, "moved").is_some());
        let seen = driver.observe().await.unwrap();
        assert_eq!((seen.live(), seen.before), (Some(Color::Green), Some(Color::Blue)));
        driver.shift(0, 3).await.unwrap();
        let seen = driver.observe().await.unwrap();
        assert_eq!((seen.live(), seen.before), (Some(Color::Blue), None), "who goes back is not led forth");
    }

    #[tokio::test]
    async fn a_smaller_epoch_changes_nothing() {
        let double = Double::start().await;
        let driver = double.driver();
        driver.fence(9).await.unwrap();
        for refused in [
            said(driver.fence(8).await),
            said(driver.shift(100, 8).await),
            said(driver.run(Color::Green, &image("app:2", &[]), 2, 8).await),
            said(driver.stop(Color::Green, 8).await),
            said(driver.hold(Color::Green, 8).await),
        ] {
            assert_eq!(refused, "a later rollout is at work (epoch 9, yours is 8)");
        }
        assert_eq!(weights(&double), [100, 0]);
        assert_eq!(double.state().called("UpdateService"), Vec::<Value>::new());
    }

    #[tokio::test]
    async fn a_later_rollout_that_comes_between_is_heard_before_anything_moves() {
        let double = Double::start().await;
        let driver = double.driver();
        driver.fence(3).await.unwrap();
        double.meddle(|call, state| {
            if call == "AddTags" {
                state.tags.insert("rollout.mcp/epoch".to_owned(), "4".to_owned());
                state.meddler = Some(Box::new(|call, state| {
                    // What the earlier one wrote is written over by the later one, which looked at the same time.
                    if call == "DescribeTags" {
                        state.tags.insert("rollout.mcp/epoch".to_owned(), "4".to_owned());
                    }
                }));
            }
        });
        let words = said(driver.shift(100, 3).await);
        assert_eq!(words, "a later rollout is at work (epoch 4, yours is 3)");
        assert_eq!(double.state().called("ModifyRule"), Vec::<Value>::new());
    }

    #[tokio::test]
    async fn weights_that_somebody_else_set_are_not_moved_on_from() {
        let double = Double::start().await;
        let driver = double.driver();
        driver.fence(3).await.unwrap();
        driver.shift(10, 3).await.unwrap();
        double.state().weigh(50, 50);
        let words = said(driver.shift(100, 3).await);
        assert_eq!(weights(&double), [50, 50]);
        assert!(words.starts_with("somebody set the weights to 50/50 (blue/green) in between, it was 90/10"), "{words}");
    }

    #[tokio::test]
    async fn going_back_is_done_whatever_the_weights_are() {
        for (blue, green) in [(50, 50), (0, 0), (3, 1)] {
            let double = Double::start().await;
            let driver = double.driver();
            driver.fence(3).await.unwrap();
            driver.shift(10, 3).await.unwrap();
            double.state().weigh(blue, green);
            assert_eq!(driver.observe().await.unwrap().live(), None);
            driver.shift(0, 3).await.unwrap();
            assert_eq!(weights(&double), [100, 0]);
            // And whoever begins after that takes them as it finds them.
            double.state().weigh(blue, green);
            driver.fence(4).await.unwrap();
            driver.shift(100, 4).await.unwrap();
            assert_eq!(weights(&double), [0, 100]);
        }
    }

    #[tokio::test]
    async fn a_move_that_did_not_come_to_its_end_is_made_again_and_still_leads_back() {
        let double = Double::start().await;
        let driver = double.driver();
        driver.fence(3).await.unwrap();
        double.meddle(|call, state| {
            if call == "ModifyRule" {
                state.refuses = Some("OperationNotPermitted");
            }
        });
        said(driver.shift(100, 3).await);
        assert_eq!(weights(&double), [100, 0]);
        double.state().meddler = None;
        driver.shift(100, 3).await.unwrap();
        assert_eq!((weights(&double), tag(&double, "before")), (vec![0, 100], Some("blue".to_owned())));
    }

    /// What the last registered definition says of the container.
    fn registered(double: &Double) -> Value {
        double.state().called("RegisterTaskDefinition").last().expect("one was registered").clone()
    }

    fn variables(definition: &Value) -> Vec<(String, String)> {
        let variables = definition["containerDefinitions"][0]["environment"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        variables.map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[tokio::test]
    async fn a_run_is_a_copy_of_what_ran_there_and_leaves_nothing_of_the_run_before() {
        let double = Double::start().await;
        let driver = double.driver();
        let first = image("app:2", &[("LOG", "debug"), ("SECRET", "hush")]);
        driver.run(Color::Green, &first, 3, 5).await.unwrap();
        let definition = registered(&double);
        assert_eq!(variables(&definition), pairs(&[("LOG", "debug"), ("RELEASE_COLOR", "green"), ("SECRET", "hush")]));
        assert_eq!((&definition["family"], &definition["cpu"]), (&json!("app-green"), &json!("256")));
        assert_eq!(definition["containerDefinitions"][0]["image"], "app:2");
        assert!(
            !definition["containerDefinitions"][0]["dockerLabels"].to_string().contains("hush"),
            "a label is no place for it"
        );
        let seen = driver.observe().await.unwrap();
        assert_eq!((seen.green.image, seen.green.wanted), (Some(first.hidden()), 3));
        driver.run(Color::Green, &image("app:3", &[("OTHER", "1")]), 3, 6).await.unwrap();
        let expected = pairs(&[("LOG", "info"), ("OTHER", "1"), ("RELEASE_COLOR", "green")]);
        assert_eq!(variables(&registered(&double)), expected, "what stood there before is back");
    }

    #[tokio::test]
    async fn a_run_that_is_asked_for_twice_is_one_and_the_next_rollouts_is_another() {
        let double = Double::start().await;
        let driver = double.driver();
        let image = image("app:2", &[]);
        driver.run(Color::Green, &image, 2, 5).await.unwrap();
        driver.run(Color::Green, &image, 2, 5).await.unwrap();
        assert_eq!(double.state().called("RegisterTaskDefinition").len(), 1);
        driver.run(Color::Green, &image, 2, 6).await.unwrap();
        assert_eq!(double.state().called("RegisterTaskDefinition").len(), 2);
    }

    #[tokio::test]
    async fn a_color_with_traffic_is_neither_replaced_nor_stopped() {
        let double = Double::start().await;
        let driver = double.driver();
        double.state().weigh(99, 1);
        let refused = [driver.run(Color::Green, &image("app:2", &[]), 2, 5).await, driver.stop(Color::Green, 5).await];
        assert!(refused.into_iter().all(|refused| said(refused) == "traffic goes to green: switch first"));
        assert_eq!(double.state().called("UpdateService"), Vec::<Value>::new());
    }

    #[tokio::test]
    async fn a_service_that_ecs_leads_by_itself_is_refused() {
        let double = Double::start().await;
        let configured = |configuration: Value| {
            double.state().services.get_mut("app-green").unwrap()["deploymentConfiguration"] = configuration;
        };
        configured(json!({ "strategy": "BLUE_GREEN" }));
        let words = said(double.driver().run(Color::Green, &image("app:2", &[]), 2, 5).await);
        assert!(words.contains("has to be ROLLING"), "{words}");
        configured(json!({ "strategy": "ROLLING", "deploymentCircuitBreaker": { "enable": true, "rollback": true } }));
        let words = said(double.driver().run(Color::Green, &image("app:2", &[]), 2, 5).await);
        assert!(words.contains("must not roll back"), "{words}");
        configured(json!({ "strategy": "ROLLING", "deploymentCircuitBreaker": { "enable": true, "rollback": false } }));
        double.driver().run(Color::Green, &image("app:2", &[]), 2, 5).await.unwrap();
    }

    #[tokio::test]
    async fn a_target_group_that_no_rule_names_is_named_before_anything_runs_there() {
        let double = Double::start().await;
        double.state().forwards = vec![(group(Color::Blue), 1)];
        double.driver().run(Color::Green, &image("app:2", &[]), 2, 5).await.unwrap();
        assert_eq!(double.state().forwards, [(group(Color::Blue), 100), (group(Color::Green), 0)]);
    }

    fn suspended(double: &Double, color: Color) -> Value {
        double.state().scalable[&format!("service/mcp/app-{color}")]["SuspendedState"]["DynamicScalingInSuspended"].clone()
    }

    #[tokio::test]
    async fn a_color_grows_and_shrinks_by_itself_only_while_it_has_traffic() {
        let double = Double::start().await;
        let driver = double.driver();
        for color in [Color::Blue, Color::Green] {
            let target = json!({ "ServiceNamespace": "ecs", "ResourceId": "x", "ScalableDimension": "ecs:service:DesiredCount",
                "MinCapacity": 2, "MaxCapacity": 9, "RoleARN": "arn", "CreationTime": 1 });
            double.state().scalable.insert(format!("service/mcp/app-{color}"), target);
        }
        driver.run(Color::Green, &image("app:2", &[]), 2, 5).await.unwrap();
        assert_eq!(suspended(&double, Color::Green), true);
        driver.shift(100, 5).await.unwrap();
        assert_eq!([suspended(&double, Color::Blue), suspended(&double, Color::Green)], [json!(true), json!(false)]);
        let told = double.state().called("RegisterScalableTarget");
        assert!(told.iter().all(|told| told.get("MinCapacity").is_none() && told.get("MaxCapacity").is_none()));
    }

    fn task(name: &str, color: Color, definition: &str, what: Value) -> Value {
        let mut task = json!({ "taskArn": format!("arn:aws:ecs:eu:1:task/mcp/{name}"), "group": format!("service:app-{color}"),
            "taskDefinitionArn": definition, "desiredStatus": "RUNNING", "lastStatus": "RUNNING", "stoppedAt": 200 });
        task.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        task
    }

    #[tokio::test]
    async fn the_color_that_lost_its_traffic_is_kept_until_it_is_stopped() {
        let double = Double::start().await;
        let driver = double.driver();
        for (name, color) in [("b", Color::Blue), ("g", Color::Green)] {
            double.state().tasks.push(task(name, color, "x", json!({})));
        }
        driver.shift(100, 5).await.unwrap();
        let protected = |double: &Double| -> Vec<_> {
            let told = double.state().called("UpdateTaskProtection");
            let told = told.iter().map(|told| (told["tasks"][0].clone(), told["expiresInMinutes"].clone()));
            let mut told: Vec<_> = told.map(|(task, minutes)| (task.to_string(), minutes)).collect();
            told.sort_by_key(|(task, _)| task.clone());
            double.state().calls.clear();
            told
        };
        let told = protected(&double);
        assert!(told[0].0.ends_with("/b\"") && told[0].1 == 60, "{told:?}");
        assert!(told[1].0.ends_with("/g\"") && told[1].1.is_null(), "{told:?}");
        driver.hold(Color::Blue, 5).await.unwrap();
        assert_eq!(protected(&double)[0].1, 60);
        driver.stop(Color::Blue, 5).await.unwrap();
        assert!(protected(&double)[0].1.is_null(), "what is protected would not be stopped");
        assert_eq!(double.state().services["app-blue"]["desiredCount"], 0);
    }

    #[tokio::test]
    async fn why_a_task_stopped_is_the_trouble_with_its_last_words() {
        let double = Double::start().await;
        let driver = double.driver();
        let definition = double.state().services["app-green"]["taskDefinition"].as_str().unwrap().to_owned();
        double.state().targets.insert(group(Color::Green), vec![(3001, "initial")]);
        double.state().log = vec!["first", "no \u{1b}[31mdatabase"];
        let scaled_in = json!({ "desiredStatus": "STOPPED", "stopCode": "ServiceSchedulerInitiated", "stoppedAt": 300,
            "stoppedReason": "Scaling activity initiated by (deployment x)" });
        let crashed = json!({ "desiredStatus": "STOPPED", "stopCode": "EssentialContainerExited",
            "stoppedReason": "Essential container in task exited", "containers": [{ "name": "app", "exitCode": 3 }] });
        let of_before = task("c", Color::Green, "another", crashed.clone());
        double.state().tasks = vec![task("a", Color::Green, &definition, scaled_in), of_before];
        assert_eq!(driver.observe().await.unwrap().green.trouble, None);
        double.state().tasks.push(task("d", Color::Green, &definition, crashed));
        driver.changed().await;
        let trouble = driver.observe().await.unwrap().green.trouble.unwrap();
        assert_eq!(trouble, "d: Essential container in task exited; it ended with 3: first / no  [31mdatabase");
        let reason = "CannotPullContainerError: pull image manifest has been retried 1 time(s): app:9: not found";
        let not_pulled = json!({ "desiredStatus": "STOPPED", "stopCode": "TaskFailedToStart", "stoppedReason": reason,
            "stoppedAt": 400 });
        double.state().tasks.push(task("e", Color::Green, &definition, not_pulled));
        driver.changed().await;
        assert_eq!(driver.observe().await.unwrap().green.trouble, Some(format!("e: {reason}")));
    }

    #[tokio::test]
    async fn a_deployment_that_ecs_gave_up_is_the_trouble() {
        let double = Double::start().await;
        double.state().targets.insert(group(Color::Green), Vec::new());
        let events = json!([{ "createdAt": 50, "message": "(service app-green) was unable to place a task: long ago" }]);
        double.state().services.get_mut("app-green").unwrap()["events"] = events;
        assert_eq!(double.driver().observe().await.unwrap().green.trouble, None);
        let reason = "ECS deployment circuit breaker: tasks failed to start.";
        let failed = json!({ "status": "PRIMARY", "rolloutState": "FAILED", "rolloutStateReason": reason });
        double.state().services.get_mut("app-green").unwrap()["deployments"] = json!([failed]);
        assert_eq!(double.driver().observe().await.unwrap().green.trouble.as_deref(), Some(reason));
    }

    #[tokio::test]
    async fn what_is_being_replaced_is_leaving() {
        let double = Double::start().await;
        let at = |address: &str| json!({ "attachments": [{ "details": [{ "name": "privateIPv4Address", "value": address }] }] });
        double.state().tasks = vec![task("old", Color::Green, "another", at("127.0.0.1"))];
        assert_eq!(double.driver().observe().await.unwrap().green.ready(), 2, "one deployment has nothing old");
        let deployments = double.state().services["app-green"]["deployments"][0].clone();
        double.state().services.get_mut("app-green").unwrap()["deployments"] = json!([deployments, { "status": "ACTIVE" }]);
        assert_eq!(double.driver().observe().await.unwrap().green.ready(), 0);
    }

    #[tokio::test]
    async fn a_task_runs_where_the_idle_color_does_and_its_words_come_back() {
        let double = Double::start().await;
        let driver = double.driver();
        let ended = |code: i32| json!({ "lastStatus": "STOPPED", "containers": [{ "name": "app", "exitCode": code }] });
        double.state().tasks = vec![task("m", Color::Green, "x", ended(0))];
        double.state().log = vec!["it begins", "{\"phase\":\"expanded\"}"];
        let within = Duration::from_secs(9);
        let image = image("app:2", &[("X", "1")]);
        let heard = std::sync::Mutex::new(Vec::new());
        let hear = |line: &str| heard.lock().unwrap().push(line.to_owned());
        let done = driver.task(&image, &["migrate", "expand"], within, &hear).await.unwrap();
        assert!(done.success);
        assert_eq!(*heard.lock().unwrap(), ["it begins", "{\"phase\":\"expanded\"}"], "each line once");
        assert_eq!(done.document(), Some(json!({ "phase": "expanded" })));
        let run = double.state().called("RunTask").remove(0);
        assert_eq!(run["overrides"]["containerOverrides"][0]["command"], json!(["migrate", "expand"]));
        assert_eq!(run["networkConfiguration"]["awsvpcConfiguration"]["subnets"], json!(["subnet-1"]));
        let definition = registered(&double);
        assert_eq!(definition["family"], "app-task");
        assert_eq!(definition["containerDefinitions"][0].get("portMappings"), None);
        double.state().tasks = vec![task("n", Color::Green, "x", ended(1))];
        assert!(!driver.task(&image, &["migrate", "expand"], within, &|_| {}).await.unwrap().success);
        assert_eq!(double.state().called("RegisterTaskDefinition").len(), 1, "the same is not registered again");
    }

    #[tokio::test]
    async fn the_words_of_a_task_are_read_up_to_its_document() {
        let double = Double::start().await;
        let ended = json!({ "lastStatus": "STOPPED", "containers": [{ "name": "app", "exitCode": 0 }] });
        double.state().tasks = vec![task("m", Color::Green, "x", ended)];
        double.state().log = vec!["it begins"];
        let mut reads = 0;
        double.state().meddler = Some(Box::new(move |operation, state| {
            reads += usize::from(operation == "GetLogEvents");
            if reads == 3 && state.log.len() == 1 {
                state.log.push("{\"phase\":\"expanded\"}");
            }
        }));
        let done = double.driver().task(&image("app:2", &[]), &["migrate"], Duration::from_secs(9), &|_| {}).await.unwrap();
        assert_eq!(done.document(), Some(json!({ "phase": "expanded" })));
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_stopped() {
        let double = Double::start().await;
        double.state().tasks = vec![task("m", Color::Green, "x", json!({}))];
        let words = said(double.driver().task(&image("app:2", &[]), &["migrate"], Duration::ZERO, &|_| {}).await);
        assert_eq!(words, "the task m has not ended after 0ns");
        assert_eq!(double.state().called("StopTask").len(), 1);
    }
}
