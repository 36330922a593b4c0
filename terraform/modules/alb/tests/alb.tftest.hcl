# The entrance, as it is planned and made; no account is asked.

mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  vpc_id          = "vpc-1"
  subnet_ids      = ["subnet-1", "subnet-2"]
  certificate_arn = "arn:aws:acm:eu-central-1:111122223333:certificate/1"
  access_logs     = { bucket = "logs" }
}

run "blue_has_all_the_traffic_on_the_first_day" {
  assert {
    condition = { for group in aws_lb_listener_rule.weighted.action[0].forward[0].target_group : group.weight => group.arn... } == {
      "0"   = [aws_lb_target_group.color["green"].arn]
      "100" = [aws_lb_target_group.color["blue"].arn]
    }
    error_message = "blue must have 100 and green 0, and both must be in the rule"
  }

  assert {
    condition     = aws_lb_listener_rule.weighted.priority == 100 && one([for condition in aws_lb_listener_rule.weighted.condition : condition.path_pattern[0].values]) == toset(["/*"])
    error_message = "the weighted rule stands at 100 and takes everything"
  }
}

# The same state: what a rollout moved is not moved back.
run "the_weights_are_left_alone_after_that" {
  variables {
    live_on_first_day = "green"
  }

  assert {
    condition = { for group in aws_lb_listener_rule.weighted.action[0].forward[0].target_group : group.weight => group.arn... } == {
      "0"   = [aws_lb_target_group.color["green"].arn]
      "100" = [aws_lb_target_group.color["blue"].arn]
    }
    error_message = "an apply moved the traffic"
  }
}

run "the_notes_on_the_rule_are_left_alone" {
  variables {
    tags = { Team = "somebody" }
  }

  assert {
    condition     = aws_lb_listener_rule.weighted.tags == null || !contains(keys(coalesce(aws_lb_listener_rule.weighted.tags, {})), "Team")
    error_message = "an apply changed tags of the rule, and would take away what a rollout remembers there"
  }

  assert {
    condition     = aws_lb.this.tags["Team"] == "somebody"
    error_message = "everything else has the tag"
  }
}

run "green_can_be_live_on_the_first_day" {
  state_key = "another"
  command   = plan

  variables {
    live_on_first_day = "green"
  }

  override_resource {
    target          = aws_lb_target_group.color["green"]
    override_during = plan
    values          = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/green/1" }
  }

  override_resource {
    target          = aws_lb_target_group.color["blue"]
    override_during = plan
    values          = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/blue/1" }
  }

  assert {
    condition     = one([for group in aws_lb_listener_rule.weighted.action[0].forward[0].target_group : group.arn if group.weight == 100]) == aws_lb_target_group.color["green"].arn
    error_message = "green must have 100"
  }
}
