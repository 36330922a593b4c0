output "policy_arn" {
  description = "To attach to the role of whoever runs `rollout`: a build server, a bastion, a person."
  value       = aws_iam_policy.this.arn
}

output "policy_json" {
  description = "The same, to put into a permission set."
  value       = data.aws_iam_policy_document.this.json
}
