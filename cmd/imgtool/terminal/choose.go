package terminal

import (
	"context"
	"errors"

	"imgtool/cmd/imgtool/terminal/picker"
	"imgtool/image/fault"
)

// Interactive reports whether the user can be asked.
func (u *UI) Interactive() bool { return isTerminal(u.In) }

// Pick lets the user choose from lists that change while they are shown. It returns the key of
// an item. Without a terminal that can be drawn on, it waits for a list with an item, and takes
// a number.
func (u *UI) Pick(ctx context.Context, opt picker.Options, lists <-chan []picker.Item) (string, error) {
	u.EndPhase()
	if !u.Interactive() || !u.drawing() {
		return u.pickByNumber(ctx, opt, lists)
	}
	opt.In, opt.Out, opt.Wrap = u.In, u.stderr, Wrap
	key, err := picker.Pick(ctx, opt, lists)
	if errors.Is(err, picker.ErrStopped) {
		err = errNotChosen()
	}
	return key, err
}

func errNotChosen() error {
	return fault.New(fault.Refused, "nothing is written: no disk was chosen")
}

func (u *UI) pickByNumber(ctx context.Context, opt picker.Options, lists <-chan []picker.Item) (string, error) {
	said := false
	for {
		var list []picker.Item
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case list = <-lists:
		}
		var keys, texts []string
		for _, i := range list {
			if i.Reason == "" {
				keys = append(keys, i.Key)
				texts = append(texts, i.Detail)
			}
		}
		switch {
		case len(keys) == 1 && said:
			return keys[0], nil
		case len(keys) > 0:
			n, err := u.Choose(ctx, opt.Title, texts)
			if err != nil {
				return "", err
			}
			return keys[n], nil
		case !said:
			said = true
			u.Infof("%s", opt.Empty)
		}
	}
}
