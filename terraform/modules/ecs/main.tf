# Two services, blue and green, of one server. These files say what the colors are; `rollout` says which build each of them is,
# how many tasks it has, and whether its autoscaler rests.

data "aws_region" "current" {}

data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}

locals {
  colors = toset(["blue", "green"])

  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.id

  # `rollout --app` is both: the container, and the services before -blue and -green.
  container = var.name
  log_group = "/ecs/${var.name}"

  cluster_arn  = var.cluster == null ? aws_ecs_cluster.this[0].arn : var.cluster.arn
  cluster_name = var.cluster == null ? var.name : var.cluster.name
  kms_key_arn  = var.kms_key == null ? aws_kms_key.this[0].arn : var.kms_key.arn
}

# === The cluster

resource "aws_ecs_cluster" "this" {
  count = var.cluster == null ? 1 : 0

  name = var.name

  setting {
    name  = "containerInsights"
    value = var.container_insights
  }

  configuration {
    # Who looks into a task leaves a trace, also where nobody is meant to.
    execute_command_configuration {
      kms_key_id = local.kms_key_arn
      logging    = "OVERRIDE"

      log_configuration {
        cloud_watch_encryption_enabled = true
        cloud_watch_log_group_name     = aws_cloudwatch_log_group.this.name
      }
    }
  }

  tags = var.tags
}

# === What is said

resource "aws_cloudwatch_log_group" "this" {
  name              = local.log_group
  retention_in_days = var.log_retention_days
  kms_key_id        = local.kms_key_arn

  tags = var.tags
}

resource "aws_kms_key" "this" {
  count = var.kms_key == null ? 1 : 0

  description             = "${var.name}: its log, and the secrets that are put under it"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json

  tags = var.tags
}

resource "aws_kms_alias" "this" {
  count = var.kms_key == null ? 1 : 0

  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.this[0].key_id
}

data "aws_iam_policy_document" "key" {
  #checkov:skip=CKV_AWS_109:in a key's policy the resource * is the key itself
  #checkov:skip=CKV_AWS_111:in a key's policy the resource * is the key itself
  #checkov:skip=CKV_AWS_356:in a key's policy the resource * is the key itself

  # Without this nobody could change the policy any more, not even who made the key. It hands the question to IAM.
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }

  # CloudWatch Logs, for the groups of this name alone: the tasks', and those of what stands beside them.
  statement {
    sid       = "Logs"
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:DescribeKey"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["logs.${local.region}.amazonaws.com"]
    }

    condition {
      test     = "ArnLike"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values   = ["arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/*/${var.name}*"]
    }
  }
}

# === What runs

# One definition for each color, because a task is told its color by its environment. `rollout` copies what a service runs, with
# the image of each deploy and the variables of `--env`, so this is what all its revisions are made of. A change here reaches a
# color when its service is told the new revision, while it is idle: README.md, "Change what both colors are told".
resource "aws_ecs_task_definition" "color" {
  for_each = local.colors

  family                   = "${var.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  container_definitions    = jsonencode([local.containers[each.key]])

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  # Nothing is written outside of the database; a library that wants a scratch file finds a place. Fargate makes it root's,
  # with mode 0755, unless the image has a VOLUME there that is its user's.
  volume {
    name = "tmp"
  }

  # A change here makes a new revision. The one before is what runs, and going back may need it.
  skip_destroy = true

  tags = merge(var.tags, { "release-color" = each.key })

  lifecycle {
    precondition {
      # The autoscaler's most, of both colors, and one of them once more, while ECS replaces its tasks (200 %).
      condition     = var.database_pooler == "transaction" || 3 * var.autoscaling.maximum * (var.database_pool_size + 1) <= var.database_connections
      error_message = "3 x autoscaling.maximum x (database_pool_size + 1, which listens) is more than the database_connections that there are."
    }

    precondition {
      condition     = var.database_pooler == "none" || var.database_secret.direct_url_key != null
      error_message = "A migration and a notification cannot pass a pooler in transaction mode: name the way past it in database_secret.direct_url_key."
    }

    precondition {
      # What Fargate offers: a CPU has between 2 and 8 GiB, and the smallest one from 512 MiB.
      condition     = var.memory >= 2 * var.cpu && var.memory <= 8 * var.cpu
      error_message = "Fargate has no such size: memory must be between 2 x cpu and 8 x cpu."
    }
  }
}

locals {
  environment = {
    for color in local.colors : color => merge(
      var.environment,
      length(var.allowed_hosts) == 0 ? {} : { ALLOWED_HOSTS = join(",", var.allowed_hosts) },
      {
        # The way in. Everywhere, because the balancer and `rollout` come from outside of the task.
        LISTEN            = "0.0.0.0:3000"
        OPERATIONS_LISTEN = "0.0.0.0:9464"
        # A listener that is not loopback must have this said aloud.
        AUTHENTICATION = var.authentication
        PUBLIC_URL     = var.public_url
        # A task definition has no placeholder for a task's own address; ECS tells it to a container that asks.
        ADVERTISE_ADDRESS = "ecs"
        # The balancer is connected, and X-Forwarded-For names the client. Without it all clients share one address and its limits.
        TRUSTED_PROXIES = length(var.trusted_proxies) == 0 ? "none" : join(",", var.trusted_proxies)

        # `rollout` migrates, in a task of its own: tasks that start at once would wait for one another, and ECS gives a
        # start no time for a long index.
        MIGRATE            = "off"
        DATABASE_POOL_SIZE = tostring(var.database_pool_size)
        DATABASE_POOLER    = var.database_pooler == "none" ? "direct" : var.database_pooler

        # The deadlines are one chain; variables.tf adds it up.
        LEAVE_DELAY_SECS    = tostring(var.deadlines.leave_delay)
        CALL_TIMEOUT_SECS   = tostring(var.deadlines.call_timeout)
        DRAIN_DEADLINE_SECS = tostring(var.deadlines.drain_deadline)
        CLOSE_SECS          = tostring(var.deadlines.close)
        IDLE_TIMEOUT_SECS   = tostring(var.deadlines.server_idle_timeout)

        LOG_FORMAT = "json"
        # Version and commit are in the image; the color belongs to where it is put.
        RELEASE_COLOR = color
      },
    )
  }

  secrets = merge(
    { DATABASE_URL = var.database_secret.url_key },
    var.database_secret.direct_url_key == null ? {} : { DATABASE_DIRECT_URL = var.database_secret.direct_url_key },
    # A task that migrates is run from the definition of those that serve.
    var.database_secret.migrate_url_key == null ? {} : { DATABASE_MIGRATE_URL = var.database_secret.migrate_url_key },
    # Replicas prove themselves with it before one hands another a call.
    var.database_secret.forward_key == null ? {} : { FORWARD_KEY = var.database_secret.forward_key },
  )

  containers = {
    for color in local.colors : color => {
      name      = local.container
      image     = var.image
      essential = true
      command   = ["serve"]
      # The image's user, as a number. Above 10000, so that it is nobody's on the host.
      user = "65532:65532"
      # ECS Exec brings an agent that writes into the container; that is the price of looking into one.
      readonlyRootFilesystem = !var.enable_execute_command

      portMappings = [
        { name = "http", containerPort = 3000, hostPort = 3000, protocol = "tcp" },
        { name = "operations", containerPort = 9464, hostPort = 9464, protocol = "tcp" },
      ]

      environment = [for name, value in local.environment[color] : { name = name, value = value }]
      # Read when a task starts. `ARN:KEY::` is one field of a secret that is JSON.
      secrets = [for name, key in local.secrets : { name = name, valueFrom = "${var.database_secret.arn}:${key}::" }]

      # Liveness and never readiness: it does not depend on the database, and stays well while the task leaves, or the drain
      # would end in a kill. Asked by the server's own binary, because the image has no shell and no curl.
      healthCheck = {
        command     = ["CMD", "/usr/local/bin/mcp-server", "health"]
        interval    = 10
        timeout     = 5
        retries     = 3
        startPeriod = 30
      }

      # LEAVE_DELAY + DRAIN_DEADLINE + CLOSE + what comes after. Fargate allows 120. ECS has drained the target by then, except
      # when a task is stopped by hand, by Spot or by a host that is retired; for those the leave delay is.
      stopTimeout = var.deadlines.stop_timeout

      linuxParameters = {
        capabilities = { add = [], drop = ["ALL"] }
        # The server is process 1, listens to SIGTERM itself and has no children; an init before it would only stand between.
        # The agent of ECS Exec has children, and somebody has to bury them.
        initProcessEnabled = var.enable_execute_command
      }

      mountPoints    = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]
      volumesFrom    = []
      systemControls = []

      logConfiguration = {
        logDriver = "awslogs"
        options = {
          "awslogs-group"         = local.log_group
          "awslogs-region"        = local.region
          "awslogs-stream-prefix" = color
          # When CloudWatch is slow, lines are lost after 25 MB. Blocking, a call would wait for its log line.
          mode              = "non-blocking"
          "max-buffer-size" = "25m"
        }
      }
    }
  }
}

resource "aws_ecs_service" "color" {
  for_each = local.colors

  name             = "${var.name}-${each.key}"
  cluster          = local.cluster_arn
  task_definition  = aws_ecs_task_definition.color[each.key].arn
  launch_type      = "FARGATE"
  platform_version = "LATEST"
  desired_count    = each.key == var.live_on_first_day ? var.autoscaling.minimum : 0

  # Of a color that is replaced, no task goes before its successor is healthy.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  # A build that does not come up is given up, and stays given up. If ECS put the revision before in its place, a color would
  # run something else than was deployed, and a rollout would prove the wrong build. Going back is the other color.
  deployment_circuit_breaker {
    enable   = true
    rollback = false
  }

  # As long as a deploy waits (`--ready-within`): until then /ready may wait for the database or for a migration.
  health_check_grace_period_seconds = var.deadlines.ready_within

  # A zone that was away leaves a color lopsided; ECS then starts tasks there before it stops others.
  availability_zone_rebalancing = "ENABLED"

  enable_execute_command  = var.enable_execute_command
  enable_ecs_managed_tags = true
  propagate_tags          = "SERVICE"

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = var.target_group_arns[each.key]
    container_name   = local.container
    container_port   = 3000
  }

  # Tasks get these tags, too. `release-app` is what the policies of `rollout` and of the traffic shifter know their tasks by.
  tags = merge(var.tags, { "release-color" = each.key, "release-app" = var.name })

  lifecycle {
    # The image (by its task definition) and the number of tasks are `rollout`'s and the autoscaler's.
    ignore_changes = [desired_count, task_definition]
  }

  # A task cannot start without these, and a service that is deleted still needs them.
  depends_on = [aws_iam_role_policy.execution, aws_cloudwatch_log_group.this, aws_vpc_security_group_egress_rule.https]
}

# === How many

# One for each color. That of a color without traffic rests: it looks idle, and must not be made small between its start and the
# switch. The minimum is that of a live color, and of both, because it must never be lower for the one that gets the traffic.
# AWS moves a service into its range whenever its target is registered, so an idle color may get its minimum of tasks when this
# is applied the first time or changed; they serve nobody, and go with the next deploy or `rollout retire`.
resource "aws_appautoscaling_target" "color" {
  for_each = local.colors

  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${local.cluster_name}/${aws_ecs_service.color[each.key].name}"
  min_capacity       = var.autoscaling.minimum
  max_capacity       = var.autoscaling.maximum

  suspended_state {
    dynamic_scaling_in_suspended  = each.key != var.live_on_first_day
    dynamic_scaling_out_suspended = each.key != var.live_on_first_day
    scheduled_scaling_suspended   = each.key != var.live_on_first_day
  }

  tags = var.tags

  lifecycle {
    # It goes with the traffic, so it is `rollout`'s. The limits are not.
    ignore_changes = [suspended_state]
  }
}

resource "aws_appautoscaling_policy" "cpu" {
  for_each = local.colors

  name               = "${var.name}-${each.key}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.color[each.key].service_namespace
  scalable_dimension = aws_appautoscaling_target.color[each.key].scalable_dimension
  resource_id        = aws_appautoscaling_target.color[each.key].resource_id

  target_tracking_scaling_policy_configuration {
    target_value = var.autoscaling.cpu_percent
    # Up at once, down slowly: a task that goes takes its open streams with it.
    scale_out_cooldown = 60
    scale_in_cooldown  = 900

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

# === Who talks to whom. Both halves of a path stand together.

resource "aws_security_group" "tasks" {
  name        = "${var.name}-tasks"
  description = "The tasks of ${var.name}, blue and green"
  vpc_id      = var.vpc_id

  tags = merge(var.tags, { Name = "${var.name}-tasks" })
}

# Clients, through the balancer and on no other way.
resource "aws_vpc_security_group_ingress_rule" "balancer" {
  security_group_id            = aws_security_group.tasks.id
  description                  = "Clients, through the balancer"
  ip_protocol                  = "tcp"
  from_port                    = 3000
  to_port                      = 3000
  referenced_security_group_id = var.balancer_security_group_id

  tags = var.tags
}

resource "aws_vpc_security_group_egress_rule" "balancer" {
  security_group_id            = var.balancer_security_group_id
  description                  = "To the tasks of ${var.name}"
  ip_protocol                  = "tcp"
  from_port                    = 3000
  to_port                      = 3000
  referenced_security_group_id = aws_security_group.tasks.id

  tags = var.tags
}

# A call of a conversation that is pinned to another build is handed to a task of it.
resource "aws_vpc_security_group_ingress_rule" "between" {
  security_group_id            = aws_security_group.tasks.id
  description                  = "Calls that another task hands over"
  ip_protocol                  = "tcp"
  from_port                    = 3000
  to_port                      = 3000
  referenced_security_group_id = aws_security_group.tasks.id

  tags = var.tags
}

resource "aws_vpc_security_group_egress_rule" "between" {
  security_group_id            = aws_security_group.tasks.id
  description                  = "Calls that are handed to another task"
  ip_protocol                  = "tcp"
  from_port                    = 3000
  to_port                      = 3000
  referenced_security_group_id = aws_security_group.tasks.id

  tags = var.tags
}

# `rollout`, the traffic shifter, Prometheus. Whoever reaches operations can tell the server to leave.
resource "aws_vpc_security_group_ingress_rule" "operations" {
  for_each = var.operations_security_group_ids

  security_group_id            = aws_security_group.tasks.id
  description                  = "Operations, for ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = 9464
  to_port                      = 9464
  referenced_security_group_id = each.value

  tags = var.tags
}

# The gates ask the idle color what clients would ask, and no client reaches it yet.
resource "aws_vpc_security_group_ingress_rule" "gates" {
  for_each = var.operations_security_group_ids

  security_group_id            = aws_security_group.tasks.id
  description                  = "What clients would ask, for ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = 3000
  to_port                      = 3000
  referenced_security_group_id = each.value

  tags = var.tags
}

resource "aws_vpc_security_group_egress_rule" "database" {
  for_each = var.database_security_group_ids

  security_group_id            = aws_security_group.tasks.id
  description                  = "PostgreSQL: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = var.database_port
  to_port                      = var.database_port
  referenced_security_group_id = each.value

  tags = var.tags
}

data "aws_vpc" "this" {
  count = var.egress_cidrs == null ? 1 : 0

  id = var.vpc_id
}

locals {
  # Interface endpoints are in the VPC. What is outside of it has to be named.
  egress_cidrs = var.egress_cidrs == null ? [for association in data.aws_vpc.this[0].cidr_block_associations : association.cidr_block] : var.egress_cidrs
}

# The image, the secret and the log, by endpoints in the VPC or by NAT; and whoever the server itself asks.
resource "aws_vpc_security_group_egress_rule" "https" {
  for_each = toset(local.egress_cidrs)

  security_group_id = aws_security_group.tasks.id
  description       = "AWS, and what the server asks"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null

  tags = var.tags
}

# Layers of images in ECR come from S3, by a gateway endpoint that is a list of prefixes.
resource "aws_vpc_security_group_egress_rule" "prefix_list" {
  for_each = var.egress_prefix_list_ids

  security_group_id = aws_security_group.tasks.id
  description       = "By a gateway endpoint: ${each.key}"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  prefix_list_id    = each.value

  tags = var.tags
}
