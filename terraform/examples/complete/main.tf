# Everything wired: the entrance, two colors behind it, the traffic shifter, and what `rollout` may do. The network, the
# certificate and the database are there already; so is whoever runs `rollout`.

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      Application = var.name
      ManagedBy   = "terraform"
    }
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  # One chain for all modules; each takes its part of it, and refuses what does not fit.
  deadlines = {
    call_timeout         = 30
    leave_delay          = 20
    drain_deadline       = 30
    close                = 2
    stop_timeout         = 70
    deregistration_delay = 60
    idle_timeout         = 60
    server_idle_timeout  = 75
    ready_within         = 300
  }
}

# === The entrance

module "alb" {
  source = "../../modules/alb"

  name                = var.name
  vpc_id              = var.vpc_id
  subnet_ids          = var.public_subnet_ids
  internal            = !var.public
  client_cidrs        = var.client_cidrs
  web_acl             = var.web_acl_arn == null ? null : { arn = var.web_acl_arn }
  certificate_arn     = var.certificate_arn
  preview_cidrs       = var.preview_cidrs
  deadlines           = local.deadlines
  deletion_protection = var.deletion_protection

  # Of the policy, not of the bucket: the balancer writes a test object when logs are turned on, and is refused before it may.
  access_logs = { bucket = aws_s3_bucket_policy.access_logs.bucket, prefix = var.name }
}

# === The colors

module "ecs" {
  source = "../../modules/ecs"

  name             = var.name
  vpc_id           = var.vpc_id
  subnet_ids       = var.private_subnet_ids
  image            = var.image
  repository_arns  = var.repository_arns
  cpu_architecture = var.cpu_architecture
  public_url       = var.public_url
  authentication   = var.authentication
  environment      = var.oauth_issuer == null ? {} : { OAUTH_ISSUER = var.oauth_issuer }
  trusted_proxies  = module.alb.balancer_cidrs
  deadlines        = local.deadlines

  egress_cidrs           = var.egress_cidrs
  egress_prefix_list_ids = var.egress_prefix_list_ids

  target_group_arns          = module.alb.target_group_arns
  balancer_security_group_id = module.alb.security_group_id
  operations_security_group_ids = {
    rollout           = var.rollout_security_group_id
    "traffic shifter" = module.shifter.security_group_id
  }

  database_pooler = var.database_pooler
  database_secret = {
    arn            = aws_secretsmanager_secret.database.arn
    direct_url_key = var.database_pooler == "none" ? null : "direct-url"
    forward_key    = "forward-key"
    kms_key_arn    = module.ecs.kms_key_arn
  }
  database_security_group_ids = { database = var.database_security_group_id }
}

# Its value is put there by hand, or by whoever turns passwords over, and never stands in a state file:
# {"url": "postgresql://app:…@db.internal/app?sslmode=verify-full", "forward-key": "…"}, and "direct-url" where the url leads to
# a pooler.
resource "aws_secretsmanager_secret" "database" {
  #checkov:skip=CKV2_AWS_57:a rotation has to give the tasks new values in an order that README.md describes; a Lambda that only changes the password would cut both colors off
  name        = "${var.name}/database"
  description = "Where ${var.name} finds its database"
  kms_key_id  = module.ecs.kms_key_arn
}

# The other half of the tasks' way out to the database.
resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = var.database_security_group_id
  description                  = "The tasks of ${var.name}"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = module.ecs.task_security_group_id
}

# === Who moves the traffic

module "shifter" {
  source = "../../modules/shifter"

  name         = var.name
  package      = var.traffic_shifter_package
  architecture = var.traffic_shifter_architecture
  entrance     = var.public_url
  kms_key_arn  = module.ecs.kms_key_arn

  vpc_id     = var.vpc_id
  subnet_ids = var.private_subnet_ids
  # It proves a switch at the entrance, and a public balancer has no fixed addresses.
  egress_cidrs = var.shifter_egress_cidrs == null && var.public ? ["0.0.0.0/0"] : var.shifter_egress_cidrs

  cluster_name              = module.ecs.cluster_name
  cluster_arn               = module.ecs.cluster_arn
  service_arns              = values(module.ecs.service_arns)
  scalable_target_arns      = values(module.ecs.scalable_target_arns)
  task_security_group_id    = module.ecs.task_security_group_id
  rule_arn                  = module.alb.rule_arn
  load_balancer_arn_suffix  = module.alb.arn_suffix
  target_group_arn_suffixes = module.alb.target_group_arn_suffixes
  alarm_topic_arns          = var.alarm_topic_arns
}

module "rollout_role" {
  source = "../../modules/rollout-role"

  name                 = var.name
  cluster_arn          = module.ecs.cluster_arn
  service_arns         = values(module.ecs.service_arns)
  scalable_target_arns = values(module.ecs.scalable_target_arns)
  role_arns            = [module.ecs.execution_role_arn, module.ecs.task_role_arn]
  log_group_arn        = module.ecs.log_group_arn
  rule_arn             = module.alb.rule_arn
}

# === Access logs

resource "aws_s3_bucket" "access_logs" {
  #checkov:skip=CKV_AWS_18:it is the bucket of logs; its own would go in circles
  #checkov:skip=CKV_AWS_144:access logs of one region, kept for a year; who must not lose them copies them
  #checkov:skip=CKV_AWS_145:Elastic Load Balancing writes to buckets with SSE-S3 only
  #checkov:skip=CKV2_AWS_62:nobody waits for a log
  bucket = "${var.name}-access-logs-${data.aws_caller_identity.current.account_id}"
}

resource "aws_s3_bucket_public_access_block" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_versioning" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  rule {
    id     = "a-year"
    status = "Enabled"

    filter {}

    expiration {
      days = 400
    }

    noncurrent_version_expiration {
      noncurrent_days = 30
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

resource "aws_s3_bucket_policy" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id
  policy = data.aws_iam_policy_document.access_logs.json

  depends_on = [aws_s3_bucket_public_access_block.access_logs]
}

data "aws_iam_policy_document" "access_logs" {
  statement {
    sid       = "Write"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.access_logs.arn}/${var.name}/AWSLogs/${data.aws_caller_identity.current.account_id}/*"]

    principals {
      type        = "Service"
      identifiers = ["logdelivery.elasticloadbalancing.amazonaws.com"]
    }

    # The balancers of this account; another's could write here otherwise.
    condition {
      test     = "ArnLike"
      variable = "aws:SourceArn"
      values   = ["arn:${data.aws_partition.current.partition}:elasticloadbalancing:${var.region}:${data.aws_caller_identity.current.account_id}:loadbalancer/*"]
    }
  }

  statement {
    sid       = "EncryptedOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.access_logs.arn, "${aws_s3_bucket.access_logs.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}
