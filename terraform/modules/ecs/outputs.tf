output "cluster_name" {
  description = "The cluster: `rollout --cluster`, and CLUSTER of the traffic shifter."
  value       = local.cluster_name
}

output "cluster_arn" {
  description = "The cluster's ARN."
  value       = local.cluster_arn
}

output "service_names" {
  description = "The service of each color: NAME-blue and NAME-green."
  value       = { for color, service in aws_ecs_service.color : color => service.name }
}

output "service_arns" {
  description = "The service of each color, by its ARN."
  value       = { for color, service in aws_ecs_service.color : color => service.id }
}

output "task_definition_families" {
  description = "The family of task definitions of each color. `rollout` registers its revisions there."
  value       = { for color, definition in aws_ecs_task_definition.color : color => definition.family }
}

output "task_definition_arns" {
  description = "The newest revision that is made here, of each color. What a service runs is `rollout`'s."
  value       = { for color, definition in aws_ecs_task_definition.color : color => definition.arn }
}

output "container_name" {
  description = "The container: `rollout --app`."
  value       = local.container
}

output "scalable_target_arns" {
  description = "What scales each color."
  value       = { for color, target in aws_appautoscaling_target.color : color => target.arn }
}

output "task_security_group_id" {
  description = "The tasks' security group: who may reach the database."
  value       = aws_security_group.tasks.id
}

output "execution_role_arn" {
  description = "The role that ECS starts a task with."
  value       = aws_iam_role.execution.arn
}

output "task_role_arn" {
  description = "The role of the server itself."
  value       = aws_iam_role.task.arn
}

output "log_group_name" {
  description = "Where tasks log. A stream is COLOR/NAME/TASK."
  value       = aws_cloudwatch_log_group.this.name
}

output "log_group_arn" {
  description = "Where tasks log, by its ARN."
  value       = aws_cloudwatch_log_group.this.arn
}

output "kms_key_arn" {
  description = "The key of the log, for the secrets and logs beside it."
  value       = local.kms_key_arn
}
