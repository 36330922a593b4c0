//! Task definitions: what one says of an image, and a copy of it with another image. Pure.
//!
//! What must stay true: a copy differs from its original only by what a rollout was told, and the copy of a copy has nothing
//! left of it. What a rollout must remember is in labels of the container.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_ecs::{
    operation::register_task_definition::builders::RegisterTaskDefinitionInputBuilder,
    types::{ContainerDefinition, KeyValuePair, LogDriver, Tag, TaskDefinition},
};

use crate::driver::{DriverError, Image};

/// What a service runs, with the tags on it.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) arn: String,
    definition: TaskDefinition,
    tags: Vec<Tag>,
    app: String,
}

/// Where a container's words are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) group: String,
    prefix: String,
    container: String,
}

/// The image and its variables, hidden.
const IMAGE: &str = "rollout.mcp/image";
/// What stood in the place of the image's variables before.
const REPLACED: &str = "rollout.mcp/replaced";
/// Which `run` it is of.
const RUN: &str = "rollout.mcp/run";
/// Which definition it was copied from.
const OF: &str = "rollout.mcp/of";

// === impl Definition ===

impl Definition {
    pub(super) fn new(definition: TaskDefinition, tags: Vec<Tag>, app: &str) -> Self {
        let arn = definition.task_definition_arn().unwrap_or_default().to_owned();
        Self { arn, definition, tags, app: app.to_owned() }
    }

    /// What runs, [hidden](Image::hidden): what a rollout wrote down of it, or the name alone.
    pub(super) fn image(&self) -> Option<Image> {
        let name = || Some(Image::new(self.container()?.image()?.to_owned(), BTreeMap::new()));
        self.written().or_else(name)
    }

    /// Whether it was made by the `run` of that epoch, of that image.
    pub(super) fn is_of(&self, image: &Image, epoch: i64) -> bool {
        self.label(RUN) == Some(&epoch.to_string()) && self.written().as_ref() == Some(&image.hidden())
    }

    /// Whether it was made for a task of that image, from this definition.
    pub(super) fn is_task_of(&self, image: &Image, of: &Self) -> bool {
        self.label(OF) == Some(&of.arn) && self.written().as_ref() == Some(&image.hidden())
    }

    /// Where the application's words are, when CloudWatch has them.
    pub(super) fn log(&self) -> Option<Log> {
        let configured = self.container()?.log_configuration()?;
        let option = |name: &str| configured.options()?.get(name).cloned();
        if *configured.log_driver() != LogDriver::Awslogs {
            return None;
        }
        Some(Log { group: option("awslogs-group")?, prefix: option("awslogs-stream-prefix")?, container: self.app.clone() })
    }

    /// The same with another image, for the service.
    pub(super) fn copy(&self, image: &Image, epoch: i64) -> Result<RegisterTaskDefinitionInputBuilder, DriverError> {
        let family = self.definition.family().unwrap_or_default().to_owned();
        self.made(family, image, (RUN, epoch.to_string()), |_| {})
    }

    /// The same with another image, for something that comes to its end.
    pub(super) fn copy_for_task(&self, image: &Image) -> Result<RegisterTaskDefinitionInputBuilder, DriverError> {
        self.made(task_family(&self.app), image, (OF, self.arn.clone()), |container| {
            // Nobody asks it anything, and it is not begun again.
            container.port_mappings = None;
            container.health_check = None;
            container.restart_policy = None;
        })
    }

    fn made(
        &self,
        family: String,
        image: &Image,
        of: (&str, String),
        also: impl Fn(&mut ContainerDefinition),
    ) -> Result<RegisterTaskDefinitionInputBuilder, DriverError> {
        let definition = &self.definition;
        let (earlier, replaced) = (self.written().map(|image| image.environment).unwrap_or_default(), self.replaced());
        let mut containers = definition.container_definitions().to_vec();
        let Some(container) = containers.iter_mut().find(|container| container.name() == Some(&self.app)) else {
            return Err(DriverError::Refused(format!("{} has no container {}: see --app", self.arn, self.app)));
        };
        let mut variables: BTreeMap<String, String> = container
            .environment()
            .iter()
            .filter_map(|variable| Some((variable.name()?.to_owned(), variable.value().unwrap_or_default().to_owned())))
            // What the build before was told is not for this one.
            .filter(|(name, _)| !earlier.contains_key(name))
            .chain(replaced)
            .collect();
        let replaced: BTreeMap<_, _> = image
            .environment
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), variables.insert(name.clone(), value.clone())?)))
            .collect();
        let variable = |(name, value)| KeyValuePair::builder().name(name).value(value).build();
        container.environment = Some(variables.into_iter().map(variable).collect());
        container.image = Some(image.name.clone());
        let labels = container.docker_labels.get_or_insert_with(HashMap::new);
        labels.retain(|name, _| ![IMAGE, REPLACED, RUN, OF].contains(&name.as_str()));
        labels.insert(IMAGE.to_owned(), text(&image.hidden()));
        labels.insert(of.0.to_owned(), of.1);
        if !replaced.is_empty() {
            labels.insert(REPLACED.to_owned(), text(&replaced));
        }
        also(container);
        let is_ours = |tag: &&Tag| !tag.key().unwrap_or_default().starts_with("aws:");
        let tags: Vec<_> = self.tags.iter().filter(is_ours).cloned().collect();
        Ok(RegisterTaskDefinitionInputBuilder::default()
            .family(family)
            .set_container_definitions(Some(containers))
            .set_task_role_arn(definition.task_role_arn.clone())
            .set_execution_role_arn(definition.execution_role_arn.clone())
            .set_network_mode(definition.network_mode.clone())
            .set_volumes(definition.volumes.clone())
            .set_placement_constraints(definition.placement_constraints.clone())
            .set_requires_compatibilities(definition.requires_compatibilities.clone())
            .set_cpu(definition.cpu.clone())
            .set_memory(definition.memory.clone())
            .set_pid_mode(definition.pid_mode.clone())
            .set_ipc_mode(definition.ipc_mode.clone())
            .set_proxy_configuration(definition.proxy_configuration.clone())
            .set_ephemeral_storage(definition.ephemeral_storage.clone())
            .set_runtime_platform(definition.runtime_platform.clone())
            .set_enable_fault_injection(definition.enable_fault_injection)
            .set_tags((!tags.is_empty()).then_some(tags)))
    }

    fn container(&self) -> Option<&ContainerDefinition> {
        self.definition.container_definitions().iter().find(|container| container.name() == Some(&self.app))
    }

    fn label(&self, name: &str) -> Option<&String> {
        self.container()?.docker_labels()?.get(name)
    }

    /// What a rollout wrote down of what runs there.
    fn written(&self) -> Option<Image> {
        serde_json::from_str(self.label(IMAGE)?).ok()
    }

    fn replaced(&self) -> BTreeMap<String, String> {
        self.label(REPLACED).and_then(|replaced| serde_json::from_str(replaced).ok()).unwrap_or_default()
    }
}

// === impl Log ===

impl Log {
    /// Where the words of one task are.
    pub(super) fn stream(&self, task: &str) -> String {
        format!("{}/{}/{task}", self.prefix, self.container)
    }
}

/// The family of what is run once.
pub(super) fn task_family(app: &str) -> String {
    format!("{app}-task")
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
