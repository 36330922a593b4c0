# The colors, as they are made; no account is asked. Runs that name no `state_key` follow one another on the same services.

mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  vpc_id                        = "vpc-1"
  subnet_ids                    = ["subnet-1", "subnet-2"]
  target_group_arns             = { blue = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/blue/1", green = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/green/2" }
  balancer_security_group_id    = "sg-balancer"
  operations_security_group_ids = { rollout = "sg-rollout", prometheus = "sg-prometheus" }
  database_security_group_ids   = { database = "sg-database" }
  image                         = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/mcp-server@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  repository_arns               = ["arn:aws:ecr:eu-central-1:111122223333:repository/mcp-server"]
  public_url                    = "https://mcp.example.com"
  authentication                = "none"
  trusted_proxies               = ["10.0.1.0/24", "10.0.2.0/24"]
  database_secret               = { arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:mcp-server/database-aaaaaa" }
}

# === What a rollout relies on

run "services_are_called_after_the_colors" {
  assert {
    condition     = { for color, service in aws_ecs_service.color : color => service.name } == { blue = "mcp-server-blue", green = "mcp-server-green" }
    error_message = "a rollout looks for APP-blue and APP-green"
  }

  assert {
    condition     = { for color, definition in aws_ecs_task_definition.color : color => definition.family } == { blue = "mcp-server-blue", green = "mcp-server-green" }
    error_message = "each color has a family of its own"
  }

  assert {
    condition     = alltrue([for definition in aws_ecs_task_definition.color : jsondecode(definition.container_definitions)[0].name == "mcp-server"])
    error_message = "a rollout looks for a container APP"
  }

  assert {
    condition     = { for color, service in aws_ecs_service.color : color => one(service.load_balancer).target_group_arn } == { blue = var.target_group_arns["blue"], green = var.target_group_arns["green"] }
    error_message = "each color has a target group of its own"
  }
}

run "blue_runs_on_the_first_day_and_green_does_not" {
  assert {
    condition     = { for color, service in aws_ecs_service.color : color => service.desired_count } == { blue = 2, green = 0 }
    error_message = "blue begins with the minimum, green with nothing"
  }

  assert {
    condition     = { for color, target in aws_appautoscaling_target.color : color => target.suspended_state[0].dynamic_scaling_in_suspended } == { blue = false, green = true }
    error_message = "the autoscaler of a color without traffic rests"
  }

  assert {
    condition     = alltrue([for target in aws_appautoscaling_target.color : target.min_capacity == 2 && target.max_capacity == 5])
    error_message = "whichever color is live, it has at least two tasks"
  }
}

# The same state, and files that say something else.
run "images_and_numbers_of_tasks_are_left_alone_after_that" {
  variables {
    live_on_first_day = "green"
    image             = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/mcp-server@sha256:1111111111111111111111111111111111111111111111111111111111111111"
    autoscaling       = { minimum = 3 }
  }

  assert {
    condition     = { for color, service in aws_ecs_service.color : color => service.desired_count } == { blue = 2, green = 0 }
    error_message = "an apply scaled a color"
  }

  assert {
    condition     = { for color, target in aws_appautoscaling_target.color : color => target.suspended_state[0].dynamic_scaling_in_suspended } == { blue = false, green = true }
    error_message = "an apply woke an autoscaler"
  }

  assert {
    condition     = aws_appautoscaling_target.color["blue"].min_capacity == 3
    error_message = "the limits of a live color are Terraform's"
  }
}

# === What runs

run "each_color_is_told_what_it_is_and_the_rest_alike" {
  command = plan

  assert {
    condition = alltrue([for color, definition in aws_ecs_task_definition.color :
      { for variable in jsondecode(definition.container_definitions)[0].environment : variable.name => variable.value } == {
        LISTEN              = "0.0.0.0:3000"
        OPERATIONS_LISTEN   = "0.0.0.0:9464"
        AUTHENTICATION      = "none"
        TRUSTED_PROXIES     = "10.0.1.0/24,10.0.2.0/24"
        PUBLIC_URL          = "https://mcp.example.com"
        MIGRATE             = "off"
        DATABASE_POOL_SIZE  = "5"
        DATABASE_POOLER     = "direct"
        LEAVE_DELAY_SECS    = "20"
        CALL_TIMEOUT_SECS   = "30"
        DRAIN_DEADLINE_SECS = "30"
        CLOSE_SECS          = "2"
        IDLE_TIMEOUT_SECS   = "75"
        LOG_FORMAT          = "json"
        ADVERTISE_ADDRESS   = "ecs"
        RELEASE_COLOR       = color
      }
    ])
    error_message = "these variables and no others"
  }

  assert {
    condition = alltrue([for definition in aws_ecs_task_definition.color : jsondecode(definition.container_definitions)[0].portMappings[*].containerPort == [3000, 9464]])

    error_message = "clients on 3000, operators on 9464"
  }
}

run "the_database_is_a_secret_and_not_a_variable" {
  command = plan

  assert {
    condition = alltrue([for definition in aws_ecs_task_definition.color : jsondecode(definition.container_definitions)[0].secrets == [
      { name = "DATABASE_URL", valueFrom = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:mcp-server/database-aaaaaa:url::" }
    ]])
    error_message = "DATABASE_URL is the field url of the secret"
  }
}

run "behind_a_pooler_there_is_a_way_past_it" {
  command = plan

  variables {
    database_pooler = "transaction"
    database_secret = { arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:s-aaaaaa", direct_url_key = "direct-url" }
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.color["blue"].container_definitions)[0].secrets[*].name == ["DATABASE_DIRECT_URL", "DATABASE_URL"]
    error_message = "both addresses"
  }

  assert {
    condition     = contains(jsondecode(aws_ecs_task_definition.color["blue"].container_definitions)[0].environment, { name = "DATABASE_POOLER", value = "transaction" })
    error_message = "the server must know that statements may have no names"
  }
}

run "a_container_may_do_nothing" {
  command = plan

  assert {
    condition     = alltrue([for definition in aws_ecs_task_definition.color : jsondecode(definition.container_definitions)[0].readonlyRootFilesystem])
    error_message = "the root is read-only"
  }

  assert {
    condition     = alltrue([for definition in aws_ecs_task_definition.color : jsondecode(definition.container_definitions)[0].user == "65532:65532"])
    error_message = "it runs as nobody"
  }

  assert {
    condition     = alltrue([for definition in aws_ecs_task_definition.color : jsondecode(definition.container_definitions)[0].linuxParameters.capabilities.drop == ["ALL"]])
    error_message = "it has no capabilities"
  }

  assert {
    condition     = alltrue([for service in aws_ecs_service.color : !service.enable_execute_command && !one(service.network_configuration).assign_public_ip])
    error_message = "nobody looks in, and nobody reaches it from outside"
  }

  assert {
    condition     = length(aws_iam_role_policy.exec) == 0
    error_message = "the server may do nothing in AWS"
  }
}

run "looking_in_is_an_exception_with_a_price" {
  command = plan

  variables {
    enable_execute_command = true
  }

  assert {
    condition     = !jsondecode(aws_ecs_task_definition.color["blue"].container_definitions)[0].readonlyRootFilesystem && jsondecode(aws_ecs_task_definition.color["blue"].container_definitions)[0].linuxParameters.initProcessEnabled
    error_message = "the agent of ECS Exec writes, and has children"
  }

  assert {
    condition     = length(aws_iam_role_policy.exec) == 1
    error_message = "the task role lets the agent in"
  }
}

run "liveness_is_asked_by_the_servers_own_binary" {
  command = plan

  assert {
    condition     = alltrue([for definition in aws_ecs_task_definition.color : jsondecode(definition.container_definitions)[0].healthCheck.command == ["CMD", "/usr/local/bin/mcp-server", "health"]])
    error_message = "the image has no shell"
  }
}

run "the_deadlines_form_one_chain" {
  command = plan

  assert {
    condition = alltrue([for definition in aws_ecs_task_definition.color : alltrue([
      for container in jsondecode(definition.container_definitions) : container.stopTimeout <= 120 && container.stopTimeout >= 9 + sum([
        for variable in container.environment : tonumber(variable.value) if contains(["LEAVE_DELAY_SECS", "DRAIN_DEADLINE_SECS", "CLOSE_SECS"], variable.name)
      ])
    ])])
    error_message = "a task is killed in the middle of its departure"
  }

  assert {
    condition     = alltrue([for service in aws_ecs_service.color : service.health_check_grace_period_seconds == 300])
    error_message = "a task that waits for a migration is not replaced"
  }
}

run "a_build_that_does_not_come_up_is_not_replaced_by_another" {
  command = plan

  assert {
    condition     = alltrue([for service in aws_ecs_service.color : service.deployment_circuit_breaker[0].enable && !service.deployment_circuit_breaker[0].rollback])
    error_message = "given up, and not gone back behind a rollout's back"
  }

  assert {
    condition     = alltrue([for service in aws_ecs_service.color : service.deployment_minimum_healthy_percent == 100 && service.deployment_maximum_percent == 200])
    error_message = "no task goes before its successor is healthy"
  }
}

# === Who talks to whom

run "clients_come_through_the_balancer_and_no_other_way" {
  command = plan

  assert {
    condition     = aws_vpc_security_group_ingress_rule.balancer.referenced_security_group_id == "sg-balancer" && aws_vpc_security_group_ingress_rule.balancer.from_port == 3000
    error_message = "3000 from the balancer"
  }

  assert {
    condition     = { for name, rule in aws_vpc_security_group_ingress_rule.operations : name => rule.from_port } == { rollout = 9464, prometheus = 9464 }
    error_message = "9464 from whom it is allowed to"
  }

  assert {
    condition     = alltrue([for rule in concat(values(aws_vpc_security_group_ingress_rule.operations), values(aws_vpc_security_group_ingress_rule.gates), [aws_vpc_security_group_ingress_rule.balancer, aws_vpc_security_group_ingress_rule.between]) : rule.cidr_ipv4 == null && rule.cidr_ipv6 == null])
    error_message = "no way in is open to a network"
  }

  assert {
    condition     = aws_vpc_security_group_egress_rule.database["database"].from_port == 5432
    error_message = "the way to the database"
  }
}

run "tasks_reach_the_vpc_and_what_is_named_and_nothing_else" {
  assert {
    condition     = { for cidr, rule in aws_vpc_security_group_egress_rule.https : cidr => rule.from_port } == { "10.0.0.0/16" = 443 } && length(aws_vpc_security_group_egress_rule.prefix_list) == 0
    error_message = "without a word about it, tasks reach the endpoints in the VPC"
  }
}

run "more_is_named" {
  state_key = "egress"

  variables {
    egress_cidrs           = ["198.51.100.0/24"]
    egress_prefix_list_ids = { s3 = "pl-1" }
  }

  assert {
    condition     = join(",", keys(aws_vpc_security_group_egress_rule.https)) == "198.51.100.0/24" && aws_vpc_security_group_egress_rule.prefix_list["s3"].prefix_list_id == "pl-1"
    error_message = "what is named, and no more"
  }
}

run "tasks_say_whose_they_are" {
  assert {
    condition     = alltrue([for service in aws_ecs_service.color : service.tags["release-app"] == "mcp-server" && service.propagate_tags == "SERVICE"])
    error_message = "the policies of rollout and of the traffic shifter look for release-app"
  }
}

run "no_proxy_can_be_believed" {
  command = plan

  variables {
    trusted_proxies = []
  }

  assert {
    condition     = alltrue([for definition in aws_ecs_task_definition.color : contains(jsondecode(definition.container_definitions)[0].environment, { name = "TRUSTED_PROXIES", value = "none" })])
    error_message = "it is said all the same"
  }
}

run "every_client_cannot_be_believed" {
  command = plan

  variables {
    trusted_proxies = ["0.0.0.0/0"]
  }

  expect_failures = [var.trusted_proxies]
}

run "who_is_believed_is_not_said_in_a_second_place" {
  command = plan

  variables {
    environment = { TRUSTED_PROXIES = "0.0.0.0/0" }
  }

  expect_failures = [var.environment]
}

# === What it may do

run "no_policy_allows_every_action" {
  command = plan

  assert {
    condition = alltrue(flatten([
      for document in [data.aws_iam_policy_document.execution, data.aws_iam_policy_document.exec] : [
        for statement in document.statement : [for action in statement.actions : !strcontains(action, "*")]
      ]
    ]))
    error_message = "actions are spelled out"
  }

  assert {
    condition     = alltrue([for statement in data.aws_iam_policy_document.execution.statement : statement.resources != toset(["*"]) || statement.actions == toset(["ecr:GetAuthorizationToken"])])
    error_message = "only the login to the registry knows no resource"
  }

  assert {
    condition     = alltrue([for statement in data.aws_iam_policy_document.execution.statement : statement.resources == toset([var.database_secret.arn]) if contains(statement.actions, "secretsmanager:GetSecretValue")])
    error_message = "that secret and no other"
  }
}

run "a_key_of_ones_own_is_used_for_that_secret_alone" {
  command = plan

  variables {
    database_secret = {
      arn         = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:s-aaaaaa"
      kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/1"
    }
  }

  assert {
    condition = one([
      for statement in data.aws_iam_policy_document.execution.statement : one(statement.condition).values
      if statement.actions == toset(["kms:Decrypt"]) && statement.resources == toset(["arn:aws:kms:eu-central-1:111122223333:key/1"])
    ]) == tolist(["secretsmanager.eu-central-1.amazonaws.com"])
    error_message = "decrypting, through Secrets Manager"
  }
}

run "logs_are_kept_for_a_year_under_a_key" {
  assert {
    condition     = aws_cloudwatch_log_group.this.retention_in_days >= 365 && aws_cloudwatch_log_group.this.kms_key_id == aws_kms_key.this[0].arn && aws_kms_key.this[0].enable_key_rotation
    error_message = "a year, encrypted"
  }
}

run "what_is_there_already_is_used" {
  command   = plan
  state_key = "existing"

  variables {
    cluster = { arn = "arn:aws:ecs:eu-central-1:111122223333:cluster/shared", name = "shared" }
    kms_key = { arn = "arn:aws:kms:eu-central-1:111122223333:key/1" }
  }

  assert {
    condition     = length(aws_ecs_cluster.this) == 0 && length(aws_kms_key.this) == 0
    error_message = "nothing is made that there is"
  }

  assert {
    condition     = aws_ecs_service.color["blue"].cluster == var.cluster.arn && aws_appautoscaling_target.color["green"].resource_id == "service/shared/mcp-server-green" && aws_cloudwatch_log_group.this.kms_key_id == var.kms_key.arn
    error_message = "what there is is used"
  }
}

# === What is refused

run "a_call_must_fit_into_the_drain" {
  command = plan

  variables {
    deadlines = { call_timeout = 31 }
  }

  expect_failures = [var.deadlines]
}

run "a_departure_must_fit_into_the_stop" {
  command = plan

  variables {
    deadlines = { stop_timeout = 60 }
  }

  expect_failures = [var.deadlines]
}

run "a_stop_must_fit_into_fargate" {
  command = plan

  variables {
    deadlines = { drain_deadline = 90, stop_timeout = 121 }
  }

  expect_failures = [var.deadlines]
}

run "a_balancer_needs_twenty_seconds_to_learn" {
  command = plan

  variables {
    deadlines = { leave_delay = 19 }
  }

  expect_failures = [var.deadlines]
}

run "the_database_has_only_so_many_connections" {
  command = plan

  variables {
    autoscaling = { maximum = 6 }
  }

  expect_failures = [aws_ecs_task_definition.color]
}

run "a_migration_cannot_pass_a_pooler" {
  command = plan

  variables {
    database_pooler = "transaction"
  }

  expect_failures = [aws_ecs_task_definition.color]
}

run "fargate_has_not_every_size" {
  command = plan

  variables {
    memory = 512
  }

  expect_failures = [aws_ecs_task_definition.color]
}

run "a_tag_is_no_image" {
  command = plan

  variables {
    image = "mcp-server:latest"
  }

  expect_failures = [var.image]
}

run "a_header_is_no_authentication" {
  command = plan

  variables {
    authentication = "header:x-user"
  }

  expect_failures = [var.authentication]
}

run "a_secret_is_no_variable" {
  command = plan

  variables {
    environment = { DATABASE_URL = "postgresql://app:hunter2@db/app" }
  }

  expect_failures = [var.environment]
}

run "the_color_is_not_a_variable_of_yours" {
  command = plan

  variables {
    environment = { RELEASE_COLOR = "green" }
  }

  expect_failures = [var.environment]
}

run "one_task_is_too_few" {
  command = plan

  variables {
    autoscaling = { minimum = 1 }
  }

  expect_failures = [var.autoscaling]
}

run "an_entrance_without_tls_is_refused" {
  command = plan

  variables {
    public_url = "http://mcp.example.com"
  }

  expect_failures = [var.public_url]
}

run "a_pooler_of_another_kind_is_refused" {
  command = plan

  variables {
    database_pooler = "session"
  }

  expect_failures = [var.database_pooler]
}

run "both_colors_need_a_target_group" {
  command = plan

  variables {
    target_group_arns = { blue = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/blue/1" }
  }

  expect_failures = [var.target_group_arns]
}

run "a_month_of_logs_is_too_short" {
  command = plan

  variables {
    log_retention_days = 30
  }

  expect_failures = [var.log_retention_days]
}
