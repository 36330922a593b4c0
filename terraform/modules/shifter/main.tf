# The traffic shifter: a Lambda that moves the weights when CodePipeline or a person asks it to, proves the switch, and goes back
# when it fails. The alarms of alarms.tf ask it to go back, too. It keeps no journal and reaches no database.

data "aws_region" "current" {}

data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.id

  function = "${var.name}-traffic-shifter"
  # Whatever it does in ECS it does in one cluster.
  tasks_arn = "${replace(var.cluster_arn, ":cluster/", ":task/")}/*"

  native_arns = var.native == null ? [] : [var.native.service_arn]
}

# === The function

resource "aws_lambda_function" "this" {
  function_name = local.function
  description   = "Moves the traffic of ${var.name} between blue and green"
  role          = aws_iam_role.this.arn

  filename         = var.package
  source_code_hash = filebase64sha256(var.package)
  handler          = "bootstrap"
  runtime          = "provided.al2023"
  architectures    = [var.architecture]
  memory_size      = 256
  timeout          = var.timeout_seconds

  code_signing_config_arn = var.code_signing_config_arn

  # One moves, and one more may go back meanwhile: an alarm is not to wait until what it warns of is done. The tags of the rule
  # are the fence between the two. What comes beside them is not lost: it waits, for as long as `maximum_event_age` below.
  reserved_concurrent_executions = 2

  # It asks the tasks themselves, which only the VPC reaches.
  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = [aws_security_group.this.id]
  }

  # There is no secret among them; the key is for whoever has to show that nothing lies around without one.
  kms_key_arn = var.kms_key_arn

  environment {
    variables = {
      CLUSTER         = var.cluster_name
      SERVICE         = var.name
      RULE_ARN        = var.rule_arn
      HEALTHY_PERCENT = tostring(var.healthy_percent)
      BAKE_SECONDS    = tostring(var.bake_seconds)
      ENTRANCE        = var.entrance
      LOG_FORMAT      = "json"
    }
  }

  dead_letter_config {
    target_arn = aws_sqs_queue.dead.arn
  }

  tracing_config {
    mode = "Active"
  }

  tags = var.tags

  lifecycle {
    precondition {
      # To observe, to move, to prove, and to do it all backwards.
      condition     = var.timeout_seconds >= var.bake_seconds + 120
      error_message = "timeout_seconds must be at least bake_seconds + 120, or the function ends before it can go back."
    }
  }

  depends_on = [aws_iam_role_policy.this, aws_cloudwatch_log_group.this]
}

resource "aws_lambda_function_event_invoke_config" "this" {
  function_name = aws_lambda_function.this.function_name

  # An alarm may come while two are at work, so it has to wait as long as a run may take. What is older is no news: it would move
  # traffic because of something that is over.
  maximum_event_age_in_seconds = var.timeout_seconds + 60
  maximum_retry_attempts       = 1
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/lambda/${local.function}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn

  tags = var.tags
}

# What it could not be told. A message here is an alarm that did not send traffic back, so somebody has to look.
resource "aws_sqs_queue" "dead" {
  name                      = "${local.function}-dead"
  sqs_managed_sse_enabled   = true
  message_retention_seconds = 1209600

  tags = var.tags
}

resource "aws_sqs_queue_policy" "dead" {
  queue_url = aws_sqs_queue.dead.url
  policy    = data.aws_iam_policy_document.dead.json
}

data "aws_iam_policy_document" "dead" {
  statement {
    sid       = "Events"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.dead.arn]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_cloudwatch_event_rule.alarms.arn]
    }
  }
}

# === Where it may go

resource "aws_security_group" "this" {
  name        = local.function
  description = "The traffic shifter of ${var.name}; nobody comes in"
  vpc_id      = var.vpc_id

  tags = merge(var.tags, { Name = local.function })
}

data "aws_vpc" "this" {
  count = var.egress_cidrs == null ? 1 : 0

  id = var.vpc_id
}

locals {
  # Interface endpoints are in the VPC. What is outside of it has to be named.
  egress_cidrs = var.egress_cidrs == null ? [for association in data.aws_vpc.this[0].cidr_block_associations : association.cidr_block] : var.egress_cidrs
}

# AWS, by endpoints in the VPC or by NAT, and the entrance, where a switch is proved.
resource "aws_vpc_security_group_egress_rule" "https" {
  for_each = toset(local.egress_cidrs)

  security_group_id = aws_security_group.this.id
  description       = "AWS, and the entrance"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null

  tags = var.tags
}

resource "aws_vpc_security_group_egress_rule" "tasks" {
  for_each = { http = 3000, operations = 9464 }

  security_group_id            = aws_security_group.this.id
  description                  = "The tasks: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
  referenced_security_group_id = var.task_security_group_id

  tags = var.tags
}

# === What it may do

resource "aws_iam_role" "this" {
  name               = local.function
  description        = "The traffic shifter of ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.lambda.json

  tags = var.tags
}

data "aws_iam_policy_document" "lambda" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "this" {
  name   = "shift"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.this.json
}

data "aws_iam_policy_document" "this" {
  #checkov:skip=CKV_AWS_111:what writes on * is what AWS knows no resources for: a pipeline's result, traces, and the network interfaces that the last statement takes away from the code

  # Looks. Elastic Load Balancing knows no resources for what begins with Describe.
  statement {
    sid = "LookAtTraffic"
    actions = [
      "elasticloadbalancing:DescribeRules",
      "elasticloadbalancing:DescribeTags",
      "elasticloadbalancing:DescribeTargetHealth",
    ]
    resources = ["*"]
  }

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

  statement {
    sid       = "Services"
    actions   = ["ecs:DescribeServices"]
    resources = var.service_arns
  }

  # A lifecycle hook of ECS names the revision that it asks about, and that names its target group.
  statement {
    sid       = "Revisions"
    actions   = ["ecs:DescribeServiceRevisions"]
    resources = [for arn in concat(var.service_arns, local.native_arns) : "${replace(arn, ":service/", ":service-revision/")}/*"]
  }

  # What ECS does by itself it asks about, and is told.
  dynamic "statement" {
    for_each = local.native_arns

    content {
      sid       = "NativeService"
      actions   = ["ecs:ListServiceDeployments"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = local.native_arns

    content {
      sid       = "NativeDeployments"
      actions   = ["ecs:DescribeServiceDeployments", "ecs:ContinueServiceDeployment", "ecs:StopServiceDeployment"]
      resources = ["${replace(statement.value, ":service/", ":service-deployment/")}/*"]
    }
  }

  statement {
    sid       = "Tasks"
    actions   = ["ecs:DescribeTasks"]
    resources = [local.tasks_arn]
  }

  statement {
    sid       = "ChangeTasks"
    actions   = ["ecs:UpdateTaskProtection"]
    resources = [local.tasks_arn]

    # Tasks have no ARN that names their service. The services pass this tag on to their tasks.
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

  statement {
    sid       = "LookAtScale"
    actions   = ["application-autoscaling:DescribeScalableTargets"]
    resources = ["*"]
  }

  # A job has no ARN.
  statement {
    sid       = "TellPipeline"
    actions   = ["codepipeline:PutJobSuccessResult", "codepipeline:PutJobFailureResult"]
    resources = ["*"]
  }

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:log-stream:*"]
  }

  # A trace has no ARN.
  statement {
    sid       = "Trace"
    actions   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
    resources = ["*"]
  }

  statement {
    sid       = "DeadLetter"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.dead.arn]
  }

  # Its own variables. The database's secret may lie under the same key, but there is no permission here to ask for it.
  statement {
    sid       = "Key"
    actions   = ["kms:Decrypt"]
    resources = [var.kms_key_arn]
  }

  # Lambda puts the function into the VPC with the function's own role, before an interface has a name.
  statement {
    sid = "Network"
    actions = [
      "ec2:AssignPrivateIpAddresses",
      "ec2:CreateNetworkInterface",
      "ec2:DeleteNetworkInterface",
      "ec2:DescribeNetworkInterfaces",
      "ec2:DescribeSubnets",
      "ec2:UnassignPrivateIpAddresses",
    ]
    resources = ["*"]
  }

  # That is for Lambda. The code inside of the function may do none of it.
  statement {
    sid    = "NetworkIsLambdas"
    effect = "Deny"
    actions = [
      "ec2:AssignPrivateIpAddresses",
      "ec2:CreateNetworkInterface",
      "ec2:DeleteNetworkInterface",
      "ec2:DescribeNetworkInterfaces",
      "ec2:DescribeSubnets",
      "ec2:UnassignPrivateIpAddresses",
    ]
    resources = ["*"]

    condition {
      test     = "ArnEquals"
      variable = "lambda:SourceFunctionArn"
      values   = ["arn:${local.partition}:lambda:${local.region}:${local.account}:function:${local.function}"]
    }
  }
}
