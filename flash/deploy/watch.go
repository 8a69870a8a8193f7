package deploy

import (
	"context"
	"fmt"
	"time"
)

// watchEvery is how often the disks are listed.
const watchEvery = time.Second

// WatchDisks calls list, such as [Disks] with a need, until ctx ends, and sends what it returns
// at first and whenever it changes. It ends at the first error, which is reported to failed.
func WatchDisks(ctx context.Context, list func() ([]Candidate, error), failed func(error)) <-chan []Candidate {
	lists := make(chan []Candidate)
	go func() {
		defer close(lists)
		last := "none"
		for {
			now, err := list()
			if err != nil {
				failed(err)
				return
			}
			text := ""
			for _, c := range now {
				text += fmt.Sprintf("%s %q %s\n", c.Key(), c.MountPoints(), c.Reason())
			}
			if text != last {
				select {
				case lists <- now:
					last = text
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-time.After(watchEvery):
			case <-ctx.Done():
				return
			}
		}
	}()
	return lists
}

// Key identifies a disk, and changes if another disk or medium takes its place. It begins with
// the path of the disk and a space.
func (c *Candidate) Key() string {
	return fmt.Sprintf("%s %d %d %s", c.Path, c.Diskseq, c.Size, c.Serial)
}
