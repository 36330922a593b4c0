variable "name" {
  description = "What the services are called, before -blue and -green. The function is NAME-traffic-shifter."
  type        = string
  default     = "mcp-server"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,24}[a-z0-9]$", var.name))
    error_message = "A name has 2 to 26 of a-z, 0-9 and -, and begins with a letter."
  }
}

# === The function

variable "package" {
  description = "The zip with the program `bootstrap` in it."
  type        = string

  validation {
    condition     = fileexists(var.package)
    error_message = "There is no such file: build the traffic shifter first, as README.md says."
  }
}

variable "architecture" {
  description = "What the program is built for."
  type        = string
  default     = "arm64"
  nullable    = false

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "It may be arm64 or x86_64."
  }
}

variable "code_signing_config_arn" {
  description = "Who must have signed the zip. Without it, whoever may update the function decides what it runs."
  type        = string
  default     = null
}

variable "timeout_seconds" {
  description = "How long it may take: it waits while it bakes."
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.timeout_seconds <= 900
    error_message = "A Lambda ends after 900 s."
  }
}

variable "healthy_percent" {
  description = "How many of a hundred targets of a color must be healthy before it gets the traffic, and while it bakes."
  type        = number
  default     = 80
  nullable    = false

  validation {
    condition     = var.healthy_percent >= 1 && var.healthy_percent <= 100
    error_message = "It is between 1 and 100."
  }
}

variable "bake_seconds" {
  description = "How long a switch is watched before it is called done."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.bake_seconds >= 0 && var.bake_seconds <= 780
    error_message = "It is between 0 and 780: the function has 900 s, and needs 120 of them to go back."
  }
}

variable "entrance" {
  description = "Where clients come in; a switch is proved there."
  type        = string

  validation {
    condition     = can(regex("^https://[^/]+$", var.entrance))
    error_message = "It must be https://HOST."
  }
}

variable "log_retention_days" {
  description = "How long its log is kept."
  type        = number
  default     = 400
  nullable    = false

  validation {
    condition     = contains([365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "A year or more, of what CloudWatch offers: 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653."
  }
}

variable "kms_key_arn" {
  description = "The key of its log and of its variables; its policy must let CloudWatch Logs use it. That of modules/ecs does."
  type        = string
}

# === Where it stands

variable "vpc_id" {
  description = "The VPC of the tasks."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets with a way to AWS and to the entrance: a NAT gateway where the entrance is public."
  type        = list(string)

  validation {
    condition     = length(distinct(var.subnet_ids)) >= 2
    error_message = "What sends traffic back must not go with one availability zone."
  }
}

variable "egress_cidrs" {
  description = "Where it may go on port 443: AWS's services, and the entrance. Null: the networks of the VPC, where interface endpoints are and an internal balancer is. A public balancer has no fixed addresses: [\"0.0.0.0/0\"], through a NAT gateway."
  type        = list(string)
  default     = null

  validation {
    condition     = var.egress_cidrs == null || alltrue([for cidr in coalesce(var.egress_cidrs, []) : can(cidrhost(cidr, 0))])
    error_message = "Each must be a network, as 10.0.0.0/16."
  }
}

# === What it moves: outputs of modules/alb and modules/ecs

variable "cluster_name" {
  description = "The cluster."
  type        = string
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

variable "native" {
  description = "A service that ECS deploys to by itself (modules/ecs-native), of the same name: the function says whether its deployments go on. With `answers_pauses` it also answers hooks of the type PAUSE by the gates alone; without it they wait for a person, or for somebody who sends the function `{\"action\": \"continue\", \"deployment\": ARN}`."
  type = object({
    service_arn    = string
    answers_pauses = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.native == null || can(regex(":service/[^/*]+/[^/*]+$", var.native.service_arn))
    error_message = "service_arn must be the ARN of a service, with its cluster, spelled out."
  }
}

variable "scalable_target_arns" {
  description = "What scales each of them."
  type        = list(string)

  validation {
    condition     = length(var.scalable_target_arns) == 2
    error_message = "It needs the ARNs of both scalable targets."
  }
}

variable "task_security_group_id" {
  description = "The tasks' security group. modules/ecs lets this function in by `operations_security_group_ids`."
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

variable "load_balancer_arn_suffix" {
  description = "The load balancer, as CloudWatch calls it."
  type        = string
}

variable "target_group_arn_suffixes" {
  description = "The target group of each color, as CloudWatch calls it."
  type        = map(string)

  validation {
    condition     = length(setsubtract(["blue", "green"], keys(var.target_group_arn_suffixes))) == 0
    error_message = "It needs blue and green."
  }
}

# === When it goes back by itself

variable "alarms" {
  description = "From where on a color is bad: per cent of 5xx, seconds at the 99th percentile, and how many requests in a minute are enough to say so. Chosen, not measured."
  type = object({
    error_percent    = optional(number, 2)
    p99_seconds      = optional(number, 3)
    minimum_requests = optional(number, 20)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.alarms.error_percent > 0 && var.alarms.error_percent < 100 && var.alarms.p99_seconds > 0
    error_message = "error_percent is between 0 and 100, and p99_seconds above 0."
  }

  validation {
    condition     = var.alarms.minimum_requests >= 1
    error_message = "minimum_requests is at least 1; what has no requests has no rate."
  }
}

variable "alarm_topic_arns" {
  description = "SNS topics that hear of every alarm, too: people."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
  nullable    = false
}
