# The least that `rollout --platform ecs` can do its work with: it looks, registers what is to run, scales the two services, runs
# a migration, and moves the weights of one rule. It reads no secret. But whoever may register a task definition and pass these
# roles decides what runs with the server's secret: give this policy to nobody who must not read it.

data "aws_region" "current" {}

data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}

locals {
  ecs_arn   = "arn:${data.aws_partition.current.partition}:ecs:${data.aws_region.current.id}:${data.aws_caller_identity.current.account_id}"
  tasks_arn = "${replace(var.cluster_arn, ":cluster/", ":task/")}/*"
  # Every revision of these families and of no other: the colors, and what runs once, such as a migration.
  families        = ["${var.name}-blue", "${var.name}-green", "${var.name}-task"]
  definition_arns = [for family in local.families : "${local.ecs_arn}:task-definition/${family}:*"]
}

resource "aws_iam_policy" "this" {
  name        = "${var.name}-rollout"
  description = "What rollout needs to move ${var.name} from one color to the other"
  policy      = data.aws_iam_policy_document.this.json

  tags = var.tags
}

data "aws_iam_policy_document" "this" {
  # === Looks

  # Elastic Load Balancing knows no resources for what begins with Describe.
  statement {
    sid = "LookAtTraffic"
    actions = [
      "elasticloadbalancing:DescribeRules",
      "elasticloadbalancing:DescribeTags",
      "elasticloadbalancing:DescribeTargetHealth",
    ]
    resources = ["*"]
  }

  # Neither does ECS for a definition; what is in it (names of secrets, not secrets) every reader of the account sees.
  statement {
    sid       = "LookAtDefinitions"
    actions   = ["ecs:DescribeTaskDefinition"]
    resources = ["*"]
  }

  # A list of tasks is asked of container instances, of which Fargate has none; the cluster is a condition.
  statement {
    sid       = "ListTasks"
    actions   = ["ecs:ListTasks"]
    resources = ["*"]

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [var.cluster_arn]
    }
  }

  # What a migration printed, and why a task fell over.
  statement {
    sid       = "ReadLog"
    actions   = ["logs:GetLogEvents"]
    resources = ["${var.log_group_arn}:log-stream:*"]
  }

  statement {
    sid       = "LookAtScale"
    actions   = ["application-autoscaling:DescribeScalableTargets"]
    resources = ["*"]
  }

  # === Runs an image as a color

  # AWS knows no resources for it. A definition alone runs nothing: what it may run as is said by PassRole, and where by the
  # services and by RunTask.
  statement {
    sid       = "Register"
    actions   = ["ecs:RegisterTaskDefinition"]
    resources = ["*"]
  }

  # At the moment of registering and not later, so that what a revision says of itself stays true.
  statement {
    sid       = "TagDefinition"
    actions   = ["ecs:TagResource"]
    resources = local.definition_arns

    condition {
      test     = "StringEquals"
      variable = "ecs:CreateAction"
      values   = ["RegisterTaskDefinition"]
    }
  }

  statement {
    sid       = "PassRoles"
    actions   = ["iam:PassRole"]
    resources = var.role_arns

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ecs-tasks.amazonaws.com"]
    }
  }

  statement {
    sid       = "Services"
    actions   = ["ecs:DescribeServices", "ecs:UpdateService"]
    resources = var.service_arns
  }

  statement {
    sid       = "Scale"
    actions   = ["application-autoscaling:RegisterScalableTarget"]
    resources = var.scalable_target_arns

    condition {
      test     = "StringEquals"
      variable = "application-autoscaling:service-namespace"
      values   = ["ecs"]
    }
  }

  # === Migrates

  statement {
    sid       = "RunTask"
    actions   = ["ecs:RunTask"]
    resources = local.definition_arns

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [var.cluster_arn]
    }
  }

  statement {
    sid       = "TagTask"
    actions   = ["ecs:TagResource"]
    resources = [local.tasks_arn]

    condition {
      test     = "StringEquals"
      variable = "ecs:CreateAction"
      values   = ["RunTask"]
    }
  }

  statement {
    sid       = "Tasks"
    actions   = ["ecs:DescribeTasks"]
    resources = [local.tasks_arn]
  }

  # A migration whose time is over; a replica that holds on to a conversation, and must not be scaled in meanwhile. Of this
  # application alone, also where others share the cluster.
  statement {
    sid       = "ChangeTasks"
    actions   = ["ecs:StopTask", "ecs:UpdateTaskProtection"]
    resources = [local.tasks_arn]

    # Tasks have no ARN that names their service. The services pass this tag on to their tasks, and `rollout` gives it to what it
    # runs once; only a task that is being started can be tagged with this policy.
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/release-app"
      values   = [var.name]
    }

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [var.cluster_arn]
    }
  }

  # === Moves the traffic

  statement {
    sid       = "MoveTraffic"
    actions   = ["elasticloadbalancing:ModifyRule"]
    resources = [var.rule_arn]
  }

  statement {
    sid       = "Remember"
    actions   = ["elasticloadbalancing:AddTags", "elasticloadbalancing:RemoveTags"]
    resources = [var.rule_arn]

    condition {
      test     = "ForAllValues:StringLike"
      variable = "aws:TagKeys"
      values   = ["rollout.mcp/*"]
    }
  }
}
