output "arn" {
  description = "The load balancer."
  value       = aws_lb.this.arn
}

output "arn_suffix" {
  description = "The load balancer, as CloudWatch calls it."
  value       = aws_lb.this.arn_suffix
}

output "dns_name" {
  description = "Where the DNS record of PUBLIC_URL's host leads, as an alias."
  value       = aws_lb.this.dns_name
}

output "zone_id" {
  description = "The hosted zone of dns_name, for the alias."
  value       = aws_lb.this.zone_id
}

output "security_group_id" {
  description = "The load balancer's security group. It has no way out until modules/ecs gives it one."
  value       = aws_security_group.this.id
}

output "listener_arn" {
  description = "The listener on port 443, for further rules; their priorities should be below 100."
  value       = aws_lb_listener.https.arn
}

output "rule_arn" {
  description = "The weighted rule: `rollout --rule`, and RULE_ARN of the traffic shifter."
  value       = aws_lb_listener_rule.weighted.arn
}

output "target_group_arns" {
  description = "The target group of each color."
  value       = { for color, group in aws_lb_target_group.color : color => group.arn }

  # ECS refuses a service whose target group no listener refers to yet.
  depends_on = [aws_lb_listener_rule.weighted]
}

output "target_group_arn_suffixes" {
  description = "The target group of each color, as CloudWatch calls it."
  value       = { for color, group in aws_lb_target_group.color : color => group.arn_suffix }
}

output "balancer_cidrs" {
  description = "The networks that the balancer connects from: `trusted_proxies` of modules/ecs."
  value       = sort(distinct([for subnet in data.aws_subnet.this : subnet.cidr_block]))
}

output "public" {
  description = "Whether it is reached from the Internet."
  value       = !var.internal
}

output "web_acl_arn" {
  description = "The web ACL before it; null without one."
  value       = one(aws_wafv2_web_acl_association.this[*].web_acl_arn)
}
