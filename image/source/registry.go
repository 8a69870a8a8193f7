package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// repository is a repository in a registry. The caller verifies digests. It is used in place of
// package remote of go-containerregistry, which does not resume interrupted downloads, reads
// manifests of up to 100 MiB, and has no error type for wrong sizes and digests.
type repository struct {
	client *http.Client
	scheme string
	name   name.Repository
	tries  int
}

// get requests what, from byte offset from on if the registry supports ranges.
func (r repository) get(ctx context.Context, what string, from int64) (*http.Response, error) {
	url := fmt.Sprintf("%s://%s/v2/%s/%s", r.scheme, r.name.RegistryStr(), r.name.RepositoryStr(), what)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for _, t := range []types.MediaType{types.OCIImageIndex, types.OCIManifestSchema1, types.DockerManifestList, types.DockerManifestSchema2} {
		req.Header.Add("Accept", string(t))
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, explain(r.name.RegistryStr(), err)
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return nil, explain(r.name.RegistryStr(), err)
	}
	return resp, nil
}

// open opens a manifest or blob by its digest or tag.
func (r repository) open(ctx context.Context, kind, id string) (io.ReadCloser, error) {
	what := kind + "/" + id
	resp, err := r.get(ctx, what, 0)
	if err != nil {
		return nil, err
	}
	return &download{ctx: ctx, repo: r, what: what, body: resp.Body}, nil
}

// download reads a manifest or blob, and resumes it after the connection was closed.
type download struct {
	ctx  context.Context
	repo repository
	what string
	body io.ReadCloser
	off  int64
	cuts int
}

func (d *download) Read(p []byte) (int, error) {
	n, err := d.body.Read(p)
	d.off += int64(n)
	if err == nil || err == io.EOF || !broken(err) || d.ctx.Err() != nil {
		return n, err
	}
	if d.cuts++; d.cuts >= d.repo.tries {
		return n, &GoneError{d.repo.name.RegistryStr(), fmt.Errorf("it closed the connection %d times, the last time after %d bytes", d.cuts, d.off)}
	}
	return n, d.resume()
}

// resume requests the rest.
func (d *download) resume() error {
	d.body.Close()
	resp, err := d.repo.get(d.ctx, d.what, d.off)
	if err != nil {
		return err
	}
	d.body = resp.Body
	if resp.StatusCode == http.StatusPartialContent {
		if want := fmt.Sprintf("bytes %d-", d.off); !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
			return fmt.Errorf("%s sent another range of %s than requested", d.repo.name.RegistryStr(), d.what)
		}
		return nil
	}
	_, err = io.CopyN(io.Discard, resp.Body, d.off)
	return err
}

func (d *download) Close() error { return d.body.Close() }

// registry opens an image in a registry with the logins of the user. It uses HTTP without TLS
// only for registries on this machine or a private network.
func (o *Opener) registry(ctx context.Context, ref, image string) (*Root, error) {
	in, err := name.ParseReference(image)
	if err != nil {
		return nil, fmt.Errorf("%s is not the name of an image in a registry, such as docker://HOST/REPOSITORY:TAG", ref)
	}
	repo, err := o.login(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, explain(in.Context().RegistryStr(), err))
	}
	// A digest is verified; the digest of a tag is computed.
	r, err := repo.open(ctx, "manifests", in.Identifier())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	var raw []byte
	digest, err := v1.NewHash(in.Identifier())
	if err == nil {
		raw, err = checked(r, nil, v1.Descriptor{Digest: digest})
	} else if raw, err = readAll(r, nil, 0); err == nil {
		digest, _, err = v1.SHA256(bytes.NewReader(raw))
	}
	if err != nil {
		return nil, blobError(ref, "manifest", digest, err)
	}
	return o.manifest(ctx, container{ref, repo.open}, digest, raw, 0)
}

// login finds out the scheme and the authentication of a registry, and gets a token if it uses
// tokens.
func (o *Opener) login(ctx context.Context, in name.Reference) (repository, error) {
	reg := in.Context().Registry
	w := newWire(o.opt.Network)
	repo := repository{scheme: "https", name: in.Context(), tries: w.Tries}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, in.Context())
	if err != nil {
		return repo, err
	}
	how, err := transport.Ping(ctx, reg, w)
	if err != nil {
		// TLS was tried first; the error of plain HTTP explains more.
		if plain := w.plain.Load(); plain != nil && *plain != nil && ctx.Err() == nil {
			err = *plain
		}
		return repo, err
	}
	if how.Insecure {
		repo.scheme = "http"
	}
	scopes := []string{in.Scope(transport.PullScope)}
	token, final := &transport.Token{}, how
	if strings.EqualFold(how.Scheme, "bearer") {
		service, login, err := tokenService(ctx, reg, how, auth)
		if err != nil {
			return repo, err
		}
		// Tokens are renewed in the same way.
		auth = &tokens{func(ctx context.Context) (*transport.Token, error) {
			token, err := transport.Exchange(ctx, service, login, w, scopes, how)
			if err != nil {
				err = fmt.Errorf("getting a token from %s: %w", how.Parameters["realm"], explain(service.RegistryStr(), err))
			}
			return token, err
		}}
		if token, err = auth.(*tokens).exchange(ctx); err != nil {
			return repo, err
		}
		own := *how
		own.Parameters = maps.Clone(how.Parameters)
		own.Parameters["realm"] = repo.scheme + "://" + reg.RegistryStr()
		final = &own
	}
	repo.client = &http.Client{}
	repo.client.Transport, err = transport.FromToken(reg, auth, transport.NewUserAgent(w, ""), final, token)
	return repo, err
}

// tokenService returns the service that issues the tokens of a registry, and the login for it.
//
// The login of the registry is sent to another host only with TLS. A service on this machine or
// a private network is used only by registries there; if it is not the registry itself, it gets
// its own login from the user's configuration.
func tokenService(ctx context.Context, reg name.Registry, how *transport.Challenge, auth authn.Authenticator) (name.Registry, authn.Authenticator, error) {
	realm := how.Parameters["realm"]
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" || u.User != nil {
		return reg, nil, fmt.Errorf("%s requires a token from %q, which is not a valid URL", reg.RegistryStr(), realm)
	}
	switch {
	case u.Host == reg.RegistryStr():
		return reg, auth, nil
	case isLocal(u.Hostname()):
		if own, err := url.Parse("//" + reg.RegistryStr()); err != nil || !isLocal(own.Hostname()) {
			return reg, nil, fmt.Errorf("%s requires a token from %s, which is on this machine or a private network", reg.RegistryStr(), u.Host)
		}
		service, err := name.NewRegistry(u.Host, name.WeakValidation)
		if err != nil {
			return reg, nil, err
		}
		login, err := authn.Resolve(ctx, authn.DefaultKeychain, service)
		return service, login, err
	case u.Scheme != "https" && auth != authn.Anonymous:
		return reg, nil, fmt.Errorf("%s requires sending its login to %s without encryption", reg.RegistryStr(), u.Host)
	}
	return reg, auth, nil
}

// isLocal reports whether a host is this machine or on a private network.
func isLocal(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	a = a.Unmap()
	return err == nil && (a.IsLoopback() || a.IsPrivate())
}

// tokens is an authenticator that requests a token when it is needed.
type tokens struct {
	exchange func(context.Context) (*transport.Token, error)
}

func (t *tokens) Authorization() (*authn.AuthConfig, error) {
	return t.AuthorizationContext(context.Background())
}

func (t *tokens) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	token, err := t.exchange(ctx)
	if err != nil {
		return nil, err
	}
	if token.AccessToken != "" {
		token.Token = token.AccessToken
	}
	if token.Token == "" {
		return nil, errors.New("the response has no token")
	}
	return &authn.AuthConfig{RegistryToken: token.Token}, nil
}
