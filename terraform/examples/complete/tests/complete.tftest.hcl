# Everything wired, as it is made; no account is asked. What one module tells another is what is looked at here.

mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  region                     = "eu-central-1"
  vpc_id                     = "vpc-1"
  public_subnet_ids          = ["subnet-1", "subnet-2"]
  private_subnet_ids         = ["subnet-3", "subnet-4"]
  certificate_arn            = "arn:aws:acm:eu-central-1:111122223333:certificate/1"
  database_security_group_id = "sg-database"
  rollout_security_group_id  = "sg-rollout"
  public_url                 = "https://mcp.example.com"
  authentication             = "none"
  image                      = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/mcp-server@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  traffic_shifter_package    = "./main.tf"
}

run "a_rollout_is_told_where_everything_is" {
  assert {
    condition     = output.rollout == "rollout --platform ecs --cluster mcp-server --app mcp-server --rule ${output.rule_arn} --entrance https://mcp.example.com"
    error_message = "the command line names what was made"
  }

  assert {
    condition     = output.service_names == { blue = "mcp-server-blue", green = "mcp-server-green" } && output.cluster_name == "mcp-server"
    error_message = "a rollout looks for APP-blue and APP-green in the cluster"
  }
}

run "the_shifter_hears_of_seven_alarms" {
  assert {
    condition     = length(output.alarm_names) == 7 && output.traffic_shifter == "mcp-server-traffic-shifter"
    error_message = "three for each color, and the entrance's"
  }
}

run "what_the_modules_agree_on_is_one_chain" {
  assert {
    condition     = local.deadlines.deregistration_delay >= local.deadlines.leave_delay + local.deadlines.call_timeout && local.deadlines.stop_timeout >= local.deadlines.leave_delay + local.deadlines.drain_deadline + local.deadlines.close + 9
    error_message = "a call would be cut"
  }
}

run "the_database_lets_the_tasks_in_and_nobody_else" {
  assert {
    condition     = aws_vpc_security_group_ingress_rule.database.security_group_id == "sg-database" && aws_vpc_security_group_ingress_rule.database.referenced_security_group_id == module.ecs.task_security_group_id && aws_vpc_security_group_ingress_rule.database.from_port == 5432
    error_message = "by the security group of the tasks"
  }
}

run "access_logs_are_written_by_balancers_of_this_account" {
  assert {
    condition = anytrue([for statement in data.aws_iam_policy_document.access_logs.statement :
      statement.actions == toset(["s3:PutObject"]) && one(statement.principals).identifiers == toset(["logdelivery.elasticloadbalancing.amazonaws.com"]) && length(statement.condition) == 1
    ])
    error_message = "by Elastic Load Balancing, for this account"
  }

  assert {
    condition     = alltrue([aws_s3_bucket_public_access_block.access_logs.block_public_policy, aws_s3_bucket_public_access_block.access_logs.restrict_public_buckets])
    error_message = "nobody else reads them"
  }
}

run "it_is_not_public_and_believes_the_balancer_alone" {
  assert {
    condition     = module.alb.balancer_cidrs == tolist(["10.0.1.0/24"]) && output.public == false
    error_message = "internal unless it is said, with the balancer's networks believed about clients"
  }
}

run "it_can_be_public_behind_a_web_acl_and_with_an_issuer" {
  command = plan

  variables {
    public         = true
    client_cidrs   = ["0.0.0.0/0"]
    web_acl_arn    = "arn:aws:wafv2:eu-central-1:111122223333:regional/webacl/acl/1"
    authentication = "oauth"
    oauth_issuer   = "https://auth.example.com"
    egress_cidrs   = ["198.51.100.0/24"]
  }

  assert {
    condition     = output.public && output.web_acl_arn == var.web_acl_arn
    error_message = "it is planned, with the web ACL"
  }
}

run "oauth_needs_an_issuer" {
  command = plan

  variables {
    authentication = "oauth"
  }

  expect_failures = [var.authentication]
}

run "a_pooler_works_as_well" {
  command = plan

  variables {
    database_pooler = "transaction"
  }

  assert {
    condition     = output.service_names["blue"] == "mcp-server-blue"
    error_message = "it is planned"
  }
}

