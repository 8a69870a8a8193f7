// Package api is what the provisioning service of an AtomixOS device and its
// clients agree on: routes, headers, limits, JSON shapes and what is signed. The
// service speaks plain HTTP. It knows neither a network nor a device.
package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Port is where the service listens.
const Port = 8080

// The routes.
const (
	PathPage     = "/" // for browsers; gone once the device is provisioned
	PathHealth   = "/api/health"
	PathNonce    = "/api/nonce"
	PathValidate = "/api/validate"
	PathConfig   = "/api/config"
	PathExport   = "/api/config/export"
	PathJobs     = "/api/jobs/" // and the job's id
	PathSchema   = "/schema/openapi.json"

	// Of single places; but for the network a name follows.
	PathUsers      = "/api/config/users/"
	PathNetwork    = "/api/config/network"
	PathContainers = "/api/config/containers/"
	PathNetworks   = "/api/config/container-networks/"
	PathVolumes    = "/api/config/container-volumes/"
)

// The headers of requests.
const (
	HeaderNonce     = "X-AtomixOS-Nonce"
	HeaderSignature = "X-AtomixOS-Signature"
	HeaderFilename  = "X-Config-Filename"
)

// The limits of the service.
const (
	MaxBody   = 32 << 20
	MaxChange = 128 << 10 // of a single place; AtomixOS takes MaxBody
	NonceLife = 300 * time.Second
	MaxJobs   = 64 // kept
)

// DeviceIDSize is the length of a device's identifier in bytes.
const DeviceIDSize = 8

// Namespace of the signatures, and the name of who signs.
const Namespace = "atomixos-reapply"

// Health is the body of PathHealth.
type Health struct {
	Status string `json:"status"`           // ok
	Detail string `json:"detail,omitempty"` // why the device waits; not of all devices
	Device string `json:"device,omitempty"` // identifier, DeviceIDSize bytes in base64url; not of all devices
}

// Nonce is the body of PathNonce: good for one request and NonceLife. Of a device
// that has an identifier, the nonce in base64url begins with its bytes.
type Nonce struct {
	Nonce string `json:"nonce"`
}

// Verdict is the body of PathValidate, of status 200 or 400.
type Verdict struct {
	OK       bool     `json:"ok"`
	Warnings []string `json:"warnings,omitzero"` // with OK there even if empty
	Error    string   `json:"error,omitempty"`
}

// Submitted is the body of an answer with status 202.
type Submitted struct {
	JobID  string `json:"job_id"` // who knows it may see the job
	State  string `json:"state"`
	JobURL string `json:"job_url"`
}

// Problem is the service's own error, such as 404 and 409.
type Problem struct {
	Error string `json:"error"`
}

// Refusal is the error of the framework below the service, such as 401.
type Refusal struct {
	StatusCode int    `json:"status_code"`
	Detail     string `json:"detail"`
}

// States of a job.
const (
	Waiting   = "submitted"
	Running   = "running"
	Succeeded = "succeeded"
	Failed    = "failed"
)

// What became of the configuration before, when a job failed.
const (
	RollbackCompleted = "completed" // it is back
	RollbackFailed    = "failed"
	RollbackSkipped   = "skipped"
	RollbackDiscarded = "discarded" // there was none, and the new one is gone
)

// Steps of a job in their order; those that need not be done are left out.
var Steps = []string{"running", "prepare", "recover", "validate", "write-candidate", "write-config", "copy-files", "write-admin-signers", "write-users",
	"write-firewall", "write-lan", "write-network", "write-os-upgrade", "write-health", "render-containers", "render-container-networks",
	"render-container-volumes", "render-container-builds", "write-quadlets", "write-runtime-metadata", Promote, "service-deploy", "activate",
	"service-restart", "settle", "service-status", "health-check", "rollback", "cleanup", "complete", "completed"}

// Promote is the step that makes the new configuration the active one.
const Promote = "promote"

// Promoted says whether a step is that one or comes after it.
func Promoted(step string) bool {
	return slices.Index(Steps, step) >= slices.Index(Steps, Promote)
}

// Job is the state of a job. But for the step, what is empty is absent.
type Job struct {
	ID       string   `json:"id"`
	State    string   `json:"state"`
	Step     string   `json:"current_step"`
	Events   []Event  `json:"events,omitempty"`
	Error    string   `json:"error,omitempty"`
	Result   *Result  `json:"result,omitempty"` // of success; may come a moment after the state
	Rollback string   `json:"rollback_status,omitempty"`
	Duration *float64 `json:"duration_seconds,omitempty"` // once it has ended
}

// Event is something that happened in a job.
type Event struct {
	Step    string  `json:"step"`
	Elapsed float64 `json:"elapsed_seconds"`
	Message string  `json:"message,omitempty"`
	Service string  `json:"service,omitempty"`
	Mode    string  `json:"mode,omitempty"`   // rootful or rootless
	Status  string  `json:"status,omitempty"` // building, starting, running, failed or unknown
}

// Result is what a job came to.
type Result struct {
	Warnings   []string `json:"warnings"`
	Reapply    bool     `json:"reapply"`
	RolledBack *bool    `json:"rolled_back,omitempty"`    // absent after a first configuration that succeeded
	Forwarding string   `json:"forwarding_url,omitempty"` // where the service is from now on
}

// Change changes one place of a configuration.
type Change struct {
	// Place is users NAME, network, or containers and container, network or volume and
	// NAME.
	Place []string
	// Value is a JSON object that takes the place of what is there. That of network is
	// merged into it instead, and null deletes a key. Nil deletes the place.
	Value []byte
}

// Request is the method and the path of a change, empty for a place that has none.
func (c Change) Request() (method, path string) {
	method = "PUT"
	if c.Value == nil {
		method = "DELETE"
	}
	kinds := map[string]string{"container": PathContainers, "network": PathNetworks, "volume": PathVolumes}
	switch p := c.Place; {
	case len(p) == 1 && p[0] == "network" && c.Value != nil:
		return "PATCH", PathNetwork
	case len(p) == 2 && p[0] == "users":
		return method, PathUsers + p[1]
	case len(p) == 3 && p[0] == "containers" && kinds[p[1]] != "":
		return method, kinds[p[1]] + p[2]
	}
	return "", ""
}

// Message is what a request signs: body is the SHA-256 of its own. The method is no
// part of it.
func Message(nonce, path string, body [sha256.Size]byte) []byte {
	return fmt.Appendf(nil, "atomixos-reapply-v1\nnonce:%s\npath:%s\nsha256:%x\n", nonce, path, body)
}

// KeyTypes are those the device takes.
var KeyTypes = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256}

// Sign signs a message and returns the value of HeaderSignature: base64 of the
// signature's armour, not of the signature itself.
func Sign(message []byte, key ssh.Signer) (string, error) {
	s, err := sshsig.Sign(bytes.NewReader(message), key, sshsig.HashSHA512, Namespace)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(sshsig.Armor(s)), nil
}

// Armour is the signature in a value of HeaderSignature.
func Armour(value string) ([]byte, error) {
	armour, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || strings.ContainsAny(value, "\r\n") {
		return nil, errors.New("the signature is not base64")
	}
	return armour, nil
}

// Verify checks a signature by admin-signers: a public key on each line, which may
// follow Namespace, as older versions wrote it. Other lines are passed over.
func Verify(message, armour, signers []byte) error {
	s, key, err := signedBy(armour, signers)
	if err != nil {
		return err
	}
	return sshsig.Verify(bytes.NewReader(message), s, key, s.HashAlgorithm, Namespace)
}

// Known checks that a signature claims to be by a key of admin-signers. Only Verify
// shows that it is.
func Known(armour, signers []byte) error {
	_, _, err := signedBy(armour, signers)
	return err
}

// maxArmour is more than any signature has: one of RSA with 16,384 bits has 6 KiB.
const maxArmour = 10 << 10

// signedBy reads a signature and finds its key in admin-signers.
func signedBy(armour, signers []byte) (*sshsig.Signature, ssh.PublicKey, error) {
	// OpenSSH takes no other ends of lines, and nothing before.
	if !bytes.HasPrefix(armour, []byte("-----BEGIN SSH SIGNATURE-----\n")) || bytes.ContainsRune(armour, '\r') || len(armour) > maxArmour {
		return nil, nil, errors.New("it is no SSH signature")
	}
	s, err := sshsig.Unarmor(armour)
	if err != nil {
		return nil, nil, fmt.Errorf("it is no SSH signature: %w", err)
	}
	signed := s.PublicKey.Marshal()
	for line := range bytes.Lines(signers) {
		key, _, options, _, err := ssh.ParseAuthorizedKey(bytes.TrimPrefix(line, []byte(Namespace+" ")))
		if err != nil || len(options) > 0 || !bytes.Equal(key.Marshal(), signed) {
			continue
		}
		if !slices.Contains(KeyTypes, key.Type()) {
			return nil, nil, fmt.Errorf("keys of type %s are not taken", key.Type())
		}
		return s, key, nil
	}
	return nil, nil, fmt.Errorf("%s signed it, which is no admin's key", ssh.FingerprintSHA256(s.PublicKey))
}
