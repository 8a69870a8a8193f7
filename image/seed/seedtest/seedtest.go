// Package seedtest has a seed for tests.
package seedtest

// Key is the public key of the admin in Minimal. It has no private key.
const Key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

// Minimal is the shortest document that the device takes.
const Minimal = `version = 1
[users.ops]
isAdmin = true
ssh_key = "` + Key + `"
[activation]
required = ["web"]
[containers.container.web]
privileged = false
[containers.container.web.Container]
Image = "registry.example/web:1"
`
