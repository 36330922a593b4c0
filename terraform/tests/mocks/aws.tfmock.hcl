# What AWS would answer, where a provider looks at its form: ARNs, and policies that are JSON.

mock_data "aws_caller_identity" {
  defaults = { account_id = "111122223333" }
}

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_data "aws_region" {
  defaults = { id = "eu-central-1", name = "eu-central-1" }
}

mock_data "aws_subnet" {
  defaults = { cidr_block = "10.0.1.0/24" }
}

mock_data "aws_vpc" {
  defaults = { cidr_block_associations = [{ association_id = "1", cidr_block = "10.0.0.0/16", state = "associated" }] }
}

mock_data "aws_iam_policy_document" {
  defaults = { json = "{}" }
}

mock_resource "aws_lb" {
  defaults = {
    arn        = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:loadbalancer/app/mcp-server/1111111111111111"
    arn_suffix = "app/mcp-server/1111111111111111"
  }
}

mock_resource "aws_lb_listener" {
  defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:listener/app/mcp-server/1111111111111111/2222222222222222" }
}

mock_resource "aws_lb_listener_rule" {
  defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:listener-rule/app/mcp-server/1111111111111111/2222222222222222/3333333333333333" }
}

mock_resource "aws_lb_target_group" {
  defaults = {
    arn        = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/mcp-server-blue/4444444444444444"
    arn_suffix = "targetgroup/mcp-server-blue/4444444444444444"
  }
}

mock_resource "aws_wafv2_web_acl_association" {
  defaults = { id = "acl,balancer" }
}

mock_resource "aws_ecs_cluster" {
  defaults = { arn = "arn:aws:ecs:eu-central-1:111122223333:cluster/mcp-server" }
}

mock_resource "aws_ecs_service" {
  defaults = { id = "arn:aws:ecs:eu-central-1:111122223333:service/mcp-server/mcp-server-blue" }
}

mock_resource "aws_ecs_task_definition" {
  defaults = { arn = "arn:aws:ecs:eu-central-1:111122223333:task-definition/mcp-server-blue:1" }
}

mock_resource "aws_appautoscaling_target" {
  defaults = { arn = "arn:aws:application-autoscaling:eu-central-1:111122223333:scalable-target/55555555555555555555" }
}

mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:eu-central-1:111122223333:log-group:/ecs/mcp-server" }
}

mock_resource "aws_kms_key" {
  defaults = {
    arn    = "arn:aws:kms:eu-central-1:111122223333:key/66666666-6666-6666-6666-666666666666"
    key_id = "66666666-6666-6666-6666-666666666666"
  }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::111122223333:role/mcp-server" }
}

mock_resource "aws_iam_policy" {
  defaults = { arn = "arn:aws:iam::111122223333:policy/mcp-server-rollout" }
}

mock_resource "aws_lambda_function" {
  defaults = { arn = "arn:aws:lambda:eu-central-1:111122223333:function:mcp-server-traffic-shifter" }
}

mock_resource "aws_sqs_queue" {
  defaults = {
    arn = "arn:aws:sqs:eu-central-1:111122223333:mcp-server-traffic-shifter-dead"
    url = "https://sqs.eu-central-1.amazonaws.com/111122223333/mcp-server-traffic-shifter-dead"
  }
}

mock_resource "aws_cloudwatch_event_rule" {
  defaults = { arn = "arn:aws:events:eu-central-1:111122223333:rule/mcp-server-alarms" }
}

mock_resource "aws_secretsmanager_secret" {
  defaults = { arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:mcp-server/database-aaaaaa" }
}

mock_resource "aws_s3_bucket" {
  defaults = { arn = "arn:aws:s3:::mcp-server-access-logs-111122223333" }
}
