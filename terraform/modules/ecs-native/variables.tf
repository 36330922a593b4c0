variable "name" {
  description = "What the service is called."
  type        = string
  default     = "mcp-server"
  nullable    = false
}

variable "cluster_arn" {
  description = "The cluster."
  type        = string
}

variable "task_definition_arn" {
  description = "The first definition. Its RELEASE_COLOR cannot follow the deployments: to ECS a color is a target group, and each deployment takes the other one."
  type        = string
}

variable "desired_count" {
  description = "How many tasks at first. During a deployment there are twice as many."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = var.desired_count >= 2
    error_message = "At least 2, one for each of two zones."
  }
}

variable "subnet_ids" {
  description = "Where tasks run."
  type        = list(string)
}

variable "task_security_group_id" {
  description = "The tasks' security group."
  type        = string
}

variable "target_group_arns" {
  description = "The two target groups, as modules/alb has them."
  type        = map(string)

  validation {
    condition     = length(setsubtract(["blue", "green"], keys(var.target_group_arns))) == 0
    error_message = "It needs blue and green."
  }
}

variable "production_rule_arn" {
  description = "The rule whose weights ECS moves."
  type        = string
}

variable "test_rule_arn" {
  description = "The rule that leads to the new tasks before they are live."
  type        = string
}

variable "hook_function_arn" {
  description = "The Lambda that is asked at each stage. It answers hookStatus SUCCEEDED, FAILED or IN_PROGRESS."
  type        = string
}

variable "approve_within_minutes" {
  description = "How long a deployment waits for a person before it moves traffic. Without it, nobody is asked."
  type        = number
  default     = null

  validation {
    condition     = var.approve_within_minutes == null || try(var.approve_within_minutes >= 1 && var.approve_within_minutes <= 20160, false)
    error_message = "It is between 1 and 20160: two weeks."
  }
}

variable "bake_minutes" {
  description = "How long the old tasks stay warm after the switch."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.bake_minutes >= 0 && var.bake_minutes <= 1440
    error_message = "It is between 0 and 1440: a day."
  }
}

variable "alarm_names" {
  description = "Alarms that end a deployment and go back."
  type        = list(string)
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
  nullable    = false
}
