output "service_name" {
  description = "The service."
  value       = aws_ecs_service.this.name
}

output "role_arn" {
  description = "What ECS acts as: the owner of the hook's Lambda may want to name it."
  value       = aws_iam_role.ecs.arn
}
