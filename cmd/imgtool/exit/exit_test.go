package exit

import (
	"strconv"
	"testing"
)

func TestEveryStatusHasAMeaning(t *testing.T) {
	documented := map[string]bool{}
	for _, e := range Meanings {
		documented[e.Name] = true
	}
	for kind, status := range statuses {
		if !documented[strconv.Itoa(status)] {
			t.Errorf("exit status %d (%s) is not in Meanings", status, kind)
		}
	}
}
