package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// addressRange is From to To, both included and of one family.
type addressRange struct{ from, to netip.Addr }

func rangeOf(prefix netip.Prefix) addressRange {
	prefix = prefix.Masked()
	last := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	to, _ := netip.AddrFromSlice(last)
	return addressRange{from: prefix.Addr(), to: to}
}

// without is r less the ranges given.
func (r addressRange) without(excepts []addressRange) []addressRange {
	left := []addressRange{r}
	for _, except := range excepts {
		var next []addressRange
		for _, part := range left {
			if except.to.Less(part.from) || part.to.Less(except.from) {
				next = append(next, part)
				continue
			}
			if part.from.Less(except.from) {
				next = append(next, addressRange{part.from, except.from.Prev()})
			}
			if except.to.Less(part.to) {
				next = append(next, addressRange{except.to.Next(), part.to})
			}
		}
		left = next
	}
	return left
}

// merged sorts ranges and joins those that touch.
func merged(ranges []addressRange) []addressRange {
	slices.SortFunc(ranges, func(a, b addressRange) int { return a.from.Compare(b.from) })
	var out []addressRange
	for _, r := range ranges {
		if n := len(out); n > 0 {
			last := &out[n-1]
			// Next of the last address there is is no address, and less than all.
			if next := last.to.Next(); !next.IsValid() || r.from.Compare(next) <= 0 {
				if last.to.Less(r.to) {
					last.to = r.to
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// parseBlock reads an ipBlock.
func parseBlock(cidr string, except []string) ([]addressRange, error) {
	prefix, err := parsePrefix(cidr)
	if err != nil {
		return nil, err
	}
	var excepts []addressRange
	for _, text := range except {
		other, err := parsePrefix(text)
		if err != nil {
			return nil, err
		}
		if other.Addr().Is4() != prefix.Addr().Is4() {
			return nil, fmt.Errorf("%s is not of the family of %s", text, cidr)
		}
		excepts = append(excepts, rangeOf(other))
	}
	return rangeOf(prefix).without(excepts), nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no network: %w", text, err)
	}
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%q mixes the families", text)
		}
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}
