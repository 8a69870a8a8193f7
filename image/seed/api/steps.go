package api

import (
	"cmp"
	"slices"
)

// steps are the steps of a job in their order, and their descriptions for people. A job leaves
// out steps that are not needed.
var steps = []struct{ name, words string }{
	{"running", "Starting"},
	{"prepare", "Preparing the change"},
	{"recover", "Recovering from an interruption"},
	{"validate", "Checking the configuration"},
	{"write-candidate", "Making room for the new configuration"},
	{"write-config", "Saving the configuration"},
	{"copy-files", "Copying the files of the bundle"},
	{"write-admin-signers", "Preparing the keys of admins"},
	{"write-users", "Preparing users"},
	{"write-firewall", "Preparing the firewall"},
	{"write-lan", "Preparing the local network"},
	{"write-network", "Preparing the network interfaces"},
	{"write-os-upgrade", "Preparing system updates"},
	{"write-health", "Preparing the health check"},
	{"render-containers", "Preparing containers"},
	{"render-container-networks", "Preparing container networks"},
	{"render-container-volumes", "Preparing container volumes"},
	{"render-container-builds", "Preparing container builds"},
	{"write-quadlets", "Saving the container units"},
	{"write-runtime-metadata", "Saving the list of services"},
	{Promote, "Switching to the new configuration"},
	{"service-deploy", "Setting up users and services"},
	{"activate", "Setting up the network and the firewall"},
	{"service-restart", "Restarting services"},
	{"settle", "Waiting until the services are stable"},
	{"service-status", "Checking the services"},
	{"health-check", "Checking the health of the device"},
	{Rollback, "Undoing the change"},
	{"cleanup", "Cleaning up"},
	{"complete", "Confirming the configuration"},
	{"completed", "Finished"},
}

// Promote is the step that makes the new configuration the active one.
const Promote = "promote"

// Rollback is the step after a failure that makes the previous configuration the active one again.
const Rollback = "rollback"

// Steps returns the names of the steps of a job in their order.
func Steps() []string {
	var names []string
	for _, s := range steps {
		names = append(names, s.name)
	}
	return names
}

// StepIndex returns the place of a step in the order, or -1.
func StepIndex(name string) int { return slices.Index(Steps(), name) }

// Promoted reports whether a step is Promote or a later one.
func Promoted(name string) bool { return StepIndex(name) >= StepIndex(Promote) }

// StepWords describes a step for people. A step that is not in the table is its own description.
func StepWords(name string) string {
	for _, s := range steps {
		if s.name == name {
			return s.words
		}
	}
	return name
}

// Words describes an event for people.
func (e Event) Words() string {
	words := StepWords(e.Step)
	if e.Service != "" {
		words += ": " + e.Service
		if e.Mode != "" {
			words += " (" + e.Mode + ")"
		}
		words += ": " + cmp.Or(e.Status, "unknown")
	}
	if e.Message != "" {
		words += ": " + e.Message
	}
	return words
}
