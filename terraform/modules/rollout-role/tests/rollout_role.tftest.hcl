# The policy of whoever runs `rollout`, as it is planned; no account is asked.

mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  cluster_arn          = "arn:aws:ecs:eu-central-1:111122223333:cluster/mcp-server"
  service_arns         = ["arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/mcp-server-blue", "arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/mcp-server-green"]
  scalable_target_arns = ["arn:aws:application-autoscaling:eu-central-1:111122223333:scalable-target/1", "arn:aws:application-autoscaling:eu-central-1:111122223333:scalable-target/2"]
  role_arns            = ["arn:aws:iam::111122223333:role/mcp-server-execution", "arn:aws:iam::111122223333:role/mcp-server-task"]
  log_group_arn        = "arn:aws:logs:eu-central-1:111122223333:log-group:/ecs/mcp-server"
  rule_arn             = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:listener-rule/app/mcp-server/1/2/3"
}

run "it_allows_what_a_rollout_does_and_nothing_else" {
  assert {
    condition = toset(flatten([for statement in data.aws_iam_policy_document.this.statement : tolist(statement.actions)])) == toset([
      "application-autoscaling:DescribeScalableTargets", "application-autoscaling:RegisterScalableTarget",
      "ecs:DescribeServices", "ecs:DescribeTaskDefinition", "ecs:DescribeTasks", "ecs:ListTasks", "ecs:RegisterTaskDefinition",
      "ecs:RunTask", "ecs:StopTask", "ecs:TagResource", "ecs:UpdateService", "ecs:UpdateTaskProtection",
      "elasticloadbalancing:AddTags", "elasticloadbalancing:DescribeRules", "elasticloadbalancing:DescribeTags",
      "elasticloadbalancing:DescribeTargetHealth", "elasticloadbalancing:ModifyRule", "elasticloadbalancing:RemoveTags",
      "iam:PassRole", "logs:GetLogEvents",
    ])
    error_message = "an action is missing, or one too many, or a *"
  }
}

run "it_changes_nothing_of_others" {
  command = plan

  assert {
    condition = toset(flatten([
      for statement in data.aws_iam_policy_document.this.statement : tolist(statement.actions)
      if contains(statement.resources, "*") && length(statement.condition) == 0
      ])) == toset([
      "application-autoscaling:DescribeScalableTargets", "ecs:DescribeTaskDefinition", "ecs:RegisterTaskDefinition",
      "elasticloadbalancing:DescribeRules", "elasticloadbalancing:DescribeTags", "elasticloadbalancing:DescribeTargetHealth",
    ])
    error_message = "something is allowed on everything that was not before"
  }

  assert {
    condition     = one([for statement in data.aws_iam_policy_document.this.statement : statement.resources if contains(statement.actions, "elasticloadbalancing:ModifyRule")]) == toset([var.rule_arn])
    error_message = "that rule and no other"
  }

  assert {
    condition = one([for statement in data.aws_iam_policy_document.this.statement : statement.resources if contains(statement.actions, "ecs:RunTask")]) == toset([
      for family in ["blue", "green", "task"] : "arn:aws:ecs:eu-central-1:111122223333:task-definition/mcp-server-${family}:*"
    ])
    error_message = "the colors' families, and that of what runs once"
  }
}

run "it_stops_and_protects_tasks_of_this_application_alone" {
  command = plan

  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.this.statement :
      toset([for condition in statement.condition : "${condition.test} ${condition.variable} ${join(",", condition.values)}"]) == toset([
        "StringEquals aws:ResourceTag/release-app mcp-server",
        "ArnEquals ecs:cluster arn:aws:ecs:eu-central-1:111122223333:cluster/mcp-server",
      ]) && statement.resources == toset(["arn:aws:ecs:eu-central-1:111122223333:task/mcp-server/*"])
      if length(setintersection(statement.actions, ["ecs:StopTask", "ecs:UpdateTaskProtection"])) > 0
    ])
    error_message = "by the cluster and by the tag of its tasks"
  }

  # Whoever may tag a running task could make it one of these.
  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.this.statement : one(statement.condition).variable == "ecs:CreateAction"
      if contains(statement.actions, "ecs:TagResource")
    ])
    error_message = "tags are given at the start of a task only"
  }
}

run "it_passes_two_roles_to_tasks_and_to_nobody_else" {
  command = plan

  assert {
    condition     = one([for statement in data.aws_iam_policy_document.this.statement : statement.resources if contains(statement.actions, "iam:PassRole")]) == toset(var.role_arns)
    error_message = "those two roles"
  }

  assert {
    condition     = one([for statement in data.aws_iam_policy_document.this.statement : one(statement.condition) if contains(statement.actions, "iam:PassRole")]).values == tolist(["ecs-tasks.amazonaws.com"])
    error_message = "to tasks"
  }
}

run "it_writes_only_tags_of_its_own_on_the_rule" {
  command = plan

  assert {
    condition     = alltrue([for statement in data.aws_iam_policy_document.this.statement : one(statement.condition).values == tolist(["rollout.mcp/*"]) if contains(statement.actions, "elasticloadbalancing:AddTags")])
    error_message = "rollout.mcp/ and no other"
  }
}

run "any_role_is_refused" {
  command = plan

  variables {
    role_arns = ["arn:aws:iam::111122223333:role/*"]
  }

  expect_failures = [var.role_arns]
}

run "any_service_is_refused" {
  command = plan

  variables {
    service_arns = ["arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/*"]
  }

  expect_failures = [var.service_arns]
}

run "a_listener_is_no_rule" {
  command = plan

  variables {
    rule_arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:listener/app/mcp-server/1/2"
  }

  expect_failures = [var.rule_arn]
}

run "a_service_is_no_cluster" {
  command = plan

  variables {
    cluster_arn = "arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/mcp-server-blue"
  }

  expect_failures = [var.cluster_arn]
}
