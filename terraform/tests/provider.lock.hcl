# The one provider that `./dev test` lets Terraform run, by its hash. Another version is a change of its own: `terraform init` in a module
# writes such a file; compare it before it is copied here.

provider "registry.terraform.io/hashicorp/aws" {
  version     = "5.100.0"
  constraints = ">= 5.100.0, < 7.0.0"
  hashes = [
    "h1:edXOJWE4ORX8Fm+dpVpICzMZJat4AX0VRCAy/xkcOc0=",
  ]
}
