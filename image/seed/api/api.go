// Package api defines the protocol between the provisioning service of an AtomixOS device and
// its clients: routes, headers, limits, JSON shapes and signatures. The service speaks plain
// HTTP.
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

	"imgtool/image/seed/check"
)

// Port is the TCP port of the service.
const Port = 8080

// Routes.
const (
	PathPage     = "/" // for browsers, while the device has no configuration
	PathHealth   = "/api/health"
	PathNonce    = "/api/nonce"
	PathValidate = "/api/validate"
	PathConfig   = "/api/config"
	PathExport   = "/api/config/export"
	PathJobs     = "/api/jobs/" // followed by the id of the job
	PathSchema   = "/schema/openapi.json"

	// Single places of the configuration. All but the network are followed by a name.
	PathUsers      = "/api/config/users/"
	PathNetwork    = "/api/config/network"
	PathContainers = "/api/config/containers/"
	PathNetworks   = "/api/config/container-networks/"
	PathVolumes    = "/api/config/container-volumes/"
)

// Headers of requests.
const (
	HeaderNonce     = "X-AtomixOS-Nonce"
	HeaderSignature = "X-AtomixOS-Signature"
	HeaderFilename  = "X-Config-Filename"
)

// Limits of the service.
const (
	MaxBody   = 32 << 20  // bytes
	MaxChange = 128 << 10 // bytes of a change; AtomixOS takes MaxBody
	NonceLife = 300 * time.Second
	MaxJobs   = 64 // that are kept
)

// DeviceIDSize is the length of a device's identifier in bytes.
const DeviceIDSize = 8

// Namespace is the namespace of signatures, and the name of the signer.
const Namespace = "atomixos-reapply"

// Health is the body of PathHealth.
type Health struct {
	Status string `json:"status"`           // ok
	Detail string `json:"detail,omitempty"` // why the device waits; some devices do not send it
	Device string `json:"device,omitempty"` // identifier, DeviceIDSize bytes in base64url; some devices have none
}

// Nonce is the body of PathNonce. A nonce is valid for one request and for NonceLife. If the
// device has an identifier, the nonce in base64url begins with its bytes.
type Nonce struct {
	Nonce string `json:"nonce"`
}

// Verdict is the body of PathValidate, with status 200 or 400.
type Verdict struct {
	OK       bool     `json:"ok"`
	Warnings []string `json:"warnings,omitzero"` // present if OK, even if empty
	Error    string   `json:"error,omitempty"`
}

// Submitted is the body of an answer with status 202.
type Submitted struct {
	JobID  string `json:"job_id"` // secret: anyone who knows it can read the job
	State  string `json:"state"`
	JobURL string `json:"job_url"`
}

// Problem is the body of errors of the service itself, such as 404 and 409.
type Problem struct {
	Error string `json:"error"`
}

// Refusal is the body of errors of the service's web framework, such as 401.
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

// Rollback states of a failed job.
const (
	RollbackCompleted = "completed" // the previous configuration is active
	RollbackFailed    = "failed"
	RollbackSkipped   = "skipped"
	RollbackDiscarded = "discarded" // there was no previous configuration, and the new one was deleted
)

// Job is the state of a job. Empty fields are absent, except for the step.
type Job struct {
	ID       string   `json:"id"`
	State    string   `json:"state"`
	Step     string   `json:"current_step"`
	Events   []Event  `json:"events,omitempty"`
	Error    string   `json:"error,omitempty"`
	Result   *Result  `json:"result,omitempty"` // of success; can follow the state some time later
	Rollback string   `json:"rollback_status,omitempty"`
	Duration *float64 `json:"duration_seconds,omitempty"` // after its end
}

// Event is a step of a job, or the state of a service during it.
type Event struct {
	Step    string  `json:"step"`
	Elapsed float64 `json:"elapsed_seconds"`
	Message string  `json:"message,omitempty"`
	Service string  `json:"service,omitempty"`
	Mode    string  `json:"mode,omitempty"`   // rootful or rootless
	Status  string  `json:"status,omitempty"` // building, starting, running, failed or unknown
}

// Result is the result of a successful job.
type Result struct {
	Warnings   []string `json:"warnings"`
	Reapply    bool     `json:"reapply"`
	RolledBack *bool    `json:"rolled_back,omitempty"`    // absent for a first configuration
	Forwarding string   `json:"forwarding_url,omitempty"` // new address of the service
}

// Change is a change of one place of a configuration.
type Change struct {
	// Place is a path: users NAME; network; or containers, followed by container, network or
	// volume, and NAME.
	Place []string
	// Value is a JSON object that replaces the value at the place. For network it is merged
	// instead, and null deletes a key. A nil Value deletes the place.
	Value []byte
}

// Request returns the method and the path of a change; "" if the place cannot be changed.
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

// Message returns the message that the signature of a request signs. body is the SHA-256 of the
// request's body. The method is not signed.
func Message(nonce, path string, body [sha256.Size]byte) []byte {
	return fmt.Appendf(nil, "atomixos-reapply-v1\nnonce:%s\npath:%s\nsha256:%x\n", nonce, path, body)
}

// Sign signs a message and returns the value of HeaderSignature, which is base64 of the armored
// signature.
func Sign(message []byte, key ssh.Signer) (string, error) {
	s, err := sshsig.Sign(bytes.NewReader(message), key, sshsig.HashSHA512, Namespace)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(sshsig.Armor(s)), nil
}

// Armour returns the armored signature in a value of HeaderSignature.
func Armour(value string) ([]byte, error) {
	armour, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || strings.ContainsAny(value, "\r\n") {
		return nil, errors.New("the signature is not base64")
	}
	return armour, nil
}

// Verify verifies a signature with admin-signers: a public key in each line, after Namespace in
// files of older versions. Other lines are ignored.
func Verify(message, armour, signers []byte) error {
	s, key, err := signedBy(armour, signers)
	if err != nil {
		return err
	}
	return sshsig.Verify(bytes.NewReader(message), s, key, s.HashAlgorithm, Namespace)
}

// Known returns an error if the key in a signature is not in admin-signers. It does not verify
// the signature.
func Known(armour, signers []byte) error {
	_, _, err := signedBy(armour, signers)
	return err
}

// maxArmour is larger than any signature: a signature of RSA with 16,384 bits has 6 KiB.
const maxArmour = 10 << 10

// signedBy parses a signature and finds its key in admin-signers.
func signedBy(armour, signers []byte) (*sshsig.Signature, ssh.PublicKey, error) {
	// OpenSSH accepts no other line ends, and no text before the armor.
	if !bytes.HasPrefix(armour, []byte("-----BEGIN SSH SIGNATURE-----\n")) || bytes.ContainsRune(armour, '\r') || len(armour) > maxArmour {
		return nil, nil, errors.New("it is not an SSH signature")
	}
	s, err := sshsig.Unarmor(armour)
	if err != nil {
		return nil, nil, fmt.Errorf("it is not an SSH signature: %w", err)
	}
	signed := s.PublicKey.Marshal()
	for line := range bytes.Lines(signers) {
		key, _, options, _, err := ssh.ParseAuthorizedKey(bytes.TrimPrefix(line, []byte(Namespace+" ")))
		if err != nil || len(options) > 0 || !bytes.Equal(key.Marshal(), signed) {
			continue
		}
		if !slices.Contains(check.KeyTypes, key.Type()) {
			return nil, nil, fmt.Errorf("keys of type %s are not accepted", key.Type())
		}
		return s, key, nil
	}
	return nil, nil, fmt.Errorf("the signing key %s is not the key of an admin", ssh.FingerprintSHA256(s.PublicKey))
}
