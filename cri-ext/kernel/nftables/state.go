package nftables

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// The state is in comments of a set that no rule uses, where the nft tool shows it
// and a later process finds it: element 0 says which rule set it is, each other is
// one of its ranges.

func (b *batch) addState(f *family, set *ruleset.Set) {
	digest := set.Digest()
	l := b.add(f, setState)
	element := l.element(native32(0))
	l.comment(fmt.Sprintf("%d %d %s %s", layout, set.Generation(), hex.EncodeToString(digest[:]), set.Tenant()))
	l.Close(element)
	for i, network := range held.Ranges(set.Ranges(), f.v4) {
		element := l.element(native32(uint32(i) + 1))
		l.comment(network.String())
		l.Close(element)
	}
	l.end()
}

// readState takes in the comment of one element.
func readState(s *held.Part, number uint32, comment string) error {
	if number > 0 {
		network, err := netip.ParsePrefix(comment)
		if err != nil {
			return fmt.Errorf("range %d of the rule set: %w", number, err)
		}
		s.Ranges = append(s.Ranges, network)
		return nil
	}
	fields := strings.Split(comment, " ")
	if len(fields) != 4 || fields[0] != strconv.Itoa(layout) {
		return fmt.Errorf("rule set %q is of another layout than %d", comment, layout)
	}
	generation, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return fmt.Errorf("generation of the rule set: %w", err)
	}
	digest, err := hex.DecodeString(fields[2])
	if err != nil || len(digest) != len(s.Digest) {
		return fmt.Errorf("%q is no digest of a rule set", fields[2])
	}
	s.Generation, s.Digest, s.Tenant = generation, ruleset.Digest(digest), types.UID(fields[3])
	return nil
}
