# Deployments that ECS does by itself (modules/ecs-native). A hook of the type AWS_LAMBDA calls the function; one of the type
# PAUSE says that it waits, and the function answers it where that is wanted.

resource "aws_cloudwatch_event_rule" "pauses" {
  count = try(var.native.answers_pauses, false) ? 1 : 0

  name        = "${var.name}-pauses"
  description = "A deployment of ${var.name} waits at a hook; the traffic shifter answers it"

  event_pattern = jsonencode({
    source        = ["aws.ecs"]
    "detail-type" = ["ECS Hook State Change"]
    resources = [
      var.native.service_arn,
      { prefix = "${replace(var.native.service_arn, ":service/", ":service-deployment/")}/" },
    ]
    detail = { eventName = ["HOOK_AWAITING_ACTION"] }
  })

  tags = var.tags
}

resource "aws_cloudwatch_event_target" "pauses" {
  count = length(aws_cloudwatch_event_rule.pauses)

  rule = aws_cloudwatch_event_rule.pauses[0].name
  arn  = aws_lambda_function.this.arn

  retry_policy {
    maximum_event_age_in_seconds = 3600
    maximum_retry_attempts       = 10
  }

  dead_letter_config {
    arn = aws_sqs_queue.dead.arn
  }
}

resource "aws_lambda_permission" "pauses" {
  count = length(aws_cloudwatch_event_rule.pauses)

  statement_id  = "Pauses"
  function_name = aws_lambda_function.this.function_name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.pauses[0].arn
}
