//! What AWS says instead of doing it: whether to ask again, or what to do about it.

use aws_sdk_ecs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use crate::driver::DriverError;

/// Codes of an account that asks too often, and of a service that is not itself.
const AGAIN: [&str; 8] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "PriorRequestNotComplete",
    "ServiceUnavailable",
    "ServiceUnavailableException",
];

/// By the beginning of an action: the statement that allows it, of `terraform/modules/rollout-role` or of
/// `terraform/modules/shifter`.
const STATEMENTS: [(&str, &str); 23] = [
    ("elasticloadbalancing:Describe", "LookAtTraffic"),
    ("elasticloadbalancing:ModifyRule", "MoveTraffic"),
    ("elasticloadbalancing:", "Remember"),
    ("ecs:DescribeTaskDefinition", "LookAtDefinitions"),
    ("ecs:DescribeServiceRevisions", "Revisions"),
    ("ecs:ListServiceDeployments", "NativeService"),
    ("ecs:DescribeServiceDeployments", "NativeDeployments"),
    ("ecs:ContinueServiceDeployment", "NativeDeployments"),
    ("ecs:StopServiceDeployment", "NativeDeployments"),
    ("ecs:DescribeServices", "Services"),
    ("ecs:UpdateService", "Services"),
    ("ecs:ListTasks", "ListTasks"),
    ("ecs:RegisterTaskDefinition", "Register"),
    ("ecs:TagResource", "TagDefinition"),
    ("ecs:RunTask", "RunTask"),
    ("ecs:StopTask", "ChangeTasks"),
    ("ecs:UpdateTaskProtection", "ChangeTasks"),
    ("ecs:", "Tasks"),
    ("application-autoscaling:Describe", "LookAtScale"),
    ("application-autoscaling:", "Scale"),
    ("iam:PassRole", "PassRoles"),
    ("logs:", "ReadLog"),
    ("codepipeline:", "TellPipeline"),
];

impl<E> From<SdkError<E, HttpResponse>> for DriverError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(failure: SdkError<E, HttpResponse>) -> Self {
        let SdkError::ServiceError(refused) = &failure else { return Self::Away(": AWS", Box::new(failure)) };
        let code = refused.err().code().unwrap_or_default();
        let message = refused.err().message().unwrap_or(code);
        if refused.raw().status().is_server_error() || AGAIN.contains(&code) {
            return Self::Away(": AWS", Box::new(failure));
        }
        Self::Refused(format!("{message}{}", advice(code, message)))
    }
}

fn advice(code: &str, message: &str) -> String {
    match code {
        code if code.starts_with("AccessDenied") || code.starts_with("Unauthorized") => match statement(message) {
            Some(statement) => format!(
                "; `terraform/modules/rollout-role` (of the traffic shifter, `terraform/modules/shifter`) allows it in the \
                 statement {statement}"
            ),
            None => "; `terraform/modules/rollout-role` (of the traffic shifter, `terraform/modules/shifter`) has what is needed"
                .to_owned(),
        },
        "ExpiredToken" | "ExpiredTokenException" => "; sign in again".to_owned(),
        "InvalidClientTokenId" | "UnrecognizedClientException" | "InvalidSignatureException" | "SignatureDoesNotMatch" => {
            "; these credentials are not of this account, or the clock is wrong".to_owned()
        }
        "RuleNotFound" | "ListenerNotFound" => "; see --rule, and the region".to_owned(),
        "ClusterNotFoundException" => "; see --cluster, and the region".to_owned(),
        "ServiceNotFoundException" | "ServiceNotActiveException" => "; see --app, and the region".to_owned(),
        "TargetGroupNotFound" => "; a service names a target group that is gone: apply `terraform/` again".to_owned(),
        _ => String::new(),
    }
}

/// The statement that allows what somebody is not authorized to perform.
fn statement(message: &str) -> Option<&'static str> {
    let (_, action) = message.split_once("perform: ")?;
    STATEMENTS.iter().find(|(begins, _)| action.starts_with(begins)).map(|(_, statement)| *statement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_are_those_of_the_modules() {
        let roles = [
            include_str!("../../../../terraform/modules/rollout-role/main.tf"),
            include_str!("../../../../terraform/modules/shifter/main.tf"),
        ];
        let (mut said, mut seen) = ("", 0);
        for line in roles.iter().flat_map(|role| role.lines()) {
            let mut quoted = line.split('"').skip(1).step_by(2);
            if line.trim_start().starts_with("sid ") {
                said = quoted.next().unwrap_or_default();
                continue;
            }
            let calls = ["ecs:", "elasticloadbalancing:", "application-autoscaling:", "iam:Pass", "logs:Get", "codepipeline:"];
            let is_action = |word: &&str| calls.iter().any(|call| word.starts_with(call)) && !line.contains("variable");
            // Tags of two kinds have two statements.
            for action in quoted.filter(is_action).filter(|_| said != "TagTask") {
                seen += 1;
                assert_eq!(statement(&format!("not authorized to perform: {action} on x")), Some(said), "{action}");
            }
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn who_is_not_allowed_hears_which_statement_allows_it() {
        let message = "User: arn:aws:sts::1:assumed-role/x/y is not authorized to perform: elasticloadbalancing:ModifyRule on \
                       resource: arn:aws:elasticloadbalancing:eu-central-1:1:listener-rule/app/a/b/c/d";
        assert!(advice("AccessDenied", message).ends_with("in the statement MoveTraffic"));
        let message = "User: x is not authorized to perform: iam:PassRole on resource: y";
        assert!(advice("AccessDeniedException", message).ends_with("in the statement PassRoles"));
        assert!(advice("AccessDenied", "no").ends_with("has what is needed"));
        assert_eq!(advice("ValidationError", "no"), "");
    }
}
