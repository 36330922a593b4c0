# The entrance: a load balancer, a target group for each color, and the one rule whose weights say who is live.
# The weights are `rollout`'s from the first deploy on; what stands here is true on the first day.

locals {
  # What the two groups and everything behind them are called, and where each color's header rule stands.
  colors = { blue = 10, green = 11 }

  # An unready target is found after 5 s x 2, which is before its port closes (LEAVE_DELAY_SECS).
  health_interval = 5
  health_misses   = 2
}

# The addresses that the balancer connects from, which is whose X-Forwarded-For a server may believe. By number, because Terraform
# must know how many there are before it knows their ids.
data "aws_subnet" "this" {
  count = length(var.subnet_ids)

  id = var.subnet_ids[count.index]
}

# === The load balancer

resource "aws_lb" "this" {
  #checkov:skip=CKV2_AWS_76:the web ACL is a variable (`web_acl`): its rules belong to an account; and no part of this server runs on Java

  name               = var.name
  load_balancer_type = "application"
  internal           = var.internal
  subnets            = var.subnet_ids
  security_groups    = [aws_security_group.this.id]

  # Counts the silence on a connection. A stream says something every 15 s, and a call says nothing until it is answered, so it
  # is longer than both; and shorter than the server's own (IDLE_TIMEOUT_SECS), or the server closes a connection at the moment
  # at which the balancer sends a request on it, and the client sees a 502.
  idle_timeout = var.deadlines.idle_timeout

  # What a proxy and a server can read in two ways is how one request is smuggled into another. MCP clients send nothing like it.
  drop_invalid_header_fields = true
  # The last hop of X-Forwarded-For is the client that the balancer saw; what the client wrote stands before it and is not believed.
  xff_header_processing_mode = "append"
  desync_mitigation_mode     = "strictest"
  # The server compares the Host with PUBLIC_URL, to refuse pages that rebind a name to it; a rewritten one would be refused.
  preserve_host_header = true

  enable_deletion_protection = var.deletion_protection

  access_logs {
    bucket  = var.access_logs.bucket
    prefix  = var.access_logs.prefix
    enabled = true
  }

  tags = var.tags
}

resource "aws_wafv2_web_acl_association" "this" {
  count = var.web_acl == null ? 0 : 1

  resource_arn = aws_lb.this.arn
  web_acl_arn  = var.web_acl.arn
}

# === Who may come in. The way out, to the tasks, is added by the module that knows them.

resource "aws_security_group" "this" {
  name        = "${var.name}-entrance"
  description = "The load balancer of ${var.name}"
  vpc_id      = var.vpc_id

  tags = merge(var.tags, { Name = "${var.name}-entrance" })
}

resource "aws_vpc_security_group_ingress_rule" "https" {
  for_each = toset(var.client_cidrs)

  security_group_id = aws_security_group.this.id
  description       = "Clients"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null

  tags = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "http" {
  for_each = toset(var.client_cidrs)

  security_group_id = aws_security_group.this.id
  description       = "Clients that say http, to be told https"
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null

  tags = var.tags
}

# === The two colors

# Two groups that stay. A single one that is emptied and filled again has a moment without a target, and a new one is asked
# for its health only once a rule refers to it.
resource "aws_lb_target_group" "color" {
  #checkov:skip=CKV_AWS_378:TLS ends at the balancer; the server speaks none, and its security group lets in nobody else: README.md, "What is in the clear"
  for_each = local.colors

  name        = "${var.name}-${each.key}"
  vpc_id      = var.vpc_id
  target_type = "ip"
  port        = 3000
  protocol    = "HTTP"

  # ECS waits this long between taking a task out and telling it to stop. The balancer goes on sending for some 19 s (that is
  # what LEAVE_DELAY_SECS is for), and what it sent last may take as long as a call takes.
  deregistration_delay = var.deadlines.deregistration_delay

  # Calls are not alike: a stream stays for minutes, a search for milliseconds. Turns would pile the streams up somewhere.
  load_balancing_algorithm_type = "least_outstanding_requests"

  # Off, and said aloud. A cookie goes before the weights: its client stays with its color after a switch, and after the
  # color is emptied it gets 503 until the cookie ends. A conversation that needs its build is pinned by the server.
  stickiness {
    type    = "lb_cookie"
    enabled = false
  }

  health_check {
    # Readiness: 503 from the moment a task leaves. It asks the database once, at the start, and never again; a database that
    # is away would otherwise make every target unhealthy at once, and ECS would replace them all.
    path                = "/ready"
    port                = "traffic-port"
    protocol            = "HTTP"
    matcher             = "200"
    interval            = local.health_interval
    timeout             = 3
    healthy_threshold   = 2
    unhealthy_threshold = local.health_misses
  }

  tags = merge(var.tags, { "release-color" = each.key })

  lifecycle {
    precondition {
      condition     = var.deadlines.leave_delay > local.health_interval * local.health_misses
      error_message = "A task that leaves is found unready after ${local.health_interval * local.health_misses} s, and its port closes before that: raise leave_delay."
    }
  }
}

# === The listeners

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = var.ssl_policy
  certificate_arn   = var.certificate_arn

  # Never a color: the weights live in a rule, because a rule can be tagged with what a rollout must remember, and its
  # permission can be given for it alone. Whoever lands here finds that the rule is gone.
  default_action {
    type = "fixed-response"

    fixed_response {
      content_type = "text/plain"
      message_body = "nobody is behind this entrance"
      status_code  = "404"
    }
  }

  tags = var.tags
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.this.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type = "redirect"

    redirect {
      port        = "443"
      protocol    = "HTTPS"
      status_code = "HTTP_301"
    }
  }

  tags = var.tags
}

# === Who is live

# The truth about traffic. Both groups stay in it, the idle one with weight 0: a group that no rule refers to is not asked for
# its health, and its color could not be judged before it is switched to.
resource "aws_lb_listener_rule" "weighted" {
  listener_arn = aws_lb_listener.https.arn
  priority     = 100

  # No `stickiness` here either, for the reason above.
  action {
    type = "forward"

    forward {
      dynamic "target_group" {
        for_each = aws_lb_target_group.color

        content {
          arn    = target_group.value.arn
          weight = target_group.key == var.live_on_first_day ? 100 : 0
        }
      }
    }
  }

  condition {
    path_pattern {
      values = ["/*"]
    }
  }

  tags = var.tags

  lifecycle {
    # The weights are `rollout`'s, and so is what it remembers in tags that begin with rollout.mcp/: the epoch of the lease
    # under which traffic moved, who was live before, a shift that is under way. Terraform can ignore neither a weight alone nor
    # tags by how they begin, so it ignores all of both. A tag that it took away would be the fence between two rollouts.
    ignore_changes = [action, tags, tags_all]
  }
}

# The idle color through the entrance, by name, for those who may look at it. Without `preview_cidrs` there is no such rule:
# a color that is not live is then reached past the balancer only, which is how `rollout` reaches it.
resource "aws_lb_listener_rule" "preview" {
  for_each = length(var.preview_cidrs) == 0 ? {} : local.colors

  listener_arn = aws_lb_listener.https.arn
  priority     = each.value

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.color[each.key].arn
  }

  condition {
    http_header {
      http_header_name = "release-color"
      values           = [each.key]
    }
  }

  # The address that connects, not X-Forwarded-For: behind a CDN these are the CDN's, and the header is everybody's.
  condition {
    source_ip {
      values = var.preview_cidrs
    }
  }

  tags = var.tags
}
