package usage

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imgtool/image/fault"
	"imgtool/image/suggest"
)

// flagError explains an error of parsing flags.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var valueless *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		err = unknownFlag(cmd, unknown)
	case errors.As(err, &valueless):
		err = needsValue(valueless.GetFlag())
	case errors.As(err, &invalid):
		err = fmt.Errorf("--%s is %q; %s", invalid.GetFlag().Name, invalid.GetValue(), must(invalid))
	}
	return fault.As(fault.Usage, withHelp(cmd, err))
}

func needsValue(f *pflag.Flag) error {
	_, about := pflag.UnquoteUsage(f)
	return fmt.Errorf("%s needs a value: %s", spelled(f), about)
}

func unknownFlag(cmd *cobra.Command, e *pflag.NotExistError) error {
	var names, short []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
		if f.Shorthand != "" {
			short = append(short, "-"+f.Shorthand)
		}
	})
	flag, word := "--"+e.GetSpecifiedName(), e.GetSpecifiedName()
	if group := e.GetSpecifiedShortnames(); group != "" {
		if flag, word = "-"+group, group; len(group) == 1 {
			return fmt.Errorf("%s has no flag %s; it has %s", cmd.CommandPath(), flag, strings.Join(short, ", "))
		}
	}
	if name := suggest.Closest(word, names); name != "" {
		return fmt.Errorf("%s has no flag %s; did you mean --%s?", cmd.CommandPath(), flag, name)
	}
	return fmt.Errorf("%s has no flag %s", cmd.CommandPath(), flag)
}

// must returns what a value must be that a flag refuses.
func must(e *pflag.InvalidValueError) string {
	switch f := e.GetFlag(); f.Value.Type() {
	case "duration":
		if n, err := strconv.ParseFloat(e.GetValue(), 64); err == nil {
			return fmt.Sprintf("write %gs or %gm", n, n)
		}
		return "it must be a duration such as 5s or 5m"
	case "int":
		return "it must be a whole number"
	case "bool":
		return "it must be true or false, or left out"
	}
	return errors.Unwrap(e).Error()
}

// Enum is a flag with a few possible values.
type Enum struct {
	value *string
	Known []string
}

func (e *Enum) String() string { return *e.value }
func (e *Enum) Type() string   { return strings.Join(e.Known, "|") }

// Set implements pflag.Value.
func (e *Enum) Set(text string) error {
	if slices.Contains(e.Known, text) {
		*e.value = text
		return nil
	}
	return errors.New(mustBe(text, e.Known))
}

func mustBe(text string, known []string) string {
	return "it must be " + suggest.Or(known) + suggest.DidYouMean(text, known)
}

// OneOf checks that the value of what is known.
func OneOf(what, value string, known ...string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fault.New(fault.Usage, "%s is %q; %s", what, value, mustBe(value, known))
}

// AddEnum adds a flag with a few possible values. The value is empty if it is not given, unless
// *value has another default.
func AddEnum(cmd *cobra.Command, value *string, name, about string, known ...string) {
	cmd.Flags().Var(&Enum{value, known}, name, about)
	cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
}

// Useless says when flags of a command are ignored. Why completes "--FLAG has no effect".
type Useless struct {
	If    bool
	Why   string
	Flags []string
}

// CheckUseless refuses flags that would be ignored.
func CheckUseless(cmd *cobra.Command, rules ...Useless) error {
	for _, rule := range rules {
		for _, name := range rule.Flags {
			if rule.If && cmd.Flags().Changed(name) {
				return fault.New(fault.Usage, "--%s has no effect %s", name, rule.Why)
			}
		}
	}
	return nil
}

// CheckValues refuses flags with an empty text, which is mostly a variable of a shell that is not
// set, and with a negative time.
func CheckValues(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "duration" && strings.HasPrefix(f.Value.String(), "-") && err == nil {
			err = fault.New(fault.Usage, "--%s is %s; it must not be negative", f.Name, f.Value)
		}
		empty := f.Value.String() == "" && f.Value.Type() != "bool"
		if list, ok := f.Value.(pflag.SliceValue); ok {
			empty = strings.Join(list.GetSlice(), "") == ""
		}
		if _, may := f.Annotations[maybeEmpty]; empty && !may && err == nil {
			_, about := pflag.UnquoteUsage(f)
			err = fault.New(fault.Usage, "--%s is empty, but needs a value: %s", f.Name, about)
		}
	})
	return err
}

const maybeEmpty = "imgtool_maybe_empty"

// MayBeEmpty allows flags to have an empty value.
func MayBeEmpty(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		cmd.Flags().SetAnnotation(name, maybeEmpty, []string{"true"})
	}
}
