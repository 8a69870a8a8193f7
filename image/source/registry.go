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

	"imgtool/image/remote"
)

// repository is a repository in a registry. The caller verifies digests. It is used in place of
// package remote of go-containerregistry, which does not resume interrupted downloads, reads
// manifests of up to 100 MiB, and has no error type for wrong sizes and digests.
type repository struct {
	transport http.RoundTripper
	network   remote.Network
	scheme    string
	name      name.Repository
}

// open opens a manifest or blob by its digest or tag, to be read from front to back.
func (r repository) open(ctx context.Context, kind, id string) (io.ReadCloser, error) {
	url := fmt.Sprintf("%s://%s/v2/%s/%s/%s", r.scheme, r.name.RegistryStr(), r.name.RepositoryStr(), kind, id)
	accept := http.Header{}
	for _, t := range []types.MediaType{types.OCIImageIndex, types.OCIManifestSchema1, types.DockerManifestList, types.DockerManifestSchema2} {
		accept.Add("Accept", string(t))
	}
	f, err := remote.Open(ctx, url, remote.Options{
		Transport: r.transport, Network: r.network, Header: accept, Sequential: true,
		Status: func(resp *http.Response) error { return transport.CheckError(resp) },
	})
	if err != nil {
		return nil, explain(r.name.RegistryStr(), err)
	}
	return f.Stream(ctx, 0)
}

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
	w := remote.NewTransport(o.opt.Network)
	repo := repository{scheme: "https", name: in.Context(), network: w.Network}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, in.Context())
	if err != nil {
		return repo, err
	}
	how, err := transport.Ping(ctx, reg, w)
	if err != nil {
		// TLS was tried first; the error of plain HTTP explains more.
		if plain := w.PlainError(); plain != nil && ctx.Err() == nil {
			err = plain
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
	repo.transport, err = transport.FromToken(reg, auth, transport.NewUserAgent(w, ""), final, token)
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
