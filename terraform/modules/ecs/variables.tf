variable "name" {
  description = "What everything here is called; the services and the families of task definitions are NAME-blue and NAME-green. `rollout --app`."
  type        = string
  default     = "mcp-server"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,24}[a-z0-9]$", var.name))
    error_message = "A name has 2 to 26 of a-z, 0-9 and -, and begins with a letter."
  }
}

# === Where

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "subnet_ids" {
  description = "Where tasks run: private subnets with a way to ECR, Secrets Manager and CloudWatch Logs, in at least two availability zones."
  type        = list(string)

  validation {
    condition     = length(distinct(var.subnet_ids)) >= 2
    error_message = "A color in one availability zone goes with it."
  }
}

variable "cluster" {
  description = "A cluster that there is already. Without it, one is made, called NAME."
  type        = object({ arn = string, name = string })
  default     = null
}

variable "container_insights" {
  description = "Of a cluster that is made: `enabled`, or `enhanced`, which also counts every task and costs more."
  type        = string
  default     = "enabled"
  nullable    = false

  validation {
    condition     = contains(["enabled", "enhanced"], var.container_insights)
    error_message = "It may be enabled or enhanced."
  }
}

variable "target_group_arns" {
  description = "The target group of each color, of modules/alb."
  type        = map(string)

  validation {
    condition     = length(setsubtract(["blue", "green"], keys(var.target_group_arns))) == 0
    error_message = "It needs blue and green."
  }
}

variable "balancer_security_group_id" {
  description = "The security group of the load balancer: the only way in for clients. It gets its way out to the tasks here."
  type        = string
}

variable "operations_security_group_ids" {
  description = "Who reaches the operations port 9464, and 3000 of a color that is not live: where `rollout` runs, the traffic shifter, Prometheus. By any name, because Terraform must know how many there are before it knows the ids."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "egress_cidrs" {
  description = "Where tasks may go on port 443. ECR, Secrets Manager and CloudWatch Logs must be among it, and the issuer of tokens. Null: the networks of the VPC, where interface endpoints are. Through a NAT gateway, name where it leads; [\"0.0.0.0/0\"] is anywhere."
  type        = list(string)
  default     = null

  validation {
    condition     = var.egress_cidrs == null || alltrue([for cidr in coalesce(var.egress_cidrs, []) : can(cidrhost(cidr, 0))])
    error_message = "Each must be a network, as 10.0.0.0/16."
  }
}

variable "egress_prefix_list_ids" {
  description = "Prefix lists that tasks may go to on port 443, by any name: that of the gateway endpoint of S3, which layers of images come from."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "trusted_proxies" {
  description = "The networks of the proxies whose X-Forwarded-For is believed: `balancer_cidrs` of modules/alb, and those of a CDN before it. Empty: no proxy is believed, and all clients share the balancer's addresses and their limits."
  type        = list(string)
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.trusted_proxies : can(cidrhost(cidr, 0))])
    error_message = "Each must be a network, as 10.0.0.0/24."
  }

  validation {
    condition     = !anytrue([for cidr in var.trusted_proxies : endswith(cidr, "/0")])
    error_message = "Every client could claim any address."
  }
}

# === What

variable "image" {
  description = "The first image, by digest. Each one after it comes with `rollout deploy IMAGE`."
  type        = string

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.image))
    error_message = "Name it by digest, as NAME@sha256:…: a tag can be another image for the next task."
  }
}

variable "repository_arns" {
  description = "The ECR repositories that images may come from. Empty where they come from a public registry."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "cpu" {
  description = "Of a task, in 1/1024 of a CPU. Chosen, not measured: look at what yours uses and change it."
  type        = number
  default     = 512
  nullable    = false

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096], var.cpu)
    error_message = "It may be 256, 512, 1024, 2048 or 4096."
  }
}

variable "memory" {
  description = "Of a task, in MiB. At most 100,000 sessions of some 100 bytes, and calls of at most 1 MiB; what goes beyond is a leak."
  type        = number
  default     = 1024
  nullable    = false
}

variable "cpu_architecture" {
  description = "What the image is built for."
  type        = string
  default     = "X86_64"
  nullable    = false

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "It may be X86_64 or ARM64."
  }
}

variable "public_url" {
  description = "The address that clients know. Its host is ours."
  type        = string

  validation {
    condition     = can(regex("^https://[^/]+$", var.public_url))
    error_message = "It must be https://HOST."
  }
}

variable "authentication" {
  description = "Who may call. `oauth` takes access tokens of the issuer that `environment` names as OAUTH_ISSUER; `none` lets in everybody who reaches the balancer. It has no default, because it must be said aloud."
  type        = string

  validation {
    condition     = length(var.authentication) > 0 && !startswith(var.authentication, "header:")
    error_message = "Say who may call. header:… believes what anybody can send, and the server takes it on 127.0.0.1 only."
  }
}

variable "allowed_hosts" {
  description = "Further host names that are ours, beside that of public_url. The balancer's health checks and calls between tasks name an IP address, which needs no entry."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "environment" {
  description = "Further variables of the server, for both colors; `mcp-server config` prints all there are. What belongs to one build comes with its deploy: `--env NAME=VALUE`."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = length(setintersection(keys(var.environment), [
      "LISTEN", "OPERATIONS_LISTEN", "AUTHENTICATION", "TRUSTED_PROXIES", "PUBLIC_URL", "ALLOWED_HOSTS", "MIGRATE", "RELEASE_COLOR", "LOG_FORMAT",
      "DATABASE_POOL_SIZE", "DATABASE_POOLER", "LEAVE_DELAY_SECS", "CALL_TIMEOUT_SECS", "DRAIN_DEADLINE_SECS", "CLOSE_SECS",
      "IDLE_TIMEOUT_SECS",
    ])) == 0
    error_message = "Among these is one that this module sets; change it there."
  }

  validation {
    condition     = length(setintersection(keys(var.environment), ["DATABASE_URL", "DATABASE_DIRECT_URL", "DATABASE_MIGRATE_URL", "REQUEST_STATE_KEYS", "FORWARD_KEY"])) == 0
    error_message = "Among these is a secret; everybody who may describe a task definition would read it."
  }
}

# === The database

variable "database_secret" {
  description = "The secret that holds the database's address: JSON with `url_key`, and `direct_url_key` where the url leads to a pooler. `migrate_url_key` names the field with the URL of the user that owns the tables, where the one that serves is another; the tasks that serve can read it too, because one that migrates is run from their definition, but they do not connect with it. `forward_key` names the field with the key that replicas prove themselves with to each other; without it conversations do not stay on a build. `kms_key_arn` where the secret lies under a key of one's own."
  type = object({
    arn             = string
    url_key         = optional(string, "url")
    direct_url_key  = optional(string)
    migrate_url_key = optional(string)
    forward_key     = optional(string)
    kms_key_arn     = optional(string)
  })
}

variable "database_pooler" {
  description = "What is between the server and PostgreSQL: `none`, or `transaction` for RDS Proxy or PgBouncer in transaction mode, where no statement may have a name."
  type        = string
  default     = "none"
  nullable    = false

  validation {
    condition     = contains(["none", "transaction"], var.database_pooler)
    error_message = "It may be none or transaction."
  }
}

variable "database_pool_size" {
  description = "Connections of a task, beside one that listens."
  type        = number
  default     = 5
  nullable    = false

  validation {
    condition     = var.database_pool_size >= 1 && floor(var.database_pool_size) == var.database_pool_size
    error_message = "At least 1."
  }
}

variable "database_connections" {
  description = "How many connections PostgreSQL has for these servers. 97 is what its default of 100 leaves; on RDS it follows from the memory."
  type        = number
  default     = 97
  nullable    = false
}

variable "database_security_group_ids" {
  description = "The security groups of the database, and of the proxy before it, by any name. The way in there is theirs to open, to task_security_group_id."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "database_port" {
  description = "The port of the database and of the proxy before it."
  type        = number
  default     = 5432
  nullable    = false
}

# === How many, and how long

variable "autoscaling" {
  description = "Of a color that is live: how few tasks, how many at most, and at which CPU it grows. 60 % leaves room for a zone that is lost, and for the time until a new task is ready."
  type = object({
    minimum     = optional(number, 2)
    maximum     = optional(number, 5)
    cpu_percent = optional(number, 60)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.autoscaling.minimum >= 2 && var.autoscaling.maximum >= var.autoscaling.minimum
    error_message = "A live color needs at least 2 tasks, one for each of two zones, and a maximum that is not below it."
  }

  validation {
    condition     = var.autoscaling.cpu_percent >= 10 && var.autoscaling.cpu_percent <= 90
    error_message = "cpu_percent is between 10 and 90."
  }
}

variable "deadlines" {
  description = "Seconds. They form one chain; the balancer's part is in modules/alb, under the same names."
  type = object({
    call_timeout        = optional(number, 30) # CALL_TIMEOUT_SECS
    leave_delay         = optional(number, 20) # LEAVE_DELAY_SECS
    drain_deadline      = optional(number, 30) # DRAIN_DEADLINE_SECS
    close               = optional(number, 2)  # CLOSE_SECS
    stop_timeout        = optional(number, 70)
    server_idle_timeout = optional(number, 75) # IDLE_TIMEOUT_SECS
    ready_within        = optional(number, 300)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.deadlines.call_timeout <= var.deadlines.drain_deadline
    error_message = "call_timeout must not be longer than drain_deadline: the drain would give up on a call that may still be answered."
  }

  validation {
    condition     = var.deadlines.leave_delay >= 20
    error_message = "leave_delay must be at least 20: a balancer with IP targets goes on sending for up to 19 s to a task that leaves."
  }

  validation {
    condition     = var.deadlines.stop_timeout >= var.deadlines.leave_delay + var.deadlines.drain_deadline + var.deadlines.close + 9
    error_message = "stop_timeout must be at least leave_delay + drain_deadline + close + 9: a task would be killed in the middle of its departure."
  }

  validation {
    condition     = var.deadlines.stop_timeout <= 120
    error_message = "stop_timeout is at most 120 on Fargate: shorten the deadlines before it."
  }
}

variable "live_on_first_day" {
  description = "Which color has tasks when the services are made. Nobody reads it after that."
  type        = string
  default     = "blue"
  nullable    = false

  validation {
    condition     = contains(["blue", "green"], var.live_on_first_day)
    error_message = "It may be blue or green."
  }
}

# === Looking in

variable "enable_execute_command" {
  description = "Whether tasks can be looked into with ECS Exec, which runs only what is in the image: `mcp-server config`. It takes the read-only root away and needs new tasks, so it is for an hour and not for ever."
  type        = bool
  default     = false
  nullable    = false
}

variable "log_retention_days" {
  description = "How long the log is kept."
  type        = number
  default     = 400
  nullable    = false

  validation {
    condition     = contains([365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "A year or more, of what CloudWatch offers: 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653."
  }
}

variable "kms_key" {
  description = "A key that there is already, for logs; its policy must let CloudWatch Logs use it. Without it, one is made."
  type        = object({ arn = string })
  default     = null
}

variable "tags" {
  description = "Tags of everything. Those that begin with rollout.mcp/ are `rollout`'s."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = !anytrue([for key in keys(var.tags) : startswith(key, "rollout.mcp/")])
    error_message = "Tags that begin with rollout.mcp/ are `rollout`'s."
  }
}
