package seedfile

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"imgtool/image/fault"
	"imgtool/image/seed"
)

// tries is how often a question is asked.
const tries = 5

// CheckAnswers checks the answers that are given. That of a file with a public key becomes the
// key. Errors name the flag.
func CheckAnswers(a *seed.Answers) error {
	for _, q := range seed.Questions {
		answer := q.Answer(a)
		if *answer == "" {
			continue
		}
		if err := accept(q, answer); err != nil {
			return fmt.Errorf("--%s: %w", q.Flag, err)
		}
	}
	for _, port := range a.Publish {
		if err := seed.CheckPublish(port, a.Privileged); err != nil {
			return fault.New(fault.Usage, "--publish: %w", err)
		}
	}
	if flag, err := seed.CheckNetwork(*a); err != nil {
		text := strings.Replace(err.Error(), "set dhcp_start and dhcp_end in [network.dnsmasq]", "give --dhcp-start and --dhcp-end", 1)
		if strings.HasPrefix(text, `"`) {
			return fault.New(fault.Usage, "--%s: %s", flag, text)
		}
		return fault.New(fault.Usage, "--%s %s", flag, text)
	}
	return nil
}

func accept(q seed.Question, answer *string) error {
	value := *answer
	if q.Flag == "ssh-key" && value != "" && !strings.Contains(value, " ") {
		var err error
		if value, err = ReadPublicKey(value); err != nil {
			return err
		}
	}
	if err := q.Check(value); err != nil {
		return fault.As(fault.Usage, err)
	}
	*answer = value
	return nil
}

// Ask asks for the answers that are missing, and again after one that the device would refuse,
// which is reported to refused. without, for ask, says which flags to use where nothing can be asked.
func Ask(ctx context.Context, a *seed.Answers, ask func(ctx context.Context, question, without string) (string, error), refused func(error)) error {
	var missing []seed.Question
	var flags []string
	for _, q := range seed.Questions {
		if !q.Optional && *q.Answer(a) == "" {
			missing = append(missing, q)
			flags = append(flags, "the "+q.Text+" with --"+q.Flag)
		}
	}
	without := "give " + strings.Join(flags, " and ")
	for _, q := range missing {
		question := strings.ToUpper(q.Text[:1]) + q.Text[1:]
		if q.Default != "" {
			question += " [" + q.Default + "]"
		}
		var err error
		for range tries {
			var line string
			if line, err = ask(ctx, question+": ", without); err != nil {
				return err
			}
			line = cmp.Or(line, q.Default)
			if err = accept(q, &line); err == nil {
				*q.Answer(a) = line
				break
			}
			refused(err)
		}
		if err != nil {
			return fmt.Errorf("no valid answer after %d: %w", tries, err)
		}
	}
	return nil
}
