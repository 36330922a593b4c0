terraform {
  required_version = ">= 1.7"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # The first that knows lifecycle hooks of the type PAUSE. Weights and hooks of the type AWS_LAMBDA came with 6.4.
      version = ">= 6.66, < 7"
    }
  }
}
