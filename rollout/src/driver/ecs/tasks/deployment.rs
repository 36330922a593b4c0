//! Deployments that ECS does by itself: through which target group a revision is reached, what waits for a word, and the word.

use aws_sdk_ecs::types::{
    DeploymentLifecycleHookAction, DeploymentLifecycleHookStatus, DeploymentLifecycleHookTargetType, ServiceDeployment,
    ServiceDeploymentStatus, StopServiceDeploymentStopType,
};

use super::Tasks;
use crate::driver::DriverError;

/// A deployment that is in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InProgress {
    /// Its ARN.
    pub(crate) arn: String,
    /// How far it is.
    pub(crate) stage: String,
    /// What it brings.
    pub(crate) revision: String,
    /// The hooks of the type `PAUSE` that wait for a word.
    pub(crate) waiting: Vec<String>,
}

impl Tasks {
    /// The target group that a revision of a service is reached through.
    pub(in super::super) async fn group_of(&self, revision: &str) -> Result<String, DriverError> {
        let described = self.client.describe_service_revisions().service_revision_arns(revision).send().await?;
        let revision = described.service_revisions().first();
        let resolved = revision.and_then(|revision| revision.resolved_configuration()?.load_balancers().first());
        let configured = || revision?.load_balancers().first()?.target_group_arn();
        let group = resolved.and_then(|balancer| balancer.target_group_arn()).or_else(configured);
        let words = || DriverError::Refused("the revision is reached through no target group".to_owned());
        group.map(str::to_owned).ok_or_else(words)
    }

    /// What is in progress, of a service or of one deployment, by its ARN.
    pub(in super::super) async fn in_progress(&self, arn: &str) -> Result<Vec<InProgress>, DriverError> {
        let service = self.own(arn)?;
        let arns = if service.is_deployment {
            vec![arn.to_owned()]
        } else {
            let asked = self.client.list_service_deployments().cluster(&self.cluster).service(service.name);
            let listed = asked.status(ServiceDeploymentStatus::InProgress).send().await?;
            let listed = listed.service_deployments().iter().filter_map(|brief| brief.service_deployment_arn());
            listed.map(str::to_owned).collect()
        };
        if arns.is_empty() {
            return Ok(Vec::new());
        }
        let asked = self.client.describe_service_deployments().set_service_deployment_arns(Some(arns));
        let described = asked.send().await?;
        let in_progress = described.service_deployments().iter();
        let in_progress = in_progress.filter(|deployment| deployment.status() == Some(&ServiceDeploymentStatus::InProgress));
        Ok(in_progress.map(InProgress::from).collect())
    }

    /// Answers a hook that waits.
    pub(in super::super) async fn answer_hook(&self, deployment: &str, hook: &str, goes_on: bool) -> Result<(), DriverError> {
        let action = if goes_on { DeploymentLifecycleHookAction::Continue } else { DeploymentLifecycleHookAction::Rollback };
        let answer = self.client.continue_service_deployment().service_deployment_arn(deployment).hook_id(hook);
        answer.action(action).send().await?;
        Ok(())
    }

    /// Lets a deployment go back that waits for nobody.
    pub(in super::super) async fn undo(&self, deployment: &str) -> Result<(), DriverError> {
        let undone = self.client.stop_service_deployment().service_deployment_arn(deployment);
        undone.stop_type(StopServiceDeploymentStopType::Rollback).send().await?;
        Ok(())
    }

    /// What an ARN names, if it is of this application: whoever sends events may send others'.
    fn own<'a>(&self, arn: &'a str) -> Result<Named<'a>, DriverError> {
        let named = Named::read(arn).filter(|named| {
            let color = named.name.strip_prefix(&self.app);
            self.cluster.rsplit('/').next() == Some(named.cluster) && matches!(color, Some("" | "-blue" | "-green"))
        });
        let words =
            || format!("{arn} is neither a service of {} in the cluster {} nor a deployment of one", self.app, self.cluster);
        named.ok_or_else(|| DriverError::Refused(words()))
    }
}

/// A service, or a deployment of it.
struct Named<'a> {
    cluster: &'a str,
    name: &'a str,
    is_deployment: bool,
}

impl<'a> Named<'a> {
    /// `arn:aws:ecs:REGION:ACCOUNT:service/CLUSTER/NAME`, or `…:service-deployment/CLUSTER/NAME/ID`.
    fn read(arn: &'a str) -> Option<Self> {
        let mut parts = arn.splitn(6, ':').nth(5)?.split('/');
        let (kind, cluster, name, id) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
        let is_deployment = match (kind, id) {
            ("service", None) => false,
            ("service-deployment", Some(_)) => true,
            _ => return None,
        };
        parts.next().is_none().then_some(Self { cluster, name, is_deployment })
    }
}

impl From<&ServiceDeployment> for InProgress {
    fn from(seen: &ServiceDeployment) -> Self {
        let waits = seen.lifecycle_hook_details().iter().filter(|hook| {
            hook.target_type() == Some(&DeploymentLifecycleHookTargetType::Pause)
                && hook.status() == Some(&DeploymentLifecycleHookStatus::AwaitingAction)
        });
        let revision = seen.target_service_revision().and_then(|revision| revision.arn());
        Self {
            arn: seen.service_deployment_arn().unwrap_or_default().to_owned(),
            stage: seen.lifecycle_stage().map_or("", |stage| stage.as_str()).to_owned(),
            revision: revision.unwrap_or_default().to_owned(),
            waiting: waits.filter_map(|hook| hook.hook_id()).map(str::to_owned).collect(),
        }
    }
}
