//! The two services and their tasks: what runs as a color, why it does not come up, and something that is run once.

mod deployment;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aws_config::{SdkConfig, retry::RetryConfig};
use aws_sdk_ecs::{
    Client, Config,
    types::{
        ContainerOverride, Deployment, DeploymentRolloutState, DeploymentStrategy, DesiredStatus, Service, Tag, Task,
        TaskDefinitionField, TaskOverride, TaskStopCode,
    },
};
use bg_runtime::Color;

pub(crate) use self::deployment::InProgress;
use super::{
    balancer::Groups,
    definition::{self, Definition, Log},
};
use crate::driver::{DriverError, Ended, Heard, Image, Said, document};

/// The services `APP-blue` and `APP-green` of a cluster.
#[derive(Debug)]
pub(super) struct Tasks {
    client: Client,
    /// Makes each call once, for what is told of a service: who was refused is to see first who acts by then.
    once: Client,
    logs: aws_sdk_cloudwatchlogs::Client,
    cluster: String,
    app: String,
    /// By name: one that was registered never changes.
    definitions: Mutex<HashMap<String, Arc<Definition>>>,
}

/// Both services at one moment.
#[derive(Clone, Debug)]
pub(super) struct Services {
    blue: Service,
    green: Service,
}

/// The tag that names the application of a task, for the conditions of `terraform/modules/rollout-role`.
const APP_TAG: &str = "release-app";
/// So many tasks can be protected at once.
const PROTECTED_AT_ONCE: usize = 10;
/// So many can be described at once.
const DESCRIBED_AT_ONCE: usize = 100;
/// How often a task is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the log of a task that runs is read.
const READ: Duration = Duration::from_secs(5);
/// How long the last words of a task may be on their way to CloudWatch.
const WORDS_WITHIN: Duration = Duration::from_secs(10);
/// So many tasks that stopped are asked for their last words.
const LAST_FAULTS: usize = 3;
/// The log driver hands over what it has at least this often.
const QUIET: Duration = Duration::from_secs(5);
/// The most that is read of what a task said, in pages of up to a megabyte.
const PAGES: usize = 16;
/// Service events that do not pass by themselves.
const HOPELESS: [&str; 3] = ["failed to launch a task", "unable to assume the role", "unable to place a task"];

// === impl Tasks ===

impl Tasks {
    pub(super) fn new(config: &SdkConfig, cluster: &str, app: &str) -> Self {
        let (client, logs) = (Client::new(config), aws_sdk_cloudwatchlogs::Client::new(config));
        let once = Config::from(config).to_builder().retry_config(RetryConfig::disabled()).build();
        Self {
            client,
            once: Client::from_conf(once),
            logs,
            cluster: cluster.to_owned(),
            app: app.to_owned(),
            definitions: Mutex::default(),
        }
    }

    fn service(&self, color: Color) -> String {
        format!("{}-{color}", self.app)
    }

    pub(super) async fn services(&self) -> Result<Services, DriverError> {
        let names = [Color::Blue, Color::Green].map(|color| self.service(color));
        let described = self.client.describe_services().cluster(&self.cluster).set_services(Some(names.to_vec())).send().await?;
        let named = |name: &String| {
            let mut services = described.services().iter();
            let service = services.find(|service| service.service_name() == Some(name) && service.status() == Some("ACTIVE"));
            service.cloned().ok_or_else(|| {
                DriverError::Refused(format!(
                    "there is no service {name} in the cluster {}: see --cluster and --app, or apply `terraform/`",
                    self.cluster
                ))
            })
        };
        Ok(Services { blue: named(&names[0])?, green: named(&names[1])? })
    }

    /// A task definition, by its ARN, or the newest of a family.
    pub(super) async fn definition(&self, name: &str) -> Result<Arc<Definition>, DriverError> {
        if let Some(known) = self.definitions.lock().expect("nobody panics with the definitions").get(name) {
            return Ok(known.clone());
        }
        let described = self.client.describe_task_definition().task_definition(name).include(TaskDefinitionField::Tags);
        let described = described.send().await?;
        let tags = described.tags().to_vec();
        let Some(definition) = described.task_definition else {
            return Err(DriverError::Refused(format!("there is no task definition {name}")));
        };
        let definition = Arc::new(Definition::new(definition, tags, &self.app));
        if definition.arn == name {
            let mut definitions = self.definitions.lock().expect("nobody panics with the definitions");
            definitions.insert(name.to_owned(), definition.clone());
        }
        Ok(definition)
    }

    /// Lets this run as a color, in so many tasks. Called again with the same, it changes nothing.
    pub(super) async fn run(&self, color: Color, image: &Image, replicas: u32, epoch: i64) -> Result<(), DriverError> {
        let services = self.services().await?;
        is_led(services.of(color))?;
        let current = self.definition(services.of(color).task_definition().unwrap_or_default()).await?;
        let arn = if current.is_of(image, epoch) {
            current.arn.clone()
        } else {
            let registered = current.copy(image, epoch)?.send_with(&self.client).await?;
            let arn = registered.task_definition().and_then(|definition| definition.task_definition_arn());
            arn.unwrap_or_default().to_owned()
        };
        let count = i32::try_from(replicas).unwrap_or(i32::MAX);
        let update = self.once.update_service().cluster(&self.cluster).service(self.service(color));
        update.task_definition(arn).desired_count(count).send().await?;
        Ok(())
    }

    /// Lets nothing run as a color. What would run there stays as it is.
    pub(super) async fn stop(&self, color: Color) -> Result<(), DriverError> {
        self.once.update_service().cluster(&self.cluster).service(self.service(color)).desired_count(0).send().await?;
        Ok(())
    }

    /// Keeps a color's tasks from being taken away for so many minutes, or lets them be.
    pub(super) async fn protect(&self, color: Color, minutes: Option<i32>) -> Result<(), DriverError> {
        let tasks = self.named(color, DesiredStatus::Running).await?;
        for tasks in tasks.chunks(PROTECTED_AT_ONCE) {
            let protect = self.client.update_task_protection().cluster(&self.cluster).set_tasks(Some(tasks.to_vec()));
            let protected = protect.protection_enabled(minutes.is_some()).set_expires_in_minutes(minutes).send().await?;
            for failure in protected.failures() {
                // One that is gone meanwhile needs none.
                let (arn, reason) = (failure.arn().unwrap_or_default(), failure.reason().unwrap_or_default());
                tracing::debug!("the protection of {arn} is as it was: {reason}");
            }
        }
        Ok(())
    }

    /// The addresses of those of a color's tasks that another definition than the present one started.
    pub(super) async fn old(&self, services: &Services, color: Color) -> Result<HashSet<String>, DriverError> {
        let service = services.of(color);
        if service.deployments().len() < 2 {
            return Ok(HashSet::new());
        }
        let tasks = self.described(&self.named(color, DesiredStatus::Running).await?).await?;
        let old = tasks.iter().filter(|task| task.task_definition_arn() != service.task_definition());
        Ok(old.filter_map(address).map(str::to_owned).collect())
    }

    /// Why a color does not come up, with its own last words.
    pub(super) async fn trouble(&self, services: &Services, color: Color) -> Option<String> {
        let service = services.of(color);
        let deployment = primary(service)?;
        let stopped = async { self.described(&self.named(color, DesiredStatus::Stopped).await?).await };
        let mut stopped = stopped.await.unwrap_or_else(|failure| {
            tracing::debug!("what stopped is not known: {}", crate::chain(&failure));
            Vec::new()
        });
        stopped.retain(|task| task.task_definition_arn() == deployment.task_definition());
        stopped.sort_by_key(|task| task.stopped_at().map(|at| at.secs()));
        let mut newest = None;
        for task in stopped.iter().rev().filter(|task| is_its_fault(task)).take(LAST_FAULTS) {
            let (reason, is_whole) = self.reason(task).await;
            if is_whole {
                return Some(reason);
            }
            // Its last words are on their way; those of one before it do as well.
            newest.get_or_insert(reason);
        }
        if newest.is_some() {
            return newest;
        }
        let failed = |deployment: &&Deployment| deployment.rollout_state() == Some(&DeploymentRolloutState::Failed);
        if let Some(failed) = service.deployments().iter().find(failed) {
            return Some(failed.rollout_state_reason().unwrap_or("its deployment failed").to_owned());
        }
        let began = deployment.created_at().map(|at| at.secs());
        let events = service.events().iter().filter(|event| event.created_at().map(|at| at.secs()) >= began);
        let mut messages = events.filter_map(|event| event.message());
        messages.find(|message| HOPELESS.iter().any(|hopeless| message.contains(hopeless))).map(str::to_owned)
    }

    /// Runs an image once, where the idle color runs.
    pub(super) async fn once(
        &self,
        idle: Color,
        image: &Image,
        arguments: &[&str],
        within: Duration,
        said: Said<'_>,
    ) -> Result<Ended, DriverError> {
        let (begun, mut heard, mut read) = (Instant::now(), Heard::new(said), Instant::now());
        let services = self.services().await?;
        let service = services.of(idle);
        let definition = self.for_task(service, image).await?;
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let told = ContainerOverride::builder().name(&self.app).set_command(Some(arguments)).build();
        let run = self
            .client
            .run_task()
            .cluster(&self.cluster)
            .task_definition(&definition.arn)
            .overrides(TaskOverride::builder().container_overrides(told).build())
            .set_network_configuration(service.network_configuration.clone())
            .set_platform_version(service.platform_version.clone())
            .started_by("rollout")
            // What the policy of modules/rollout-role looks for before it lets a task be stopped.
            .tags(Tag::builder().key(APP_TAG).value(&self.app).build());
        // Where it runs is said in one way or the other, never in both.
        let run = match service.capacity_provider_strategy() {
            [] => run.set_launch_type(service.launch_type.clone()),
            strategy => run.set_capacity_provider_strategy(Some(strategy.to_vec())),
        };
        let started = run.send().await?;
        let Some(arn) = started.tasks().first().and_then(|task| task.task_arn()) else {
            let reasons = started.failures().iter().filter_map(|failure| failure.reason());
            return Err(DriverError::Refused(format!("no task was started: {}", reasons.collect::<Vec<_>>().join(", "))));
        };
        let task = loop {
            tokio::time::sleep(LOOK).await;
            let described = self.described(&[arn.to_owned()]).await;
            match described {
                Ok(tasks) => match tasks.into_iter().next() {
                    Some(task) if task.last_status() == Some("STOPPED") => break task,
                    _ if begun.elapsed() > within => return self.give_up(arn, within).await,
                    _ => {
                        if let Some(log) = definition.log()
                            && read.elapsed() > READ
                            && let Ok(said) = self.read(&log, short(arn)).await
                        {
                            heard.hear(&said);
                            read = Instant::now();
                        }
                    }
                },
                // It goes on while ECS does not answer.
                Err(DriverError::Away(..)) if begun.elapsed() <= within => {}
                Err(failure) => return Err(failure),
            }
        };
        let code = exit_code(&task, &self.app);
        if code.is_none() {
            return Err(DriverError::Refused(self.reason(&task).await.0));
        }
        let said = match definition.log() {
            Some(log) => self.said(&log, short(arn)).await?,
            None => format!("what {} says goes elsewhere than to CloudWatch: its log driver is not awslogs", short(arn)),
        };
        heard.hear(&said);
        Ok(Ended { success: code == Some(0), stdout: said.clone(), stderr: said })
    }

    /// The definition for something that is run once: the last one when it is the same.
    async fn for_task(&self, service: &Service, image: &Image) -> Result<Arc<Definition>, DriverError> {
        let of = self.definition(service.task_definition().unwrap_or_default()).await?;
        // There may be none yet.
        if let Ok(last) = self.definition(&definition::task_family(&self.app)).await
            && last.is_task_of(image, &of)
        {
            return Ok(last);
        }
        let registered = of.copy_for_task(image)?.send_with(&self.client).await?;
        let arn = registered.task_definition().and_then(|definition| definition.task_definition_arn());
        self.definition(arn.unwrap_or_default()).await
    }

    async fn give_up(&self, arn: &str, within: Duration) -> Result<Ended, DriverError> {
        let words = format!("the task {} has not ended after {within:?}", short(arn));
        let stop = self.client.stop_task().cluster(&self.cluster).task(arn).reason(&words);
        if let Err(failure) = stop.send().await {
            let failure = DriverError::from(failure);
            return Err(DriverError::Refused(format!("{words}, and it was not stopped: {}", crate::chain(&failure))));
        }
        Err(DriverError::Refused(words))
    }

    async fn named(&self, color: Color, status: DesiredStatus) -> Result<Vec<String>, DriverError> {
        let list = self.client.list_tasks().cluster(&self.cluster).service_name(self.service(color)).desired_status(status);
        Ok(list.into_paginator().items().send().collect::<Result<_, _>>().await?)
    }

    async fn described(&self, tasks: &[String]) -> Result<Vec<Task>, DriverError> {
        let mut found = Vec::new();
        for tasks in tasks.chunks(DESCRIBED_AT_ONCE) {
            let describe = self.client.describe_tasks().cluster(&self.cluster).set_tasks(Some(tasks.to_vec()));
            found.extend(describe.send().await?.tasks.unwrap_or_default());
        }
        Ok(found)
    }

    /// Why a task stopped, and whether that is all that will be known of it.
    async fn reason(&self, task: &Task) -> (String, bool) {
        let arn = task.task_arn().unwrap_or_default();
        let reason = task.stopped_reason().unwrap_or("it stopped");
        let container = task.containers().iter().find(|container| container.name() == Some(&self.app));
        let of_container = container.and_then(|container| container.reason()).map_or_else(String::new, |why| format!(": {why}"));
        let (mut words, mut is_whole) = (format!("{}: {reason}{of_container}", short(arn)), true);
        if let Some(code) = exit_code(task, &self.app) {
            words = format!("{words}; it ended with {code}");
            let definition = self.definition(task.task_definition_arn().unwrap_or_default()).await;
            if let Some(log) = definition.ok().and_then(|definition| definition.log()) {
                let last = self.last_words(&log, short(arn)).await;
                is_whole = !last.is_empty();
                words = if last.is_empty() { words } else { format!("{words}: {last}") };
            }
        }
        (words, is_whole)
    }

    async fn last_words(&self, log: &Log, task: &str) -> String {
        let read = self.logs.get_log_events().log_group_name(&log.group).log_stream_name(log.stream(task)).limit(3);
        let Ok(read) = read.start_from_head(false).send().await else { return String::new() };
        let lines = read.events().iter().filter_map(|event| event.message());
        lines.map(crate::plain).collect::<Vec<_>>().join(" / ")
    }

    /// Everything that a task said. CloudWatch hears it a moment later, and not all at once: it is whole with the document at
    /// its end, or when nothing has come for a while from one that printed none.
    async fn said(&self, log: &Log, task: &str) -> Result<String, DriverError> {
        let begun = Instant::now();
        let (mut said, mut since) = (String::new(), begun);
        loop {
            let is_over = begun.elapsed() > WORDS_WITHIN;
            match self.read(log, task).await {
                Ok(read) => {
                    if read != said {
                        (said, since) = (read, Instant::now());
                    }
                    let is_whole = document(&said).is_some() || !said.is_empty() && since.elapsed() > QUIET;
                    if is_whole || is_over {
                        return Ok(said);
                    }
                }
                Err(failure) if is_over => return Err(failure),
                Err(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn read(&self, log: &Log, task: &str) -> Result<String, DriverError> {
        let (mut said, mut next) = (String::new(), None);
        for _ in 0..PAGES {
            let read = self.logs.get_log_events().log_group_name(&log.group).log_stream_name(log.stream(task));
            let page = read.start_from_head(true).set_next_token(next.clone()).send().await?;
            for line in page.events().iter().filter_map(|event| event.message()) {
                said.push_str(line);
                said.push('\n');
            }
            // At the end the same token comes again.
            if page.next_forward_token == next {
                break;
            }
            next = page.next_forward_token;
        }
        Ok(said)
    }
}

// === impl Services ===

impl Services {
    pub(super) fn of(&self, color: Color) -> &Service {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// Whose target group is whose.
    pub(super) fn groups(&self) -> Result<Groups, DriverError> {
        let group = |service: &Service| {
            let group = service.load_balancers().first().and_then(|balancer| balancer.target_group_arn());
            group.map(str::to_owned).ok_or_else(|| {
                let name = service.service_name().unwrap_or_default();
                DriverError::Refused(format!("the service {name} has no target group, so no traffic can go there"))
            })
        };
        let groups = Groups { blue: group(&self.blue)?, green: group(&self.green)? };
        if groups.blue == groups.green {
            let words = "both services have the same target group, so there is nothing to switch between: apply `terraform/`";
            return Err(DriverError::Refused(words.to_owned()));
        }
        Ok(groups)
    }
}

/// That a service is changed by nobody but who is told to.
fn is_led(service: &Service) -> Result<(), DriverError> {
    let name = service.service_name().unwrap_or_default();
    let Some(configured) = service.deployment_configuration() else { return Ok(()) };
    if configured.strategy().is_some_and(|strategy| *strategy != DeploymentStrategy::Rolling) {
        return Err(DriverError::Refused(format!(
            "the service {name} moves the traffic by itself when it is deployed: its deployment strategy has to be ROLLING"
        )));
    }
    if configured.deployment_circuit_breaker().is_some_and(|breaker| breaker.enable() && breaker.rollback()) {
        return Err(DriverError::Refused(format!(
            "the service {name} goes back to its last build by itself, which would then be taken for the new one: its circuit \
             breaker must not roll back"
        )));
    }
    Ok(())
}

fn primary(service: &Service) -> Option<&Deployment> {
    service.deployments().iter().find(|deployment| deployment.status() == Some("PRIMARY"))
}

/// Where a task is in its network.
fn address(task: &Task) -> Option<&str> {
    let details = task.attachments().iter().flat_map(|attachment| attachment.details());
    let mut addresses = details.filter(|detail| detail.name() == Some("privateIPv4Address"));
    addresses.next()?.value()
}

/// Whether it is the build's or the definition's fault that a task stopped, and not somebody's wish.
fn is_its_fault(task: &Task) -> bool {
    match task.stop_code() {
        Some(TaskStopCode::EssentialContainerExited | TaskStopCode::TaskFailedToStart) => true,
        Some(TaskStopCode::ServiceSchedulerInitiated) => task.stopped_reason().is_some_and(|why| why.contains("failed")),
        _ => false,
    }
}

fn exit_code(task: &Task, app: &str) -> Option<i32> {
    task.containers().iter().find(|container| container.name() == Some(app))?.exit_code()
}

/// The last part of an ARN.
fn short(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}
