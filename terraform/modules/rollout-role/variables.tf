variable "name" {
  description = "What the services are called, before -blue and -green. The policy is NAME-rollout."
  type        = string
  default     = "mcp-server"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,24}[a-z0-9]$", var.name))
    error_message = "A name has 2 to 26 of a-z, 0-9 and -, and begins with a letter."
  }
}

variable "cluster_arn" {
  description = "The cluster's ARN."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:ecs:[^:]+:[0-9]+:cluster/", var.cluster_arn))
    error_message = "It must be the ARN of a cluster."
  }
}

variable "service_arns" {
  description = "The two services, and no third."
  type        = list(string)

  validation {
    condition     = length(var.service_arns) == 2 && alltrue([for arn in var.service_arns : !strcontains(arn, "*")])
    error_message = "It needs the ARNs of both services, spelled out."
  }
}

variable "role_arns" {
  description = "What a task may run as: the execution role and the task role of modules/ecs."
  type        = list(string)

  validation {
    condition     = length(var.role_arns) > 0 && alltrue([for arn in var.role_arns : !strcontains(arn, "*")])
    error_message = "Whoever may pass any role may be anybody: spell them out."
  }
}

variable "scalable_target_arns" {
  description = "What scales each service."
  type        = list(string)

  validation {
    condition     = length(var.scalable_target_arns) == 2
    error_message = "It needs the ARNs of both scalable targets."
  }
}

variable "log_group_arn" {
  description = "Where tasks log."
  type        = string
}

variable "rule_arn" {
  description = "The weighted rule."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:elasticloadbalancing:[^:]+:[0-9]+:listener-rule/app/", var.rule_arn))
    error_message = "It must be the ARN of a rule of an application load balancer, not of a listener."
  }
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
  nullable    = false
}
