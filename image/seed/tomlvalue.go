package seed

import (
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

func (r *reader) value() *value {
	r.count()
	v := &value{line: r.lineAt(r.pos)}
	switch c := r.peek(); {
	case r.has(`"""`):
		v.kind, v.text = text, r.long(`"`)
		r.fillIn(v)
	case r.has(`'''`):
		v.kind, v.text = text, r.long(`'`)
		r.fillIn(v)
	case c == '"':
		v.kind, v.text = text, r.basic(true)
		r.fillIn(v)
	case r.columns != nil && r.has("@{"):
		r.bare(v)
	case c == '\'':
		v.kind, v.text = text, r.literal()
		r.fillIn(v)
	case r.take("true"):
		v.kind, v.boolean = boolean, true
	case r.take("false"):
		v.kind = boolean
	case c == '[':
		r.deeper()
		r.list(v)
		r.nesting--
	case c == '{':
		r.deeper()
		r.inlineTable(v)
		r.nesting--
	default:
		r.number(v)
	}
	return v
}

// count fails if the document has too many values.
func (r *reader) count() {
	if r.values++; r.values > maxValues {
		r.pos = len(r.src)
		r.fail("there are more than %d values, the most that are read", maxValues)
	}
}

func (r *reader) deeper() {
	if r.nesting++; r.nesting > maxNesting {
		r.fail("lists and tables are nested deeper than %d", maxNesting)
	}
}

func (r *reader) list(v *value) {
	v.kind, v.inline = list, true
	begin := r.pos
	unended := func() {
		if r.pos >= len(r.src) {
			r.failFrom(begin, "the list that begins here does not end")
		}
	}
	r.pos++
	for {
		r.blank()
		if r.take("]") {
			return
		}
		unended()
		v.items = append(v.items, r.value())
		r.blank()
		if r.take("]") {
			return
		}
		unended()
		if !r.take(",") {
			r.fail("%s is unexpected; the items of a list are separated by commas", r.what())
		}
	}
}

func (r *reader) inlineTable(v *value) {
	v.kind, v.table = table, map[string]*value{}
	r.pos++
	r.space()
	if !r.take("}") {
		for {
			line := r.lineAt(r.pos)
			key := r.key()
			if !r.take("=") {
				r.fail("%s is unexpected; a key is followed by = and a value", r.what())
			}
			r.space()
			w := r.value()
			at := v
			for _, k := range key[:len(key)-1] {
				if at.table[k] == nil {
					at.put(k, newTable(line))
				}
				if at = at.table[k]; at.kind != table || at.inline {
					r.fail("%s is a duplicate key", dotted(key...))
				}
			}
			last := key[len(key)-1]
			if at.table[last] != nil {
				r.fail("%s is a duplicate key", dotted(key...))
			}
			at.put(last, w)
			r.space()
			if r.take("}") {
				break
			}
			if !r.take(",") {
				r.fail("%s is unexpected; a table in braces is on one line, with its keys separated by commas", r.what())
			}
			r.space()
			if r.peek() == '}' {
				r.fail("there is a comma before the }, which TOML 1.0 does not allow")
			}
		}
	}
	v.inline = true
}

func (r *reader) literal() string {
	r.holes, r.unfilled = nil, false
	start := r.pos + 1
	for r.pos++; ; r.pos++ {
		switch c := r.peek(); {
		case r.pos >= len(r.src) || c == '\n':
			r.fail("the string that begins with ' does not end in its line")
		case c == '\'':
			r.pos++
			return r.src[start : r.pos-1]
		case r.atColumn():
			r.noColumn("is in single quotes, where characters cannot be escaped: use double quotes")
		case control(c):
			r.fail("%s is not allowed in a string", r.what())
		}
	}
}

// basic reads a string in double quotes: a value, or a part of a key.
func (r *reader) basic(isValue bool) string {
	r.holes, r.unfilled = nil, false
	var b []byte
	start := r.pos + 1
	for r.pos++; ; {
		switch c := r.peek(); {
		case r.pos >= len(r.src) || c == '\n':
			r.fail(`the string that begins with " does not end in its line`)
		case c == '"':
			b = append(b, r.src[start:r.pos]...)
			r.pos++
			return string(b)
		case c == '\\':
			b = append(b, r.src[start:r.pos]...)
			b = r.escape(b)
			start = r.pos
		case !isValue && r.atColumn():
			r.noColumn("is in a key: only a value can differ between units")
		case r.atColumn():
			b = append(b, r.src[start:r.pos]...)
			b = r.hole(b, false)
			start = r.pos
		case control(c):
			r.fail("%s is not allowed in a string", r.what())
		default:
			r.pos++
		}
	}
}

// long reads a string in three quotes.
func (r *reader) long(quote string) string {
	begin := r.pos
	r.holes, r.unfilled = nil, false
	r.pos += 3
	r.take("\n")
	var b []byte
	for {
		switch c := r.peek(); {
		case r.pos >= len(r.src):
			r.failFrom(begin, "the string that begins here with %s does not end", strings.Repeat(quote, 3))
		case c == quote[0]:
			n := 0
			for n < 5 && r.take(quote) {
				n++
			}
			if n >= 3 {
				// Up to two quotes before the closing quotes belong to the string.
				return string(append(b, strings.Repeat(quote, n-3)...))
			}
			b = append(b, strings.Repeat(quote, n)...)
		case c == '\\' && quote == `"`:
			rest := strings.TrimLeft(r.src[r.pos+1:], " \t")
			if strings.HasPrefix(rest, "\n") {
				rest = strings.TrimLeft(rest, " \t\n")
				r.pos = len(r.src) - len(rest)
				continue
			}
			b = r.escape(b)
		case quote == "'" && r.atColumn():
			r.noColumn("is in single quotes, where characters cannot be escaped: use double quotes")
			b = append(b, c)
		case r.atColumn():
			b = r.hole(b, true)
		case control(c) && c != '\n':
			r.fail("%s is not allowed in a string", r.what())
		default:
			b = append(b, c)
			r.pos++
		}
	}
}

func (r *reader) escape(b []byte) []byte {
	at := r.pos
	r.pos++
	c := r.peek()
	r.pos++
	if i := strings.IndexByte(`btnfr"\`, c); i >= 0 {
		return append(b, "\b\t\n\f\r\"\\"[i])
	}
	n := 0
	switch c {
	case 'u':
		n = 4
	case 'U':
		n = 8
	}
	if n > 0 && r.pos+n <= len(r.src) {
		hex := r.src[r.pos : r.pos+n]
		if code, err := strconv.ParseUint(hex, 16, 32); err == nil && code <= utf8.MaxRune && utf8.ValidRune(rune(code)) {
			r.pos += n
			return utf8.AppendRune(b, rune(code))
		}
	}
	r.pos = at
	r.fail(`unknown escape; the escapes are \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX`)
	return nil
}

// number reads an integer, a float, a date or a time. A document contains none of the last
// three, so that only their type is determined.
func (r *reader) number(v *value) {
	start := r.pos
	end := start
	for end < len(r.src) && strings.IndexByte(bareKey+"+.:", r.src[end]) >= 0 {
		end++
	}
	word := r.src[start:end]
	number := strings.TrimLeft(word, "+-")
	switch {
	case anInteger.MatchString(word):
		digits, base := strings.ReplaceAll(number, "_", ""), 10
		if len(digits) > 1 && digits[0] == '0' {
			base = map[byte]int{'x': 16, 'o': 8, 'b': 2}[digits[1]]
			digits = digits[2:]
		}
		switch {
		case base == 0:
			r.fail("%q begins with a zero, which an integer must not", shown(clip(word)))
		case len(digits) > 5*maxDigits, base == 10 && len(digits) > maxDigits:
			r.fail("the integer has %d digits; the device takes up to %d", len(digits), maxDigits)
		}
		v.kind = integer
		v.integer, _ = new(big.Int).SetString(digits, base)
		if word[0] == '-' {
			v.integer.Neg(v.integer)
		}
		if base != 10 && len(v.integer.String()) > maxDigits {
			r.fail("the integer has more than %d digits, the most that the device takes", maxDigits)
		}
	case aDate.MatchString(word):
		v.kind = date
		// A space can separate a date from its time.
		if len(word) == 10 && end+2 < len(r.src) && r.src[end] == ' ' && r.src[end+1] >= '0' && r.src[end+1] <= '9' {
			for end++; end < len(r.src) && strings.IndexByte(bareKey+"+.:", r.src[end]) >= 0; end++ {
			}
		}
	case aFloat.MatchString(word):
		v.kind = float
	case word == "":
		r.fail("%s is unexpected; a value is a string in quotes, an integer, true, false, a list or a table", r.what())
	default:
		r.fail("%q is not a value; a string must be in quotes", shown(clip(word)))
	}
	r.pos = end
}

var (
	anInteger = regexp.MustCompile(`^([+-]?[0-9](_?[0-9])*|0x[0-9A-Fa-f](_?[0-9A-Fa-f])*|0o[0-7](_?[0-7])*|0b[01](_?[01])*)$`)
	aFloat    = regexp.MustCompile(`^[+-]?(inf|nan|(0|[1-9](_?[0-9])*)(\.[0-9](_?[0-9])*)?([eE][+-]?[0-9](_?[0-9])*)?)$`)
	aDate     = regexp.MustCompile(`^([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{2}:[0-9]{2}:[0-9]{2})`)
)
