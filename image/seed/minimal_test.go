package seed_test

// minimal is the shortest document that the device takes.
const minimal = `version = 1
[users.ops]
isAdmin = true
ssh_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
[activation]
required = ["web"]
[containers.container.web]
privileged = false
[containers.container.web.Container]
Image = "registry.example/web:1"
`
