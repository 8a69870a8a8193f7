package provision

import (
	"context"
	"slices"

	"golang.org/x/crypto/ssh"

	"imgtool/image/seed"
	"imgtool/image/sshkey"
)

// maxKeys is the number of keys that are tried, as many as sshd allows by default.
const maxKeys = 6

// Key signs requests.
type Key = sshkey.Key

// FindKeys returns the key that the ring selects, or without a selection up to 6 keys of
// ssh-agent and the directory. Keys of config's admins are first; config may be nil.
func FindKeys(ctx context.Context, ring *sshkey.Keyring, config *seed.Config) ([]*Key, error) {
	if ring.ID != "" {
		key, err := ring.Find(ctx)
		if err != nil {
			return nil, err
		}
		return []*Key{key}, nil
	}
	keys := ring.All()
	if config != nil {
		sortByAdmin(keys, config)
	}
	if len(keys) > maxKeys {
		keys = keys[:maxKeys]
	}
	return keys, nil
}

// sortByAdmin sorts keys of admins first, and among equals security keys last, since they
// must be touched.
func sortByAdmin(keys []*Key, config *seed.Config) {
	var admins []string
	for _, line := range config.Admins() {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err == nil {
			admins = append(admins, string(key.Marshal()))
		}
	}
	rank := func(k *Key) int {
		score := map[bool]int{true: 1}
		return 2*score[!slices.Contains(admins, string(k.PublicKey().Marshal()))] + score[k.IsSecurityKey()]
	}
	slices.SortStableFunc(keys, func(a, b *Key) int { return rank(a) - rank(b) })
}
