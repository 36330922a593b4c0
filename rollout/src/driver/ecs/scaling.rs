//! Application Auto Scaling: a color without traffic looks idle and would be scaled down to nothing worth switching to, so it
//! is left alone until traffic goes there.

use aws_config::SdkConfig;
use aws_sdk_applicationautoscaling::{
    Client,
    types::{ScalableDimension, ServiceNamespace, SuspendedState},
};
use bg_runtime::Color;

use crate::driver::DriverError;

/// The scaling of both services, where they have any.
#[derive(Debug)]
pub(super) struct Scaling {
    client: Client,
    cluster: String,
    app: String,
}

// === impl Scaling ===

impl Scaling {
    pub(super) fn new(config: &SdkConfig, cluster: &str, app: &str) -> Self {
        // An ARN ends with the name.
        let cluster = cluster.rsplit('/').next().unwrap_or(cluster).to_owned();
        Self { client: Client::new(config), cluster, app: app.to_owned() }
    }

    /// Lets a color's size follow its load, or leaves it as it is. Its limits stay; a service without scaling gets none.
    pub(super) async fn suspend(&self, color: Color, is_suspended: bool) -> Result<(), DriverError> {
        let service = format!("service/{}/{}-{color}", self.cluster, self.app);
        let (namespace, dimension) = (ServiceNamespace::Ecs, ScalableDimension::EcsServiceDesiredCount);
        let described = self.client.describe_scalable_targets().service_namespace(namespace.clone()).resource_ids(&service);
        let described = described.scalable_dimension(dimension.clone()).send().await?;
        let Some(target) = described.scalable_targets().first() else { return Ok(()) };
        let wanted = SuspendedState::builder()
            .dynamic_scaling_in_suspended(is_suspended)
            .dynamic_scaling_out_suspended(is_suspended)
            .scheduled_scaling_suspended(is_suspended)
            .build();
        if target.suspended_state() == Some(&wanted) {
            return Ok(());
        }
        let register = self.client.register_scalable_target().service_namespace(namespace).resource_id(service);
        register.scalable_dimension(dimension).suspended_state(wanted).send().await?;
        Ok(())
    }
}
