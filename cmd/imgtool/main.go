// Command imgtool builds disk images for embedded boards and flashes them.
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/complete"
	"imgtool/cmd/imgtool/configs"
	"imgtool/cmd/imgtool/disks"
	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/images"
	"imgtool/cmd/imgtool/terminal"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/fault"
	"imgtool/image/sanitize"
)

// ui is short for the user interface that all commands have.
type ui = terminal.UI

func main() {
	stderr := os.Stderr
	if null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err == nil && usage.AsksJSON(os.Args[1:]) {
		os.Stderr = null // helpers for logins, which a library runs, must not write between the events
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, stderr))
}

// grace is how long an interrupted command has to clean up.
const grace = 2 * time.Second

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) (status int) {
	log.SetOutput(io.Discard) // package http logs what servers send unasked
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	u := terminal.New(stdin, stdout, stderr)
	u.Context = ctx
	u.Completing = usage.Completing(args)
	stop := u.HandleSignals(cancel)
	defer stop()
	// A second signal ends the program at once, and so does the end of the grace period: the
	// command may wait for a pipe that nothing is written to.
	defer context.AfterFunc(ctx, func() {
		stop()
		time.Sleep(grace)
		u.End()
		os.Exit(u.Abort(exit.WithKind(u.Interrupted(), exit.Interrupted), exit.Interrupted))
	})()
	defer func() {
		if r := recover(); r != nil {
			u.EndPhase()
			err := fault.New(fault.Internal, "internal error: %v", r)
			status = u.Abort(err, exit.Internal)
		}
	}()
	root := newCommand(u)
	root.SetArgs(args)
	root.SetIn(stdin)
	// Cobra repeats arguments that it does not know.
	root.SetOut(u.Stdout())
	root.SetErr(sanitize.NewWriter(stderr))
	err := usage.Check(root, args)
	if err == nil {
		var cmd *cobra.Command
		if cmd, err = root.ExecuteContextC(ctx); !u.Started {
			err = fault.As(fault.Usage, err)
		}
		err = usage.Explain(cmd, err)
	}
	if !u.Started {
		u.JSON = usage.AsksJSON(args) // the parser stops at the first mistake
	}
	u.EndPhase()
	return conclude(ctx, u, args, err)
}

// conclude prints the result of a command and its error, and returns its exit status.
func conclude(ctx context.Context, u *ui, args []string, err error) (status int) {
	lost := u.Lost()
	switch {
	case lost != nil:
		err = lost
	case err == nil:
		err = u.Conclude(nil, exit.OK)
	case errors.Is(err, exit.ErrDiffers):
		if err, status = u.Conclude(nil, exit.Differs), exit.Differs; err == nil {
			return status
		}
	}
	if err == nil {
		return exit.OK
	}
	status = exit.Status(err)
	if ctx.Err() != nil {
		status = exit.Interrupted
		err = u.Interrupted()
	}
	err = usage.WithSudo(exit.WithKind(err, status), args)
	if lost := u.Conclude(err, status); lost != nil && status != exit.Interrupted {
		err, status = lost, exit.Status(lost)
	}
	u.Fail(err, status)
	return status
}

func newCommand(u *ui) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "imgtool",
		Short: "Build disk images for embedded boards and flash them",
		Long: `imgtool builds a disk image from a board's definition and flashes it, checked
byte by byte. Building needs no root.

Data go to stdout, messages and progress to stderr.`,
		Example: `  imgtool build --board rock64
  imgtool flash /dev/sdX`,
		Version:       programVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          usage.None(""),
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if err := usage.CheckValues(cmd); err != nil {
				return err
			}
			u.Start()
			return nil
		},
	}
	cmd.PersistentFlags().BoolVar(&u.JSON, "json", false, "print results, messages and progress as JSON")
	cmd.PersistentFlags().BoolVar(&u.Plain, "plain", false, "write lines instead of drawing on the terminal; as without one, or with NO_COLOR or TERM=dumb")
	cmd.PersistentFlags().Var((*usage.Size)(&u.Unpacked.Max), "max-unpacked", "unpack at most this much into scratch files, such as 200GiB (default 64GiB)")
	addGroup(cmd, "Images", images.Commands(u)...)
	addGroup(cmd, "Disks", disks.Commands(u)...)
	addGroup(cmd, "Configurations", configs.Commands(u)...)
	addGroup(cmd, "Other commands", newBoardsCommand(u), newCacheCommand(u), complete.NewCommand(), newVersionCommand(u))
	cmd.AddCommand(newGenCommand(u))
	usage.Install(cmd)
	complete.Install(cmd)
	return cmd
}

// addGroup adds commands to the root under a heading of its help.
func addGroup(root *cobra.Command, heading string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: heading, Title: heading})
	for _, cmd := range commands {
		cmd.GroupID = heading
		root.AddCommand(cmd)
	}
}
