package complete

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/usage"
)

// scripts write the completion script of each shell.
var scripts = map[string]func(root *cobra.Command, w io.Writer) error{
	"bash":       bashScript,
	"zsh":        (*cobra.Command).GenZshCompletion,
	"fish":       func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	"powershell": (*cobra.Command).GenPowerShellCompletionWithDesc,
}

// wordsOfBash splits a command line into words for a bash without the package bash-completion. It
// splits at white space only, because images are named with colons and inputs with equals signs.
const wordsOfBash = `if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    if [[ $line == *[[:space:]] ]]; then
        words+=("")
    fi
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=${words[cword - 1]}`

func bashScript(root *cobra.Command, w io.Writer) error {
	var b strings.Builder
	if err := root.GenBashCompletionV2(&b, true); err != nil {
		return err
	}
	_, err := io.WriteString(w, strings.Replace(b.String(), `_get_comp_words_by_ref "$@" cur prev words cword`, wordsOfBash, 1))
	return err
}

// NewCommand returns the command that prints the completion script of a shell.
func NewCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script of a shell",
		Long: `Print the script by which a shell completes commands, flags, boards, disks, images and
what is in them. SHELL is bash, zsh, fish or powershell. Packages install it; otherwise
  bash        load it in ~/.bashrc, as in the example
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
