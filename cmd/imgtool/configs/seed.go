package configs

import (
	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/disks"
	"imgtool/cmd/imgtool/usage"
)

func newSeedCommand(u *ui) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "seed",
		Short: "Check and make seed configurations of AtomixOS, and put them into images",
		Long: `Check and make seed configurations of AtomixOS, and put them into images: a config.toml,
alone or in a bundle with the files that its containers use. A device reads the seed it was
flashed with only once.`,
		Example: `  imgtool seed new > config.toml
  imgtool seed check config.toml`,
		SuggestFor: []string{"config", "configuration", "configure"},
		Args:       usage.None(""),
	}
	cmd.AddCommand(newSeedCheckCommand(u), newSeedRenderCommand(u), newSeedSchemaCommand(u), newSeedNewCommand(u), newSeedBundleCommand(u),
		newSeedPutCommand(u), newSeedGetCommand(u), newSeedRmCommand(u), disks.NewStickCommand(u))
	return cmd
}
