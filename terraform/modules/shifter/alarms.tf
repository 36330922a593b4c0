# What sends traffic back: alarms of each color, and of the entrance. The color is in the alarm's name, NAME-COLOR-WHAT, so the
# function can tell an alarm of the color that is live from one that changes nothing.
#
# A color is judged by minutes in which it had enough requests. An idle one has none, or the few of a gate; at night a single
# failure would be a hundred per cent. What has no data is well.

locals {
  colors = toset(["blue", "green"])

  # Whom an alarm wakes, beside the function.
  people = var.alarm_topic_arns

  # Per color, because a sum of both would hide a bad color behind a good one.
  dimensions = {
    for color in local.colors : color => {
      LoadBalancer = var.load_balancer_arn_suffix
      TargetGroup  = var.target_group_arn_suffixes[color]
    }
  }

  enough = "FILL(requests, 0) >= ${var.alarms.minimum_requests}"
}

# A tool that fails is answered with 200, by the protocol; what is counted here is a server that cannot answer. The bake of
# `rollout` looks into the answers. What a limit refuses is answered with 429, which is none of these: a stranger who sends too much
# must not be able to send traffic back to a build that has a hole.
resource "aws_cloudwatch_metric_alarm" "errors" {
  for_each = local.colors

  alarm_name          = "${var.name}-${each.key}-errors"
  alarm_description   = "${each.key} answers more than ${var.alarms.error_percent} % of its requests with 5xx, or takes no connection; requests that a limit refuses are 429 and do not count. The traffic shifter goes back, if ${each.key} is live and the other color is warm."
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarms.error_percent
  evaluation_periods  = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.people
  ok_actions          = local.people

  metric_query {
    id          = "percent"
    label       = "failed, in per cent"
    expression  = "IF(${local.enough}, 100 * (FILL(faults, 0) + FILL(refused, 0)) / requests, 0)"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { requests = "RequestCount", faults = "HTTPCode_Target_5XX_Count", refused = "TargetConnectionErrorCount" }

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/ApplicationELB"
        metric_name = metric_query.value
        dimensions  = local.dimensions[each.key]
        period      = 60
        stat        = "Sum"
      }
    }
  }

  tags = merge(var.tags, { "release-color" = each.key })
}

# Until the first byte of an answer, so a stream that stays open for minutes is not slow.
resource "aws_cloudwatch_metric_alarm" "slow" {
  for_each = local.colors

  alarm_name          = "${var.name}-${each.key}-slow"
  alarm_description   = "${each.key} takes more than ${var.alarms.p99_seconds} s at the 99th percentile. The traffic shifter goes back, if ${each.key} is live and the other color is warm."
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarms.p99_seconds
  evaluation_periods  = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.people
  ok_actions          = local.people

  metric_query {
    id          = "seconds"
    label       = "the 99th percentile, in seconds"
    expression  = "IF(${local.enough}, p99, 0)"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { requests = ["RequestCount", "Sum"], p99 = ["TargetResponseTime", "p99"] }

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/ApplicationELB"
        metric_name = metric_query.value[0]
        dimensions  = local.dimensions[each.key]
        period      = 60
        stat        = metric_query.value[1]
      }
    }
  }

  tags = merge(var.tags, { "release-color" = each.key })
}

# Only where it has traffic: a color that starts is unhealthy until it is ready, and that is no news.
resource "aws_cloudwatch_metric_alarm" "unhealthy" {
  for_each = local.colors

  alarm_name          = "${var.name}-${each.key}-unhealthy"
  alarm_description   = "Less than ${var.healthy_percent} % of ${each.key}'s targets are healthy while it has traffic. The traffic shifter goes back, if ${each.key} is live and the other color is warm."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 100 - var.healthy_percent
  evaluation_periods  = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.people
  ok_actions          = local.people

  metric_query {
    id          = "percent"
    label       = "unhealthy, in per cent"
    expression  = "IF(${local.enough}, 100 * sick / (well + sick), 0)"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = {
      requests = ["RequestCount", "Sum"]
      well     = ["HealthyHostCount", "Minimum"]
      sick     = ["UnHealthyHostCount", "Maximum"]
    }

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/ApplicationELB"
        metric_name = metric_query.value[0]
        dimensions  = local.dimensions[each.key]
        period      = 60
        stat        = metric_query.value[1]
      }
    }
  }

  tags = merge(var.tags, { "release-color" = each.key })
}

# What no target was asked for: 503 of a group without targets, 502 and 504 of one that went away. It has no color; the one
# that is live is meant. Such a request is not among RequestCount.
resource "aws_cloudwatch_metric_alarm" "entrance" {
  alarm_name          = "${var.name}-entrance-errors"
  alarm_description   = "The balancer itself answers more than ${var.alarms.error_percent} % with 5xx: nobody serves, or connections break. The traffic shifter goes back, if the other color is warm."
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarms.error_percent
  evaluation_periods  = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.people
  ok_actions          = local.people

  metric_query {
    id          = "percent"
    label       = "failed at the entrance, in per cent"
    expression  = "IF(FILL(faults, 0) + FILL(requests, 0) >= ${var.alarms.minimum_requests}, 100 * FILL(faults, 0) / (FILL(faults, 0) + FILL(requests, 0)), 0)"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { requests = "RequestCount", faults = "HTTPCode_ELB_5XX_Count" }

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/ApplicationELB"
        metric_name = metric_query.value
        dimensions  = { LoadBalancer = var.load_balancer_arn_suffix }
        period      = 60
        stat        = "Sum"
      }
    }
  }

  tags = var.tags
}

# For people alone: the function did not do what it was asked for, and asking it again would not help.
resource "aws_cloudwatch_metric_alarm" "dead" {
  alarm_name          = "${local.function}-dead"
  alarm_description   = "The traffic shifter was asked and did not do it. Read the queue ${local.function}-dead and its log, and move traffic by `rollout rollback`."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.people
  ok_actions          = local.people

  tags = var.tags
}

# === From an alarm to the function

locals {
  alarms_that_send_back = sort(concat(
    [for alarm in aws_cloudwatch_metric_alarm.errors : alarm.alarm_name],
    [for alarm in aws_cloudwatch_metric_alarm.slow : alarm.alarm_name],
    [for alarm in aws_cloudwatch_metric_alarm.unhealthy : alarm.alarm_name],
    [aws_cloudwatch_metric_alarm.entrance.alarm_name],
  ))
}

resource "aws_cloudwatch_event_rule" "alarms" {
  name        = "${var.name}-alarms"
  description = "An alarm of ${var.name} begins; the traffic shifter hears of it"

  # The beginning alone: that an alarm is over moves no traffic.
  event_pattern = jsonencode({
    source        = ["aws.cloudwatch"]
    "detail-type" = ["CloudWatch Alarm State Change"]
    detail = {
      alarmName = local.alarms_that_send_back
      state     = { value = ["ALARM"] }
    }
  })

  tags = var.tags
}

resource "aws_cloudwatch_event_target" "shifter" {
  rule = aws_cloudwatch_event_rule.alarms.name
  arn  = aws_lambda_function.this.arn

  retry_policy {
    maximum_event_age_in_seconds = 300
    maximum_retry_attempts       = 10
  }

  dead_letter_config {
    arn = aws_sqs_queue.dead.arn
  }
}

resource "aws_lambda_permission" "alarms" {
  statement_id  = "Alarms"
  function_name = aws_lambda_function.this.function_name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.alarms.arn
}
