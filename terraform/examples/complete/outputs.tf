output "dns_name" {
  description = "Where the record of public_url's host leads, as an alias in the zone zone_id."
  value       = module.alb.dns_name
}

output "zone_id" {
  description = "The hosted zone of dns_name."
  value       = module.alb.zone_id
}

output "rollout" {
  description = "How `rollout` is called for this; a command follows."
  value       = "rollout --platform ecs --cluster ${module.ecs.cluster_name} --app ${var.name} --rule ${module.alb.rule_arn} --entrance ${var.public_url}"
}

output "rollout_policy_arn" {
  description = "What whoever runs `rollout` needs."
  value       = module.rollout_role.policy_arn
}

output "cluster_name" {
  description = "The cluster."
  value       = module.ecs.cluster_name
}

output "rule_arn" {
  description = "The weighted rule."
  value       = module.alb.rule_arn
}

output "service_names" {
  description = "The service of each color."
  value       = module.ecs.service_names
}

output "target_group_arns" {
  description = "The target group of each color."
  value       = module.alb.target_group_arns
}

output "task_definition_arns" {
  description = "The newest revision that is made here, of each color."
  value       = module.ecs.task_definition_arns
}

output "log_group_name" {
  description = "Where tasks log."
  value       = module.ecs.log_group_name
}

output "database_secret_arn" {
  description = "The secret to put the database's address into."
  value       = aws_secretsmanager_secret.database.arn
}

output "traffic_shifter" {
  description = "The function, for `aws lambda invoke` and for CodePipeline."
  value       = module.shifter.function_name
}

output "alarm_names" {
  description = "The alarms that send traffic back."
  value       = module.shifter.alarm_names
}

output "public" {
  description = "Whether the load balancer is reached from the Internet."
  value       = module.alb.public
}

output "web_acl_arn" {
  description = "The web ACL before the load balancer; null without one."
  value       = module.alb.web_acl_arn
}
