variable "region" {
  description = "The region of everything."
  type        = string
}

variable "name" {
  description = "What everything is called; the services are NAME-blue and NAME-green."
  type        = string
  default     = "mcp-server"
}

# === What is there already

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "public_subnet_ids" {
  description = "For the load balancer: one subnet in each of two availability zones."
  type        = list(string)
}

variable "private_subnet_ids" {
  description = "For the tasks and the traffic shifter: one subnet in each of two availability zones, with a NAT gateway."
  type        = list(string)
}

variable "certificate_arn" {
  description = "The certificate of the host in public_url."
  type        = string
}

variable "database_security_group_id" {
  description = "The security group of the database, or of the proxy before it."
  type        = string
}

variable "rollout_security_group_id" {
  description = "The security group of the machine where `rollout` runs: it asks the tasks themselves."
  type        = string
}

# === What is yours

variable "public_url" {
  description = "The address that clients know, as https://mcp.example.com."
  type        = string
}

variable "authentication" {
  description = "Who may call. `none` lets in everybody who reaches the load balancer; `oauth` also needs OAUTH_ISSUER in `environment` of the module ecs."
  type        = string
}

variable "image" {
  description = "The first image, by digest. Each one after it comes with `rollout deploy IMAGE`."
  type        = string
}

variable "repository_arns" {
  description = "The ECR repositories that images come from."
  type        = list(string)
  default     = []
}

variable "cpu_architecture" {
  description = "What images are built for: X86_64 or ARM64."
  type        = string
  default     = "X86_64"
}

variable "database_pooler" {
  description = "What is between the server and PostgreSQL: `none`, or `transaction` for RDS Proxy or PgBouncer."
  type        = string
  default     = "none"
}

variable "preview_cidrs" {
  description = "Who may name a color with the header `release-color`."
  type        = list(string)
  default     = []
}

variable "traffic_shifter_package" {
  description = "The zip of the traffic shifter."
  type        = string
}

variable "traffic_shifter_architecture" {
  description = "What the traffic shifter is built for: arm64 or x86_64."
  type        = string
  default     = "arm64"
}

variable "alarm_topic_arns" {
  description = "SNS topics that hear of alarms: people."
  type        = list(string)
  default     = []
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the load balancer. Off, to try it."
  type        = bool
  default     = true
}
