package seed

import (
	"errors"
	"fmt"
)

// A Question asks for a value of a new document.
type Question struct {
	Flag     string // name of the flag that answers it
	Text     string // such as "name of the admin"
	Default  string // or empty
	Optional bool   // the document may lack it

	field func(*Answers) *string
}

// Questions are about all values of a new document that are one text, required values first.
var Questions = []Question{
	{"user", "name of the admin", "ops", false, func(a *Answers) *string { return &a.User }},
	{"ssh-key", "admin's SSH public key", "", false, func(a *Answers) *string { return &a.Key }},
	{"container", "name of the container", "app", false, func(a *Answers) *string { return &a.Container }},
	{"image", "reference of the container's image", "", false, func(a *Answers) *string { return &a.Image }},
	{"update-url", "address of the update server", "", true, func(a *Answers) *string { return &a.Update }},
}

// Answer returns the answer to the question.
func (q Question) Answer(a *Answers) *string { return q.field(a) }

// Check returns what is wrong with an answer.
func (q Question) Check(answer string) error {
	a := valid
	*q.field(&a) = answer
	return faultOf(a)
}

// CheckPublish returns what is wrong with a published port.
func CheckPublish(port string, privileged bool) error {
	a := valid
	a.Publish, a.Privileged = []string{port}, privileged
	err := faultOf(a)
	if number := impossiblePort(port); err == nil && number != "" {
		err = fmt.Errorf("%q has the port %s; ports are 1 to 65535", port, number)
	}
	return err
}

// CheckNetwork returns the first of the flags lan, dhcp-start and dhcp-end that is wrong, and what is
// wrong with it.
func CheckNetwork(answers Answers) (flag string, err error) {
	a := valid
	a.LAN, a.Start, a.End = answers.LAN, answers.Start, answers.End
	_, faults := New(a)
	for _, f := range faults {
		if flag := networkFlags[f.Key]; flag != "" && !f.Warning {
			return flag, errors.New(f.Text)
		}
	}
	return "", nil
}

var networkFlags = map[string]string{"network.dnsmasq.gateway_cidr": "lan", "network.dnsmasq.dhcp_start": "dhcp-start", "network.dnsmasq.dhcp_end": "dhcp-end"}

// valid are answers that make a valid document, in which one can be checked.
var valid = Answers{User: "ops", Key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f", Container: "app", Image: "registry.example/app:1"}

func faultOf(a Answers) error {
	_, faults := New(a)
	for _, f := range faults {
		if !f.Warning {
			return errors.New(f.Text)
		}
	}
	return nil
}
