# NOT VALIDATED. Blue-green as ECS does it itself: one service, and ECS moves the weights of a rule between two target groups.
# It needs a provider that the checks of this repository do not have, so nothing but `terraform fmt` has read it; no account has
# run it. Nothing in modules/ or examples/ refers to it. README.md beside this file says when it is worth a try.

data "aws_partition" "current" {}

locals {
  container = "mcp-server"
}

resource "aws_ecs_service" "this" {
  name             = var.name
  cluster          = var.cluster_arn
  task_definition  = var.task_definition_arn
  launch_type      = "FARGATE"
  platform_version = "LATEST"
  desired_count    = var.desired_count

  health_check_grace_period_seconds = 300
  availability_zone_rebalancing     = "ENABLED"
  enable_ecs_managed_tags           = true
  propagate_tags                    = "SERVICE"

  # Ends a deployment that an interrupted apply would leave to itself. It needs the other one.
  wait_for_steady_state = true
  sigint_rollback       = true

  deployment_configuration {
    strategy = "BLUE_GREEN"
    # The old tasks are warm for so long, and going back is a change of weights. A string, by the provider's schema.
    bake_time_in_minutes = tostring(var.bake_minutes)

    # What `rollout` proves: that the build answers, is itself, and keeps its contract. Asked when the new tasks are up, and
    # again when the test listener leads to them. A Lambda that answers nothing is a reason to go back.
    lifecycle_hook {
      target_type      = "AWS_LAMBDA"
      hook_target_arn  = var.hook_function_arn
      role_arn         = aws_iam_role.ecs.arn
      lifecycle_stages = ["POST_SCALE_UP", "POST_TEST_TRAFFIC_SHIFT", "POST_PRODUCTION_TRAFFIC_SHIFT"]
    }

    # A person says yes, by `aws ecs continue-service-deployment`; who says nothing has said no.
    dynamic "lifecycle_hook" {
      for_each = var.approve_within_minutes == null ? [] : [var.approve_within_minutes]

      content {
        target_type      = "PAUSE"
        lifecycle_stages = ["POST_TEST_TRAFFIC_SHIFT"]

        timeout_configuration {
          timeout_in_minutes = lifecycle_hook.value
          action             = "ROLLBACK"
        }
      }
    }
  }

  # Beside the hooks: what only real traffic shows, in the bake.
  alarms {
    enable      = true
    rollback    = true
    alarm_names = var.alarm_names
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [var.task_security_group_id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = var.target_group_arns["blue"]
    container_name   = local.container
    container_port   = 3000

    advanced_configuration {
      alternate_target_group_arn = var.target_group_arns["green"]
      # Rules, not listeners. Whoever owns them ignores changes of their actions, as modules/alb does: ECS writes the weights.
      production_listener_rule = var.production_rule_arn
      test_listener_rule       = var.test_rule_arn
      role_arn                 = aws_iam_role.ecs.arn
    }
  }

  tags = var.tags

  lifecycle {
    # The image comes with a deployment. `load_balancer`, because after each deployment the groups have changed their places.
    ignore_changes = [desired_count, task_definition, load_balancer]
  }

  # ECS needs the role until the service is gone.
  depends_on = [aws_iam_role_policy_attachment.weights, aws_iam_role_policy.hooks]
}

# === What ECS may do for it

resource "aws_iam_role" "ecs" {
  name               = "${var.name}-ecs-deployments"
  description        = "ECS, to move the weights of ${var.name} and to ask its hooks"
  assume_role_policy = data.aws_iam_policy_document.ecs.json

  tags = var.tags
}

data "aws_iam_policy_document" "ecs" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy_attachment" "weights" {
  role       = aws_iam_role.ecs.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/AmazonECSInfrastructureRolePolicyForLoadBalancers"
}

resource "aws_iam_role_policy" "hooks" {
  name   = "hooks"
  role   = aws_iam_role.ecs.id
  policy = data.aws_iam_policy_document.hooks.json
}

data "aws_iam_policy_document" "hooks" {
  statement {
    actions   = ["lambda:InvokeFunction"]
    resources = [var.hook_function_arn]
  }
}
