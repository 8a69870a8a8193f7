package option

import (
	"context"
	"os"
	"path/filepath"

	"imgtool/image/sshkey"
)

// Keys returns the keys that the user can sign with. id is the value of a flag --key.
func Keys(id string, u *ui) *sshkey.Keyring {
	home, _ := os.UserHomeDir()
	return &sshkey.Keyring{ID: id, Socket: os.Getenv("SSH_AUTH_SOCK"), Dir: filepath.Join(home, ".ssh"), Warn: u.Warn,
		Touch:      func(name string) { u.Infof("touch the security key %s", name) },
		Passphrase: AskPassphrase(u, "add it to ssh-agent with ssh-add")}
}

// AskPassphrase returns a function that asks for passphrases of key files. instead is what to do
// without a terminal.
func AskPassphrase(u *ui, instead string) func(ctx context.Context, file string, again bool) (string, error) {
	return func(ctx context.Context, file string, again bool) (string, error) {
		question := map[bool]string{true: "It is wrong. "}[again] + "Passphrase of " + file + ": "
		return u.Secret(ctx, question, file+" has a passphrase; "+instead)
	}
}
