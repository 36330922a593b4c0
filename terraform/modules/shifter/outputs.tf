output "function_name" {
  description = "For `aws lambda invoke`, and for an action of CodePipeline."
  value       = aws_lambda_function.this.function_name
}

output "function_arn" {
  description = "For the policy of who may invoke it: CodePipeline's role needs lambda:InvokeFunction on it."
  value       = aws_lambda_function.this.arn
}

output "role_arn" {
  description = "What it acts as."
  value       = aws_iam_role.this.arn
}

output "security_group_id" {
  description = "For `operations_security_group_ids` of modules/ecs."
  value       = aws_security_group.this.id
}

output "alarm_names" {
  description = "The alarms that send traffic back: NAME-COLOR-errors, -slow, -unhealthy, and NAME-entrance-errors."
  value       = local.alarms_that_send_back
}

output "dead_letter_queue_url" {
  description = "What it was asked and did not do."
  value       = aws_sqs_queue.dead.url
}
