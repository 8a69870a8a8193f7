package option

import (
	"slices"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
	"imgtool/image/oci"
)

// PlainHTTPUsage explains --plain-http.
const PlainHTTPUsage = "allow HTTP without TLS; without the flag only on this machine and private networks"

// AddRegistry adds the flags for an image in a registry to a command that reads images, and
// returns the command.
func AddRegistry(cmd *cobra.Command, u *ui) *cobra.Command {
	f := cmd.Flags()
	f.StringVar(&u.Registry.Medium, "medium", "", "`NAME` of the medium, if an image in a registry has several")
	f.BoolVar(&u.Registry.PlainHTTP, "plain-http", false, PlainHTTPUsage)
	usage.Group(cmd, "Images in registries", "medium", "plain-http")
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		names := slices.Clone(args)
		for _, flag := range []string{"image", "nvme"} {
			if image := f.Lookup(flag); image != nil {
				names = append(names, image.Value.String())
			}
		}
		return usage.CheckUseless(cmd, usage.Useless{If: !slices.ContainsFunc(names, oci.IsReference),
			Why: "without an image in a registry, oci://HOST/REPOSITORY", Flags: []string{"medium", "plain-http"}})
	}
	return cmd
}
