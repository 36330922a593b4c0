variable "name" {
  description = "What the load balancer is called; the target groups are NAME-blue and NAME-green."
  type        = string
  default     = "mcp-server"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,24}[a-z0-9]$", var.name)) && !startswith(var.name, "internal-")
    error_message = "A name has 2 to 26 of a-z, 0-9 and -, begins with a letter, and not with internal-: AWS allows 32, and -green needs 6."
  }
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "subnet_ids" {
  description = "Where the load balancer stands, in at least two availability zones: private subnets if it is internal, else public ones."
  type        = list(string)

  validation {
    condition     = length(distinct(var.subnet_ids)) >= 2
    error_message = "A load balancer needs subnets in at least two availability zones."
  }
}

variable "internal" {
  description = "Whether it is reached from inside of the VPC only. ChatGPT comes from outside: false, said aloud, makes it public."
  type        = bool
  default     = true
  nullable    = false
}

variable "certificate_arn" {
  description = "The certificate of the host in PUBLIC_URL: ACM, in the same region."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:(acm|iam):", var.certificate_arn))
    error_message = "It must be the ARN of a certificate in ACM or IAM."
  }
}

variable "ssl_policy" {
  description = "Which TLS is spoken: 1.2 with forward secrecy, and 1.3."
  type        = string
  default     = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  nullable    = false

  validation {
    condition     = can(regex("^ELBSecurityPolicy-TLS13-1-[23]-", var.ssl_policy)) && !strcontains(var.ssl_policy, "-Ext")
    error_message = "It must be a policy of TLS 1.2 and 1.3 or of 1.3 alone, and none of the extended ones, which bring old ciphers back."
  }
}

variable "client_cidrs" {
  description = "Whose connections are accepted, IPv4 or IPv6. Empty: nobody's. An app of ChatGPT is called from anywhere: [\"0.0.0.0/0\"]."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0))])
    error_message = "Each must be a network, as 198.51.100.0/24."
  }
}

variable "preview_cidrs" {
  description = "Who may name a color with the header `release-color`. Empty: nobody, and the rules are not made."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.preview_cidrs : can(cidrhost(cidr, 0))])
    error_message = "Each must be a network, as 198.51.100.0/24."
  }

  validation {
    condition     = length(var.preview_cidrs) <= 4
    error_message = "At most 4: a rule has five values, and the header is one of them."
  }

  validation {
    condition     = !contains(var.preview_cidrs, "0.0.0.0/0") && !contains(var.preview_cidrs, "::/0")
    error_message = "Everybody would reach a build that has passed no gate yet."
  }
}

variable "deadlines" {
  description = "Seconds. The part of the chain that the balancer has; the tasks' part is in modules/ecs, under the same names."
  type = object({
    call_timeout         = optional(number, 30) # CALL_TIMEOUT_SECS
    leave_delay          = optional(number, 20) # LEAVE_DELAY_SECS
    deregistration_delay = optional(number, 60)
    idle_timeout         = optional(number, 60)
    server_idle_timeout  = optional(number, 75) # IDLE_TIMEOUT_SECS
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.deadlines.deregistration_delay >= var.deadlines.leave_delay + var.deadlines.call_timeout
    error_message = "deregistration_delay must be at least leave_delay + call_timeout: what the balancer sends in the last of those seconds would be cut."
  }

  validation {
    condition     = var.deadlines.deregistration_delay <= 3600
    error_message = "deregistration_delay is at most 3600."
  }

  validation {
    condition     = var.deadlines.idle_timeout > 15 && var.deadlines.idle_timeout > var.deadlines.call_timeout
    error_message = "idle_timeout must be longer than 15 s, after which a stream says something, and than call_timeout, in which a call says nothing."
  }

  validation {
    condition     = var.deadlines.idle_timeout < var.deadlines.server_idle_timeout
    error_message = "idle_timeout must be shorter than server_idle_timeout: the side that sends requests has to close first."
  }
}

variable "access_logs" {
  description = "Where access logs go: a bucket of this region that lets Elastic Load Balancing write, and what their names begin with."
  type = object({
    bucket = string
    prefix = optional(string)
  })
}

variable "web_acl" {
  description = "A regional web ACL of WAF. Its body rules see 8 KB of a request by default; a tool's arguments can be longer."
  type        = object({ arn = string })
  default     = null
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the load balancer."
  type        = bool
  default     = true
  nullable    = false
}

variable "live_on_first_day" {
  description = "Which color gets the traffic when the rule is made. Nobody reads it after that: the weights are `rollout`'s."
  type        = string
  default     = "blue"
  nullable    = false

  validation {
    condition     = contains(["blue", "green"], var.live_on_first_day)
    error_message = "It may be blue or green."
  }
}

variable "tags" {
  description = "Tags of everything; a later change does not reach the weighted rule. Those that begin with rollout.mcp/ are `rollout`'s."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = !anytrue([for key in keys(var.tags) : startswith(key, "rollout.mcp/")])
    error_message = "Tags that begin with rollout.mcp/ are written by `rollout`."
  }
}
