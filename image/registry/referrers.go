package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"imgtool/image/fault"
	"imgtool/image/remote"
)

// maxPages is the largest number of pages of a list of referrers. Together they have at most
// maxManifest bytes.
const maxPages = 1000

// Referrers returns the manifests that name a manifest as their subject: from the API of the
// registry, or from the index under the fallback tag of registries without it. api reports
// which of the two it was.
func (c *Client) Referrers(ctx context.Context, subject v1.Hash) (list []v1.Descriptor, api bool, err error) {
	list, found, err := c.pages(ctx, c.url("referrers/"+subject.String()))
	if found && err != nil {
		return nil, true, fmt.Errorf("referrers of %s: %w", subject, err)
	}
	if found {
		return list, true, nil
	}
	// Registries without the API respond with 404, and some with other errors.
	if fault.Kind(err) == fault.Permission || errors.As(err, new(*remote.GoneError)) || ctx.Err() != nil {
		return nil, false, err
	}
	r, err := c.Get(ctx, "manifests", FallbackTag(subject))
	if isNotFound(err) {
		return nil, false, nil
	}
	raw, err := ReadAll(r, err, 0)
	if err == nil {
		list, err = parseIndex(raw)
	}
	if err != nil {
		return nil, false, fmt.Errorf("referrers of %s: %w", subject, err)
	}
	return list, false, nil
}

// pages reads a list that may have several pages. found reports whether there is a first one.
//
// The pages have referrers of all types, and the caller chooses: the filter of registries takes
// one type, is optional, and in some compares another type than that of the artifact.
func (c *Client) pages(ctx context.Context, url string) (list []v1.Descriptor, found bool, err error) {
	seen := map[string]bool{}
	size := 0
	for url != "" {
		if seen[url] {
			return nil, true, fault.New(fault.Corrupt, "the list of %s has no end: page %d is the same as one before", c.host(), len(seen)+1)
		}
		if len(seen) == maxPages {
			return nil, true, fault.New(fault.Corrupt, "the list of %s has more than %d pages, which is the limit", c.host(), maxPages)
		}
		seen[url] = true
		opt := c.options("pages", fmt.Sprint(len(seen)))
		opt.Sequential = true
		f, err := remote.Open(ctx, url, opt)
		if err != nil {
			return nil, len(seen) > 1, explain(c.host(), err)
		}
		r, err := f.Stream(ctx, 0)
		raw, err := ReadAll(r, err, 0)
		if err != nil {
			return nil, true, err
		}
		if size += len(raw); size > maxManifest {
			return nil, true, fmt.Errorf("the list of %s has more than %d bytes, which is the limit", c.host(), maxManifest)
		}
		page, err := parseIndex(raw)
		if err != nil {
			return nil, true, err
		}
		list = append(list, page...)
		if url, err = f.Next(); err != nil {
			return nil, true, err
		}
	}
	return list, true, nil
}

func parseIndex(raw []byte) ([]v1.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fault.New(fault.Corrupt, "%w", err)
	}
	return index.Manifests, nil
}

// FallbackTag is the tag of the index of referrers in a registry without the referrers API.
func FallbackTag(subject v1.Hash) string { return subject.Algorithm + "-" + subject.Hex }
