# The traffic shifter, as it is made; no account is asked. Its package is any file here.

mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  package                   = "./main.tf"
  entrance                  = "https://mcp.example.com"
  kms_key_arn               = "arn:aws:kms:eu-central-1:111122223333:key/1"
  vpc_id                    = "vpc-1"
  subnet_ids                = ["subnet-1", "subnet-2"]
  cluster_name              = "mcp-server"
  cluster_arn               = "arn:aws:ecs:eu-central-1:111122223333:cluster/mcp-server"
  service_arns              = ["arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/mcp-server-blue", "arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/mcp-server-green"]
  scalable_target_arns      = ["arn:aws:application-autoscaling:eu-central-1:111122223333:scalable-target/1", "arn:aws:application-autoscaling:eu-central-1:111122223333:scalable-target/2"]
  task_security_group_id    = "sg-tasks"
  rule_arn                  = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:listener-rule/app/mcp-server/1/2/3"
  load_balancer_arn_suffix  = "app/mcp-server/1"
  target_group_arn_suffixes = { blue = "targetgroup/mcp-server-blue/1", green = "targetgroup/mcp-server-green/2" }
}

# === The function

run "it_is_told_what_it_moves" {
  assert {
    condition = aws_lambda_function.this.environment[0].variables == tomap({
      CLUSTER         = "mcp-server"
      SERVICE         = "mcp-server"
      RULE_ARN        = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:listener-rule/app/mcp-server/1/2/3"
      HEALTHY_PERCENT = "80"
      BAKE_SECONDS    = "30"
      ENTRANCE        = "https://mcp.example.com"
      LOG_FORMAT      = "json"
    })
    error_message = "these variables and no others"
  }

  assert {
    condition     = aws_lambda_function.this.function_name == "mcp-server-traffic-shifter" && aws_lambda_function.this.handler == "bootstrap" && aws_lambda_function.this.runtime == "provided.al2023"
    error_message = "a program called bootstrap"
  }
}

run "who_goes_back_does_not_wait_for_who_moves_and_what_it_was_not_told_is_kept" {
  assert {
    condition     = aws_lambda_function.this.reserved_concurrent_executions == 2
    error_message = "one that moves, and one that goes back meanwhile"
  }

  assert {
    condition     = aws_lambda_function.this.dead_letter_config[0].target_arn == aws_sqs_queue.dead.arn && aws_cloudwatch_event_target.shifter.dead_letter_config[0].arn == aws_sqs_queue.dead.arn && aws_sqs_queue.dead.sqs_managed_sse_enabled
    error_message = "an alarm that is lost is found in the queue"
  }

  assert {
    condition     = aws_lambda_function_event_invoke_config.this.maximum_event_age_in_seconds >= aws_lambda_function.this.timeout
    error_message = "an alarm has to wait as long as a run takes"
  }

  assert {
    condition     = aws_lambda_function.this.tracing_config[0].mode == "Active" && aws_lambda_function.this.vpc_config[0].subnet_ids == toset(["subnet-1", "subnet-2"])
    error_message = "traced, and in the VPC"
  }
}

# === What it may do

run "no_policy_allows_every_action" {
  command = plan

  assert {
    condition     = alltrue(flatten([for statement in data.aws_iam_policy_document.this.statement : [for action in statement.actions : !strcontains(action, "*")]]))
    error_message = "actions are spelled out"
  }
}

run "it_may_change_one_rule_and_two_services" {
  command = plan

  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.this.statement : statement.resources == toset([var.rule_arn])
      if length(setintersection(statement.actions, ["elasticloadbalancing:ModifyRule", "elasticloadbalancing:AddTags", "elasticloadbalancing:RemoveTags"])) > 0
    ])
    error_message = "that rule and no other"
  }

  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.this.statement : statement.resources == toset(var.service_arns)
      if contains(statement.actions, "ecs:UpdateService")
    ])
    error_message = "those services and no others"
  }

  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.this.statement : statement.resources == toset(["arn:aws:ecs:eu-central-1:111122223333:task/mcp-server/*"])
      if contains(statement.actions, "ecs:UpdateTaskProtection")
    ])
    error_message = "tasks of that cluster"
  }

  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.this.statement :
      anytrue([for condition in statement.condition : condition.variable == "aws:ResourceTag/release-app" && condition.values == tolist(["mcp-server"])])
      if contains(statement.actions, "ecs:UpdateTaskProtection")
    ])
    error_message = "and of this application alone"
  }

  assert {
    condition     = join(",", keys(aws_vpc_security_group_egress_rule.https)) == "10.0.0.0/16"
    error_message = "without a word about it, it reaches the VPC"
  }

  # What is allowed on * without a condition, so that a new one is noticed.
  assert {
    condition = toset(flatten([
      for statement in data.aws_iam_policy_document.this.statement : tolist(statement.actions)
      if contains(statement.resources, "*") && length(statement.condition) == 0 && !startswith(one(slice(tolist(statement.actions), 0, 1)), "ec2:")
      ])) == toset([
      "application-autoscaling:DescribeScalableTargets",
      "codepipeline:PutJobFailureResult", "codepipeline:PutJobSuccessResult",
      "elasticloadbalancing:DescribeRules", "elasticloadbalancing:DescribeTags", "elasticloadbalancing:DescribeTargetHealth",
      "xray:PutTelemetryRecords", "xray:PutTraceSegments",
    ])
    error_message = "something is allowed on everything that was not before"
  }

  assert {
    condition     = length([for statement in data.aws_iam_policy_document.this.statement : statement if statement.effect == "Deny" && contains(statement.actions, "ec2:CreateNetworkInterface")]) == 1
    error_message = "network interfaces are Lambda's to make, not the code's"
  }
}

run "it_answers_no_deployment_of_ecs_unless_it_is_told_of_one" {
  command = plan

  assert {
    condition     = length(aws_cloudwatch_event_rule.pauses) == 0 && length([for statement in data.aws_iam_policy_document.this.statement : statement if contains(statement.actions, "ecs:ContinueServiceDeployment")]) == 0
    error_message = "there is none"
  }
}

run "a_pause_waits_for_a_person_unless_it_is_said_that_it_does_not" {
  command = plan

  variables {
    native = { service_arn = "arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/mcp-server" }
  }

  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.this.statement : statement.resources == toset(["arn:aws:ecs:eu-central-1:111122223333:service-deployment/mcp-server/mcp-server/*"])
      if contains(statement.actions, "ecs:ContinueServiceDeployment")
    ])
    error_message = "deployments of that service"
  }

  assert {
    condition     = length(aws_cloudwatch_event_rule.pauses) == 0
    error_message = "a person answers"
  }
}

run "a_pause_reaches_it_where_that_is_wanted" {
  command = plan

  variables {
    native = { service_arn = "arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/mcp-server", answers_pauses = true }
  }

  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.pauses[0].event_pattern).detail.eventName == ["HOOK_AWAITING_ACTION"] && length(aws_lambda_permission.pauses) == 1
    error_message = "hooks that wait, of that service"
  }
}

run "a_cluster_is_no_service" {
  command = plan

  variables {
    native = { service_arn = "arn:aws:ecs:eu-central-1:111122223333:cluster/mcp-server" }
  }

  expect_failures = [var.native]
}

# === What sends traffic back

run "an_alarm_of_a_color_reaches_it" {
  assert {
    condition = output.alarm_names == tolist([
      "mcp-server-blue-errors", "mcp-server-blue-slow", "mcp-server-blue-unhealthy", "mcp-server-entrance-errors",
      "mcp-server-green-errors", "mcp-server-green-slow", "mcp-server-green-unhealthy",
    ])
    error_message = "the color is in the name"
  }

  assert {
    condition     = aws_cloudwatch_event_rule.alarms.event_pattern == jsonencode({ source = ["aws.cloudwatch"], "detail-type" = ["CloudWatch Alarm State Change"], detail = { alarmName = output.alarm_names, state = { value = ["ALARM"] } } })
    error_message = "those alarms, when they begin"
  }

  assert {
    condition     = aws_cloudwatch_event_target.shifter.arn == aws_lambda_function.this.arn && aws_lambda_permission.alarms.source_arn == aws_cloudwatch_event_rule.alarms.arn && aws_lambda_permission.alarms.principal == "events.amazonaws.com"
    error_message = "the rule may ask the function, and no other rule"
  }
}

run "a_color_is_judged_by_its_own_requests" {
  command = plan

  assert {
    condition = alltrue(flatten([
      for alarms in [aws_cloudwatch_metric_alarm.errors, aws_cloudwatch_metric_alarm.slow, aws_cloudwatch_metric_alarm.unhealthy] : [
        for color, alarm in alarms : [
          for query in alarm.metric_query : query.metric[0].dimensions["TargetGroup"] == var.target_group_arn_suffixes[color] if length(query.metric) > 0
        ]
      ]
    ]))
    error_message = "a metric of another color"
  }

  assert {
    condition = alltrue(flatten([
      for alarms in [aws_cloudwatch_metric_alarm.errors, aws_cloudwatch_metric_alarm.slow, aws_cloudwatch_metric_alarm.unhealthy] : [
        for alarm in alarms : [
          for query in alarm.metric_query : strcontains(query.expression, "FILL(requests, 0) >= 20") if query.expression != null
        ]
      ]
    ]))
    error_message = "a color without traffic is not judged"
  }

  assert {
    condition     = alltrue([for alarm in concat(values(aws_cloudwatch_metric_alarm.errors), values(aws_cloudwatch_metric_alarm.slow), values(aws_cloudwatch_metric_alarm.unhealthy), [aws_cloudwatch_metric_alarm.entrance]) : alarm.treat_missing_data == "notBreaching"])
    error_message = "what has no data is well"
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.unhealthy : alarm.threshold == 20])
    error_message = "what is healthy enough to get the traffic is healthy enough to keep it"
  }
}

# === What is refused

run "a_package_must_be_there" {
  command = plan

  variables {
    package = "./nowhere.zip"
  }

  expect_failures = [var.package]
}

run "there_must_be_time_to_go_back" {
  command = plan

  variables {
    bake_seconds = 240
  }

  expect_failures = [aws_lambda_function.this]
}

run "a_lambda_ends_after_a_quarter_of_an_hour" {
  command = plan

  variables {
    timeout_seconds = 901
  }

  expect_failures = [var.timeout_seconds]
}

run "a_listener_is_no_rule" {
  command = plan

  variables {
    rule_arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:listener/app/mcp-server/1/2"
  }

  expect_failures = [var.rule_arn]
}

run "every_service_is_not_two_services" {
  command = plan

  variables {
    service_arns = ["arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/mcp-server-blue", "arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/*"]
  }

  expect_failures = [var.service_arns]
}

run "more_than_a_hundred_per_cent_is_refused" {
  command = plan

  variables {
    healthy_percent = 101
  }

  expect_failures = [var.healthy_percent]
}

run "a_rate_of_nothing_is_refused" {
  command = plan

  variables {
    alarms = { minimum_requests = 0 }
  }

  expect_failures = [var.alarms]
}

run "an_entrance_without_tls_is_refused" {
  command = plan

  variables {
    entrance = "http://mcp.example.com"
  }

  expect_failures = [var.entrance]
}
