package provision

import (
	"slices"

	"imgtool/image/seed"
	"imgtool/image/seed/seedfile"
)

// Payload is a configuration as it is sent.
type Payload struct {
	Name    string // config.toml, config.tar.gz or config.tar.zst; the local file name is not sent
	Body    []byte
	Config  *seed.Config
	Secrets []string // values that must not appear in messages, longest first
}

// NewPayload returns the payload of a seed that the device takes.
func NewPayload(v *seedfile.Verdict) *Payload {
	p := &Payload{Name: "config." + v.Format, Body: v.Body, Config: v.Config}
	secrets := v.Config.Secrets()
	for _, value := range v.Columns {
		if len(value) >= 4 {
			secrets = append(secrets, value)
		}
	}
	p.Secrets = longestFirst(secrets)
	return p
}

// longestFirst sorts secrets, since one can be a part of another.
func longestFirst(secrets []string) []string {
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets
}
