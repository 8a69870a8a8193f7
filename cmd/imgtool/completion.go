package main

import (
	"io"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
)

// scripts write the completion script of each shell.
var scripts = map[string]func(root *cobra.Command, w io.Writer) error{
	"bash":       func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
	"zsh":        (*cobra.Command).GenZshCompletion,
	"fish":       func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	"powershell": (*cobra.Command).GenPowerShellCompletionWithDesc,
}

func newCompletionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script of a shell",
		Long: `Print the script by which a shell completes commands, flags, boards, disks, images and
what is in them. SHELL is bash, zsh, fish or powershell. Packages install it; otherwise
  bash        load it in ~/.bashrc; it needs the package bash-completion
  zsh         save it as _imgtool in a directory of $fpath
  fish        save it as ~/.config/fish/completions/imgtool.fish`,
		Example: `  source <(imgtool completion bash)
  imgtool completion zsh > "${fpath[1]}/_imgtool"`,
		SuggestFor: []string{"completions", "complete", "autocomplete"},
		ValidArgs:  shells,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := usage.Operands("shell")(cmd, args); err != nil {
				return err
			}
			return usage.OneOf("the shell", args[0], shells...)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return scripts[args[0]](cmd.Root(), cmd.OutOrStdout()) },
	}
}
