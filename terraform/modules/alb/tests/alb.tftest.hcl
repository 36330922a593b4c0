# The entrance, as it is made; no account is asked. Runs that name no `state_key` follow one another on the same entrance.

mock_provider "aws" {
  source = "../../tests/mocks"

  override_resource {
    target = aws_lb_target_group.color["blue"]
    values = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/mcp-server-blue/1" }
  }

  override_resource {
    target = aws_lb_target_group.color["green"]
    values = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/mcp-server-green/2" }
  }
}

variables {
  vpc_id          = "vpc-1"
  subnet_ids      = ["subnet-1", "subnet-2"]
  certificate_arn = "arn:aws:acm:eu-central-1:111122223333:certificate/1"
  access_logs     = { bucket = "logs" }
}

# === Who is live

run "blue_has_all_the_traffic_on_the_first_day" {
  assert {
    condition     = { for group in aws_lb_listener_rule.weighted.action[0].forward[0].target_group : split("/", group.arn)[1] => group.weight } == { mcp-server-blue = 100, mcp-server-green = 0 }
    error_message = "blue must have 100 and green 0, and both must be in the rule: a group that no rule names is not asked for its health"
  }

  assert {
    condition     = aws_lb_listener_rule.weighted.priority == 100 && one(aws_lb_listener_rule.weighted.condition).path_pattern[0].values == toset(["/*"])
    error_message = "the weighted rule stands at 100 and takes everything"
  }
}

# What a rollout moved is not moved back: the same state, and files that say something else.
run "the_weights_are_left_alone_after_that" {
  variables {
    live_on_first_day = "green"
  }

  assert {
    condition     = { for group in aws_lb_listener_rule.weighted.action[0].forward[0].target_group : split("/", group.arn)[1] => group.weight } == { mcp-server-blue = 100, mcp-server-green = 0 }
    error_message = "an apply moved the traffic"
  }
}

run "what_a_rollout_remembers_on_the_rule_is_left_alone" {
  variables {
    tags = { Team = "somebody" }
  }

  assert {
    condition     = !contains(keys(aws_lb_listener_rule.weighted.tags), "Team")
    error_message = "an apply changed tags of the rule, and would take away what a rollout remembers there"
  }

  assert {
    condition     = aws_lb.this.tags["Team"] == "somebody"
    error_message = "everything else is tagged"
  }
}

run "green_can_be_live_on_the_first_day" {
  state_key = "green"

  variables {
    live_on_first_day = "green"
  }

  assert {
    condition     = { for group in aws_lb_listener_rule.weighted.action[0].forward[0].target_group : split("/", group.arn)[1] => group.weight } == { mcp-server-blue = 0, mcp-server-green = 100 }
    error_message = "green must have 100"
  }
}

run "what_no_rule_takes_is_sent_to_no_color" {
  assert {
    condition     = aws_lb_listener.https.default_action[0].type == "fixed-response" && aws_lb_listener.https.default_action[0].fixed_response[0].status_code == "404"
    error_message = "the default action is a 404"
  }

  assert {
    condition     = aws_lb_listener.http.default_action[0].redirect[0].protocol == "HTTPS"
    error_message = "port 80 leads to 443"
  }
}

# === The two colors

run "no_client_is_kept_on_a_color" {
  assert {
    condition     = alltrue([for group in aws_lb_target_group.color : group.stickiness[0].enabled == false])
    error_message = "stickiness of a target group goes before the weights"
  }

  assert {
    condition     = length(aws_lb_listener_rule.weighted.action[0].forward[0].stickiness) == 0
    error_message = "stickiness of the rule goes before the weights"
  }
}

run "a_target_is_asked_whether_it_is_ready" {
  assert {
    condition     = alltrue([for group in aws_lb_target_group.color : group.health_check[0].path == "/ready" && group.health_check[0].matcher == "200"])
    error_message = "/health stays 200 while a task leaves"
  }

  assert {
    condition     = alltrue([for group in aws_lb_target_group.color : group.health_check[0].interval * group.health_check[0].unhealthy_threshold < var.deadlines.leave_delay])
    error_message = "a task that leaves must be found before its port closes"
  }

  assert {
    condition     = alltrue([for group in aws_lb_target_group.color : group.target_type == "ip" && group.port == 3000])
    error_message = "tasks on Fargate are targets by their address"
  }

  assert {
    condition     = { for color, group in aws_lb_target_group.color : color => group.name } == { blue = "mcp-server-blue", green = "mcp-server-green" }
    error_message = "the groups are called after the colors"
  }
}

# === The idle color, by name

run "a_color_can_be_named_by_those_who_may" {
  command = plan

  variables {
    preview_cidrs = ["192.0.2.0/24", "2001:db8::/32"]
  }

  assert {
    condition     = { for color, rule in aws_lb_listener_rule.preview : color => rule.priority } == { blue = 10, green = 11 }
    error_message = "the header rules stand before the weighted one"
  }

  assert {
    condition     = alltrue([for color, rule in aws_lb_listener_rule.preview : endswith(split("/", rule.action[0].target_group_arn)[1], color)])
    error_message = "each header leads to its own color"
  }

  assert {
    condition = alltrue([for color, rule in aws_lb_listener_rule.preview : anytrue([
      for condition in rule.condition : try(condition.http_header[0].http_header_name == "release-color" && condition.http_header[0].values == toset([color]), false)
    ])])
    error_message = "the header is release-color"
  }

  assert {
    condition = alltrue([for rule in aws_lb_listener_rule.preview : anytrue([
      for condition in rule.condition : try(condition.source_ip[0].values == toset(["192.0.2.0/24", "2001:db8::/32"]), false)
    ])])
    error_message = "only from where it is allowed"
  }
}

run "nobody_may_name_a_color_unless_it_is_said" {
  command = plan

  assert {
    condition     = length(aws_lb_listener_rule.preview) == 0
    error_message = "without preview_cidrs there is no header rule"
  }
}

# === What a reviewer asks

run "the_balancer_is_careful" {
  assert {
    condition     = aws_lb.this.drop_invalid_header_fields && aws_lb.this.desync_mitigation_mode == "strictest" && aws_lb.this.preserve_host_header
    error_message = "a request is read in one way"
  }

  assert {
    condition     = aws_lb.this.enable_deletion_protection && aws_lb.this.access_logs[0].enabled
    error_message = "it is not deleted by accident, and it says who came"
  }

  assert {
    condition     = aws_lb.this.idle_timeout > 15 && aws_lb.this.idle_timeout > var.deadlines.call_timeout && aws_lb.this.idle_timeout < var.deadlines.server_idle_timeout
    error_message = "longer than the silence of a stream and of a call, shorter than the server's patience"
  }

  assert {
    condition     = startswith(aws_lb_listener.https.ssl_policy, "ELBSecurityPolicy-TLS13-1-2-")
    error_message = "TLS 1.2 and 1.3"
  }
}

run "it_is_not_public_and_accepts_nobody_unless_that_is_said" {
  assert {
    condition     = aws_lb.this.internal && length(aws_vpc_security_group_ingress_rule.https) == 0 && length(aws_vpc_security_group_ingress_rule.http) == 0
    error_message = "it is internal, and no network is let in"
  }
}

run "it_is_public_where_that_is_said" {
  command = plan

  variables {
    internal     = false
    client_cidrs = ["0.0.0.0/0"]
  }

  assert {
    condition     = !aws_lb.this.internal && join(",", keys(aws_vpc_security_group_ingress_rule.https)) == "0.0.0.0/0"
    error_message = "it is public, and lets everybody in"
  }
}

run "the_networks_that_it_connects_from_are_known" {
  assert {
    condition     = output.balancer_cidrs == tolist(["10.0.1.0/24"]) && aws_lb.this.xff_header_processing_mode == "append"
    error_message = "those of its subnets; and what it adds to X-Forwarded-For comes last"
  }
}

run "a_web_acl_is_attached_where_there_is_one" {
  command = plan

  variables {
    web_acl = { arn = "arn:aws:wafv2:eu-central-1:111122223333:regional/webacl/acl/1" }
  }

  assert {
    condition     = length(aws_wafv2_web_acl_association.this) == 1
    error_message = "it is attached"
  }
}

run "the_second_network_is_an_ipv6_one" {
  command = plan

  variables {
    client_cidrs = ["0.0.0.0/0", "::/0"]
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.https["::/0"].cidr_ipv6 == "::/0" && aws_vpc_security_group_ingress_rule.https["::/0"].cidr_ipv4 == null
    error_message = "an IPv6 network is not an IPv4 one"
  }
}

# === What is refused

run "a_call_must_not_be_cut_when_its_target_is_taken_out" {
  command = plan

  variables {
    deadlines = { call_timeout = 50, idle_timeout = 60, deregistration_delay = 40 }
  }

  expect_failures = [var.deadlines]
}

run "the_leave_delay_counts_too" {
  command = plan

  variables {
    deadlines = { deregistration_delay = 49 }
  }

  expect_failures = [var.deadlines]
}

run "a_stream_must_not_be_cut_for_its_silence" {
  command = plan

  variables {
    deadlines = { call_timeout = 10, idle_timeout = 15 }
  }

  expect_failures = [var.deadlines]
}

run "the_server_must_not_close_first" {
  command = plan

  variables {
    deadlines = { idle_timeout = 75 }
  }

  expect_failures = [var.deadlines]
}

run "a_port_must_not_close_before_that_is_noticed" {
  command = plan

  variables {
    deadlines = { leave_delay = 10 }
  }

  expect_failures = [aws_lb_target_group.color]
}

run "everybody_may_not_name_a_color" {
  command = plan

  variables {
    preview_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.preview_cidrs]
}

run "a_rule_has_no_room_for_five_networks" {
  command = plan

  variables {
    preview_cidrs = [for number in range(5) : "192.0.2.${number}/32"]
  }

  expect_failures = [var.preview_cidrs]
}

run "old_ciphers_are_refused" {
  command = plan

  variables {
    ssl_policy = "ELBSecurityPolicy-2016-08"
  }

  expect_failures = [var.ssl_policy]
}

run "one_subnet_is_refused" {
  command = plan

  variables {
    subnet_ids = ["subnet-1", "subnet-1"]
  }

  expect_failures = [var.subnet_ids]
}

run "there_is_no_third_color" {
  command = plan

  variables {
    live_on_first_day = "red"
  }

  expect_failures = [var.live_on_first_day]
}

run "a_long_name_is_refused" {
  command = plan

  variables {
    name = "a-server-whose-name-is-too-long"
  }

  expect_failures = [var.name]
}

run "tags_of_a_rollout_are_refused" {
  command = plan

  variables {
    tags = { "rollout.mcp/epoch" = "1" }
  }

  expect_failures = [var.tags]
}
