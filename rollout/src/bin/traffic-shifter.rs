//! `traffic-shifter`: the function of AWS Lambda that moves the traffic when it is asked to. See [`rollout::shifter`].

use std::time::Duration;

use clap::Parser;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use rollout::{
    driver::ecs::{EcsDriver, EcsSettings},
    http::Http,
    shifter::{Limits, Shifter},
};
use serde_json::Value;

/// Moves the traffic of one application on ECS, when a person, a pipeline, an alarm or a deployment of ECS asks for it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The cluster.
    #[arg(long, env)]
    cluster: String,
    /// The application: its services are called that, with `-blue` and `-green`.
    #[arg(long, env)]
    service: String,
    /// The rule of the balancer's listener that forwards to both target groups.
    #[arg(long, env)]
    rule_arn: String,
    /// How many of a hundred targets have to be healthy before the traffic goes there, and after.
    #[arg(long, env, default_value_t = 80, value_parser = clap::value_parser!(u8).range(1..=100))]
    healthy_percent: u8,
    /// How long a move is watched, in seconds. The function needs a minute more than that.
    #[arg(long, env, default_value_t = 30)]
    bake_seconds: u64,
    /// Where clients come in, to be asked after a move.
    #[arg(long, env)]
    entrance: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), lambda_runtime::Error> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_ansi(false).without_time().with_max_level(tracing::Level::INFO).init();
    let settings = EcsSettings {
        cluster: arguments.cluster,
        app: arguments.service,
        rule: arguments.rule_arn,
        entrance: arguments.entrance.clone().unwrap_or_default(),
    };
    let limits = Limits {
        healthy_percent: arguments.healthy_percent,
        bake: Duration::from_secs(arguments.bake_seconds),
        entrance: arguments.entrance.filter(|entrance| !entrance.is_empty()),
    };
    let http = Http::new();
    let shifter = Shifter::new(EcsDriver::new(settings, http.clone()).await?, http, limits);
    let answer = async |event: LambdaEvent<Value>| {
        // In a box, because a future within futures of the SDK is too deep for the compiler.
        let answered = Box::pin(shifter.handle(&event.payload, &event.context.request_id)).await;
        answered.map_err(|failure| Diagnostic { error_type: "NotMoved".to_owned(), error_message: rollout::chain(&failure) })
    };
    lambda_runtime::run(service_fn(answer)).await
}
