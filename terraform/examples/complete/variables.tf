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
  description = "For the load balancer: one subnet in each of two availability zones; public ones if `public` is said, else private ones."
  type        = list(string)
}

variable "private_subnet_ids" {
  description = "For the tasks and the traffic shifter: one subnet in each of two availability zones, with endpoints of AWS's services in the VPC or a NAT gateway."
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

variable "public" {
  description = "Whether the load balancer is reached from the Internet. ChatGPT comes from there."
  type        = bool
  default     = false
}

variable "client_cidrs" {
  description = "Whose connections the load balancer accepts. Empty: nobody's; [\"0.0.0.0/0\"]: everybody's."
  type        = list(string)
  default     = []
}

variable "web_acl_arn" {
  description = "A regional web ACL of WAF for the load balancer: limits of rates, lists of addresses. Its body rules see 8 KB of a request by default."
  type        = string
  default     = null
}

variable "authentication" {
  description = "Who may call. `oauth` takes access tokens of `oauth_issuer`; `none` lets in everybody who reaches the load balancer."
  type        = string

  validation {
    condition     = var.authentication != "oauth" || var.oauth_issuer != null
    error_message = "Name the issuer of the tokens in oauth_issuer."
  }
}

variable "oauth_issuer" {
  description = "The authorization server whose tokens are taken, as https://auth.example.com. `egress_cidrs` must lead to it."
  type        = string
  default     = null
}

variable "egress_cidrs" {
  description = "Where tasks may go on port 443: AWS's services, and the issuer. Null: the networks of the VPC, where interface endpoints are."
  type        = list(string)
  default     = null
}

variable "egress_prefix_list_ids" {
  description = "Prefix lists that tasks may go to on port 443, by any name, as that of S3's gateway endpoint."
  type        = map(string)
  default     = {}
}

variable "shifter_egress_cidrs" {
  description = "Where the traffic shifter may go on port 443: AWS's services, and the entrance. Null: the networks of the VPC, or anywhere if `public` is said."
  type        = list(string)
  default     = null
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
