package inspect

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"imgtool/image"
	"imgtool/image/cms"
	"imgtool/image/rauc"
	"imgtool/image/volume"
)

// Bundle is an update bundle of RAUC.
type Bundle struct {
	*rauc.Manifest          // nil if it is encrypted
	Format         string   `json:"format"`
	Payload        int64    `json:"payload"` // size of the squashfs in bytes
	Signers        []Signer `json:"signers,omitempty"`
}

// Signer is a certificate that a bundle was signed with.
type Signer struct {
	Subject   string `json:"subject"`
	Issuer    string `json:"issuer"`
	NotBefore string `json:"not_before"`
	NotAfter  string `json:"not_after"`
	Signed    string `json:"signed,omitempty"` // when the signer claims to have signed
}

// OfBundle inspects a bundle. It checks its signature, but not whether the signer is
// trusted, and not the content of the images.
func OfBundle(s *volume.Source) (*Report, error) {
	b, err := rauc.Open(s.Image, s.Image.Size())
	if err != nil {
		return nil, err
	}
	r := &Report{Image: s.Name, Format: "RAUC bundle (" + b.Format + ")", Size: s.Image.Size(), Partitions: []Partition{}}
	r.Bundle = &Bundle{Manifest: b.Manifest, Format: b.Format, Payload: b.Payload}
	if b.Format == rauc.Crypt && b.Signature.Encrypted {
		r.Checks = []Check{{What: "signature", Warning: "it is encrypted for the devices, and cannot be checked without the key of one"}}
		return r, nil
	}
	day := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	for _, sig := range b.Signature.Signatures {
		signer := Signer{Subject: cms.Name(sig.Cert), Issuer: sig.Cert.Issuer.String(), NotBefore: day(sig.Cert.NotBefore), NotAfter: day(sig.Cert.NotAfter)}
		if !sig.Time.IsZero() {
			signer.Signed = day(sig.Time)
		}
		r.Bundle.Signers = append(r.Bundle.Signers, signer)
		if err := cms.CheckTime(sig.Cert, time.Now()); err != nil {
			r.Checks = append(r.Checks, Check{What: "certificate of the signer", Warning: err.Error()})
		}
	}
	r.check("signature", b.Signature.Verify(b.Signed()))
	if b.Tree != nil { // not encrypted
		r.check("files", b.CheckFiles())
		if names := b.Unchecked(); len(names) > 0 {
			r.Checks = append(r.Checks, Check{What: "images", Warning: "only indexes of " + strings.Join(names, ", ") + " are in it: the images are in a store of casync"})
		}
	}
	return r, nil
}

func (b *Bundle) text(t *text) {
	if b.Manifest != nil {
		b.manifest(t)
	}
	for _, s := range b.Signers {
		t.printf("\nsigned by %s\n  issued by %s, valid from %s to %s\n", s.Subject, s.Issuer, s.NotBefore, s.NotAfter)
		if s.Signed != "" {
			t.printf("  at %s\n", s.Signed)
		}
		t.printf("  whether devices trust it is not checked: imgtool verify --keyring FILE does that\n")
	}
}

func (b *Bundle) manifest(t *text) {
	t.printf("\ncompatible   %s\n", b.Compatible)
	for _, line := range [][2]string{{"version", b.Version}, {"build", b.Build}, {"description", b.Description}, {"needs RAUC", b.MinVersion},
		{"handler", b.Handler}, {"hooks", strings.TrimSpace(strings.Join(b.Hooks, ", ") + inFile(b.HookFile))}} {
		if line[1] != "" {
			t.printf("%-12s %s\n", line[0], line[1])
		}
	}
	t.printf("\n")
	for _, i := range b.Images {
		details := []string{cmp.Or(i.File, "no file")}
		if len(i.Hooks) > 0 {
			details = append(details, "hooks "+strings.Join(i.Hooks, ", "))
		}
		details = append(details, i.Adaptive...)
		t.printf("%-12s %10s  %s\n", i.Name(), image.FormatSize(i.Size), strings.Join(details, ", "))
		if i.SHA256 != "" {
			t.printf("%-12s %10s  SHA-256 %s\n", "", "", i.SHA256)
		}
	}
	t.printf("\npayload %s\n", image.FormatSize(b.Payload))
}

func inFile(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(" in %s", name)
}
